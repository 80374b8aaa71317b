package redis

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"pratique"
	"pratique/internal/redis/redistest"
	"pratique/store"
	"pratique/store/storetest"
)

// BenchmarkCatalog fills a server of its own with images, 100 of each repository: 10
// layers, 7 of them of one of 50 bases, and a tag each. It tells the bytes of an image
// and what a cold verdict and a look at what may be removed take.
func BenchmarkCatalog(b *testing.B) {
	server := redistest.Start(b, "--appendfsync", "no")
	db, err := Open(b.Context(), Config{URL: server.URL(), Documents: new(storetest.Documents), Skew: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	before := usedMemory(b, server)
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same each time
	repo := func(n int) pratique.Ref { return tagged(fmt.Sprint("team/app", n/100), fmt.Sprint("v", n)) }
	n := 0
	for b.Loop() {
		img := benchImage(random, n)
		if err := db.Link(b.Context(), repo(n), img, testTime); err != nil {
			b.Fatal(err)
		}
		if err := db.SetTag(b.Context(), repo(n), store.TagState{Digest: img.Digest, CheckedAt: testTime, ChangedAt: testTime}); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric((usedMemory(b, server)-before)/float64(n), "redis-B/image")
	began := time.Now()
	for i := range 1000 {
		d := sum(fmt.Sprint("image", i*n/1000))
		if _, err := db.Holders(b.Context(), repo(i*n/1000), d); err != nil {
			b.Fatal(err)
		}
		if _, err := db.Image(b.Context(), d); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(time.Since(began).Microseconds())/1000, "µs/verdict")
	began, n = time.Now(), 0
	for _, err := range db.Usage(b.Context(), func(pratique.Ref) bool { return false }) {
		if err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(time.Since(began).Seconds()*1e6/float64(n), "µs/use")
}

func benchImage(random *rand.Rand, n int) pratique.Image {
	layers := make([]string, 10)
	base := random.IntN(50)
	for l := range layers {
		layers[l] = fmt.Sprint("layer ", l, " of base ", base)
		if l >= 7 {
			layers[l] = fmt.Sprint("layer ", l, " of ", n/(10-l)) // the uppermost is its own
		}
	}
	img := testImage(fmt.Sprint("image", n), layers...)
	img.MediaType = pratique.MediaTypeImageManifest
	for l := range img.Layers {
		img.Layers[l].MediaType, img.Layers[l].Size = "application/vnd.oci.image.layer.v1.tar+gzip", random.Int64N(1<<28)
	}
	return img
}

func usedMemory(b *testing.B, server *redistest.Server) float64 {
	b.Helper()
	info, err := server.Client().Info(b.Context(), "memory").Result()
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(info, "used_memory:")
	text, _, _ := strings.Cut(rest, "\r\n")
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}
