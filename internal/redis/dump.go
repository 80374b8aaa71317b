package redis

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"pratique"
	"pratique/store"
)

// How a kind of store.Kinds comes in here. Each owner of keys writes, in a file of
// their own, ONE method that returns their kinds; it is found by its name, so that
// this file compiles before they are there:
//
//	catalog_dump.go   func (db *DB) dumpsCatalog() dumps  images, tags, repositories
//	history_dump.go   func (db *DB) dumpsHistory() dumps  served, pulls, verdicts, exceptions, attestations, pushes, events, marks
//	fleet_dump.go     func (db *DB) dumpsFleet() dumps    inventories, components, chunks, fleet, matches, scanned, reports
//	queue_dump.go     func (db *DB) dumpsQueue() dumps    jobs, queue, runs
//	wanted_dump.go    func (db *DB) dumpsShelf() dumps    databases
//
// such as
//
//	func (db *DB) dumpsHistory() dumps {
//		return dumps{
//			store.KindServed: {db.dumpServed, db.loadServed},
//			store.KindPulls:  {db.dumpPulls, db.loadPulls},
//		}
//	}
//
// with
//
//	func (db *DB) dumpServed(ctx context.Context, after string) iter.Seq2[store.Record, error] {
//		return db.dumpHash(ctx, "served", after, partOfKey, func(field, value string) (store.Record, error) {
//			…
//			return store.NewRecord(store.KindServed, field, store.DumpedServed{First: first, Last: last})
//		})
//	}
//
//	func (db *DB) loadServed(ctx context.Context, rs []store.Record) error {
//		docs, err := store.Dumped[store.DumpedServed](rs) // docs[i] is of rs[i]
//		…                                                 // HSET in a pipeline; indexes as well
//	}
//
// where partOfKey is func(key string) part { return partOfDigest(digest.Digest(key)) }.
//
// What they promise is with store.Dumper. Nobody else uses the state while Load runs,
// so no versions need to move and nothing needs to be compared: plain pipelines
// will do. A Load is called with at most some hundred records, or some MB of them.
// Whole sequences are for storetest.Dump and storetest.Move.
type (
	dumps map[store.Kind]dump
	dump  struct {
		dump func(ctx context.Context, after string) iter.Seq2[store.Record, error]
		load func(ctx context.Context, rs []store.Record) error
	}
)

var _ store.Dumper = (*DB)(nil)

// dumps finds how a kind comes in.
func (db *DB) dumps(kind store.Kind) (dump, error) {
	var all []dumps
	if o, ok := any(db).(interface{ dumpsCatalog() dumps }); ok {
		all = append(all, o.dumpsCatalog())
	}
	if o, ok := any(db).(interface{ dumpsHistory() dumps }); ok {
		all = append(all, o.dumpsHistory())
	}
	if o, ok := any(db).(interface{ dumpsFleet() dumps }); ok {
		all = append(all, o.dumpsFleet())
	}
	if o, ok := any(db).(interface{ dumpsQueue() dumps }); ok {
		all = append(all, o.dumpsQueue())
	}
	if o, ok := any(db).(interface{ dumpsShelf() dumps }); ok {
		all = append(all, o.dumpsShelf())
	}
	for _, of := range all {
		if d, ok := of[kind]; ok {
			return d, nil
		}
	}
	return dump{}, fmt.Errorf("%w kind of records %q", pratique.ErrInvalid, string(kind))
}

// Dump implements store.Dumper.
func (db *DB) Dump(ctx context.Context, kind store.Kind, after string) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		d, err := db.dumps(kind)
		if err != nil {
			yield(store.Record{}, err)
			return
		}
		for r, err := range d.dump(ctx, after) {
			if err != nil {
				err = fmt.Errorf("dump %s: %w", kind, err)
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
		// What ends without having looked at ctx is cut off, not over.
		if err := ctx.Err(); err != nil {
			yield(store.Record{}, fmt.Errorf("dump %s: %w", kind, err))
		}
	}
}

// Load implements store.Dumper.
func (db *DB) Load(ctx context.Context, kind store.Kind, rs []store.Record) error {
	d, err := db.dumps(kind)
	if err != nil {
		return err
	}
	if err := d.load(ctx, rs); err != nil {
		return fmt.Errorf("load %s: %w", kind, err)
	}
	return nil
}

// dumpPage is how many fields dumpHash reads the values of at once.
const dumpPage = 200

// dumpHash yields a record for each field of the hashes with a name, one hash in
// each partition, partition by partition and sorted within each. A field is the key
// of its record; partOf says in which partition it is.
func (db *DB) dumpHash(ctx context.Context, name, after string, partOf func(key string) part, record func(field, value string) (store.Record, error)) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		first := 0
		for n := range partitions {
			if after != "" && partNumber(n) == partOf(after) {
				first = n
			}
		}
		for n := first; n < partitions; n++ {
			from := ""
			if n == first {
				from = after
			}
			for r, err := range db.dumpFields(ctx, db.key(partNumber(n), name), from, record) {
				if !yield(r, err) || err != nil {
					return
				}
			}
		}
	}
}

// dumpFields yields a record for each field of one hash, sorted.
func (db *DB) dumpFields(ctx context.Context, key, after string, record func(field, value string) (store.Record, error)) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		fields, err := db.hashFields(ctx, key)
		if err != nil {
			yield(store.Record{}, err)
			return
		}
		fields = slices.DeleteFunc(fields, func(f string) bool { return f <= after })
		for page := range slices.Chunk(fields, dumpPage) {
			values, err := db.rdb.HMGet(ctx, key, page...).Result()
			if err != nil {
				yield(store.Record{}, err)
				return
			}
			for i, v := range values {
				value, ok := v.(string)
				if !ok {
					continue // removed since
				}
				r, err := record(page[i], value)
				if !yield(r, err) || err != nil {
					return
				}
			}
		}
	}
}

// hashFields are the fields of a hash, sorted. Nobody waits for Redis while a state
// is dumped: one command will do, and a scan would carry the values too.
func (db *DB) hashFields(ctx context.Context, key string) ([]string, error) {
	fields, err := db.rdb.HKeys(ctx, key).Result()
	slices.Sort(fields)
	return fields, err
}
