package redis

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"pratique"
	"pratique/internal/packed"
	"pratique/store"
)

func (db *DB) dumpsFleet() dumps {
	return dumps{
		store.KindInventories: {db.dumpInventories, db.loadInventories},
		store.KindComponents:  {db.dumpComponents, db.loadComponents},
		store.KindChunks:      {db.dumpChunks, db.loadChunks},
		store.KindFleet:       {db.dumpFleet, db.loadFleet},
		store.KindMatches:     {db.dumpMatches, db.loadMatches},
		store.KindScanned:     {db.dumpScanned, db.loadScanned},
		store.KindReports:     {db.dumpReports, db.loadReports},
	}
}

// dumpHashed is dumpHash for records whose key is a hash: its field is the bytes.
func (db *DB) dumpHashed(ctx context.Context, name, after string, record func(key, value string) (store.Record, error)) iter.Seq2[store.Record, error] {
	field, err := hex.DecodeString(after)
	if err != nil {
		return func(yield func(store.Record, error) bool) { yield(store.Record{}, err) }
	}
	return db.dumpHash(ctx, name, string(field), func(field string) part { return placeOfHash(field).part }, func(field, value string) (store.Record, error) {
		return record(hex.EncodeToString([]byte(field)), value)
	})
}

func (db *DB) dumpInventories(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		var names []string
		for name, err := range db.docs.DocumentNames(ctx, inventoryFolder) {
			if err != nil {
				yield(store.Record{}, err)
				return
			}
			names = append(names, name)
		}
		slices.Sort(names)
		last := ""
		if d, analyzer, ok := strings.Cut(after, " "); ok {
			last = inventoryName(digest.Digest(d), analyzer)
		}
		for _, name := range names {
			if name <= last {
				continue
			}
			r, err := db.dumpInventory(ctx, name)
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

func (db *DB) dumpInventory(ctx context.Context, name string) (store.Record, error) {
	d, analyzer, err := inventoryOf(name)
	if err != nil {
		return store.Record{}, err
	}
	v := store.DumpedInventory{Digest: d, Analyzer: analyzer}
	doc, err := db.docs.Document(ctx, name)
	if err == nil {
		err = db.Decode(doc, &v.Inventory)
	}
	if err != nil {
		return store.Record{}, err
	}
	return store.NewRecord(store.KindInventories, d.String()+" "+analyzer, v)
}

func (db *DB) loadInventories(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.DumpedInventory](rs)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(documentsAtOnce)
	for _, v := range docs {
		group.Go(func() error {
			doc, err := db.Encode(v.Inventory)
			if err == nil {
				err = db.docs.PutDocument(ctx, inventoryName(v.Digest, v.Analyzer), doc)
			}
			return err
		})
	}
	return group.Wait()
}

func (db *DB) dumpComponents(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return db.dumpHashed(ctx, "components", after, func(key, value string) (store.Record, error) {
		var c pratique.Component
		if err := db.Decode([]byte(value), &c); err != nil {
			return store.Record{}, err
		}
		return store.NewRecord(store.KindComponents, key, c)
	})
}

func (db *DB) loadComponents(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[pratique.Component](rs)
	if err != nil {
		return err
	}
	w := imageWriter{db: db, given: make(map[string]*pratique.Component, len(docs))}
	for i := range docs {
		if id := docs[i].ID(); rs[i].Key != string(id) {
			return fmt.Errorf("component %s: %w component with the id %s", rs[i].Key, pratique.ErrInvalid, id)
		}
		h, err := raw(docs[i].ID())
		if err != nil {
			return err
		}
		w.given[h] = &docs[i]
	}
	missing, err := w.missing(ctx) // what is there under an id is the same
	if err != nil {
		return err
	}
	return w.components(ctx, missing)
}

func (db *DB) dumpChunks(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return db.dumpHashed(ctx, "chunks", after, func(key, value string) (store.Record, error) {
		c, err := db.unpackChunk(value)
		if err != nil {
			return store.Record{}, err
		}
		v := store.DumpedChunk{Layer: c.Layer}
		err = c.Each(func(int) bool { return true }, func(component, _ int, o pratique.Occurrence) {
			o.Component = packed.ComponentID(c.Components[component])
			v.Occurrences = append(v.Occurrences, o)
		})
		if err != nil {
			return store.Record{}, err
		}
		return store.NewRecord(store.KindChunks, key, v)
	})
}

// loadChunks stores chunks that are of no image yet: those are loaded later.
func (db *DB) loadChunks(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.DumpedChunk](rs)
	if err != nil {
		return err
	}
	chunks := make([]packed.NewChunk, len(docs))
	var named []string
	for i, v := range docs {
		parts, _, err := packed.Split(v.Occurrences)
		if err != nil {
			return err
		}
		if len(parts) != 1 || parts[0].Layer != v.Layer || hex.EncodeToString([]byte(parts[0].Hash)) != rs[i].Key {
			return fmt.Errorf("chunk %s: %w: not of one layer, or of another content", rs[i].Key, pratique.ErrInvalid)
		}
		chunks[i] = parts[0]
		for _, id := range parts[0].Components {
			h, err := raw(id)
			if err != nil {
				return err
			}
			named = append(named, h)
		}
	}
	if err := db.loaded(ctx, "components", named); err != nil {
		return err
	}
	w := imageWriter{db: db, chunks: chunks}
	absent, err := w.absent(ctx)
	if err != nil {
		return err
	}
	var entries []indexed
	for i := range chunks {
		if !absent[chunks[i].Hash] {
			continue
		}
		for _, id := range chunks[i].Components {
			h, _ := raw(id)
			entries = append(entries, indexed{h, chunks[i].Hash})
		}
	}
	if err := db.index(ctx, "components.chunks", entries); err != nil {
		return err
	}
	return db.loadFields(ctx, "chunks", len(chunks), func(i int) (place, string, error) {
		doc, err := db.packChunk(&chunks[i])
		return placeOfHash(chunks[i].Hash), doc, err
	})
}

