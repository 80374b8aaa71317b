package redis

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

var (
	_ store.Catalog = (*DB)(nil)
	_ store.Knowns  = (*DB)(nil)
	_ store.Parents = (*DB)(nil)
)

// Image implements store.Catalog. A manifest whose Link has not ended, or never will
// because its replica died, may be known already; no repository holds it.
func (db *DB) Image(ctx context.Context, d digest.Digest) (pratique.Image, error) {
	var img pratique.Image
	doc, err := db.rdb.HGet(ctx, db.key(partOfDigest(d), "images"), short(d)).Bytes()
	if err == nil {
		err = db.Decode(doc, &img)
	}
	if err != nil {
		return pratique.Image{}, annotate(missing(err), "manifest %s", d)
	}
	return img, nil
}

// images are the manifests that are known of some.
func (db *DB) images(ctx context.Context, ds []digest.Digest) (map[digest.Digest]pratique.Image, error) {
	docs, found, err := db.fields(ctx, "images", placesOf(ds))
	if err != nil {
		return nil, err
	}
	out := make(map[digest.Digest]pratique.Image)
	for i, d := range ds {
		if !found[i] {
			continue
		}
		var img pratique.Image
		if err := db.Decode([]byte(docs[i]), &img); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d, err)
		}
		out[d] = img
	}
	return out, nil
}

// Holders implements store.Catalog, in one round trip; the manifests that name d come
// in the order in which they were linked, the latest first.
func (db *DB) Holders(ctx context.Context, ref pratique.Ref, d digest.Digest) ([]digest.Digest, error) {
	keys := []string{db.repoKey(ref, "links"), db.repoKey(ref, "linked"), db.repoKey(ref, "holders")}
	got, err := scriptHolders.Run(ctx, db.rdb, keys, short(d)).StringSlice()
	if err == nil && len(got) == 0 {
		err = pratique.ErrNotFound
	}
	if err != nil {
		return nil, annotate(err, "holders of %s in %s", d, ref.Repository())
	}
	out := make([]digest.Digest, len(got))
	for i, s := range got {
		out[i] = long(s)
	}
	return out, nil
}

// imagesPage is how many manifests Images reads at once.
const imagesPage = 256

// Images implements store.Catalog.
func (db *DB) Images(ctx context.Context) iter.Seq2[store.Known, error] {
	return func(yield func(store.Known, error) bool) {
		for n := range partitions {
			ds, err := db.manifests(ctx, partNumber(n))
			if err != nil {
				yield(store.Known{}, annotate(err, "manifests"))
				return
			}
			for page := range slices.Chunk(ds, imagesPage) {
				known, err := db.Knowns(ctx, page)
				if err != nil {
					yield(store.Known{}, err)
					return
				}
				for _, d := range page {
					if k, ok := known[d]; ok && !yield(k, nil) {
						return
					}
				}
			}
		}
	}
}

// manifests are the digests of a partition that are no index, sorted.
func (db *DB) manifests(ctx context.Context, p part) ([]digest.Digest, error) {
	var out []digest.Digest
	err := db.scanned(ctx, db.key(p, "firsts"), func(field, value string) error {
		if _, index, err := unpackFirst(value); err != nil || index {
			return err
		}
		out = append(out, long(field))
		return nil
	})
	slices.Sort(out)
	return slices.Compact(out), err
}

// packFirst is what firsts holds of a manifest: when it was first seen, and whether
// it is an index.
func packFirst(img pratique.Image) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(nanos(img.FirstSeen))) //nolint:gosec // and back
	if img.Kind == pratique.KindIndex {
		return string(append(b, 'x'))
	}
	return string(append(b, 'm'))
}

func unpackFirst(s string) (seen int64, index bool, err error) {
	if len(s) != 9 {
		return 0, false, errors.New("stored time of a manifest is damaged")
	}
	return int64(binary.BigEndian.Uint64([]byte(s))), s[8] == 'x', nil //nolint:gosec // see packFirst
}

// Known implements store.Knowns and scheduler.Catalog.
func (db *DB) Known(ctx context.Context, d digest.Digest) (store.Known, error) {
	known, err := db.Knowns(ctx, []digest.Digest{d})
	if err != nil {
		return store.Known{}, err
	}
	if k, ok := known[d]; ok {
		return k, nil
	}
	return store.Known{}, annotate(pratique.ErrNotFound, "manifest %s", d)
}

// Knowns implements store.Knowns, in two round trips: of the repositories that hold a
// manifest the first in which a tag names it, else the first.
func (db *DB) Knowns(ctx context.Context, ds []digest.Digest) (map[digest.Digest]store.Known, error) {
	refs, err := db.references(ctx, ds)
	if err != nil {
		return nil, annotate(err, "manifests")
	}
	images, err := db.images(ctx, ds)
	if err != nil {
		return nil, annotate(err, "manifests")
	}
	out := make(map[digest.Digest]store.Known, len(refs))
	for d, ref := range refs {
		if img, ok := images[d]; ok {
			out[d] = store.Known{Ref: ref, Image: img}
		}
	}
	return out, nil
}

// references are one for each of those digests that a repository holds.
func (db *DB) references(ctx context.Context, ds []digest.Digest) (map[digest.Digest]pratique.Ref, error) {
	held, err := db.held(ctx, ds)
	if err != nil {
		return nil, err
	}
	out := make(map[digest.Digest]pratique.Ref)
	for _, d := range ds {
		for _, ref := range held[d] {
			if have, ok := out[d]; !ok || have.Tag == "" && ref.Tag != "" {
				out[d] = ref
			}
		}
	}
	return out, nil
}

// held are the repositories that hold digests, in the order in which they were linked
// there, each with the first of the tags that name the digest now, if any does.
func (db *DB) held(ctx context.Context, ds []digest.Digest) (map[digest.Digest][]pratique.Ref, error) {
	lines, _, err := db.fields(ctx, "places", placesOf(ds))
	if err != nil {
		return nil, err
	}
	in := wordsByLine(lines)
	answers := make(map[string][]any, len(in))
	var calls []call
	var repos []string
	for repo, indexes := range in {
		ref := inRepo(repo)
		for chunk := range slices.Chunk(indexes, fieldsBatch) {
			c := call{keys: []string{db.repoKey(ref, "links"), db.repoKey(ref, "tags"), db.repoKey(ref, "naming")}}
			for _, i := range chunk {
				c.args = append(c.args, short(ds[i]))
			}
			calls, repos = append(calls, c), append(repos, repo)
		}
	}
	replies, err := db.calls(ctx, scriptPlaces, calls)
	if err != nil {
		return nil, err
	}
	for i, reply := range replies {
		got, err := reply.Slice()
		if err != nil {
			return nil, err
		}
		answers[repos[i]] = append(answers[repos[i]], got...)
	}
	out := make(map[digest.Digest][]pratique.Ref)
	for i, d := range ds {
		for repo := range splitLines(lines[i]) {
			at, _ := slices.BinarySearch(in[repo], i)
			if at >= len(answers[repo]) {
				continue
			}
			if tag, ok := answers[repo][at].(string); ok { // else it is not linked there
				ref := inRepo(repo).At(d)
				ref.Tag = tag
				out[d] = append(out[d], ref)
			}
		}
	}
	return out, nil
}

// Parents implements store.Parents: those that the repository linked last are the
// first.
func (db *DB) Parents(ctx context.Context, ref pratique.Ref) ([]digest.Digest, error) {
	out, err := db.parentsIn(ctx, ref)
	if err != nil {
		return nil, annotate(err, "indexes that list %s in %s", ref.Digest, ref.Repository())
	}
	return out, nil
}
