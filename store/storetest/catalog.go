package storetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// image makes a manifest named name over the given layers.
func image(name string, layers ...string) pratique.Image {
	img := pratique.Image{
		Digest: sum(name), MediaType: pratique.MediaTypeImageManifest, Size: 1234, Kind: pratique.KindImage,
		Config:      pratique.Descriptor{MediaType: pratique.MediaTypeImageConfig, Digest: sum("config of " + name), Size: 99},
		Annotations: map[string]string{"org.opencontainers.image.title": name},
	}
	for _, l := range layers {
		img.Layers = append(img.Layers, pratique.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Digest: sum(l), Size: int64(len(l))})
	}
	return img
}

func index(name string, children ...string) pratique.Image {
	img := pratique.Image{Digest: sum(name), MediaType: pratique.MediaTypeImageIndex, Size: 77, Kind: pratique.KindIndex}
	for _, c := range children {
		img.Children = append(img.Children, pratique.Descriptor{
			MediaType: pratique.MediaTypeImageManifest, Digest: sum(c), Size: 1234,
			Platform: &pratique.Platform{OS: "linux", Architecture: "amd64"},
		})
	}
	return img
}

func ref(repo string) pratique.Ref { return pratique.Ref{Registry: "docker.io", Repo: repo} }

// Catalog checks an implementation of store.Catalog that is one of store.Tags
// too: Images tells tags.
func Catalog[T interface {
	store.Catalog
	store.Tags
}](t *testing.T, fresh Fresh[T]) {
	tests := map[string]func(t *testing.T, open func() T){
		"Image":       catalogImage[T],
		"FirstSeen":   catalogFirstSeen[T],
		"Holders":     catalogHolders[T],
		"Images":      catalogImages[T],
		"Durable":     catalogDurable[T],
		"Concurrent":  catalogConcurrent[T],
		"LinkInRange": catalogLinkInRange[T],
	}
	for name, f := range tests {
		t.Run(name, func(t *testing.T) { f(t, fresh(t)) })
	}
}

func catalogImage[T store.Catalog](t *testing.T, open func() T) {
	c, ctx := open(), t.Context()
	_, err := c.Image(ctx, sum("a"))
	wantNotFound(t, "Image before Link", err)
	for _, img := range []pratique.Image{image("a", "l1", "l2"), index("i", "a", "b"), {
		Digest: sum("sig"), MediaType: pratique.MediaTypeImageManifest, Kind: pratique.KindArtifact, ArtifactType: "x/y",
		Config: pratique.Descriptor{Digest: sum("{}"), Size: 2}, Subject: &pratique.Descriptor{Digest: sum("a"), Size: 1},
	}} {
		mustBe(t, c.Link(ctx, ref("r"), img, clock))
		got, err := c.Image(ctx, img.Digest)
		mustBe(t, err)
		img.FirstSeen = clock
		same(t, "Image", got, img)
	}
}

func catalogFirstSeen[T store.Catalog](t *testing.T, open func() T) {
	c, ctx := open(), t.Context()
	a := image("a", "l")
	mustBe(t, c.Link(ctx, ref("r"), a, clock))
	mustBe(t, c.Link(ctx, ref("r"), a, clock.Add(time.Hour)))
	mustBe(t, c.Link(ctx, ref("other"), a, clock.Add(-time.Hour)))
	a.FirstSeen = clock.Add(-48 * time.Hour) // a claim of the caller's counts for nothing
	mustBe(t, c.Link(ctx, ref("third"), a, clock.Add(time.Minute)))
	got, err := c.Image(ctx, a.Digest)
	mustBe(t, err)
	if !got.FirstSeen.Equal(clock) {
		t.Errorf("FirstSeen %v, want that of the first Link %v", got.FirstSeen, clock)
	}
}

func catalogHolders[T store.Catalog](t *testing.T, open func() T) {
	c, ctx := open(), t.Context()
	a, b, i := image("a", "base", "top", "base"), image("b", "base"), index("i", "a", "b")
	for _, img := range []pratique.Image{a, b, i} {
		mustBe(t, c.Link(ctx, ref("r"), img, clock))
	}
	mustBe(t, c.Link(ctx, ref("other"), b, clock))
	// A manifest that another manifest names as its layer.
	nested := image("nested")
	nested.Layers = []pratique.Descriptor{{Digest: b.Digest, Size: 1}}
	mustBe(t, c.Link(ctx, ref("r"), nested, clock))

	tests := map[string]struct {
		ref  pratique.Ref
		d    digest.Digest
		want []digest.Digest
	}{
		"layer of one":                   {ref("r"), sum("top"), []digest.Digest{a.Digest}},
		"layer of two, twice in one":     {ref("r"), sum("base"), []digest.Digest{a.Digest, b.Digest}},
		"config":                         {ref("r"), a.Config.Digest, []digest.Digest{a.Digest}},
		"manifest":                       {ref("r"), a.Digest, []digest.Digest{a.Digest}},
		"index":                          {ref("r"), i.Digest, []digest.Digest{i.Digest}},
		"manifest and layer of another":  {ref("r"), b.Digest, []digest.Digest{b.Digest, nested.Digest}},
		"other repository's view":        {ref("other"), sum("base"), []digest.Digest{b.Digest}},
		"tag and digest are ignored":     {ref("r").At(sum("z")), sum("top"), []digest.Digest{a.Digest}},
		"layer of another repository":    {ref("other"), sum("top"), nil},
		"manifest of another":            {ref("other"), a.Digest, nil},
		"unknown repository":             {ref("none"), sum("base"), nil},
		"repository of another upstream": {pratique.Ref{Registry: "ghcr.io", Repo: "r"}, sum("base"), nil},
		"unknown digest":                 {ref("r"), sum("nothing"), nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := c.Holders(ctx, test.ref, test.d)
			if test.want == nil {
				wantNotFound(t, "Holders", err)
				return
			}
			mustBe(t, err)
			if len(got) > 0 && got[0] != test.want[0] && test.d == test.want[0] {
				t.Errorf("first is %s, want the manifest asked for", got[0])
			}
			slices.Sort(got)
			slices.Sort(test.want)
			same(t, "Holders", got, test.want)
		})
	}
}

