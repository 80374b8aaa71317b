package sqlite_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/store"
)

// TestStamps: every write that a memory has to know of moves the stamps of the
// digests concerned, also one that fails.
func TestStamps(t *testing.T) {
	db, ctx := fresh(t)(), t.Context()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	image, config, layer := digest.FromString("image"), digest.FromString("config"), digest.FromString("layer")
	img := pratique.Image{
		Digest: image, Kind: pratique.KindImage, Config: pratique.Descriptor{Digest: config}, Layers: []pratique.Descriptor{{Digest: layer}},
	}
	one, two := pratique.Ref{Registry: "docker.io", Repo: "one"}, pratique.Ref{Registry: "docker.io", Repo: "two"}
	report := pratique.Report{Image: image, State: pratique.StateScanned, ScannedAt: now}
	tag := pratique.Ref{Registry: "docker.io", Repo: "one", Tag: "v1"}
	names := func(ctx context.Context, d digest.Digest) error {
		return db.SetTag(ctx, tag, store.TagState{Digest: d, CheckedAt: now, ChangedAt: now})
	}
	next := digest.FromString("next")
	pull := store.Pull{Ref: pratique.Ref{Registry: "docker.io", Repo: "one", Digest: image}, At: now, Outcome: pratique.OutcomeAllow}
	attested := pratique.Attestations{Image: image, CheckedAt: now}
	tests := []struct {
		name  string
		write func() error
		fails bool
		moves []digest.Digest
	}{
		{"link", func() error { return db.Link(ctx, one, img, now) }, false, []digest.Digest{image, config, layer}},
		{"link through another repository", func() error { return db.Link(ctx, two, img, now) }, false, []digest.Digest{image, config, layer}},
		{"report", func() error { _, err := db.PutReport(ctx, report); return err }, false, []digest.Digest{image}},
		{"report that fails", func() error { _, err := db.PutReport(ended, report); return err }, true, []digest.Digest{image}},
		{"tag", func() error { return names(ctx, image) }, false, []digest.Digest{image}},
		{"tag that moves", func() error { return names(ctx, next) }, false, []digest.Digest{image, next}},
		{"first pull", func() error { return db.Record(ctx, []store.Pull{pull}) }, false, []digest.Digest{image}},
		{"attestations", func() error { return db.PutAttestations(ctx, attested) }, false, []digest.Digest{image}},
		{"attestations that fail", func() error { return db.PutAttestations(ended, attested) }, true, []digest.Digest{image}},
		{"tag that moves, and is told to have failed", func() error {
			sqlite.FailCommits(db, func(do func() error) error { return errors.Join(do(), errInjected) })
			defer sqlite.FailCommits(db, nil)
			return names(ctx, image)
		}, true, []digest.Digest{image, next}},
		{"base, and is told to have failed", func() error {
			sqlite.FailCommits(db, func(do func() error) error { return errors.Join(do(), errInjected) })
			defer sqlite.FailCommits(db, nil)
			higher := img
			higher.Digest, higher.Layers = next, append(slices.Clone(img.Layers), pratique.Descriptor{Digest: config})
			return db.Link(ctx, one, higher, now)
		}, true, []digest.Digest{next}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := make(map[digest.Digest]uint64)
			for _, d := range tt.moves {
				before[d] = db.Stamp(d)
			}
			if err := tt.write(); (err != nil) != tt.fails {
				t.Fatal(err)
			}
			for _, d := range tt.moves {
				if db.Stamp(d) == before[d] {
					t.Errorf("the stamp of %s did not move", d)
				}
			}
		})
	}
}
