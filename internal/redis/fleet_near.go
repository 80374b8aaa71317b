package redis

import (
	"cmp"
	"context"
	"slices"

	"github.com/opencontainers/go-digest"

	"pratique/store"
)

var _ store.Near = (*DB)(nil)

// Near implements store.Near, by the chunks of which images are made.
func (db *DB) Near(ctx context.Context, images []digest.Digest) ([]digest.Digest, error) {
	images = slices.Clone(images)
	slices.Sort(images)
	images = slices.Compact(images)
	chunks := make(map[digest.Digest][]string, len(images))
	for page := range slices.Chunk(images, readAtOnce) {
		docs, found, err := db.fields(ctx, "scanned", placesOf(page))
		if err != nil {
			return nil, annotate(err, "images that are near")
		}
		for i, d := range page {
			if !found[i] {
				continue
			}
			os, err := db.unpackOccurrences(docs[i])
			if err != nil {
				return nil, annotate(err, "images that are near")
			}
			if l := cmp.Or(os.standing, os.latest); l != nil {
				chunks[d] = l.IDs()
			}
		}
	}
	slices.SortStableFunc(images, func(a, b digest.Digest) int {
		x, y := chunks[a], chunks[b]
		if known := len(x) > 0; known != (len(y) > 0) {
			if known {
				return -1
			}
			return 1
		}
		return slices.Compare(x, y)
	})
	return images, nil
}
