package database_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/opencontainers/go-digest"

	"pratique/scanner/database"
)

// TestPaths: each form of a database at hand, what is new in it, and what is
// wrong with it.
func TestPaths(t *testing.T) {
	forms := map[string]func(t *testing.T, path string, raw []byte){
		"archive": func(t *testing.T, path string, raw []byte) {
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"directory": func(t *testing.T, path string, raw []byte) {
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, f := range read(t, raw) {
				if err := os.WriteFile(filepath.Join(path, f.name), f.body, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
		"layout": func(t *testing.T, path string, raw []byte) {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			l, err := layout.Write(path, empty.Index)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.AppendImage(artifact(t, raw, layerType)); err != nil {
				t.Fatal(err)
			}
		},
	}
	var digests []digest.Digest
	for form, write := range forms {
		t.Run(form, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "offer")
			s := newSetup(t, database.Config{Path: path})
			if err := s.Check(t.Context()); err == nil {
				t.Fatal("nothing is there and no error")
			}
			write(t, path, archive(t, "old"))
			if err := s.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			write(t, path, archive(t, "new"))
			for range 2 {
				if err := s.Check(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if len(s.adopted) != 2 || s.Status().Source != path {
				t.Errorf("%d adoptions, status %+v", len(s.adopted), s.Status())
			}
			digests = append(digests, s.Status().Digest)

			r, err := database.OpenPath(path)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			imported := newSetup(t, database.Config{})
			if err := s.matcher.Close(); err != nil {
				t.Fatal(err)
			}
			st, err := imported.Import(t.Context(), r, false)
			if err != nil {
				t.Fatal(err)
			}
			digests = append(digests, st.Digest)
		})
	}
	slices.Sort(digests)
	if len(digests) != 2*len(forms) || len(slices.Compact(digests)) != 1 {
		t.Errorf("one content has several digests: %v", digests)
	}
}

// TestLayoutDamage: a layer that is not what the layout says.
func TestLayoutDamage(t *testing.T) {
	raw := archive(t, "new")
	for name, damage := range map[string]func(blob string) error{
		"truncated": func(blob string) error { return os.Truncate(blob, int64(len(raw)/2)) },
		"replaced":  func(blob string) error { return os.WriteFile(blob, archive(t, "old"), 0o600) },
		"gone":      os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "layout")
			l, err := layout.Write(path, empty.Index)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.AppendImage(artifact(t, raw, layerType)); err != nil {
				t.Fatal(err)
			}
			d := digest.FromBytes(raw)
			if err := damage(filepath.Join(path, "blobs", "sha256", d.Encoded())); err != nil {
				t.Fatal(err)
			}
			s := newSetup(t, database.Config{Path: path})
			if err := s.Check(t.Context()); err == nil {
				t.Error("adopted by Check")
			}
			r, err := database.OpenPath(path)
			if err == nil {
				_, err = s.Import(t.Context(), r, true)
				_ = r.Close()
			}
			if err == nil {
				t.Error("adopted by Import")
			}
			if s.Status().Digest != "" {
				t.Errorf("status %+v", s.Status())
			}
		})
	}
}
