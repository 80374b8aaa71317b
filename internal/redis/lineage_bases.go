package redis

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

const (
	// maxBases is how many references BasesOf gives.
	maxBases = 100
	// basesBatch is of how many images it asks at once, those of most layers first.
	basesBatch = 500
)

// BasesOf implements store.Lineage: of one repository it rather gives a tag that
// moved on to something else, the last of those, than one that still names the image,
// and rather that than one that is gone.
func (db *DB) BasesOf(ctx context.Context, img pratique.Image) ([]store.Known, error) {
	out, err := db.basesOf(ctx, img)
	if err != nil {
		return nil, annotate(err, "bases of %s", img.Digest)
	}
	return out, nil
}

func (db *DB) basesOf(ctx context.Context, img pratique.Image) ([]store.Known, error) {
	if len(img.Layers) < 2 {
		return nil, nil
	}
	chain := chain(img.Layers[:len(img.Layers)-1])
	slices.Reverse(chain)
	ends, err := db.lists(ctx, "ends", chain)
	if err != nil {
		return nil, err
	}
	var candidates []digest.Digest
	seen := make(map[digest.Digest]bool)
	for _, list := range ends {
		ds, err := unpackItems(list)
		if err != nil {
			return nil, err
		}
		for _, d := range ds {
			if !seen[d] {
				seen[d] = true
				candidates = append(candidates, d)
			}
		}
	}
	var out []store.Known
	for len(candidates) > 0 && len(out) < maxBases {
		n := min(len(candidates), basesBatch)
		bases, err := db.namedBases(ctx, img, candidates[:n])
		if err != nil {
			return nil, err
		}
		out, candidates = append(out, bases...), candidates[n:]
	}
	return out[:min(len(out), maxBases)], nil
}

// base is one way to an image that others are built on.
type base struct {
	image pratique.Image
	span  span
}

// namedBases are those of candidates that img is built on, with the tags that lead
// there.
func (db *DB) namedBases(ctx context.Context, img pratique.Image, candidates []digest.Digest) ([]store.Known, error) {
	images, err := db.images(ctx, candidates)
	if err != nil {
		return nil, err
	}
	var ds []digest.Digest
	for _, d := range candidates {
		if lowerLayers(images[d], img) {
			ds = append(ds, d)
		}
	}
	upper, above, err := db.upper(ctx, ds)
	if err != nil {
		return nil, err
	}
	spans, err := db.spansAnywhere(ctx, upper)
	if err != nil {
		return nil, err
	}
	var bases []base
	for _, d := range ds {
		for _, u := range closure(d, above) {
			for _, s := range spans[u] {
				bases = append(bases, base{images[d], s})
			}
		}
	}
	slices.SortStableFunc(bases, byRank)
	var out []store.Known
	taken := make(map[string]bool) // image and repository
	for _, b := range bases {
		place := b.image.Digest.String() + " " + b.span.in.Repository()
		if taken[place] {
			continue
		}
		taken[place] = true
		ref := b.span.in.At(b.image.Digest)
		ref.Tag = b.span.tag
		out = append(out, store.Known{Ref: ref, Image: b.image})
	}
	return out, nil
}

// byRank orders bases: those of most layers first.
func byRank(a, b base) int {
	gone := func(b base) int { return boolean(b.span.now.Digest == "") }
	current := func(b base) int { return boolean(b.span.now.Digest == b.span.digest) }
	return cmp.Or(
		len(b.image.Layers)-len(a.image.Layers),
		a.image.FirstSeen.Compare(b.image.FirstSeen),
		strings.Compare(a.image.Digest.String(), b.image.Digest.String()),
		gone(a)-gone(b),
		current(a)-current(b),
		b.span.left.Compare(a.span.left),
		a.span.first.Compare(b.span.first),
		strings.Compare(a.span.in.Repository(), b.span.in.Repository()),
		strings.Compare(a.span.tag, b.span.tag),
	)
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

// closure is d and what is above it.
func closure(d digest.Digest, above map[digest.Digest][]digest.Digest) []digest.Digest {
	out := []digest.Digest{d}
	seen := map[digest.Digest]bool{d: true}
	for i := 0; i < len(out); i++ {
		for _, p := range above[out[i]] {
			if !seen[p] {
				seen[p] = true
				out = append(out, p)
			}
		}
	}
	return out
}

// spansAnywhere are the spans of digests in all repositories.
func (db *DB) spansAnywhere(ctx context.Context, ds []digest.Digest) (map[digest.Digest][]span, error) {
	trails, _, err := db.fields(ctx, "trails", placesOf(ds))
	if err != nil {
		return nil, err
	}
	asked := make(map[string][]digest.Digest)
	for repo, indexes := range wordsByLine(trails) {
		for _, i := range indexes {
			asked[repo] = append(asked[repo], ds[i])
		}
	}
	spans, err := db.spans(ctx, asked)
	if err != nil {
		return nil, err
	}
	out := make(map[digest.Digest][]span)
	for _, s := range spans {
		out[s.digest] = append(out[s.digest], s)
	}
	return out, nil
}

// lowerLayers reports whether the layers of base are the lower ones of img, but
// fewer.
func lowerLayers(base, img pratique.Image) bool {
	if len(base.Layers) == 0 || len(base.Layers) >= len(img.Layers) {
		return false
	}
	for i, l := range base.Layers {
		if l.Digest != img.Layers[i].Digest {
			return false
		}
	}
	return true
}
