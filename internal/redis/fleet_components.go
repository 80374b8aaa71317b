package redis

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"iter"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/internal/packed"
	"pratique/store"
)

// Indexes only grow: what they name may not be so any more, and is looked at before it
// is told. They are written before what they lead to, so that a crash between leaves
// a name of nothing.

// hash64 is how names are told apart in indexes.
func hash64(name string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return string(binary.BigEndian.AppendUint64(nil, h.Sum64()))
}

// indexBytes bounds a field of an index: what one more item writes again.
const indexBytes = 1024

// indexed is an entry of an index.
type indexed struct{ name, item string }

// index adds entries to the lists of an index.
func (db *DB) index(ctx context.Context, index string, entries []indexed) error {
	places := make([]place, len(entries))
	for i, e := range entries {
		places[i] = placeOfHash(e.name)
	}
	var calls []call
	grouped(places, func(p part, indexes []int) {
		c := call{[]string{db.key(p, index)}, []any{indexBytes}}
		for _, i := range indexes {
			c.args = append(c.args, entries[i].name, entries[i].item)
		}
		calls = append(calls, c)
	})
	if len(calls) == 0 {
		return nil
	}
	_, err := db.calls(ctx, scriptAppendLists, calls)
	return err
}

// indexedBy are the distinct hashes under some names of an index, sorted.
func (db *DB) indexedBy(ctx context.Context, index string, names []string) ([]string, error) {
	var out []string
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for page := range slices.Chunk(names, readAtOnce) {
		lists, err := db.lists(ctx, index, placesOfHashes(page))
		if err != nil {
			return nil, err
		}
		for _, l := range lists {
			for ; len(l) >= packed.HashSize; l = l[packed.HashSize:] {
				out = append(out, l[:packed.HashSize])
			}
		}
		if len(out) > 1<<20 {
			slices.Sort(out)
			out = slices.Compact(out)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// readAtOnce is how many documents are asked for at once.
const readAtOnce = 2000

// componentsOf reads components by their hashes; those that are not there are not in
// the map.
func (db *DB) componentsOf(ctx context.Context, hashes []string) (map[string]pratique.Component, error) {
	out := make(map[string]pratique.Component, len(hashes))
	for page := range slices.Chunk(hashes, readAtOnce) {
		docs, found, err := db.fields(ctx, "components", placesOfHashes(page))
		if err != nil {
			return nil, err
		}
		for i, h := range page {
			if !found[i] {
				continue
			}
			var c pratique.Component
			if err := db.Decode([]byte(docs[i]), &c); err != nil {
				return nil, err
			}
			out[h] = c
		}
	}
	return out, nil
}

// saidOf reads what is stored of components that were matched.
func (db *DB) saidOf(ctx context.Context, hashes []string) (map[string]spoken, error) {
	out := make(map[string]spoken, len(hashes))
	for page := range slices.Chunk(hashes, readAtOnce) {
		docs, found, err := db.fields(ctx, "matches", placesOfHashes(page))
		if err != nil {
			return nil, err
		}
		for i, h := range page {
			if !found[i] {
				continue
			}
			if out[h], err = unpackSaid(docs[i]); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// yieldComponents yields the components with some hashes that want, if not nil, says;
// nothing is held while the caller's loop body runs.
func (db *DB) yieldComponents(ctx context.Context, hashes []string, want func(page []string) (func(hash string, c *pratique.Component) bool, error), yield func(pratique.Component, error) bool) bool {
	for page := range slices.Chunk(hashes, fieldsBatch) {
		cs, err := db.componentsOf(ctx, page)
		wanted := func(string, *pratique.Component) bool { return true }
		if err == nil && want != nil {
			wanted, err = want(page)
		}
		if err != nil {
			yield(pratique.Component{}, annotate(err, "components"))
			return false
		}
		for _, h := range page {
			if c, ok := cs[h]; ok && wanted(h, &c) && !yield(c, nil) {
				return false
			}
		}
	}
	return true
}

// ComponentsByKey implements store.Fleet, in order of id.
func (db *DB) ComponentsByKey(ctx context.Context, keys []string) iter.Seq2[pratique.Component, error] {
	return func(yield func(pratique.Component, error) bool) {
		names, asked := make([]string, len(keys)), make(map[string]bool, len(keys))
		for i, k := range keys {
			names[i], asked[k] = hash64(k), true
		}
		hashes, err := db.indexedBy(ctx, "keys", names)
		if err != nil {
			yield(pratique.Component{}, annotate(err, "components by key"))
			return
		}
		db.yieldComponents(ctx, hashes, func([]string) (func(string, *pratique.Component) bool, error) {
			return func(_ string, c *pratique.Component) bool {
				return slices.ContainsFunc(c.Keys(), func(k string) bool { return asked[k] })
			}, nil
		}, yield)
	}
}

// ComponentsByVulnerability implements store.Fleet, in order of id.
func (db *DB) ComponentsByVulnerability(ctx context.Context, ids []string) iter.Seq2[pratique.Component, error] {
	return func(yield func(pratique.Component, error) bool) {
		names, asked := make([]string, len(ids)), make(map[string]bool, len(ids))
		for i, id := range ids {
			names[i], asked[id] = hash64(id), true
		}
		hashes, err := db.indexedBy(ctx, "vulnerabilities", names)
		if err != nil {
			yield(pratique.Component{}, annotate(err, "components by vulnerability"))
			return
		}
		db.yieldComponents(ctx, hashes, func(page []string) (func(string, *pratique.Component) bool, error) {
			records, err := db.recordsOf(ctx, page)
			return func(hash string, _ *pratique.Component) bool {
				r := records[hash]
				return r != nil && slices.ContainsFunc(r.Tracks, func(t store.Track) bool { return asked[t.ID] && !t.Gone() })
			}, err
		}, yield)
	}
}

// recordsOf reads what was ever said of components.
func (db *DB) recordsOf(ctx context.Context, hashes []string) (map[string]*packed.Record, error) {
	found, err := db.saidOf(ctx, hashes)
	if err != nil {
		return nil, err
	}
	return db.unpackRecords(found)
}

func (db *DB) unpackRecords(found map[string]spoken) (map[string]*packed.Record, error) {
	out := make(map[string]*packed.Record)
	for h, s := range found {
		if s.doc == "" {
			continue
		}
		r, err := db.UnpackRecord([]byte(s.doc))
		if err != nil {
			return nil, err
		}
		out[h] = r
	}
	return out, nil
}

// AllComponents implements store.Fleet, in order of id.
func (db *DB) AllComponents(ctx context.Context) iter.Seq2[pratique.Component, error] {
	return func(yield func(pratique.Component, error) bool) {
		for n := range partitions {
			hashes, err := db.hashFields(ctx, db.key(partNumber(n), "components"))
			if err != nil {
				yield(pratique.Component{}, annotate(err, "components"))
				return
			}
			if !db.yieldComponents(ctx, hashes, nil, yield) {
				return
			}
		}
	}
}

// Strays implements store.Fleet, in order of id.
func (db *DB) Strays(ctx context.Context, e pratique.Engine) iter.Seq2[pratique.Component, error] {
	return func(yield func(pratique.Component, error) bool) {
		now, err := db.engines(ctx, nil)
		if err == nil && (now.Latest.Seq == 0 || !packed.SameEngine(now.Latest.Engine, e)) {
			err = store.ErrSuperseded
		}
		var hashes []string
		if err == nil {
			hashes, err = db.straysOf(ctx, now.Current.Seq, now.Latest.Seq)
		}
		if err != nil {
			yield(pratique.Component{}, annotate(err, "components matched with another engine"))
			return
		}
		db.yieldComponents(ctx, hashes, nil, yield)
	}
}

// ImagesWith implements store.Fleet. An image whose writer died may be named by a
// chunk that it does not have, until it is scanned again: nobody is harmed who looks
// at its report once too often.
func (db *DB) ImagesWith(ctx context.Context, ids []pratique.ComponentID) ([]digest.Digest, error) {
	hashes := make([]string, len(ids))
	for i, id := range ids {
		var err error
		if hashes[i], err = raw(id); err != nil {
			return nil, annotate(err, "images of components")
		}
	}
	out, _, err := db.imagesWith(ctx, hashes, 0)
	return out, annotate(err, "images of components")
}

// imagesWith are the images that hold one of some components, in order of digest. If
// there are more than most (0: any number will do), it says only that.
func (db *DB) imagesWith(ctx context.Context, hashes []string, most int) (images []digest.Digest, more bool, err error) {
	chunks, err := db.indexedBy(ctx, "components.chunks", hashes)
	if err != nil {
		return nil, false, err
	}
	found := make(map[string]struct{})
	for page := range slices.Chunk(chunks, 256) {
		err := db.namedBy(ctx, page, func(image string) bool {
			found[image] = struct{}{}
			return most == 0 || len(found) <= most
		})
		if err != nil {
			return nil, false, err
		}
		if most > 0 && len(found) > most {
			return nil, true, nil
		}
	}
	for image := range found {
		images = append(images, long(image))
	}
	slices.Sort(images)
	return images, false, nil
}

// namedBy calls each for the images of chunks until it says no. A chunk of many
// images is read in pages.
func (db *DB) namedBy(ctx context.Context, chunks []string, each func(image string) bool) error {
	next := make(map[string]uint64, len(chunks)) // cursors
	for _, c := range chunks {
		next[c] = 0
	}
	for len(next) > 0 {
		cmds := make(map[string]*redis.ScanCmd, len(next))
		_, err := db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for c, cursor := range next {
				cmds[c] = pipe.HScan(ctx, db.imagesKey(c), cursor, "", scanCount)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for c, cmd := range cmds {
			page, cursor, err := cmd.Result()
			if err != nil {
				return err
			}
			for i := 0; i+1 < len(page); i += 2 {
				if !each(page[i]) {
					return nil
				}
			}
			if next[c] = cursor; cursor == 0 {
				delete(next, c)
			}
		}
	}
	return nil
}
