package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
)

// errStorage is a failure of the object store: it wraps ErrUnreachable, because
// trying again later may help, and ErrObjects, and speaks for itself.
type errStorage struct{ err error }

func (e errStorage) Error() string { return ErrObjects.Error() + ": " + e.err.Error() }

func (e errStorage) Unwrap() []error { return []error{ErrUnreachable, ErrObjects, e.err} }

// errStalled ends an operation that made no progress for too long.
var errStalled = errors.New("no progress")

// objects are a storage driver behind a network. No operation hangs: each part of
// one, a request or the next bytes of a body, has its time. What fails wraps
// ErrUnreachable; that something is not there, or was asked for wrongly, does not.
type objects struct {
	storagedriver.StorageDriver
	answer time.Duration // for a request without a body, tries included
	stall  time.Duration // for the next bytes, or a part of an upload
	failed func()        // told every failure
}

// outcome is what err, of an operation with ctx, is for those outside; own is the
// context of the operation itself.
func (o objects) outcome(ctx, own context.Context, err error) error {
	switch {
	case err == nil || says(err):
		return err
	case ctx.Err() != nil: // the caller's end is not the store's failure
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	if cause := context.Cause(own); cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	o.failed()
	return errStorage{err}
}

// says reports whether err is an answer and no failure.
func says(err error) bool {
	var (
		gone   storagedriver.PathNotFoundError
		path   storagedriver.InvalidPathError
		offset storagedriver.InvalidOffsetError
		method storagedriver.ErrUnsupportedMethod
	)
	return errors.As(err, &gone) || errors.As(err, &path) || errors.As(err, &offset) || errors.As(err, &method)
}

// refused reports whether the object store answered that it will not: the bucket or
// the credentials are wrong, and no waiting helps.
func refused(err error) bool {
	for {
		var e errStorage
		if errors.As(err, &e) {
			err = e.err
		}
		var wrapped storagedriver.Error // has no Unwrap
		if !errors.As(err, &wrapped) {
			break
		}
		err = wrapped.Detail
	}
	var status interface{ StatusCode() int } // the one of S3's errors
	if !errors.As(err, &status) {
		return false
	}
	code := status.StatusCode()
	return code >= 400 && code < 500 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests
}

// bounded runs an operation that is to answer at once.
func (o objects) bounded(ctx context.Context, work func(ctx context.Context) error) error {
	own, cancel := context.WithTimeoutCause(ctx, o.answer, errStalled)
	defer cancel()
	return o.outcome(ctx, own, work(own))
}

func (o objects) Stat(ctx context.Context, path string) (info storagedriver.FileInfo, err error) {
	err = o.bounded(ctx, func(ctx context.Context) (err error) {
		info, err = o.StorageDriver.Stat(ctx, path)
		return err
	})
	return info, err
}

func (o objects) List(ctx context.Context, path string) (names []string, err error) {
	err = o.bounded(ctx, func(ctx context.Context) (err error) {
		names, err = o.StorageDriver.List(ctx, path)
		return err
	})
	return names, err
}

func (o objects) Delete(ctx context.Context, path string) error {
	return o.bounded(ctx, func(ctx context.Context) error { return o.StorageDriver.Delete(ctx, path) })
}

// GetContent has the time of an answer and of a body.
func (o objects) GetContent(ctx context.Context, path string) (raw []byte, err error) {
	o.answer += o.stall
	err = o.bounded(ctx, func(ctx context.Context) (err error) {
		raw, err = o.StorageDriver.GetContent(ctx, path)
		return err
	})
	return raw, err
}

func (o objects) PutContent(ctx context.Context, path string, raw []byte) error {
	o.answer += o.stall
	return o.bounded(ctx, func(ctx context.Context) error { return o.StorageDriver.PutContent(ctx, path, raw) })
}

// Move copies inside of the store, which may take as long as an upload.
func (o objects) Move(ctx context.Context, from, to string) error {
	o.answer += 10 * o.stall
	return o.bounded(ctx, func(ctx context.Context) error { return o.StorageDriver.Move(ctx, from, to) })
}

// watched is a context that ends when a step takes too long.
type watched struct {
	objects
	caller, own context.Context //nolint:containedctx // bound what has none: Read, Write
	cancel      context.CancelCauseFunc
	timer       *time.Timer
}

func (o objects) watch(ctx context.Context, first time.Duration) *watched {
	own, cancel := context.WithCancelCause(ctx)
	return &watched{o, ctx, own, cancel, time.AfterFunc(first, func() { cancel(errStalled) })}
}

// step runs one step of the operation within its time.
func (w *watched) step(work func() error) error {
	w.timer.Reset(w.stall)
	err := work()
	w.timer.Stop()
	if errors.Is(err, io.EOF) {
		return err
	}
	return w.outcome(w.caller, w.own, err)
}

func (w *watched) end() {
	w.timer.Stop()
	w.cancel(nil)
}

// Walk has no bound as a whole: it is as long as the store is large.
func (o objects) Walk(ctx context.Context, path string, f storagedriver.WalkFn, options ...func(*storagedriver.WalkOptions)) error {
	w := o.watch(ctx, o.answer+o.stall)
	defer w.end()
	var theirs error                                                                   // f's, which is no failure of the store's
	err := o.StorageDriver.Walk(w.own, path, func(info storagedriver.FileInfo) error { //nolint:contextcheck // derived from ctx by watch
		w.timer.Stop()
		theirs = f(info)
		w.timer.Reset(o.answer + o.stall)
		return theirs
	}, options...)
	if theirs != nil && !errors.Is(theirs, storagedriver.ErrSkipDir) {
		return err
	}
	return o.outcome(ctx, w.own, err)
}

func (o objects) Reader(ctx context.Context, path string, offset int64) (io.ReadCloser, error) {
	w := o.watch(ctx, o.answer)
	body, err := o.StorageDriver.Reader(w.own, path, offset) //nolint:contextcheck // derived from ctx by watch
	w.timer.Stop()
	if err != nil {
		defer w.end()
		return nil, o.outcome(ctx, w.own, err)
	}
	return &objectReader{w, body}, nil
}

type objectReader struct {
	w    *watched
	body io.ReadCloser
}

func (r *objectReader) Read(p []byte) (n int, err error) {
	err = r.w.step(func() (err error) {
		n, err = r.body.Read(p)
		return err
	})
	return n, err
}

func (r *objectReader) Close() error {
	r.w.end()
	return r.body.Close()
}

func (o objects) Writer(ctx context.Context, path string, appending bool) (storagedriver.FileWriter, error) {
	w := o.watch(ctx, o.answer)
	to, err := o.StorageDriver.Writer(w.own, path, appending) //nolint:contextcheck // derived from ctx by watch
	w.timer.Stop()
	if err != nil {
		defer w.end()
		return nil, o.outcome(ctx, w.own, err)
	}
	return &objectWriter{FileWriter: to, w: w}, nil
}

type objectWriter struct {
	storagedriver.FileWriter
	w *watched
}

func (t *objectWriter) Write(p []byte) (n int, err error) {
	err = t.w.step(func() (err error) {
		n, err = t.FileWriter.Write(p)
		return err
	})
	return n, err
}

func (t *objectWriter) Commit(context.Context) error {
	return t.w.step(func() error { return t.FileWriter.Commit(t.w.own) })
}

// Cancel gives up what was uploaded; its context is not the writer's, which may
// have ended.
func (t *objectWriter) Cancel(ctx context.Context) error {
	defer t.w.end()
	return t.w.bounded(ctx, func(ctx context.Context) error { return t.FileWriter.Cancel(ctx) })
}

func (t *objectWriter) Close() error {
	defer t.w.end()
	return t.FileWriter.Close()
}

// resumed reads an object and goes on where a connection broke.
type resumed struct {
	open   func(offset int64) (io.ReadCloser, error)
	mu     sync.Mutex
	body   io.ReadCloser
	offset int64
	size   int64
	tries  int
	closed bool
}

// maxResumes is how often in a row a body is asked for again without a byte in between.
const maxResumes = 3

func (r *resumed) Read(p []byte) (int, error) {
	for {
		n, err := r.body.Read(p)
		r.offset += int64(n)
		if n > 0 {
			r.tries = 0
			if err != nil && r.offset < r.size {
				err = nil // it comes again, or the next Read tells
			}
			return n, err
		}
		if err == nil {
			return 0, nil
		}
		if r.offset >= r.size && errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if errors.Is(err, io.EOF) {
			err = errStorage{io.ErrUnexpectedEOF}
		}
		if !errors.Is(err, ErrUnreachable) || r.tries == maxResumes {
			return 0, err
		}
		r.tries++
		if again := r.reopen(); again != nil {
			return 0, errors.Join(again, err)
		}
	}
}

// reopen replaces the body by one from the offset.
func (r *resumed) reopen() error {
	body, err := r.open(r.offset)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errors.Join(body.Close(), context.Canceled)
	}
	_ = r.body.Close() // it broke
	r.body = body
	return nil
}

func (r *resumed) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return r.body.Close()
}
