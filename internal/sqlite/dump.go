package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"iter"

	"pratique"
	"pratique/store"
)

var _ store.Dumper = (*DB)(nil)

// dumpPage is how many records are read at once; no statement is open between
// pages.
const dumpPage = 256

// dumped is how one kind of records is read and written.
type dumped struct {
	// page reads the records after one, at most about dumpPage.
	page func(ctx context.Context, after string) ([]store.Record, error)
	load func(ctx context.Context, tx *prepared, rs []store.Record) error
}

func (db *DB) dumped(kind store.Kind) (dumped, error) {
	d, known := map[store.Kind]dumped{
		store.KindImages:       {db.pageImages, db.loadImages},
		store.KindTags:         {db.pageTags, db.loadTags},
		store.KindRepositories: {db.pageRepositories, db.loadRepositories},
		store.KindInventories:  {db.pageInventories, db.loadInventories},
		store.KindComponents:   {db.pageComponents, db.loadComponents},
		store.KindChunks:       {db.pageChunks, db.loadChunks},
		store.KindFleet:        {db.pageFleet, db.loadFleet},
		store.KindMatches:      {db.pageMatches, db.loadMatches},
		store.KindScanned:      {db.pageScanned, db.loadScanned},
		store.KindReports:      {db.pageReports, db.loadReports},
		store.KindServed:       {db.pageServed, db.loadServed},
		store.KindPulls:        {db.pagePulls, db.loadPulls},
		store.KindVerdicts:     {db.pageVerdicts, db.loadVerdicts},
		store.KindExceptions:   {db.pageExceptions, db.loadExceptions},
		store.KindAttestations: {db.pageAttestations, db.loadAttestations},
		store.KindPushes:       {db.pagePushes, db.loadPushes},
		store.KindEvents:       {db.pageEvents, db.loadEvents},
		store.KindMarks:        {db.pageMarks, db.loadMarks},
		store.KindJobs:         {db.pageJobs, db.loadJobs},
		store.KindQueue:        {db.pageQueue, db.loadQueue},
		store.KindRuns:         {db.pageRuns, db.loadRuns},
		store.KindDatabases:    {db.pageDatabases, db.loadDatabases},
	}[kind]
	if !known {
		return dumped{}, fmt.Errorf("%w kind of records %q", pratique.ErrInvalid, string(kind))
	}
	return d, nil
}

// Dump implements store.Dumper.
func (db *DB) Dump(ctx context.Context, kind store.Kind, after string) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		d, err := db.dumped(kind)
		for err == nil {
			var page []store.Record
			if page, err = d.page(ctx, after); err != nil || len(page) == 0 {
				break
			}
			for _, r := range page {
				if !yield(r, nil) {
					return
				}
			}
			after = page[len(page)-1].Key
		}
		if err != nil {
			yield(store.Record{}, annotate(err, "dump %s", kind))
		}
	}
}

// Load implements store.Dumper: all of rs are one transaction.
func (db *DB) Load(ctx context.Context, kind store.Kind, rs []store.Record) error {
	d, err := db.dumped(kind)
	if err != nil {
		return err
	}
	defer db.forgetAll()
	return annotate(db.write(ctx, func(tx *sql.Tx) error { return d.load(ctx, prepare(tx), rs) }), "load %s", kind)
}

// forgetAll drops all that is in memory.
func (db *DB) forgetAll() {
	db.begun.forget()
	db.joins.Reset()
	db.stamps.All()
}

// records reads rows as records of a kind.
func (db *DB) records(ctx context.Context, kind store.Kind, query string, args []any, one func(scan func(...any) error) (key string, doc any, err error)) ([]store.Record, error) {
	var out []store.Record
	err := db.rows(ctx, query, args, func(scan func(...any) error) error {
		key, doc, err := one(scan)
		if err != nil {
			return err
		}
		r, err := store.NewRecord(kind, key, doc)
		out = append(out, r)
		return err
	})
	return out, err
}

// loadEach hands over the documents of records, one by one.
func loadEach[T any](rs []store.Record, each func(key string, doc *T) error) error {
	docs, err := store.Dumped[T](rs)
	for i := range docs {
		if err != nil {
			break
		}
		if err = each(rs[i].Key, &docs[i]); err != nil {
			err = fmt.Errorf("%s: %w", rs[i].Key, err)
		}
	}
	return err
}

// docs are kinds of which a table has a key and a whole document.
func docs[T any](db *DB, kind store.Kind, query string) func(ctx context.Context, after string) ([]store.Record, error) {
	return func(ctx context.Context, after string) ([]store.Record, error) {
		return db.records(ctx, kind, query, []any{after, dumpPage}, func(scan func(...any) error) (string, any, error) {
			var key string
			var doc []byte
			var v T
			if err := scan(&key, &doc); err != nil {
				return "", nil, err
			}
			err := db.decode(doc, &v)
			return key, v, err
		})
	}
}
