package database

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"pratique"
)

// packed is what pack writes into metadata.json, in Trivy's words.
type packed struct {
	Version      int
	NextUpdate   time.Time
	UpdatedAt    time.Time
	DownloadedAt time.Time
}

// pack writes a kept database as the .tar.gz that Trivy publishes. One database
// makes the same bytes each time, but for downloadedAt. What is read is held
// against the database's digest before the archive is ended: one that was damaged
// on disk is never whole.
func pack(ctx context.Context, k kind, rec record, downloadedAt time.Time, w io.Writer) error {
	f, err := os.Open(filepath.Join(rec.dir, k.file))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	meta, err := json.Marshal(packed{k.schema, rec.NextUpdate.UTC(), rec.UpdatedAt.UTC(), downloadedAt.UTC()})
	if err != nil {
		return err
	}
	gz := gzip.NewWriter(w)
	tw := tar.NewWriter(gz)
	entry := func(name string, size int64, r io.Reader) error {
		h := &tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: rec.UpdatedAt.UTC().Truncate(time.Second), Format: tar.FormatPAX}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(tw, r)
		return err
	}
	sum := sha256.New()
	if err := entry(k.file, info.Size(), io.TeeReader(stoppable{ctx, f}, sum)); err != nil {
		return err
	}
	if got := contentDigest(k, sum.Sum(nil), k.schema, rec.UpdatedAt); got != rec.Digest {
		return refusal(ReasonCorrupt, "kept database %s now reads as %s", rec.Digest, got)
	}
	if err := entry(metadataFile, int64(len(meta)), bytes.NewReader(meta)); err != nil {
		return err
	}
	return errors.Join(tw.Close(), gz.Close())
}

// stoppable reads until its context ends.
type stoppable struct {
	ctx context.Context //nolint:containedctx // an io.Reader has no other place for it
	r   io.Reader
}

func (s stoppable) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}

// Export writes the database in use, or the previous one, as a .tar.gz that
// Import, the trivy CLI's cache and its publishers' tools read. which is
// "current", "previous" or a digest; it is resolved before anything is written,
// and begin, if not nil, is told what follows. One that is not kept is
// pratique.ErrNotFound. A database that is swapped meanwhile is written to its
// end.
func (d *Database) Export(ctx context.Context, which string, begin func(digest.Digest), w io.Writer) error {
	rec, err := d.find(which)
	if err != nil {
		return err
	}
	if begin != nil {
		begin(rec.Digest)
	}
	return pack(ctx, d.kind, rec, rec.DownloadedAt, w)
}

// Names of the databases that are kept.
const (
	Current  = "current"
	Previous = "previous"
)

// find returns the record of a kept database by its name or digest.
func (d *Database) find(which string) (record, error) {
	d.mu.Lock()
	current, p := d.current, pointer{Previous: d.previous}
	d.mu.Unlock()
	if current != nil {
		p.Current = current.Digest
	}
	dg := digest.Digest(which)
	switch which {
	case Current, "":
		dg = p.Current
	case Previous:
		dg = p.Previous
	}
	switch dg {
	case "":
		return record{}, fmt.Errorf("%w: there is no %s database", pratique.ErrNotFound, which)
	case p.Current:
		return *current, nil
	case p.Previous:
		rec, err := d.keep.record(dg)
		if err != nil {
			return record{}, err
		}
		return rec, nil
	}
	return record{}, fmt.Errorf("%w: database %.80q is not kept; those are: current %s, previous %s", pratique.ErrNotFound, which, p.Current, orNone(p.Previous))
}

func orNone(d digest.Digest) string {
	if d == "" {
		return "none"
	}
	return d.String()
}

// VerifyExport reads a .tar.gz as Export writes it to its end and returns an error
// unless it holds the vulnerability database with this digest.
func VerifyExport(r io.Reader, want digest.Digest) error {
	k := vulnerabilities()
	gz, err := gzip.NewReader(r)
	if err != nil {
		return archiveError(err)
	}
	in := &limited{r: gz, left: k.maxBytes + 1<<20}
	tr := tar.NewReader(in)
	var sum []byte
	var meta packed
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return archiveError(err)
		}
		switch h.Name {
		case k.file:
			hash := sha256.New()
			if _, err := io.Copy(hash, tr); err != nil {
				return archiveError(err)
			}
			sum = hash.Sum(nil)
		case metadataFile:
			if err := json.NewDecoder(io.LimitReader(tr, maxMetadata)).Decode(&meta); err != nil {
				return refusal(ReasonSchema, "%s: %w", metadataFile, err)
			}
		}
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return archiveError(err)
	}
	if got := contentDigest(k, sum, meta.Version, meta.UpdatedAt); got != want {
		return refusal(ReasonDigest, "the archive holds database %s, want %s", got, want)
	}
	return nil
}
