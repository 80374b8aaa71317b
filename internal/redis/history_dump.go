package redis

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

// dumpsHistory is found by dump.go.
func (db *DB) dumpsHistory() dumps {
	return dumps{
		store.KindServed:       {db.dumpServed, db.loadServed},
		store.KindPulls:        {db.dumpPulls, db.loadPulls},
		store.KindVerdicts:     {db.dumpVerdicts, db.loadVerdicts},
		store.KindExceptions:   {db.dumpExceptions, db.loadExceptions},
		store.KindAttestations: {db.dumpAttestations, db.loadAttestations},
		store.KindPushes:       {db.dumpPushes, db.loadPushes},
		store.KindEvents:       {db.dumpEvents, db.loadEvents},
		store.KindMarks:        {db.dumpMarks, db.loadMarks},
	}
}

// partOfText is the partition of a digest as it stands in a field.
func partOfText(text string) part { return partOfDigest(digest.Digest(text)) }

func (db *DB) dumpServed(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return db.dumpHash(ctx, "served", after, partOfText, func(field, value string) (store.Record, error) {
		s, err := parseServed(value)
		if err != nil {
			return store.Record{}, err
		}
		return store.NewRecord(store.KindServed, field, store.DumpedServed{First: at(s.first), Last: at(s.last)})
	})
}

func (db *DB) loadServed(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.DumpedServed](rs)
	if err != nil {
		return err
	}
	return db.loadFields(ctx, "served", len(docs), func(i int) (place, string, error) {
		return place{partOfText(rs[i].Key), rs[i].Key}, timeText(docs[i].First) + " " + timeText(docs[i].Last), nil
	})
}

func (db *DB) dumpVerdicts(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return db.dumpHash(ctx, "verdicts", after, partOf, func(id, value string) (store.Record, error) {
		var j store.Judged
		if err := db.Decode([]byte(value), &j); err != nil {
			return store.Record{}, fmt.Errorf("verdict %s: %w", id, err)
		}
		return store.NewRecord(store.KindVerdicts, id, j)
	})
}

// loadVerdicts stores their times first: one without a verdict is removed with it, and
// a verdict without a time would stay for ever.
func (db *DB) loadVerdicts(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.Judged](rs)
	if err != nil {
		return err
	}
	if _, err := db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, j := range docs {
			pipe.ZAdd(ctx, db.key(partOf(rs[i].Key), "verdicts.at"), redis.Z{Score: float64(nanos(j.At) / 1000), Member: rs[i].Key})
		}
		return nil
	}); err != nil {
		return err
	}
	return db.loadFields(ctx, "verdicts", len(docs), func(i int) (place, string, error) {
		doc, err := db.Encode(docs[i])
		return place{partOf(rs[i].Key), rs[i].Key}, string(doc), err
	})
}

func (db *DB) dumpExceptions(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return db.dumpFields(ctx, db.exceptionsKey(), after, func(id, value string) (store.Record, error) {
		var e pratique.Exception
		if err := db.Decode([]byte(value), &e); err != nil {
			return store.Record{}, fmt.Errorf("exception %s: %w", id, err)
		}
		return store.NewRecord(store.KindExceptions, id, e)
	})
}

// loadExceptions needs not wait for the disk: EndMove does.
func (db *DB) loadExceptions(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[pratique.Exception](rs)
	if err != nil {
		return err
	}
	_, err = db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, e := range docs {
			doc, err := db.Encode(e)
			if err != nil {
				return err
			}
			pipe.HSet(ctx, db.exceptionsKey(), rs[i].Key, doc)
		}
		return nil
	})
	return err
}

func (db *DB) dumpAttestations(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return db.dumpHash(ctx, "attestations", after, partOfText, func(field, value string) (store.Record, error) {
		var a pratique.Attestations
		if err := db.Decode([]byte(value), &a); err != nil {
			return store.Record{}, fmt.Errorf("attestations of %s: %w", field, err)
		}
		return store.NewRecord(store.KindAttestations, field, a)
	})
}

func (db *DB) loadAttestations(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[pratique.Attestations](rs)
	if err != nil {
		return err
	}
	return db.loadFields(ctx, "attestations", len(docs), func(i int) (place, string, error) {
		doc, err := db.Encode(docs[i])
		return place{partOfText(rs[i].Key), rs[i].Key}, string(doc), err
	})
}

func (db *DB) dumpPushes(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return db.dumpFields(ctx, db.key(pushesPart, "pushes"), after, func(key, value string) (store.Record, error) {
		p, err := db.readPush(value)
		if err != nil {
			return store.Record{}, err
		}
		return store.NewRecord(store.KindPushes, key, p)
	})
}

func (db *DB) loadPushes(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.Push](rs)
	if err != nil {
		return err
	}
	for i, p := range docs {
		if p.Key() != rs[i].Key {
			return fmt.Errorf("push %s: %w push of %s", rs[i].Key, pratique.ErrInvalid, p.Ref)
		}
	}
	return db.PutPushes(ctx, docs)
}

func (db *DB) dumpMarks(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return db.dumpFields(ctx, db.outboxKey("marks"), after, func(key, value string) (store.Record, error) {
		m, err := readMark(key, value)
		if err != nil {
			return store.Record{}, err
		}
		return store.NewRecord(store.KindMarks, key, m)
	})
}

func (db *DB) loadMarks(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.Mark](rs)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(docs, outboxAtOnce) {
		if err := db.Append(ctx, nil, part); err != nil {
			return err
		}
	}
	return nil
}
