package sqlite_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pratique"
	"pratique/store"
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

// TestDiskFull: writes fail as such and change nothing, reads go on, and space
// that is freed is used without opening the file again.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t, "2m")
	db := open(t, filepath.Join(dir, "state.db"))
	name := func(i int) pratique.Ref { return pratique.Ref{Registry: "r", Repo: fmt.Sprintf("x%d", i), Tag: "1"} }
	state := store.TagState{Digest: "sha256:" + "aa" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd", CheckedAt: now, ChangedAt: now}
	if err := db.SetTag(t.Context(), name(0), state); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := fill(ballast); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	big := []string{strings.Repeat("t", 128)}
	for len(big) < 5_000 {
		big = append(big, big[0])
	}
	written := 0
	for ; ; written++ {
		if err := db.SetTagList(t.Context(), name(written), big, now); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("after %d writes: %v is no ENOSPC", written, err)
			}
			break
		}
		if written > 100 {
			t.Fatal("the disk is not full")
		}
	}
	for range 50 {
		if got, err := db.Tag(t.Context(), name(0)); err != nil || got.Digest != state.Digest {
			t.Fatalf("reading: %+v, %v", got, err)
		}
		if _, _, err := db.TagList(t.Context(), name(written)); !errors.Is(err, pratique.ErrNotFound) {
			t.Fatalf("what could not be written: %v", err)
		}
		if err := db.SetTagList(t.Context(), name(written), big, now); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("writing: %v", err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := db.SetTagList(t.Context(), name(written), big, now); err != nil {
		t.Errorf("with space: %v", err)
	}
	if got, _, err := db.TagList(t.Context(), name(written)); err != nil || len(got) != len(big) {
		t.Errorf("with space: %d tags, %v", len(got), err)
	}
}

// fill writes a file until nothing fits any more.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for chunk := make([]byte, 4096); ; {
		if _, err := f.Write(chunk); err != nil {
			return err
		}
	}
}
