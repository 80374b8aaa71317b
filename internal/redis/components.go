package redis

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/internal/packed"
	"pratique/store"
)

var _ store.Components = (*DB)(nil)

// An image is stored in this order, each step idempotent and harmless alone:
//
//  1. what is about to be linked is noted with the image (occurrences.linked), so that
//     whatever a crash leaves is found and taken away by the next writer of the image;
//  2. indexes, then components: who finds a component finds it by its keys;
//  3. chunks, each with the image's name in the set of those that have it: a chunk that
//     an image has is there, and its components are;
//  4. the image's latest occurrences, if nobody else wrote them since they were read;
//  5. chunks that the image has no more lose its name, and go with the last one.

// imagesKey is the set of images that a chunk names: their linked numbers, by digest.
func (db *DB) imagesKey(chunk string) string {
	return db.key(placeOfHash(chunk).part, "chunk.images."+hex.EncodeToString([]byte(chunk)))
}

// PutImage implements store.Components.
func (db *DB) PutImage(ctx context.Context, image digest.Digest, cs []pratique.Component, os []pratique.Occurrence) error {
	given := make(map[string]*pratique.Component, len(cs))
	for i := range cs {
		h, err := raw(cs[i].ID())
		if err != nil {
			return annotate(err, "components of %s", image)
		}
		given[h] = &cs[i]
	}
	for _, o := range os {
		h, err := raw(o.Component)
		if err != nil {
			return annotate(err, "components of %s", image)
		}
		if given[h] == nil {
			return fmt.Errorf("components of %s: %w: occurrence of component %s, which is not among them", image, pratique.ErrInvalid, o.Component)
		}
	}
	chunks, runs, err := packed.Split(os)
	if err != nil {
		return annotate(err, "components of %s", image)
	}
	next := roster{Runs: runs}
	for _, c := range chunks {
		next.Chunks = append(next.Chunks, packed.Listed[string]{ID: c.Hash})
	}
	for range maxRereads {
		w := imageWriter{db: db, image: image, given: given, chunks: chunks, next: next}
		if err = w.put(ctx); !errors.Is(err, errMoved) {
			break
		}
	}
	return annotate(err, "components of %s", image)
}

// imageWriter stores one image.
type imageWriter struct {
	db     *DB
	image  digest.Digest
	given  map[string]*pratique.Component
	chunks []packed.NewChunk
	next   roster
}

func (w *imageWriter) put(ctx context.Context) error {
	os, err := w.db.occurrencesOf(ctx, w.image)
	if errors.Is(err, pratique.ErrNotFound) {
		os, err = &occurrences{linked: make(map[string]int)}, nil
	}
	if err != nil {
		return err
	}
	absent, err := w.absent(ctx)
	if err != nil {
		return err
	}
	missing, err := w.missing(ctx)
	if err != nil {
		return err
	}
	if len(absent) == 0 && len(missing) == 0 && os.latest != nil && os.latest.Same(w.next) {
		return nil
	}
	if err := w.note(ctx, os, absent); err != nil {
		return err
	}
	if err := w.components(ctx, missing); err != nil {
		return err
	}
	if err := w.link(ctx, os, absent); err != nil {
		return err
	}
	os.latest = &w.next
	if err := w.db.swapOccurrences(ctx, w.image, os); err != nil {
		return err
	}
	return w.db.unlinkChunks(ctx, w.image, os)
}

