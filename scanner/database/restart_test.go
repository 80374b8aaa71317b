package database_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique/scanner/database"
)

// failing adopts only when it is told to.
type failing struct {
	err error
	dir string
}

func (f *failing) Adopt(_ context.Context, dir string, _ digest.Digest) error {
	if f.err == nil {
		f.dir = dir
	}
	return f.err
}

// TestSwitchFails: the matcher cannot open what was verified (no memory, no file
// descriptor). The standing database stays, now and after a restart.
func TestSwitchFails(t *testing.T) {
	a := &failing{}
	cfg := database.Config{Dir: t.TempDir(), Now: func() time.Time { return now }}
	d := database.New(cfg, a)
	first, err := d.Import(t.Context(), bytes.NewReader(archive(t, "old")), false)
	if err != nil {
		t.Fatal(err)
	}
	a.err = errors.New("too many open files")
	st, err := d.Import(t.Context(), bytes.NewReader(archive(t, "new")), false)
	if !errors.Is(err, a.err) || st.Digest != first.Digest {
		t.Fatalf("%v, %+v", err, st)
	}
	a.err = nil
	d = database.New(cfg, a)
	if err := d.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := d.Status(); st.Digest != first.Digest || filepath.Base(a.dir) != first.Digest.Encoded() {
		t.Errorf("after a restart: %+v, opened %s", st, a.dir)
	}
}

// TestRestart: what a restart finds on disk, and what it makes of it.
func TestRestart(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, dir string, current, previous digest.Digest)
		want   string // current, previous, or none
		keep   []string
	}{
		{"as it was left", func(*testing.T, string, digest.Digest, digest.Digest) {}, "current", nil},
		{"leftovers of a crash", func(t *testing.T, dir string, _, _ digest.Digest) {
			for _, name := range []string{".staging-123/trivy.db", strings.Repeat("ab", 32) + "/trivy.db", "unrelated/file"} {
				if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, "current", []string{"unrelated"}},
		{"current truncated", func(t *testing.T, dir string, current, _ digest.Digest) {
			truncated(t, 1, 2)(filepath.Join(dir, current.Encoded(), "trivy.db"))
		}, "previous", nil},
		{"one bit of current turned", func(t *testing.T, dir string, current, _ digest.Digest) {
			path := filepath.Join(dir, current.Encoded(), "trivy.db")
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			raw[len(raw)/2] ^= 1
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "previous", nil},
		{"current gone", func(t *testing.T, dir string, current, _ digest.Digest) {
			if err := os.RemoveAll(filepath.Join(dir, current.Encoded())); err != nil {
				t.Fatal(err)
			}
		}, "previous", nil},
		{"both truncated", func(t *testing.T, dir string, current, previous digest.Digest) {
			truncated(t, 1, 2)(filepath.Join(dir, current.Encoded(), "trivy.db"))
			truncated(t, 1, 2)(filepath.Join(dir, previous.Encoded(), "trivy.db"))
		}, "none", nil},
		{"pointer is nonsense", func(t *testing.T, dir string, _, _ digest.Digest) {
			if err := os.WriteFile(filepath.Join(dir, "current"), []byte("{\"current\":\"sha256:../../x\"}"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "none", nil},
		{"pointer gone", func(t *testing.T, dir string, _, _ digest.Digest) {
			if err := os.Remove(filepath.Join(dir, "current")); err != nil {
				t.Fatal(err)
			}
		}, "none", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSetup(t, database.Config{})
			previous := s.mustImport(t, archive(t, "old")).Digest
			current := s.mustImport(t, archive(t, "new")).Digest
			if err := s.matcher.Close(); err != nil {
				t.Fatal(err)
			}
			c.damage(t, s.dir, current, previous)

			again := newSetup(t, database.Config{Dir: s.dir})
			err := again.Open(t.Context())
			got := map[digest.Digest]string{current: "current", previous: "previous", "": "none"}[again.Status().Digest]
			if got != c.want || (err != nil) != (c.want == "none") {
				t.Fatalf("opened %s (%v), want %s", got, err, c.want)
			}
			for _, name := range kept(t, s.dir) {
				known := []string{"current", current.Encoded(), previous.Encoded()}
				if !slices.Contains(append(known, c.keep...), name) {
					t.Errorf("%s was left", name)
				}
			}
			// Whatever was found, a good import stands afterwards.
			if _, err := again.Import(t.Context(), bytes.NewReader(archive(t, "new")), true); err != nil {
				t.Fatal(err)
			}
			if _, d := again.answer(t.Context(), t); d != current {
				t.Errorf("answers of %s", d)
			}
		})
	}
}
