package database

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

const (
	copyFile   = "db.tar.gz"
	copyRecord = "copy.json"
)

// copied is a copy that is complete on disk.
type copied struct {
	Layer digest.Digest `json:"layer"`
	Size  int64         `json:"size"`

	path     string
	manifest []byte
	digest   digest.Digest // of manifest
}

func (c copied) open(offset int64) (io.ReadCloser, error) {
	f, err := os.Open(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the database was removed meanwhile", pratique.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// findCopy returns the copy of a kept database that was made before, after its bytes
// are verified.
func (d *Database) findCopy(rec record) (copied, error) {
	d.copying.Lock()
	defer d.copying.Unlock()
	return readCopy(rec)
}

// copyOf returns the copy of a kept database, made now if there is none.
func (d *Database) copyOf(ctx context.Context, rec record) (copied, error) {
	d.copying.Lock()
	defer d.copying.Unlock()
	if c, err := readCopy(rec); err == nil {
		return c, nil
	}
	return writeCopy(ctx, d.kind, rec, func() {})
}

// makeCopy makes one anew; wrote is told of each write.
func (d *Database) makeCopy(ctx context.Context, rec record, wrote func()) (copied, error) {
	d.copying.Lock()
	defer d.copying.Unlock()
	if c, err := readCopy(rec); err == nil {
		return c, nil // made by who had the turn
	}
	return writeCopy(ctx, d.kind, rec, wrote)
}

// readCopy finds a copy that an earlier run made.
func readCopy(rec record) (copied, error) {
	c := copied{path: filepath.Join(rec.dir, copyFile)}
	raw, err := os.ReadFile(filepath.Join(rec.dir, copyRecord))
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, fmt.Errorf("%s: %w", copyRecord, err)
	}
	f, err := os.Open(c.path)
	if err != nil {
		return c, err
	}
	defer f.Close()
	got := digest.SHA256.Digester()
	n, err := io.Copy(got.Hash(), f)
	if err == nil && (got.Digest() != c.Layer || n != c.Size) {
		err = refusal(ReasonCorrupt, "copy of database %s reads as %s", rec.Digest, got.Digest())
	}
	return c, err
}

// writeCopy makes the copy. The file has its name when it is complete and synced; the
// record is written after it, so that a crash leaves none or both.
func writeCopy(ctx context.Context, k kind, rec record, wrote func()) (_ copied, err error) {
	if err := os.Remove(filepath.Join(rec.dir, copyRecord)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return copied{}, err
	}
	f, err := os.OpenFile(filepath.Join(rec.dir, stagingPrefix+copyFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return copied{}, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // it goes with its directory otherwise
		}
	}()
	sum := digest.SHA256.Digester()
	out := &counted{w: io.MultiWriter(f, sum.Hash()), wrote: wrote}
	err = pack(ctx, k, rec, time.Time{}, out)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return copied{}, err
	}
	return keepCopy(rec.dir, f.Name(), sum.Digest(), out.n)
}

// keepCopy gives a complete copy in dir its name, and then its record.
func keepCopy(dir, from string, layer digest.Digest, size int64) (copied, error) {
	c := copied{Layer: layer, Size: size, path: filepath.Join(dir, copyFile)}
	if err := os.Rename(from, c.path); err != nil {
		return copied{}, err
	}
	return c, replaceJSON(filepath.Join(dir, copyRecord), c)
}

// removeCopy removes one that nobody needs any more.
func removeCopy(dir string) error {
	return errors.Join(gone(os.Remove(filepath.Join(dir, copyRecord))), gone(os.Remove(filepath.Join(dir, copyFile))))
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// counted counts what is written and tells of each write.
type counted struct {
	w     io.Writer
	wrote func()
	n     int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.wrote()
	return n, err
}
