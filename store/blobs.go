package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
)

// ErrMismatch says that bytes are not what their digest or size says. Nothing of them is
// kept.
var ErrMismatch = errors.New("content does not match its digest")

// BlobsConfig says where bytes are kept.
type BlobsConfig struct {
	// Driver is the name of a storage driver of distribution v3: filesystem, s3,
	// gcs, azure, inmemory. If empty, filesystem.
	Driver string
	// Parameters of the driver, as in distribution's configuration. The
	// filesystem driver needs rootdirectory.
	Parameters map[string]any
	// Spool is the local directory that holds blobs while they arrive. If empty,
	// `spool` under the filesystem driver's rootdirectory, else `pratique-spool`
	// in the system's directory for temporary files. With the filesystem driver
	// it must be on the same file system as rootdirectory, because a blob is
	// committed by a rename. Several processes may share it.
	Spool string
	// Hot is a local cache in front of an object store. If zero, there is none.
	Hot HotConfig
	// Redirect makes RedirectURL give addresses, where the driver has them.
	Redirect bool
	// Answer is how long an object store may take for an answer, tries included. If
	// zero, 10 seconds.
	Answer time.Duration
	// Stall is how long it may take for the next bytes of a body or for a part of an
	// upload. If zero, 30 seconds.
	Stall time.Duration
	// Log receives what nobody is told otherwise. If nil, slog.Default().
	Log *slog.Logger
	// Metrics receives pratique_hot_* and pratique_objects_*. If nil, none are
	// registered.
	Metrics prometheus.Registerer
}

// Blobs are the verified bytes of manifests, configs and layers, by digest. A
// blob exists here only after its size and digest were checked and it was made
// durable; what exists never changes.
type Blobs struct {
	driver storagedriver.StorageDriver
	// root is the rootdirectory of the filesystem driver: its files are opened
	// directly, so that they can be sent with sendfile. Empty for the others.
	root  string
	spool *spoolDir
	steps steps
	// arrivals is held shared while a blob becomes visible or is said to be there
	// still, and alone while an old one is removed: what is removed as old has not
	// just arrived again.
	arrivals sync.RWMutex

	ledger    ledger
	measuring sync.Mutex
	holds     holds
	codec     documentCodec

	// Of object stores; nil or zero with the filesystem driver.
	bucket     *bucket // with the s3 driver
	hot        *hot    // if configured
	redirect   bool
	skew       atomic.Int64 // how far its clock is ahead of ours
	background background
	log        *slog.Logger
}

// steps are the operations on files by which a blob becomes durable. Whatever
// one of them does, and wherever the process ends between two, no wrong byte is
// visible: tests make each of them fail, done or not done.
type steps struct {
	sync    func(f *os.File) error
	makeDir func(dir string) error
	rename  func(from, to string) error
	syncDir func(dir string) error
	// remove takes a blob away again, by its path in the driver's name space.
	remove func(ctx context.Context, path string) error
}

// blobsPath is the folder of all blobs in the driver's name space.
const blobsPath = "/blobs"

