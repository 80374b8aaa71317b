package proxy_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"pratique/proxy"
)

// smallDisk mounts a file system of a few bytes, as root.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("mount: %v: run as root", err)
		}
		t.Skipf("mount: %v: run as root", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes a file until nothing fits any more but leave bytes.
func fill(t *testing.T, path string, leave int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 4096); err == nil; {
		_, err = f.Write(chunk)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err == nil {
		err = f.Truncate(info.Size() - leave)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestDiskFull: what is cached is served, what is new fails as what it is, and
// when there is space again it is used.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t, "4m")
	f := newFaultyOn(t, filepath.Join(dir, "blobs"))
	ballast := filepath.Join(dir, "ballast")
	layer := "lab/app/blobs/" + digest.FromBytes(f.layer).String()

	fill(t, ballast, 0)
	for range 3 {
		g := f.ask("lab/app/manifests/1")
		if g.status != 503 || g.code != string(proxy.CodeTooManyRequests) || g.retryAfter == "" || !strings.Contains(g.message, "disk of the cache is full") || strings.Contains(g.message, dir) {
			t.Errorf("a new manifest: %+v", g)
		}
		f.pullCached()
	}
	full, failed := 0, 0
	for _, line := range f.log.take() {
		if strings.HasPrefix(line, "The cache's disk is full") {
			full++
		}
		if strings.HasPrefix(line, "request ") && strings.Contains(line, "outcome=failed") {
			failed++
		}
	}
	if full != 1 || failed != 3 {
		t.Errorf("%d lines say so, want one a minute; %d requests failed, want 3", full, failed)
	}

	// With room for the manifest, and not for the layer.
	fill(t, ballast, 64<<10)
	if g := f.ask("lab/app/manifests/1"); g.status != 200 {
		t.Fatalf("with room for a manifest: %d %s", g.status, g.message)
	}
	if g := f.ask(layer); g.status != 503 && (g.err == nil || len(g.body) == len(f.layer)) {
		t.Errorf("a new layer: %d, %d bytes, %v %s", g.status, len(g.body), g.err, g.message)
	}
	f.quiet()
	f.pullCached()

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if g := f.ask(layer); g.status != 200 || !bytes.Equal(g.body, f.layer) {
		t.Errorf("with space: %d, %d bytes, %v %s", g.status, len(g.body), g.err, g.message)
	}
	f.quiet()
	f.pullCached()
}
