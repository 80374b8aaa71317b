package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"

	"pratique"
)

// archivesPath is the folder of all archives in the driver's name space.
const archivesPath = "/databases"

// Archives are the bytes of databases that replicas share, by digest, one folder for
// each kind. They lie beside the blobs: no manifest names them, no eviction takes
// them, and they do not count as cache.
type Archives struct {
	blobs  *Blobs
	folder string
}

// NewArchives returns those of one kind, a word of letters.
func NewArchives(blobs *Blobs, kind string) *Archives {
	return &Archives{blobs: blobs, folder: archivesPath + "/" + kind}
}

func (a *Archives) path(d digest.Digest) (string, error) {
	d, err := pratique.ParseDigest(d.String())
	if err != nil {
		return "", err
	}
	return a.folder + "/" + d.Encoded(), nil
}

// Open returns a reader of an archive and its size; one that is not there is
// ErrNotFound. The bytes are as the storage has them: whoever reads verifies.
func (a *Archives) Open(ctx context.Context, d digest.Digest) (io.ReadCloser, int64, error) {
	path, err := a.path(d)
	if err != nil {
		return nil, 0, err
	}
	info, err := a.blobs.driver.Stat(ctx, path)
	if err != nil {
		return nil, 0, wrapArchive(d, err)
	}
	r, err := a.blobs.driver.Reader(ctx, path, 0)
	if err != nil {
		return nil, 0, wrapArchive(d, err)
	}
	return r, info.Size(), nil
}

// Put stores an archive of size bytes, which open opens. One of that size that is
// there is left alone, unless again is true: it is known to be damaged. Bytes that are
// not d are ErrMismatch, and nothing of them is visible. It is not in memory at any
// time.
func (a *Archives) Put(ctx context.Context, d digest.Digest, size int64, again bool, open func() (io.ReadCloser, error)) error {
	path, err := a.path(d)
	if err != nil {
		return err
	}
	if info, err := a.blobs.driver.Stat(ctx, path); err == nil && info.Size() == size && !again {
		return nil
	}
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	// As with blobs: what drivers show unfinished is written elsewhere and moved.
	to := path
	if a.blobs.driver.Name() != "s3aws" {
		to = stagingPath + "/" + filepath.Base(a.blobs.spool.path) + "-" + d.Encoded() + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	}
	if err := a.write(ctx, to, d, size, r); err != nil {
		return wrapArchive(d, err)
	}
	if to != path {
		return wrapArchive(d, a.blobs.driver.Move(ctx, to, path))
	}
	return nil
}

func (a *Archives) write(ctx context.Context, to string, d digest.Digest, size int64, r io.Reader) error {
	w, err := a.blobs.driver.Writer(ctx, to, false)
	if err != nil {
		return err
	}
	sum := d.Algorithm().Hash()
	n, err := io.CopyBuffer(io.MultiWriter(w, sum), struct{ io.Reader }{r}, make([]byte, uploadBuffer))
	if err == nil && (n != size || digest.NewDigest(d.Algorithm(), sum) != d) {
		err = fmt.Errorf("%d bytes, expected %d: %w", n, size, ErrMismatch)
	}
	if err == nil {
		err = w.Commit(ctx)
	}
	if err != nil {
		// The context may be what failed; the rest of an upload costs money.
		return errors.Join(err, w.Cancel(context.WithoutCancel(ctx)))
	}
	_ = w.Close() // committed; some drivers call a second close an error
	return nil
}

// Keep removes all archives but these that were stored before a time: another replica
// may have put a younger one and not said yet what it is for.
func (a *Archives) Keep(ctx context.Context, before time.Time, ds ...digest.Digest) error {
	keep := make(map[string]bool)
	for _, d := range ds {
		keep[d.Encoded()] = true
	}
	paths, err := a.blobs.driver.List(ctx, a.folder)
	var gone storagedriver.PathNotFoundError
	if errors.As(err, &gone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("archives: %w", err)
	}
	var errs []error
	for _, path := range paths {
		if keep[path[strings.LastIndexByte(path, '/')+1:]] {
			continue
		}
		info, err := a.blobs.driver.Stat(ctx, path)
		if err == nil && info.ModTime().Before(before) {
			err = a.blobs.driver.Delete(ctx, path)
		}
		if err != nil && !errors.As(err, &gone) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// wrapArchive names the archive and turns the drivers' ways of saying "not there"
// into ErrNotFound.
func wrapArchive(d digest.Digest, err error) error {
	var gone storagedriver.PathNotFoundError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &gone), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("archive %s: %w", d, pratique.ErrNotFound)
	}
	return fmt.Errorf("archive %s: %w", d, err)
}
