package sqlite_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
)

// BenchmarkUsage reads the use of the blobs of 5,000 images with ten layers each,
// of which four are shared: what every eviction does first.
func BenchmarkUsage(b *testing.B) {
	db, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "state.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	for i := range 5000 {
		img := pratique.Image{
			Digest: digest.FromString(fmt.Sprint("image", i)), Kind: pratique.KindImage, MediaType: pratique.MediaTypeImageManifest,
			Config: pratique.Descriptor{Digest: digest.FromString(fmt.Sprint("config", i))},
		}
		for l := range 10 {
			name := fmt.Sprint("layer", i, l)
			if l < 4 {
				name = fmt.Sprint("base", i%50, l)
			}
			img.Layers = append(img.Layers, pratique.Descriptor{Digest: digest.FromString(name)})
		}
		if err := db.Link(b.Context(), pratique.Ref{Registry: "docker.io", Repo: fmt.Sprint("team/app", i%500)}, img, time.Unix(int64(i), 0)); err != nil {
			b.Fatal(err)
		}
	}
	pins := func(ref pratique.Ref) bool { return ref.Repo == "team/app7" }
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range db.Usage(b.Context(), pins) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 5000*7+50*4 {
			b.Fatalf("%d blobs", n)
		}
	}
}
