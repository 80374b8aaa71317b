package store_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pratique"
	"pratique/store"
)

func documentNames(t *testing.T, b *store.Blobs, folder string) []string {
	t.Helper()
	names := []string{}
	for name, err := range b.DocumentNames(t.Context(), folder) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func TestDocuments(t *testing.T) {
	drivers(t, func(t *testing.T, open func(*testing.T) *store.Blobs) {
		b, ctx := open(t), t.Context()
		if got := documentNames(t, b, ""); len(got) > 0 {
			t.Errorf("before anything: %v", got)
		}
		docs := map[string][]byte{
			"inventories/sha256:0123abc/trivy@1.2-x_y": bytes.Repeat([]byte(`{"name":"openssl"}`), 10_000),
			"inventories/sha256:0123abc":               []byte("a folder has the same name"),
			"inventories/_z":                           []byte("looks like an escape"),
			"inventories__c/x":                         nil,
			"inventories_more":                         noise(7, 3000),
			"a":                                        []byte("{}"),
			"a_z":                                      []byte("[]"),
		}
		for name, doc := range docs {
			if _, err := b.Document(ctx, name); !errors.Is(err, pratique.ErrNotFound) {
				t.Errorf("%s before it was put: %v", name, err)
			}
			for _, d := range [][]byte{[]byte("what stood before"), doc} {
				if err := b.PutDocument(ctx, name, d); err != nil {
					t.Fatal(err)
				}
			}
		}
		want := []string{}
		for name, doc := range docs {
			want = append(want, name)
			if got, err := b.Document(ctx, name); err != nil || !bytes.Equal(got, doc) {
				t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(doc), err)
			}
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, documentNames(t, b, "")); diff != "" {
			t.Errorf("all names (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"inventories/_z", "inventories/sha256:0123abc", "inventories/sha256:0123abc/trivy@1.2-x_y"}, documentNames(t, b, "inventories")); diff != "" {
			t.Errorf("names of a folder (-want +got):\n%s", diff)
		}
		for range b.DocumentNames(ctx, "") {
			break // and nothing breaks
		}
		if got := walk(t, b); len(got) > 0 {
			t.Errorf("documents are blobs: %v", got)
		}
		for range 2 {
			if err := b.DeleteDocument(ctx, "inventories/sha256:0123abc"); err != nil {
				t.Error(err)
			}
		}
		if _, err := b.Document(ctx, "inventories/sha256:0123abc/trivy@1.2-x_y"); err != nil {
			t.Errorf("what a folder of the name of a removed document holds: %v", err)
		}
		for name := range docs {
			if err := b.DeleteDocument(ctx, name); err != nil {
				t.Error(err)
			}
		}
		if got := documentNames(t, b, ""); len(got) > 0 {
			t.Errorf("after all were removed: %v", got)
		}
	})
}

// A name becomes a path: none leads elsewhere.
func TestDocumentNamesThatAreNone(t *testing.T) {
	drivers(t, func(t *testing.T, open func(*testing.T) *store.Blobs) {
		b, ctx := open(t), t.Context()
		for _, name := range []string{
			"", "/", "a/", "/a", "a//b", ".", "..", "../a", "a/../b", "a/..", "./a", "a b", "a\\b", "a\x00b", "ä", "a%2fb",
			strings.Repeat("x", 241), strings.Repeat("_", 121), strings.Repeat("x/", 400) + "x",
		} {
			if err := b.PutDocument(ctx, name, nil); !errors.Is(err, pratique.ErrInvalid) {
				t.Errorf("PutDocument %q: %v", name, err)
			}
			if _, err := b.Document(ctx, name); !errors.Is(err, pratique.ErrInvalid) {
				t.Errorf("Document %q: %v", name, err)
			}
			if err := b.DeleteDocument(ctx, name); !errors.Is(err, pratique.ErrInvalid) {
				t.Errorf("DeleteDocument %q: %v", name, err)
			}
			for _, err := range b.DocumentNames(ctx, name) {
				if name == "" || !errors.Is(err, pratique.ErrInvalid) {
					t.Errorf("DocumentNames %q: %v", name, err)
				}
			}
		}
	})
}

// A document that the disk changed is an error, never another document.
func TestDocumentSpoilt(t *testing.T) {
	dir := t.TempDir()
	b := openFilesystem(t, dir)
	if err := b.PutDocument(t.Context(), "x", noise(1, 5000)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "documents", "x_z")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(raw)
	flipped[2000] ^= 1
	for name, spoilt := range map[string][]byte{"flipped": flipped, "cut": raw[:3000], "empty": {}, "text": []byte("{}")} {
		if err := os.WriteFile(file, spoilt, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Document(t.Context(), "x"); !errors.Is(err, store.ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whichever step fails, done or not done, the document is the old or the new one,
// and nothing is left in the spool.
func TestDocumentFailures(t *testing.T) {
	for _, step := range []string{"sync", "makedir", "rename", "syncdir"} {
		for _, done := range []bool{false, true} {
			dir := t.TempDir()
			b := openFilesystem(t, dir)
			if err := b.PutDocument(t.Context(), "f/x", []byte("old")); err != nil {
				t.Fatal(err)
			}
			broken := errors.New("broken")
			store.FailStep(b, step, func(do func() error) error {
				if done {
					_ = do()
				}
				return broken
			})
			if err := b.PutDocument(t.Context(), "f/x", []byte("new")); !errors.Is(err, broken) {
				t.Errorf("%s: %v", step, err)
			}
			got, err := b.Document(t.Context(), "f/x")
			if err != nil || string(got) != "old" && string(got) != "new" {
				t.Errorf("%s: %q, %v", step, got, err)
			}
			left, err := filepath.Glob(filepath.Join(dir, "spool", "*", "document*"))
			if err != nil || len(left) > 0 {
				t.Errorf("%s left %v, %v", step, left, err)
			}
		}
	}
}
