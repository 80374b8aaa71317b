package database

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// NewJava returns a Database of Trivy's jar index. There is no handle to swap:
// after each adoption Dir and Version name the new one, and OnAdopt tells.
// Analysis does without one, so its absence is not an error; it then loses only
// the lookup of jars by SHA-1.
func NewJava(cfg Config) *Database { return build(cfg, java(), adoptNothing{}) }

type adoptNothing struct{}

func (adoptNothing) Adopt(context.Context, string, digest.Digest) error { return nil }

// Version names the adopted database for keys of inventories: empty without
// one, else kind and the first characters of its digest.
func (d *Database) Version() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == nil {
		return ""
	}
	return d.kind.name + "-" + d.current.Digest.Encoded()[:16]
}

// engine is the Engine that reports made with the adopted database carry.
func (d *Database) engine() pratique.Engine {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == nil {
		return pratique.Engine{}
	}
	e := pratique.Engine{Database: d.current.Digest, DatabaseAt: d.current.UpdatedAt}
	if v, ok := d.adopter.(interface {
		Engine() (pratique.Engine, error)
	}); ok {
		if ve, err := v.Engine(); err == nil {
			e.Version = ve.Version
		}
	}
	return e
}

// inspectSQLite holds the file's size against its header. Source: SQLite file
// format, "The Database Header".
func inspectSQLite(path string) (Counts, error) {
	f, err := os.Open(path)
	if err != nil {
		return Counts{}, err
	}
	defer f.Close()
	head := make([]byte, 100)
	if _, err := io.ReadFull(f, head); err != nil {
		return Counts{}, refusal(ReasonCorrupt, "%s has no header: %w", javaFile, err)
	}
	if string(head[:16]) != "SQLite format 3\x00" {
		return Counts{}, refusal(ReasonCorrupt, "%s is not an SQLite file", javaFile)
	}
	pageSize := int64(binary.BigEndian.Uint16(head[16:]))
	if pageSize == 1 {
		pageSize = 65536
	}
	info, err := f.Stat()
	if err != nil {
		return Counts{}, err
	}
	if want := pageSize * int64(binary.BigEndian.Uint32(head[28:])); info.Size() != want {
		return Counts{}, refusal(ReasonCorrupt, "%w: %d bytes, its header says %d", errTruncated, info.Size(), want)
	}
	return Counts{}, nil
}

// errNoSource: neither path nor sources are configured.
var errNoSource = errors.New("no path and no sources are configured")
