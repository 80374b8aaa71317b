package proxy

import (
	"errors"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// TestCatalogMemory: what is not there is asked for again once it is linked,
// failures are not kept, and one repository's answer is not another's.
func TestCatalogMemory(t *testing.T) {
	stamps := store.NewStamps()
	under := &memCatalog{images: map[digest.Digest]pratique.Image{}, links: map[string][]digest.Digest{}, stamps: stamps}
	c, ctx := RememberCatalog(under, stamps), t.Context()
	layer := digest.FromString("layer")
	a := pratique.Image{Digest: digest.FromString("a"), Kind: pratique.KindImage, Layers: []pratique.Descriptor{{Digest: layer}}}
	b := pratique.Image{Digest: digest.FromString("b"), Kind: pratique.KindImage, Layers: []pratique.Descriptor{{Digest: layer}}}
	one, two := ref("docker.io/one", "1"), ref("docker.io/two", "1")
	holders := func(r pratique.Ref, want ...digest.Digest) {
		t.Helper()
		for range 2 {
			hs, err := c.Holders(ctx, r, layer)
			if len(want) == 0 && !errors.Is(err, pratique.ErrNotFound) {
				t.Errorf("%s: %v, %v, want none", r, hs, err)
			}
			if len(hs) != len(want) {
				t.Errorf("%s: %v, want %v", r, hs, want)
			}
		}
	}
	link := func(r pratique.Ref, img pratique.Image) {
		t.Helper()
		if err := c.Link(ctx, r, img, time.Now()); err != nil {
			t.Fatal(err)
		}
	}

	under.err = errors.New("disk")
	if _, err := c.Image(ctx, a.Digest); !errors.Is(err, under.err) {
		t.Error(err)
	}
	under.err = nil
	if _, err := c.Image(ctx, a.Digest); !errors.Is(err, pratique.ErrNotFound) {
		t.Error(err)
	}
	holders(one)
	link(one, a)
	if img, err := c.Image(ctx, a.Digest); err != nil || img.Digest != a.Digest {
		t.Errorf("after Link: %v, %v", img.Digest, err)
	}
	holders(one, a.Digest)
	holders(two)
	link(one, b)
	holders(one, a.Digest, b.Digest)
	link(two, b)
	holders(two, b.Digest)

	holders(one, a.Digest, b.Digest)
	asked := under.asked
	holders(one, a.Digest, b.Digest)
	if under.asked != asked {
		t.Errorf("asked %d times for what is known", under.asked-asked)
	}
	under.err = errors.New("disk")
	holders(one, a.Digest, b.Digest) // what is known needs no disk
}
