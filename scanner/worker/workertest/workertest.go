// Package workertest builds the analyzer program for tests that need the real
// one, once per machine and source.
package workertest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pratique/scanner/worker"
)

// Binary returns the path of the analyzer program. PRATIQUE_ANALYZER names one
// that is built already; otherwise it is built, with the flags of the Makefile so
// that Go's build cache serves both, and kept in the user's cache directory under
// a hash of the sources. The first build of a machine takes minutes.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("PRATIQUE_ANALYZER"); path != "" {
		return path
	}
	path, err := build()
	if err != nil {
		t.Fatalf("building the analyzer: %v", err)
	}
	return path
}

func build() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "pratique")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "build.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }() // releases the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	sum, err := sources(root)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, worker.BinaryName+"-"+sum)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := clean(dir); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path+".new", "./cmd/pratique-analyzer")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOEXPERIMENT=jsonv2", "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, os.Rename(path+".new", path)
}

// clean removes builds that no running test can still mean to start: each is
// 150 MB.
func clean(dir string) error {
	old, err := filepath.Glob(filepath.Join(dir, worker.BinaryName+"-*"))
	if err != nil {
		return err
	}
	for _, p := range old {
		if info, err := os.Stat(p); err != nil || time.Since(info.ModTime()) < time.Hour {
			continue
		}
		if err := os.Remove(p); err != nil {
			return err
		}
	}
	return nil
}

// sources hashes what the program is built from: this module's packages that
// it links, and the versions of all others.
func sources(root string) (string, error) {
	h := sha256.New()
	add := func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		fmt.Fprintln(h, path)
		_, err = io.Copy(h, f)
		return err
	}
	for _, f := range []string{"go.mod", "go.sum"} {
		if err := add(filepath.Join(root, f)); err != nil {
			return "", err
		}
	}
	for _, dir := range []string{".", "scanner/analyze", "scanner/worker", "cmd/pratique-analyzer"} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil {
			return "", err
		}
		for _, e := range entries {
			if e.Type() != fs.ModeDir && strings.HasSuffix(e.Name(), ".go") && !strings.HasSuffix(e.Name(), "_test.go") {
				if err := add(filepath.Join(root, dir, e.Name())); err != nil {
					return "", err
				}
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", err
	}
	return filepath.Dir(string(bytes.TrimSpace(out))), nil
}
