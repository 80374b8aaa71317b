package store

import (
	"context"
	"os"
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
