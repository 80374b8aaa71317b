package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// spoolDir is this process's own folder in the spool. Holding a lock on a file
// in it says that the process lives: the kernel drops the lock with the
// process, and whoever starts next removes the folder.
type spoolDir struct {
	path string
	lock *os.File
	next atomic.Uint64
}

// lockName is the file that is locked, in the spool and in each folder of it.
const lockName = "lock"

// openSpoolDir removes the folders of processes that are gone and makes a new
// one.
func openSpoolDir(root string) (*spoolDir, error) {
	fail := func(err error) (*spoolDir, error) { return nil, fmt.Errorf("spool %s: %w", root, err) }
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fail(err)
	}
	// Whoever holds this lock may make and remove folders.
	all, err := lockFile(filepath.Join(root, lockName), syscall.LOCK_EX)
	if err != nil {
		return fail(err)
	}
	defer all.Close()
	entries, err := os.ReadDir(root)
	if err != nil {
		return fail(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeAbandoned(filepath.Join(root, e.Name())); err != nil {
				return fail(err)
			}
		}
	}
	path, err := os.MkdirTemp(root, strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return fail(err)
	}
	lock, err := lockFile(filepath.Join(path, lockName), syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil {
		return fail(err)
	}
	return &spoolDir{path: path, lock: lock}, nil
}

// removeAbandoned removes the folder unless its process lives.
func removeAbandoned(path string) error {
	lock, err := lockFile(filepath.Join(path, lockName), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil
	} else if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(path), lock.Close())
}

func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// create makes a new empty file; prefix is for people who look.
func (s *spoolDir) create(prefix string) (*os.File, error) {
	name := prefix + "-" + strconv.FormatUint(s.next.Add(1), 10)
	return os.OpenFile(filepath.Join(s.path, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
}

// checkRename proves that files can be renamed from the spool into dir.
func (s *spoolDir) checkRename(dir string) error {
	f, err := s.create("probe")
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	target := filepath.Join(dir, filepath.Base(s.path)+probeSuffix)
	err = errors.Join(f.Close(), os.Rename(f.Name(), target))
	if errors.Is(err, syscall.EXDEV) {
		return fmt.Errorf("spool %s is on another file system than %s: put it on the same one", filepath.Dir(s.path), dir)
	} else if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return os.Remove(target)
}

// probeSuffix ends the names of the files by which checkRename tries.
const probeSuffix = ".probe"

// removeProbes removes probes in dir whose process is gone: openSpoolDir has
// removed their folders.
func (s *spoolDir) removeProbes(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, "*"+probeSuffix))
	if err != nil {
		return err
	}
	for _, path := range left {
		owner := filepath.Join(filepath.Dir(s.path), strings.TrimSuffix(filepath.Base(path), probeSuffix))
		if _, err := os.Stat(owner); !errors.Is(err, fs.ErrNotExist) {
			continue // it lives, or we cannot tell
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (s *spoolDir) close() error {
	return errors.Join(os.RemoveAll(s.path), s.lock.Close())
}

// makeDir makes dir and its missing parents durable: a file's name lasts only
// as long as the folders that lead to it.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o755)
	switch {
	case err == nil:
		return syncDir(filepath.Dir(dir))
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if err := makeDir(filepath.Dir(dir)); err != nil {
			return err
		}
		return makeDir(dir)
	}
	return err
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
