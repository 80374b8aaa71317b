package worker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// tempPrefix begins the name of every pool's temporary directory.
const tempPrefix = "pratique-workers-"

// tempDir is a pool's own directory, in which its children have theirs. It is
// locked for as long as the pool lives, so that a later pool can tell what a
// killed one left behind.
type tempDir struct {
	path string
	lock *os.File
}

// makeTempDir makes a pool's directory under parent, and removes those of pools
// that are no more.
func makeTempDir(parent string) (_ tempDir, err error) {
	// Making a directory and locking it are two steps: between them another pool
	// would take it for abandoned.
	all, err := lockFile(filepath.Join(parent, tempPrefix+"lock"), syscall.LOCK_EX)
	if err != nil {
		return tempDir{}, fmt.Errorf("temporary directory of the workers: %w", err)
	}
	defer func() { err = errors.Join(err, all.Close()) }()
	if err := sweep(parent); err != nil {
		return tempDir{}, err
	}
	path, err := os.MkdirTemp(parent, tempPrefix)
	if err != nil {
		return tempDir{}, fmt.Errorf("temporary directory of the workers: %w", err)
	}
	lock, err := lockFile(filepath.Join(path, "lock"), syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil {
		return tempDir{}, errors.Join(fmt.Errorf("temporary directory of the workers: %w", err), os.RemoveAll(path))
	}
	return tempDir{path: path, lock: lock}, nil
}

func sweep(parent string) error {
	old, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("temporary directories of earlier workers: %w", err)
	}
	for _, e := range old {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		// Who was killed before locking left no lock: it is made, and taken.
		p := filepath.Join(parent, e.Name(), "lock")
		lock, err := lockFile(p, syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist):
			continue // in use, or another user's
		case err != nil:
			return fmt.Errorf("temporary directory of earlier workers: %w", err)
		}
		if err := errors.Join(os.RemoveAll(filepath.Dir(p)), lock.Close()); err != nil {
			return fmt.Errorf("temporary directory of earlier workers: %w", err)
		}
	}
	return nil
}

// remove ends the directory and its lock.
func (d tempDir) remove() error { return errors.Join(os.RemoveAll(d.path), d.lock.Close()) }

// lockFile opens path, which is no link, and locks it; closing it unlocks it.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), how); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
