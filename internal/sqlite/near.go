package sqlite

import (
	"context"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"pratique/store"
)

var _ store.Near = (*DB)(nil)

// Near implements store.Near, by the chunks of which images are made.
func (db *DB) Near(ctx context.Context, images []digest.Digest) ([]digest.Digest, error) {
	images = slices.Clone(images)
	slices.SortFunc(images, byDigest)
	images = slices.Compact(images)
	chunks := make(map[digest.Digest][]int64, len(images))
	for part := range slices.Chunk(images, askAtOnce) {
		err := eachOf(ctx, db.query, `SELECT digest, coalesce(standing, latest) FROM scanned WHERE digest IN (SELECT value FROM json_each(?))`, part, func(scan func(...any) error) error {
			var d digest.Digest
			var doc []byte
			if err := scan(&d, &doc); err != nil {
				return err
			}
			l, err := db.unpackRoster(doc)
			chunks[d] = l.IDs()
			return err
		})
		if err != nil {
			return nil, annotate(err, "images that are near")
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

func byDigest(a, b digest.Digest) int { return strings.Compare(a.String(), b.String()) }