// absent are the chunks that are not there.
func (w *imageWriter) absent(ctx context.Context) (map[string]bool, error) {
	cmds := make([]*redis.BoolCmd, len(w.chunks))
	_, err := w.db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, c := range w.chunks {
			cmds[i] = pipe.HExists(ctx, w.db.key(placeOfHash(c.Hash).part, "chunks"), c.Hash)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make(map[string]bool)
	for i, cmd := range cmds {
		if !cmd.Val() {
			out[w.chunks[i].Hash] = true
		}
	}
	return out, nil
}

// missing are the components that are not there. They could be known by their chunks;
// a Redis that lost writes is the reason to ask.
func (w *imageWriter) missing(ctx context.Context) ([]string, error) {
	hashes := make([]string, 0, len(w.given))
	for h := range w.given {
		hashes = append(hashes, h)
	}
	_, found, err := w.db.fields(ctx, "components", placesOfHashes(hashes))
	if err != nil {
		return nil, err
	}
	var out []string
	for i, h := range hashes {
		if !found[i] {
			out = append(out, h)
		}
	}
	return out, nil
}

// note stores what is about to be linked. What is in no roster of the image may be
// on its way out: it gets another number.
func (w *imageWriter) note(ctx context.Context, os *occurrences, absent map[string]bool) error {
	fresh := false
	os.counter++
	for _, c := range w.chunks {
		if !os.holds(c.Hash) || absent[c.Hash] {
			os.linked[c.Hash] = os.counter
			fresh = true
		}
	}
	if !fresh {
		return nil
	}
	return w.db.swapOccurrences(ctx, w.image, os)
}

// components stores those that are missing, their keys first.
func (w *imageWriter) components(ctx context.Context, missing []string) error {
	var keys []indexed
	docs := make(map[part][]any)
	for _, h := range missing {
		for _, k := range w.given[h].Keys() {
			keys = append(keys, indexed{hash64(k), h})
		}
		doc, err := w.db.Encode(w.given[h])
		if err != nil {
			return err
		}
		p := placeOfHash(h).part
		docs[p] = append(docs[p], h, doc)
	}
	if len(docs) == 0 {
		return nil
	}
	if err := w.db.index(ctx, "keys", keys); err != nil {
		return err
	}
	_, err := w.db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for p, values := range docs {
			pipe.HSet(ctx, w.db.key(p, "components"), values...)
		}
		return nil
	})
	return err
}

// link stores the chunks that are absent, and puts the image's name into all that it
// has newly. One that went meanwhile is stored again.
func (w *imageWriter) link(ctx context.Context, os *occurrences, absent map[string]bool) error {
	left := make(map[string]*packed.NewChunk)
	for i, c := range w.chunks {
		if os.linked[c.Hash] == os.counter {
			left[c.Hash] = &w.chunks[i]
		}
	}
	for range maxRereads {
		var entries []indexed
		for h := range absent {
			for _, id := range left[h].Components {
				component, err := raw(id)
				if err != nil {
					return err
				}
				entries = append(entries, indexed{component, h})
			}
		}
		if err := w.db.index(ctx, "components.chunks", entries); err != nil {
			return err
		}
		gone, err := w.linkAll(ctx, left, absent, os.counter)
		if err != nil || len(gone) == 0 {
			return err
		}
		for h := range left {
			if !gone[h] {
				delete(left, h)
			}
		}
		absent = gone
	}
	return errMoved
}

// linkAll returns the chunks that were not there and not brought.
func (w *imageWriter) linkAll(ctx context.Context, left map[string]*packed.NewChunk, absent map[string]bool, number int) (map[string]bool, error) {
	var calls []call
	var hashes []string
	for h, c := range left {
		doc := ""
		if absent[h] {
			var err error
			if doc, err = w.db.packChunk(c); err != nil {
				return nil, err
			}
		}
		calls = append(calls, call{[]string{w.db.key(placeOfHash(h).part, "chunks"), w.db.imagesKey(h)}, []any{h, short(w.image), number, doc}})
		hashes = append(hashes, h)
	}
	replies, err := w.db.calls(ctx, scriptLinkChunk, calls)
	if err != nil {
		return nil, err
	}
	gone := make(map[string]bool)
	for i, cmd := range replies {
		if n, err := cmd.Int(); err != nil {
			return nil, err
		} else if n == 0 {
			gone[hashes[i]] = true
		}
	}
	return gone, nil
}

