package redis

import (
	"context"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

var _ store.Attestations = (*DB)(nil)

// Attestations implements store.Attestations.
func (db *DB) Attestations(ctx context.Context, image digest.Digest) (pratique.Attestations, error) {
	var a pratique.Attestations
	doc, err := db.rdb.HGet(ctx, db.key(partOfDigest(image), "attestations"), image.String()).Bytes()
	if err == nil {
		err = db.Decode(doc, &a)
	}
	if err != nil {
		return pratique.Attestations{}, annotate(missing(err), "attestations of %s", image)
	}
	return a, nil
}

// PutAttestations implements store.Attestations.
func (db *DB) PutAttestations(ctx context.Context, a pratique.Attestations) (err error) {
	doc, err := db.Encode(a)
	if err != nil {
		return annotate(err, "attestations of %s", a.Image)
	}
	defer func() { db.changes.wrote(err, []digest.Digest{a.Image}) }()
	p := partOfDigest(a.Image)
	return annotate(done(scriptPutAttestations.Run(ctx, db.rdb, []string{db.key(p, "version"), db.key(p, "attestations")},
		db.channel(changesChannel), string(p), a.Image.String(), doc).Err()), "attestations of %s", a.Image)
}
