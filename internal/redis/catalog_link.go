package redis

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

// Link implements store.Catalog. The usual case on the pull path, a manifest that the
// repository holds already, is one round trip. Else the order of writes is such that
// a crash after any of them leaves nothing that counts, and that Link, called again,
// does all that is left (see links.go; what leads from layers and children to
// manifests is of content, true whether the manifest is linked or not):
//
//	document   what `pratique rebuild` needs
//	named      claims on the blobs; waits while one of them is being removed
//	structure  parents, chains: only what is not there
//	images     the manifest, first seen now, and that it may be linked here
//	links      the repository holds the manifest: from here on it is servable
//	named      for ever
//
// A failover may lose the last writes of some partitions and not of others. A link
// without its manifest is made again by the next Link; one without its claims by
// Unlinked.
func (db *DB) Link(ctx context.Context, ref pratique.Ref, img pratique.Image, now time.Time) error {
	return annotate(db.link(ctx, ref, img, now), "link %s", ref.At(img.Digest))
}

func (db *DB) link(ctx context.Context, ref pratique.Ref, img pratique.Image, now time.Time) (err error) {
	linked, seen, err := db.lookUp(ctx, ref, img.Digest)
	if err != nil || linked {
		return err
	}
	known := !seen.IsZero()
	if img.FirstSeen = now.UTC(); known {
		img.FirstSeen = seen
	}
	blobs := contents(img)
	told := append(slices.Clone(blobs), img.Digest)
	defer func() { db.changes.wrote(err, told) }()

	if err := db.putLinkDocument(ctx, ref, img); err != nil {
		return err
	}
	for {
		claimed := time.Now()
		if err := db.name(ctx, append(slices.Clone(blobs), img.Digest), claim(claimed.Add(claimLife), ref.Repository(), img.Digest)); err != nil {
			return err
		}
		if !known { // the first link of a digest sets kind, document and time for ever
			if err := db.putStructure(ctx, img); err != nil {
				return err
			}
		}
		if err := db.putImage(ctx, ref, img); err != nil {
			return err
		}
		concerned, err := db.linkConcerns(ctx, img)
		if err != nil {
			return err
		}
		concerned.add(told...)
		told = concerned.list()
		late, err := db.putLink(ctx, ref, img, blobs, concerned, claimed.Add(linkLife))
		if err != nil {
			return err
		}
		if !late {
			break
		}
	}
	// If it fails, Unlinked does it.
	_ = db.named(ctx, append(slices.Clone(blobs), img.Digest))
	return nil
}

// contents are the digests of the blobs that the manifest names, each once.
func contents(img pratique.Image) []digest.Digest {
	var ds []digest.Digest
	if img.Config.Digest != "" {
		ds = append(ds, img.Config.Digest)
	}
	for _, l := range img.Layers {
		ds = append(ds, l.Digest)
	}
	slices.Sort(ds)
	return slices.Compact(ds)
}

// lookUp tells whether the repository holds the manifest, and when it was first seen
// in any.
func (db *DB) lookUp(ctx context.Context, ref pratique.Ref, d digest.Digest) (linked bool, seen time.Time, err error) {
	var link *redis.BoolCmd
	var first *redis.StringCmd
	_, err = db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		link = pipe.HExists(ctx, db.repoKey(ref, "links"), short(d))
		first = pipe.HGet(ctx, db.key(partOfDigest(d), "firsts"), short(d))
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return false, time.Time{}, err
	}
	if linked, err = link.Result(); err != nil {
		return false, time.Time{}, err
	}
	switch s, err := first.Result(); {
	case errors.Is(err, redis.Nil): // not linked, whatever the link says: a failover lost the rest
		return false, time.Time{}, nil
	case err != nil:
		return false, time.Time{}, err
	default:
		n, _, err := unpackFirst(s)
		return linked, at(n), err
	}
}

func (db *DB) putLinkDocument(ctx context.Context, ref pratique.Ref, img pratique.Image) error {
	doc, err := json.Marshal(store.Known{Ref: pratique.Ref{Registry: ref.Registry, Repo: ref.Repo, Digest: img.Digest}, Image: img})
	if err != nil {
		return err
	}
	return db.docs.PutDocument(ctx, linkDocument(ref, img.Digest), doc)
}

func (db *DB) putImage(ctx context.Context, ref pratique.Ref, img pratique.Image) error {
	doc, err := db.Encode(img)
	if err != nil {
		return err
	}
	p := partOfDigest(img.Digest)
	return scriptPutImage.Run(ctx, db.rdb, []string{db.key(p, "images"), db.key(p, "firsts"), db.key(p, "places")},
		short(img.Digest), doc, packFirst(img), ref.Repository()).Err()
}

// putLink is the one step that makes a manifest servable. late says that the claims
// are too old for it.
func (db *DB) putLink(ctx context.Context, ref pratique.Ref, img pratique.Image, blobs []digest.Digest, concerned *concerned, until time.Time) (late bool, err error) {
	var tell []digest.Digest // none is all
	if !concerned.all {
		tell = concerned.list()
	}
	c := db.linkCall(ref, img, blobs, tell, until)
	got, err := scriptLink.Run(ctx, db.rdb, c.keys, c.args...).Int()
	if concerned.all {
		db.changes.wroteAny(err)
	}
	return got == -1, err
}

func (db *DB) linkCall(ref pratique.Ref, img pratique.Image, blobs, tell []digest.Digest, until time.Time) call {
	p := partOfRepo(ref)
	c := call{
		keys: []string{db.key(p, "version"), db.key(p, "repositories"), db.repoKey(ref, "links"), db.repoKey(ref, "linked"), db.repoKey(ref, "holders")},
		args: []any{db.channel(changesChannel), string(p), ref.Repository(), short(img.Digest), until.UnixMilli(), len(blobs)},
	}
	for _, d := range blobs {
		c.args = append(c.args, short(d))
	}
	for _, d := range tell {
		c.args = append(c.args, string(d))
	}
	return c
}