// unlinkChunks takes the image's name out of the chunks that none of its rosters has.
// Whoever wrote the image meanwhile has more to say of them: then it leaves them alone.
func (db *DB) unlinkChunks(ctx context.Context, image digest.Digest, os *occurrences) error {
	var calls []call
	var gone []string
	for h, number := range os.linked {
		if !os.holds(h) {
			calls = append(calls, call{[]string{db.key(placeOfHash(h).part, "chunks"), db.imagesKey(h)}, []any{h, short(image), number}})
			gone = append(gone, h)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if _, err := db.calls(ctx, scriptUnlinkChunk, calls); err != nil {
		return err
	}
	for _, h := range gone {
		delete(os.linked, h)
	}
	if err := db.swapOccurrences(ctx, image, os); !errors.Is(err, errMoved) {
		return err
	}
	return nil
}

// swapOccurrences stores os if what is stored has its token; then it has another one.
func (db *DB) swapOccurrences(ctx context.Context, image digest.Digest, os *occurrences) error {
	before := os.token
	os.token = newToken()
	swapped, err := scriptSwap.Run(ctx, db.rdb, []string{db.key(partOfDigest(image), "scanned")}, short(image), before, db.packOccurrences(os)).Int()
	if err == nil && swapped == 0 {
		err = errMoved
	}
	return err
}

// occurrencesOf reads which chunks an image has.
func (db *DB) occurrencesOf(ctx context.Context, image digest.Digest) (*occurrences, error) {
	doc, err := db.rdb.HGet(ctx, db.key(partOfDigest(image), "scanned"), short(image)).Result()
	if err != nil {
		return nil, missing(err)
	}
	return db.unpackOccurrences(doc)
}

// errChunkGone says that a chunk was replaced since it was named: whoever read its
// name reads again.
var errChunkGone = errors.New("occurrences were replaced meanwhile")

// chunksOf reads chunks; those that are not there are not in the map.
func (db *DB) chunksOf(ctx context.Context, hashes []string) (map[string]*chunk, error) {
	docs, found, err := db.fields(ctx, "chunks", placesOfHashes(hashes))
	if err != nil {
		return nil, err
	}
	out := make(map[string]*chunk, len(hashes))
	for i, h := range hashes {
		if !found[i] {
			continue
		}
		if out[h], err = db.unpackChunk(docs[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Occurrences implements store.Components.
func (db *DB) Occurrences(ctx context.Context, image digest.Digest) (os []pratique.Occurrence, cs map[pratique.ComponentID]pratique.Component, err error) {
	for range maxRereads {
		os, cs, err = db.occurrences(ctx, image)
		if !errors.Is(err, errChunkGone) {
			break
		}
	}
	return os, cs, annotate(err, "components of %s", image)
}

func (db *DB) occurrences(ctx context.Context, image digest.Digest) ([]pratique.Occurrence, map[pratique.ComponentID]pratique.Component, error) {
	l, err := db.occurrencesOf(ctx, image)
	if err == nil && l.latest == nil {
		err = pratique.ErrNotFound
	}
	if err != nil {
		return nil, nil, err
	}
	chunks, err := db.chunksOf(ctx, l.latest.IDs())
	if err != nil {
		return nil, nil, err
	}
	hashes := componentsIn(chunks)
	found, err := db.componentsOf(ctx, hashes)
	if err != nil {
		return nil, nil, err
	}
	if len(found) < len(hashes) { // an error is never a shorter list
		return nil, nil, fmt.Errorf("%w: %d of its components were lost", pratique.ErrNotFound, len(hashes)-len(found))
	}
	cs := make(map[pratique.ComponentID]pratique.Component, len(found))
	for h, c := range found {
		cs[packed.ComponentID(h)] = c
	}
	parts := make([][]pratique.Occurrence, len(l.latest.Chunks))
	for i, at := range l.latest.Chunks {
		c := chunks[at.ID]
		if c == nil {
			return nil, nil, errChunkGone
		}
		err := c.Each(func(int) bool { return true }, func(component, _ int, o pratique.Occurrence) {
			o.Component = packed.ComponentID(c.Components[component])
			parts[i] = append(parts[i], o)
		})
		if err != nil {
			return nil, nil, err
		}
	}
	os, err := packed.Weave(parts, l.latest.Runs)
	return os, cs, err
}
