package sqlite_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// BenchmarkPulls reads 100,000 pulls of 2,000 images by 200 clients: what trying
// out a policy begins with.
func BenchmarkPulls(b *testing.B) {
	db, ctx := benchDB(b), b.Context()
	const n = 100_000
	batch := make([]store.Pull, 0, 1000)
	for i := range n {
		ref := pratique.Ref{Registry: "docker.io", Repo: fmt.Sprint("team/app", i%500), Tag: fmt.Sprint("v", i%4), Digest: digest.FromString(fmt.Sprint(i % 2000))}
		batch = append(batch, store.Pull{Ref: ref, Client: fmt.Sprint("10.0.0.", i%200), At: now.Add(time.Duration(i) * time.Second), Outcome: pratique.OutcomeAllow, Verdict: fmt.Sprint("v-", i%2000)})
		if len(batch) == cap(batch) {
			if err := db.Record(ctx, batch); err != nil {
				b.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		read := 0
		for _, err := range db.Pulls(ctx, time.Time{}) {
			if err != nil {
				b.Fatal(err)
			}
			read++
		}
		if read != n {
			b.Fatalf("%d pulls, want %d", read, n)
		}
	}
}

// fleet is n images of 8 to 20 layers on 10 bases that tags name, and moved from.
func fleet(b *testing.B, n int) (link func(i int) error, bases func(i int) ([]store.Known, error)) {
	db, ctx := benchDB(b), b.Context()
	img := func(i, layers int) pratique.Image {
		img := pratique.Image{Digest: digest.FromString(fmt.Sprint("image", i, "-", layers)), Kind: pratique.KindImage}
		for l := range layers {
			name := fmt.Sprint("own", i, "-", l)
			if l < 3 {
				name = fmt.Sprint("base", i%10, "-", l)
			}
			img.Layers = append(img.Layers, pratique.Descriptor{Digest: digest.FromString(name)})
		}
		return img
	}
	ref := pratique.Ref{Registry: "docker.io", Repo: "library/base"}
	for i := range 10 {
		base := img(i, 3)
		if err := db.Link(ctx, ref, base, now); err != nil {
			b.Fatal(err)
		}
		ref.Tag = fmt.Sprint(i)
		if err := db.SetTag(ctx, ref, store.TagState{Digest: base.Digest, CheckedAt: now, ChangedAt: now}); err != nil {
			b.Fatal(err)
		}
	}
	link = func(i int) error {
		ref, img := pratique.Ref{Registry: "docker.io", Repo: fmt.Sprint("team", i%100), Tag: fmt.Sprint(i)}, img(i, 8+i%13)
		if err := db.SetTag(ctx, ref, store.TagState{Digest: img.Digest, CheckedAt: now, ChangedAt: now}); err != nil {
			return err
		}
		return db.Link(ctx, ref, img, now)
	}
	for i := range n {
		if err := link(i); err != nil {
			b.Fatal(err)
		}
	}
	return link, func(i int) ([]store.Known, error) { return db.BasesOf(ctx, img(i, 8+i%13)) }
}

// BenchmarkLinkInFleet names and links one image more where 1,000 are.
func BenchmarkLinkInFleet(b *testing.B) {
	link, _ := fleet(b, 1000)
	for i := 1000; b.Loop(); i++ {
		if err := link(i); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBasesOf asks what one of 1,000 images was built on.
func BenchmarkBasesOf(b *testing.B) {
	_, bases := fleet(b, 1000)
	i := 0
	for b.Loop() {
		if ks, err := bases(i % 1000); err != nil || len(ks) != 1 {
			b.Fatalf("%d bases, %v", len(ks), err)
		}
		i++
	}
}
