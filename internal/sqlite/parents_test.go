package sqlite_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
)

func TestParents(t *testing.T) {
	ctx := t.Context()
	db, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ref := pratique.Ref{Registry: "docker.io", Repo: "library/app"}
	other := pratique.Ref{Registry: "docker.io", Repo: "library/other"}
	child := digest.FromString("child")
	index := func(in pratique.Ref, name string, children ...digest.Digest) digest.Digest {
		t.Helper()
		img := pratique.Image{Digest: digest.FromString(name), Kind: pratique.KindIndex, MediaType: pratique.MediaTypeImageIndex}
		for _, c := range children {
			img.Children = append(img.Children, pratique.Descriptor{MediaType: pratique.MediaTypeImageManifest, Digest: c, Size: 1})
		}
		if err := db.Link(ctx, in, img, time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		return img.Digest
	}
	stamp := db.Stamp(child)
	first := index(ref, "first", child, digest.FromString("sibling"))
	if db.Stamp(child) == stamp {
		t.Error("the stamp of a child did not move with its index")
	}
	second := index(ref, "second", child)
	index(ref, "without", digest.FromString("sibling"))
	index(other, "elsewhere", child)

	for _, tc := range []struct {
		name string
		ref  pratique.Ref
		want []digest.Digest
	}{
		{"latest first, of the repository only", ref.At(child), []digest.Digest{second, first}},
		{"a digest that nothing lists", ref.At(first), nil},
		{"a repository that is not known", pratique.Ref{Registry: "docker.io", Repo: "none", Digest: child}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := db.Parents(ctx, tc.ref)
			if err != nil || !cmp.Equal(got, tc.want) {
				t.Errorf("got %v, %v; want %v", got, err, tc.want)
			}
		})
	}
}