// loaded makes sure that what records name is there.
func (db *DB) loaded(ctx context.Context, name string, hashes []string) error {
	slices.Sort(hashes)
	hashes = slices.Compact(hashes)
	_, found, err := db.fields(ctx, name, placesOfHashes(hashes))
	if err != nil {
		return err
	}
	if i := slices.Index(found, false); i >= 0 {
		return fmt.Errorf("%w: none of the %s is %x", pratique.ErrInvalid, name, hashes[i])
	}
	return nil
}

// loadFields stores fields of the hashes with a name.
func (db *DB) loadFields(ctx context.Context, name string, n int, field func(i int) (place, string, error)) error {
	values := make(map[part][]any)
	for i := range n {
		at, value, err := field(i)
		if err != nil {
			return err
		}
		values[at.part] = append(values[at.part], at.field, value)
	}
	if len(values) == 0 {
		return nil
	}
	_, err := db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for p, v := range values {
			pipe.HSet(ctx, db.key(p, name), v...)
		}
		return nil
	})
	return err
}

func (db *DB) dumpFleet(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		if after != "" {
			return
		}
		v, err := db.fleetDoc(ctx)
		if err != nil {
			yield(store.Record{}, err)
			return
		}
		if len(v.Begun) > 0 {
			yield(store.NewRecord(store.KindFleet, "fleet", v))
		}
	}
}

func (db *DB) fleetDoc(ctx context.Context) (v store.DumpedFleet, err error) {
	now, err := db.engines(ctx, nil)
	if err != nil {
		return v, err
	}
	begun, err := db.rdb.HGetAll(ctx, db.key(fleetPart, "engines.order")).Result()
	if err != nil {
		return v, err
	}
	for number, name := range begun {
		var e store.DumpedEngine
		if e.Engine, err = parseEngine(name); err == nil {
			e.Seq, err = strconv.ParseInt(number, 10, 64)
		}
		if err != nil {
			return v, err
		}
		v.Begun = append(v.Begun, e)
	}
	slices.SortFunc(v.Begun, func(a, b store.DumpedEngine) int { return cmp.Compare(a.Seq, b.Seq) })
	v.Current, v.At = now.Current.Seq, now.At
	return v, nil
}

func (db *DB) loadFleet(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.DumpedFleet](rs)
	if err != nil {
		return err
	}
	for _, v := range docs {
		engines, begun, order := []any{"moment", newToken()}, []any{}, []any{}
		last := int64(0)
		for _, e := range v.Begun { // in order: of equal ones the last counts
			if e.Seq <= last {
				return fmt.Errorf("%w numbers of engines: %d after %d", pratique.ErrInvalid, e.Seq, last)
			}
			last = e.Seq
			begun, order = append(begun, engineName(e.Engine), e.Seq), append(order, e.Seq, engineName(e.Engine))
			if e.Seq == v.Current {
				engines = append(engines, "current", engineName(e.Engine), "current.seq", e.Seq, "at", nanos(v.At))
			}
		}
		if len(begun) == 0 {
			continue
		}
		e := v.Begun[len(v.Begun)-1].Engine
		engines = append(engines, "seq", last, "latest", engineName(e), "latest.at", timeText(e.DatabaseAt))
		_, err := db.rdb.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			for name, values := range map[string][]any{"engines": engines, "engines.begun": begun, "engines.order": order} {
				pipe.Del(ctx, db.key(fleetPart, name))
				pipe.HSet(ctx, db.key(fleetPart, name), values...)
			}
			return nil
		})
		if err == nil {
			err = db.fence(ctx, last)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (db *DB) dumpMatches(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return db.dumpHashed(ctx, "matches", after, func(key, value string) (store.Record, error) {
		s, err := unpackSaid(value)
		if err != nil {
			return store.Record{}, err
		}
		v := store.DumpedMatch{Engine: s.seq, First: s.first}
		if s.doc != "" {
			r, err := db.UnpackRecord([]byte(s.doc))
			if err != nil {
				return store.Record{}, err
			}
			v.First, v.Tracks = r.First, r.Tracks
		}
		return store.NewRecord(store.KindMatches, key, v)
	})
}
