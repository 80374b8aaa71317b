package worker

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestTempDirsOfTheDead: what pools left behind that were killed is removed,
// with and without a lock; what lives, and what is not ours, stays.
func TestTempDirsOfTheDead(t *testing.T) {
	parent := t.TempDir()
	for _, name := range []string{tempPrefix + "killed", tempPrefix + "killed-before-locking", "somebody-elses"} {
		if err := os.MkdirAll(filepath.Join(parent, name, "child"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(parent, tempPrefix+"killed", "lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := makeTempDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	second, err := makeTempDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		filepath.Join(parent, tempPrefix+"killed"):                false,
		filepath.Join(parent, tempPrefix+"killed-before-locking"): false,
		filepath.Join(parent, "somebody-elses", "child"):          true,
		first.path:  true,
		second.path: true,
	} {
		_, err := os.Stat(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if got := err == nil; got != want {
			t.Errorf("%s: there is %v, want %v", path, got, want)
		}
	}
	for _, d := range []tempDir{first, second} {
		if err := d.remove(); err != nil {
			t.Error(err)
		}
	}
}