func catalogImages[T interface {
	store.Catalog
	store.Tags
}](t *testing.T, open func() T) {
	c, ctx := open(), t.Context()
	const n = 600 // more than a page of any implementation
	want := make([]digest.Digest, 0, n)
	for i := range n {
		img := image(fmt.Sprint("img", i), "base")
		want = append(want, img.Digest)
		mustBe(t, c.Link(ctx, ref(fmt.Sprint("r", i%3)), img, clock))
	}
	slices.Sort(want)
	mustBe(t, c.Link(ctx, ref("r0"), index("i", "img0"), clock))
	mustBe(t, c.Link(ctx, ref("r9"), image("img0", "base"), clock))
	mustBe(t, c.SetTag(ctx, pratique.Ref{Registry: "docker.io", Repo: "r9", Tag: "v1"}, store.TagState{Digest: sum("img0"), CheckedAt: clock, ChangedAt: clock}))

	var got []digest.Digest
	for k, err := range c.Images(ctx) {
		mustBe(t, err)
		got = append(got, k.Image.Digest)
		switch {
		case k.Ref.Digest != k.Image.Digest || k.Ref.Registry != "docker.io" || k.Ref.Repo == "":
			t.Fatalf("%s leads to %s", k.Ref, k.Image.Digest)
		case k.Image.Digest == sum("img0") && (k.Ref.Repo != "r9" || k.Ref.Tag != "v1"):
			t.Errorf("img0 through %s, want r9:v1, which a tag names", k.Ref)
		case !k.Image.FirstSeen.Equal(clock):
			t.Fatalf("%s: FirstSeen %v", k.Image.Digest, k.Image.FirstSeen)
		}
		// No lock is held: the loop's body may write.
		if len(got) == 3 {
			mustBe(t, c.Link(ctx, ref("r5"), k.Image, clock))
		}
	}
	same(t, "Images, in order of digest, without the index", got, want)
	for _, err := range c.Images(ctx) {
		mustBe(t, err)
		break // the sequence may be left
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	var last error
	for _, err := range c.Images(ended) {
		last = err
	}
	if last == nil {
		t.Error("Images with an ended context yielded no error: an error is never a shorter list")
	}
}

func catalogDurable[T store.Catalog](t *testing.T, open func() T) {
	c, ctx := open(), t.Context()
	a := image("a", "l")
	mustBe(t, c.Link(ctx, ref("r"), a, clock))
	c = open()
	got, err := c.Image(ctx, a.Digest)
	mustBe(t, err)
	a.FirstSeen = clock
	same(t, "Image after reopening", got, a)
	hs, err := c.Holders(ctx, ref("r"), sum("l"))
	mustBe(t, err)
	same(t, "Holders after reopening", hs, []digest.Digest{a.Digest})
}

func catalogConcurrent[T store.Catalog](t *testing.T, open func() T) {
	c := open()
	concurrently(t, 16, func(ctx context.Context, i int) error {
		for n := range 8 {
			img := image(fmt.Sprint("img", n), "base", fmt.Sprint("layer", n))
			if err := c.Link(ctx, ref(fmt.Sprint("r", i%4)), img, clock.Add(time.Duration(i)*time.Second)); err != nil {
				return err
			}
			hs, err := c.Holders(ctx, ref(fmt.Sprint("r", i%4)), sum(fmt.Sprint("layer", n)))
			if err != nil {
				return err
			}
			if len(hs) != 1 || hs[0] != img.Digest {
				return fmt.Errorf("holders of layer %d: %v", n, hs)
			}
		}
		return nil
	})
	hs, err := c.Holders(t.Context(), ref("r0"), sum("base"))
	mustBe(t, err)
	if len(hs) != 8 {
		t.Errorf("%d holders of base, want 8", len(hs))
	}
}

// catalogLinkInRange: a manifest at the limits of what ParseManifest accepts.
func catalogLinkInRange[T store.Catalog](t *testing.T, open func() T) {
	c, ctx := open(), t.Context()
	layers := make([]string, 3000)
	for i := range layers {
		layers[i] = fmt.Sprint("layer", i)
	}
	big := image("big", layers...)
	mustBe(t, c.Link(ctx, ref("r"), big, clock))
	got, err := c.Image(ctx, big.Digest)
	mustBe(t, err)
	same(t, "layers", len(got.Layers), len(big.Layers))
	for _, l := range []string{"layer0", "layer2999"} {
		hs, err := c.Holders(ctx, ref("r"), sum(l))
		mustBe(t, err)
		same(t, "holders of "+l, hs, []digest.Digest{big.Digest})
	}
}
