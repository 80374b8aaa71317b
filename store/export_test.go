package store

import (
	"context"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// ReplaceFile makes s write to f.
func ReplaceFile(s *Spool, f *os.File) {
	_ = s.file.Close()
	s.file = f
}

// FailStep makes b call fail around the operation of that name (sync, makedir,
// rename, syncdir, remove) instead of doing it; fail may do it by calling do.
func FailStep(b *Blobs, name string, fail func(do func() error) error) {
	switch s := b.steps; name {
	case "sync":
		b.steps.sync = func(f *os.File) error { return fail(func() error { return s.sync(f) }) }
	case "makedir":
		b.steps.makeDir = func(dir string) error { return fail(func() error { return s.makeDir(dir) }) }
	case "rename":
		b.steps.rename = func(from, to string) error { return fail(func() error { return s.rename(from, to) }) }
	case "syncdir":
		b.steps.syncDir = func(dir string) error { return fail(func() error { return s.syncDir(dir) }) }
	case "remove":
		b.steps.remove = func(ctx context.Context, path string) error {
			return fail(func() error { return s.remove(ctx, path) })
		}
	default:
		panic(name)
	}
}

// Crash ends b as a process that is killed does: its locks go, its files stay.
func Crash(b *Blobs) { _ = b.spool.lock.Close() }

// Measure counts the blobs anew.
func Measure(ctx context.Context, b *Blobs) error { return b.measure(ctx) }

// HotBytes are those in the hot cache and on their way into it.
func HotBytes(b *Blobs) int64 { return b.hot.bytes() }

// IsHot reports whether a blob is in the hot cache, without using it.
func IsHot(b *Blobs, d digest.Digest) bool {
	_, ok := b.hot.size(d)
	return ok
}

// Filled waits until no fill is running.
func Filled(b *Blobs) { b.background.wg.Wait() }

// AbortUploads gives up all uploads that were begun before that time.
func AbortUploads(ctx context.Context, b *Blobs, before time.Time) error {
	return b.bucket.abortUploads(ctx, blobsPath, func() time.Time { return before })
}

// NewFallback is the reader behind a fill.
func NewFallback(body io.ReadCloser, direct func(offset int64) (io.ReadCloser, error)) io.ReadCloser {
	return &fallback{body: body, direct: direct}
}

// Clock is how far the clock of a server is ahead, as seen by requests to it.
func Clock(rt http.RoundTripper) (http.RoundTripper, *atomic.Int64) {
	skew := &atomic.Int64{}
	return clocked{rt, skew}, skew
}
