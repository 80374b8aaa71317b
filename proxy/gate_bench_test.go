package proxy

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
)

// fixed is a Registry that has everything at hand, so that what is measured
// above it is the gate.
type fixed struct {
	refusing
	manifests map[digest.Digest]Manifest
	blob      Blob
}

func (f *fixed) Manifest(_ context.Context, r Request) (Manifest, error) {
	return f.manifests[r.Ref.Digest], nil
}

func (f *fixed) Blob(_ context.Context, r Request) (Blob, error) {
	b := f.blob
	b.Digest = r.Ref.Digest
	return b, nil
}

// BenchmarkGate is the gate's share of a warm request: the verdict on what was
// decided before. p99-ns holds two readings of the clock.
func BenchmarkGate(b *testing.B) {
	w := newBenchWorld(b)
	for _, bb := range []struct {
		name string
		ask  func(ctx context.Context) error
	}{
		{"manifest of an image", func(ctx context.Context) error { _, err := w.gate.Manifest(ctx, w.image); return err }},
		{"manifest of an index of two", func(ctx context.Context) error { _, err := w.gate.Manifest(ctx, w.index); return err }},
		{"blob", func(ctx context.Context) error { _, err := w.gate.Blob(ctx, w.blob); return err }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			ctx := b.Context()
			took := make([]int64, 0, 1<<20)
			b.ReportAllocs()
			for b.Loop() {
				begun := time.Now()
				if err := bb.ask(ctx); err != nil {
					b.Fatal(err)
				}
				if len(took) < cap(took) {
					took = append(took, int64(time.Since(begun)))
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
		})
	}
}

// recording is a history that runs until the test ends.
func recording(tb testing.TB) *History {
	tb.Helper()
	h := NewHistory(&memPulls{}, HistoryConfig{FlushEvery: 10 * time.Millisecond})
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	go func() { defer close(done); _ = h.Run(ctx) }()
	tb.Cleanup(func() { cancel(); <-done })
	return h
}

type benchWorld struct {
	gate               *Gate
	image, index, blob Request
}

// newBenchWorld has an image of twelve layers, scanned and allowed.
func newBenchWorld(tb testing.TB) benchWorld {
	tb.Helper()
	w := newWorld(tb)
	next := &fixed{manifests: map[digest.Digest]Manifest{}}
	g := NewGate(next, w.scans, RememberCatalog(w.catalog, w.stamps), w.policies, GateConfig{
		Platforms: []pratique.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}, Stamps: w.stamps,
		Evidence: facts(func(*policy.Facts) {}), Record: recording(tb),
	})
	client := Client{Addr: netip.MustParseAddr("192.0.2.7")}
	ask := func(d digest.Digest) Request {
		r := get("docker.io/library/app", string(d))
		r.Client = client
		return r
	}
	var out benchWorld
	var children []pratique.Descriptor
	for _, platform := range []string{amd64, arm64} {
		img := pratique.Image{
			Digest: digest.FromString(platform), MediaType: pratique.MediaTypeImageManifest, Kind: pratique.KindImage,
			Config: pratique.Descriptor{MediaType: pratique.MediaTypeImageConfig, Digest: digest.FromString("config" + platform)},
		}
		for i := range 12 {
			img.Layers = append(img.Layers, pratique.Descriptor{MediaType: layerType, Digest: digest.FromString(platform + string(rune('a'+i)))})
		}
		next.manifests[img.Digest] = Manifest{Image: img, Hit: true}
		if err := w.catalog.Link(tb.Context(), ref("docker.io/library/app", "1"), img, time.Now()); err != nil {
			tb.Fatal(err)
		}
		w.scans.set(report(img.Digest, pratique.StateScanned))
		children = append(children, at(pratique.Descriptor{MediaType: img.MediaType, Digest: img.Digest}, platform))
		out.image, out.blob = ask(img.Digest), ask(img.Layers[3].Digest)
	}
	idx := pratique.Image{Digest: digest.FromString("index"), MediaType: pratique.MediaTypeImageIndex, Kind: pratique.KindIndex, Children: children}
	next.manifests[idx.Digest] = Manifest{Image: idx, Hit: true}
	out.index, out.gate = ask(idx.Digest), g
	return out
}