// OpenBlobs opens the store and removes what a crash left half written. An object
// store that does not answer now is no error; one that refuses is.
func OpenBlobs(ctx context.Context, cfg BlobsConfig) (*Blobs, error) {
	if cfg.Driver == "" {
		cfg.Driver = "filesystem"
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	b := &Blobs{steps: steps{sync: (*os.File).Sync, makeDir: makeDir, rename: os.Rename, syncDir: syncDir}, redirect: cfg.Redirect, log: cfg.Log}
	spool := cfg.Spool
	if cfg.Driver == "filesystem" {
		root, _ := cfg.Parameters["rootdirectory"].(string)
		if root == "" {
			return nil, errors.New("storage: the filesystem driver needs the parameter rootdirectory")
		}
		abs, err := filepath.Abs(root)
		if err != nil {
			return nil, fmt.Errorf("storage: %w", err)
		}
		b.root = abs
		if err := makeDir(filepath.Join(abs, blobsPath)); err != nil {
			return nil, fmt.Errorf("storage: %w", err)
		}
		if spool == "" {
			spool = filepath.Join(abs, "spool")
		}
	}
	if spool == "" {
		spool = filepath.Join(os.TempDir(), "pratique-spool")
	}
	var err error
	if b.driver, err = factory.Create(ctx, cfg.Driver, cfg.Parameters); err != nil {
		return nil, fmt.Errorf("storage driver %s: %w", cfg.Driver, err)
	}
	if b.root == "" {
		if err := b.reach(cfg); err != nil {
			return nil, fmt.Errorf("storage driver %s: %w", cfg.Driver, err)
		}
	}
	b.steps.remove = b.driver.Delete
	if b.spool, err = openSpoolDir(spool); err != nil {
		return nil, err
	}
	if b.root == "" {
		err = b.openObjects(ctx, cfg)
	} else if err = b.spool.removeProbes(filepath.Join(b.root, blobsPath)); err == nil {
		err = b.spool.checkRename(filepath.Join(b.root, blobsPath))
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Close ends the use of the spool and of the hot cache; blobs in arrival are lost.
func (b *Blobs) Close() error {
	b.background.close()
	if b.bucket != nil {
		b.bucket.client.Config.HTTPClient.CloseIdleConnections()
	}
	err := b.spool.close()
	if b.hot != nil {
		err = errors.Join(err, b.hot.close())
	}
	return err
}

// blobPath is the path of d in the driver's name space. The digest is checked
// because it becomes part of a path.
func blobPath(d digest.Digest) (string, error) {
	d, err := pratique.ParseDigest(d.String())
	if err != nil {
		return "", err
	}
	hex := d.Encoded()
	return blobsPath + "/" + d.Algorithm().String() + "/" + hex[:2] + "/" + hex, nil
}

// wrap names the blob and turns the drivers' ways of saying "not there" into
// ErrNotFound.
func wrap(d digest.Digest, err error) error {
	var gone storagedriver.PathNotFoundError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &gone), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("blob %s: %w", d, pratique.ErrNotFound)
	}
	return fmt.Errorf("blob %s: %w", d, err)
}

// Stat returns the size of a blob that exists.
func (b *Blobs) Stat(ctx context.Context, d digest.Digest) (int64, error) {
	path, err := blobPath(d)
	if err != nil {
		return 0, err
	}
	if b.root != "" {
		info, err := os.Stat(filepath.Join(b.root, path))
		if err != nil {
			return 0, wrap(d, err)
		}
		return info.Size(), nil
	}
	if size, ok := b.hot.size(d); ok {
		return size, nil
	}
	info, err := b.driver.Stat(ctx, path)
	if err != nil {
		return 0, wrap(d, err)
	}
	return info.Size(), nil
}

// Open returns a reader from offset to the end and the size of the whole blob.
// With the filesystem driver, and from the hot cache, the reader is an *os.File.
func (b *Blobs) Open(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, int64, error) {
	path, err := blobPath(d)
	if err != nil {
		return nil, 0, err
	}
	if b.root == "" {
		return b.openHeld(ctx, d, path, offset)
	}
	f, err := os.Open(filepath.Join(b.root, path))
	if err != nil {
		return nil, 0, wrap(d, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(wrap(d, err), f.Close())
	}
	return from(f, d, offset, info.Size())
}

// from is f from the offset.
func from(f *os.File, d digest.Digest, offset, size int64) (io.ReadCloser, int64, error) {
	err := within(offset, size)
	if err == nil && offset > 0 {
		_, err = f.Seek(offset, io.SeekStart)
	}
	if err != nil {
		return nil, 0, errors.Join(wrap(d, err), f.Close())
	}
	return f, size, nil
}

func within(offset, size int64) error {
	if offset < 0 || offset > size {
		return fmt.Errorf("%w offset %d of %d bytes", pratique.ErrInvalid, offset, size)
	}
	return nil
}

// ReadAll returns the bytes of a small blob, checked against the digest again:
// ErrMismatch when the storage changed them, ErrInvalid when there are more
// than limit.
func (b *Blobs) ReadAll(ctx context.Context, d digest.Digest, limit int64) ([]byte, error) {
	_, hot := b.hot.size(d)
	raw, err := b.readAll(ctx, d, limit)
	if hot && errors.Is(err, ErrMismatch) { // the local disk's fault, perhaps
		b.hot.drop(d)
		return b.readAll(ctx, d, limit)
	}
	return raw, err
}

func (b *Blobs) readAll(ctx context.Context, d digest.Digest, limit int64) ([]byte, error) {
	r, size, err := b.Open(ctx, d, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > limit {
		return nil, fmt.Errorf("blob %s: %w size %d, at most %d are read", d, pratique.ErrInvalid, size, limit)
	}
	raw := make([]byte, size)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	if d.Algorithm().FromBytes(raw) != d {
		return nil, fmt.Errorf("blob %s as read from storage: %w", d, ErrMismatch)
	}
	return raw, nil
}

// Put stores bytes under their digest; ErrMismatch when it is another's. The
// bytes of a blob that exists are left alone; it counts as stored just now.
func (b *Blobs) Put(ctx context.Context, d digest.Digest, raw []byte) error {
	if there, err := b.renew(ctx, d, int64(len(raw))); there || err != nil {
		return err
	}
	s, err := b.Create(ctx, d, int64(len(raw)))
	if err != nil {
		return err
	}
	if _, err := s.Write(raw); err != nil {
		s.Abort(err)
		return err
	}
	return s.Commit(ctx)
}

// Delete removes a blob. Readers that have it open keep it with the filesystem
// driver.
func (b *Blobs) Delete(ctx context.Context, d digest.Digest) error {
	path, err := blobPath(d)
	if err != nil {
		return err
	}
	if err := wrap(d, b.steps.remove(ctx, path)); err != nil {
		if errors.Is(err, pratique.ErrNotFound) {
			b.gone(d, false)
		}
		return err
	}
	b.gone(d, false)
	return nil
}

// gone forgets a blob that is in the storage no longer.
func (b *Blobs) gone(d digest.Digest, evicted bool) {
	b.hot.drop(d)
	b.ledger.gone(d, evicted)
}

// Walk calls f for every blob, in no particular order, until f fails. Blobs
// that come or go meanwhile may be seen or not.
func (b *Blobs) Walk(ctx context.Context, f func(d digest.Digest, size int64, modified time.Time) error) error {
	var failed error // the drivers wrap errors without a way back
	err := b.driver.Walk(ctx, blobsPath, func(info storagedriver.FileInfo) error {
		if failed = ctx.Err(); failed != nil || info.IsDir() {
			return failed
		}
		parts := strings.Split(strings.TrimPrefix(info.Path(), blobsPath+"/"), "/")
		if len(parts) != 3 {
			return nil
		}
		d, err := pratique.ParseDigest(parts[0] + ":" + parts[2])
		if err != nil {
			return nil //nolint:nilerr // not ours: lost+found, a driver's own file
		}
		failed = f(d, info.Size(), info.ModTime())
		return failed
	})
	if failed != nil {
		return failed
	}
	var gone storagedriver.PathNotFoundError
	if errors.As(err, &gone) && gone.Path == blobsPath {
		return nil // nothing was ever stored
	}
	return err
}
