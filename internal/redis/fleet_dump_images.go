package redis

import (
	"context"
	"encoding/hex"
	"fmt"
	"iter"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/internal/packed"
	"pratique/store"
)

func (db *DB) loadMatches(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.DumpedMatch](rs)
	if err != nil {
		return err
	}
	hashes := make([]string, len(rs))
	for i, r := range rs {
		if hashes[i], err = raw(pratique.ComponentID(r.Key)); err != nil {
			return err
		}
	}
	cs, err := db.componentsOf(ctx, hashes)
	if err != nil {
		return err
	}
	now, err := db.engines(ctx, nil)
	if err != nil {
		return err
	}
	stands, err := db.saidOf(ctx, hashes)
	if err != nil {
		return err
	}
	entries, err := db.loadedTracks(hashes, docs, stands)
	if err != nil {
		return err
	}
	_, err = db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, h := range hashes {
			if docs[i].Engine > now.Current.Seq {
				pipe.SAdd(ctx, db.straysKey(placeOfHash(h).part, docs[i].Engine), h)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := db.index(ctx, "vulnerabilities", entries); err != nil {
		return err
	}
	return db.loadFields(ctx, "matches", len(docs), func(i int) (place, string, error) {
		c, known := cs[hashes[i]]
		if !known {
			return place{}, "", fmt.Errorf("%w: no component %s", pratique.ErrInvalid, rs[i].Key)
		}
		s := spoken{token: newToken(), seq: docs[i].Engine, first: docs[i].First}
		if len(docs[i].Tracks) > 0 {
			doc, err := db.PackRecord(&packed.Record{
				Component: pratique.ComponentID(rs[i].Key), Name: c.Name, Ecosystem: c.Context.Type,
				History: store.History{First: docs[i].First, Tracks: docs[i].Tracks},
			}, packAbove)
			if err != nil {
				return place{}, "", err
			}
			s.doc = string(doc)
		}
		return placeOfHash(hashes[i]), s.pack(), nil
	})
}

// loadedTracks are the entries of vulnerabilities that are not in the index: of all that
// ever were, gone or not (see newTracks).
func (db *DB) loadedTracks(hashes []string, docs []store.DumpedMatch, stands map[string]spoken) (out []indexed, err error) {
	for i, h := range hashes {
		r, there := &packed.Record{}, stands[h].doc != ""
		if there {
			if r, err = db.UnpackRecord([]byte(stands[h].doc)); err != nil {
				return nil, err
			}
		}
		vs := make([]pratique.Vulnerability, len(docs[i].Tracks))
		for n, t := range docs[i].Tracks {
			vs[n] = t.Vulnerability
		}
		out = append(out, newTracks(h, there, r, vs)...)
	}
	return out, nil
}

// dumpDigests is dumpHash for records whose key is a digest: its field is short.
func (db *DB) dumpDigests(ctx context.Context, name, after string, record func(d digest.Digest, value string) (store.Record, error)) iter.Seq2[store.Record, error] {
	return db.dumpHash(ctx, name, short(digest.Digest(after)), func(field string) part { return partOfDigest(long(field)) }, func(field, value string) (store.Record, error) {
		return record(long(field), value)
	})
}

func (db *DB) dumpScanned(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		for r, err := range db.dumpNoted(ctx, after) {
			if err == nil && r.Key == "" {
				continue
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// dumpNoted is dumpScanned with a record of no key for an image of which only is noted
// what a replica that died was about to store.
func (db *DB) dumpNoted(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return db.dumpDigests(ctx, "scanned", after, func(d digest.Digest, value string) (store.Record, error) {
		os, err := db.unpackOccurrences(value)
		if err != nil || os.latest == nil {
			return store.Record{}, err
		}
		v := store.DumpedScanned{Latest: dumpedRoster(*os.latest)}
		if os.standing != nil {
			l := dumpedRoster(*os.standing)
			v.Standing = &l
		}
		return store.NewRecord(store.KindScanned, d.String(), v)
	})
}

func dumpedRoster(l roster) (out store.DumpedRoster) {
	for _, c := range l.Chunks {
		out.Chunks = append(out.Chunks, store.DumpedListed{Chunk: hex.EncodeToString([]byte(c.ID)), Since: c.Since})
	}
	for _, r := range l.Runs {
		out.Runs = append(out.Runs, [2]int{r.Chunk, r.Length})
	}
	return out
}

func loadedRoster(l store.DumpedRoster) (*roster, error) {
	out := &roster{}
	for _, c := range l.Chunks {
		h, err := raw(pratique.ComponentID(c.Chunk)) // a hash of the same length
		if err != nil {
			return nil, err
		}
		out.Chunks = append(out.Chunks, packed.Listed[string]{ID: h, Since: c.Since})
	}
	for _, r := range l.Runs {
		if r[0] < 0 || r[0] >= len(out.Chunks) || r[1] < 0 {
			return nil, fmt.Errorf("%w run of occurrences: %v", pratique.ErrInvalid, r)
		}
		out.Runs = append(out.Runs, packed.Run{Chunk: r[0], Length: r[1]})
	}
	return out, nil
}

func (db *DB) loadScanned(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.DumpedScanned](rs)
	if err != nil {
		return err
	}
	images := make([]digest.Digest, len(rs))
	for i, r := range rs {
		images[i] = digest.Digest(r.Key)
	}
	before, found, err := db.fields(ctx, "scanned", placesOf(images))
	if err != nil {
		return err
	}
	all := make([]*occurrences, len(docs))
	var named []string
	var links []call
	for i, v := range docs {
		os := &occurrences{linked: make(map[string]int)}
		if found[i] {
			if os, err = db.unpackOccurrences(before[i]); err != nil {
				return err
			}
		}
		if os.latest, err = loadedRoster(v.Latest); err != nil {
			return err
		}
		os.standing, os.retiring = nil, nil
		if v.Standing != nil {
			if os.standing, err = loadedRoster(*v.Standing); err != nil {
				return err
			}
		}
		os.counter++
		os.token = newToken()
		for _, l := range os.rosters() {
			for _, h := range l.IDs() {
				named = append(named, h)
				os.linked[h] = os.counter
				links = append(links, call{[]string{db.key(placeOfHash(h).part, "chunks"), db.imagesKey(h)}, []any{h, short(images[i]), os.counter, ""}})
			}
		}
		all[i] = os
	}
	if err := db.loaded(ctx, "chunks", named); err != nil {
		return err
	}
	if _, err := db.calls(ctx, scriptLinkChunk, links); err != nil {
		return err
	}
	err = db.loadFields(ctx, "scanned", len(all), func(i int) (place, string, error) {
		return placeOf(images[i]), db.packOccurrences(all[i]), nil
	})
	for i, os := range all {
		if err == nil && found[i] {
			err = db.unlinkChunks(ctx, images[i], os)
		}
	}
	return err
}

func (db *DB) dumpReports(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return db.dumpDigests(ctx, "reports", after, func(d digest.Digest, value string) (store.Record, error) {
		_, h, err := db.unpackHead(value)
		if err != nil {
			return store.Record{}, err
		}
		return store.NewRecord(store.KindReports, d.String(), store.DumpedReport{Report: h.Report, Past: h.Past, Engine: h.Seq})
	})
}

func (db *DB) loadReports(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.DumpedReport](rs)
	if err != nil {
		return err
	}
	return db.loadFields(ctx, "reports", len(docs), func(i int) (place, string, error) {
		doc, err := db.packHead(newToken(), &packed.Head{Report: docs[i].Report, Past: docs[i].Past, Seq: docs[i].Engine})
		return placeOf(digest.Digest(rs[i].Key)), doc, err
	})
}
