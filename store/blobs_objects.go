package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// stagingPath is where drivers that show unfinished files keep them.
const stagingPath = "/staging"

// stagingAge is how old a staged file, or an upload that was begun, must be to be
// surely abandoned: another replica may be writing the younger ones.
const stagingAge = 24 * time.Hour

// reach puts bounds around a driver that is not the filesystem's.
func (b *Blobs) reach(cfg BlobsConfig) error {
	if b.driver.Name() == "s3aws" {
		var err error
		if b.bucket, err = bucketOf(b.driver, &b.skew); err != nil {
			return err
		}
	}
	if cfg.Answer == 0 {
		cfg.Answer = 10 * time.Second
	}
	if cfg.Stall == 0 {
		cfg.Stall = 30 * time.Second
	}
	failures := promauto.With(cfg.Metrics).NewCounter(prometheus.CounterOpts{
		Name: "pratique_objects_failures_total",
		Help: "Operations of the object store that failed after all tries: it did not answer, broke off, or refused.",
	})
	b.driver = objects{b.driver, cfg.Answer, cfg.Stall, failures.Inc}
	return nil
}

// openObjects opens what stands around an object store.
func (b *Blobs) openObjects(ctx context.Context, cfg BlobsConfig) error {
	if cfg.Hot.MaxBytes > 0 {
		var err error
		if b.hot, err = openHot(cfg.Hot, cfg.Metrics); err != nil {
			return err
		}
	}
	err := b.removeLeftovers(ctx)
	if err != nil && errors.Is(err, ErrUnreachable) && !refused(err) {
		b.log.WarnContext(ctx, "The object store does not answer; going on without it until it does", "err", err)
		return nil
	}
	return err
}

// now is the time by the clock that the blobs' own times are by.
func (b *Blobs) now(local time.Time) time.Time { return local.Add(time.Duration(b.skew.Load())) }

// openHeld opens a blob of an object store, or of the cache in front of it. In the
// store it is not removed to make room by this process before the reader is closed.
func (b *Blobs) openHeld(ctx context.Context, d digest.Digest, path string, offset int64) (_ io.ReadCloser, size int64, err error) {
	if b.hot != nil {
		if f, size, ok := b.hot.open(d); ok {
			b.hot.metrics.hits.Inc()
			return from(f, d, offset, size)
		}
		b.hot.metrics.misses.Inc()
	}
	release, err := b.holds.hold(ctx, d)
	if err != nil {
		return nil, 0, fmt.Errorf("blob %s: %w", d, err)
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	info, err := b.driver.Stat(ctx, path)
	if err == nil {
		err = within(offset, info.Size())
	}
	if err != nil {
		return nil, 0, wrap(d, err)
	}
	size = info.Size()
	if offset == size { // some drivers refuse a range of nothing
		release()
		return io.NopCloser(bytes.NewReader(nil)), size, nil
	}
	if b.hot != nil {
		if r, ok := b.fillOrFollow(ctx, d, path, size, offset); ok {
			return heldReader{r, release}, size, nil
		}
	}
	r, err := b.openObject(ctx, d, path, size, offset)
	if err != nil {
		return nil, 0, err
	}
	return heldReader{r, release}, size, nil
}

// openObject reads from the object store itself, and goes on where it breaks off.
func (b *Blobs) openObject(ctx context.Context, d digest.Digest, path string, size, offset int64) (io.ReadCloser, error) {
	open := func(offset int64) (io.ReadCloser, error) {
		r, err := b.driver.Reader(ctx, path, offset)
		return r, wrap(d, err)
	}
	r, err := open(offset)
	if err != nil {
		return nil, err
	}
	return &resumed{open: open, body: r, offset: offset, size: size}, nil
}

const (
	// uploadBuffer is the piece in which a spool file goes to a driver.
	uploadBuffer = 4 << 20
	// uploadAtOnce is up to which size an object of s3 is stored by one request, that
	// is whole or not at all, instead of three.
	uploadAtOnce = 4 << 20
)

// upload copies a verified file into an object store and returns the time that it
// has there. With s3 an upload is visible only when it is complete; the others show
// unfinished files or delete the target when an upload is cancelled, so they get the
// bytes under another name first.
func (b *Blobs) upload(ctx context.Context, d digest.Digest, from string, size int64) (time.Time, error) {
	path, err := blobPath(d)
	if err != nil {
		return time.Time{}, err
	}
	if b.bucket != nil && size <= uploadAtOnce {
		raw, err := os.ReadFile(from)
		if err == nil && int64(len(raw)) != size {
			err = fmt.Errorf("spool file holds %d of %d bytes: %w", len(raw), size, io.ErrUnexpectedEOF)
		}
		if err == nil {
			err = b.driver.PutContent(ctx, path, raw)
		}
		if err != nil {
			return time.Time{}, err
		}
	} else {
		to := path
		if b.bucket == nil {
			to = stagingPath + "/" + filepath.Base(b.spool.path) + "-" + filepath.Base(from)
		}
		if err := b.write(ctx, to, from, size); err != nil {
			return time.Time{}, err
		}
		if to != path {
			if err := b.driver.Move(ctx, to, path); err != nil {
				return time.Time{}, err
			}
		}
	}
	info, err := b.driver.Stat(ctx, path)
	if err != nil {
		return time.Time{}, err
	}
	if info.Size() != size {
		return time.Time{}, errors.Join(
			fmt.Errorf("the storage driver holds %d of %d bytes: %w", info.Size(), size, ErrMismatch),
			b.driver.Delete(ctx, path))
	}
	return info.ModTime(), nil
}

// write copies a file to a path.
func (b *Blobs) write(ctx context.Context, to, from string, size int64) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := b.driver.Writer(ctx, to, false)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{f}, make([]byte, uploadBuffer))
	if err == nil && n != size {
		err = fmt.Errorf("spool file holds %d of %d bytes: %w", n, size, io.ErrUnexpectedEOF)
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

// removeLeftovers removes what uploads left that nobody ends any more.
func (b *Blobs) removeLeftovers(ctx context.Context) error {
	if b.root != "" {
		return nil // the spool is all there is
	}
	if b.bucket == nil {
		return b.removeStaged(ctx)
	}
	// A first answer brings the server's clock.
	o, _ := b.driver.(objects)
	for _, folder := range []string{blobsPath, documentsPath} {
		err := o.bounded(ctx, func(ctx context.Context) error {
			return b.bucket.abortUploads(ctx, folder, func() time.Time { return b.now(time.Now()).Add(-stagingAge) })
		})
		if err != nil {
			return fmt.Errorf("storage: uploads that were broken off: %w", err)
		}
	}
	return nil
}

// removeStaged deletes staged files that nobody can still be writing.
func (b *Blobs) removeStaged(ctx context.Context) error {
	var gone storagedriver.PathNotFoundError
	paths, err := b.driver.List(ctx, stagingPath)
	if errors.As(err, &gone) {
		return nil
	} else if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	before := b.now(time.Now()).Add(-stagingAge)
	for _, path := range paths {
		info, err := b.driver.Stat(ctx, path)
		if err == nil && info.ModTime().Before(before) {
			err = b.driver.Delete(ctx, path)
		}
		if err != nil && !errors.As(err, &gone) {
			return fmt.Errorf("storage: %w", err)
		}
	}
	return nil
}
