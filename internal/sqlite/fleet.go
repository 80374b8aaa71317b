package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/packed"
	"pratique/store"
)

// What Begin and Advance said is kept in memory: this process is the file's only
// writer.
type (
	begun   = packed.Begun
	engines = packed.Engines
)

// row is what (*sql.Tx).QueryRowContext and db.row have in common.
type rower func(ctx context.Context, query string, args []any, dest ...any) error

func txRow(tx *sql.Tx) rower {
	return func(ctx context.Context, query string, args []any, dest ...any) error {
		return found(tx.QueryRowContext(ctx, query, args...).Scan(dest...))
	}
}

func readEngines(ctx context.Context, row rower) (e engines, err error) {
	scan := func(b *begun, query string, more ...any) error {
		var dbAt int64
		var dgst string
		err := row(ctx, query, nil, append([]any{&b.Seq, &b.Version, &dgst, &dbAt}, more...)...)
		b.Database, b.DatabaseAt = digest.Digest(dgst), at(dbAt)
		if isNotFound(err) {
			return nil
		}
		return err
	}
	if err := scan(&e.Latest, `SELECT id, version, database, database_at FROM engines ORDER BY id DESC LIMIT 1`); err != nil {
		return engines{}, err
	}
	var since int64
	if err := scan(&e.Current, `SELECT e.id, e.version, e.database, e.database_at, f.at FROM fleet f JOIN engines e ON e.id = f.engine`, &since); err != nil {
		return engines{}, err
	}
	e.At = at(since)
	return e, nil
}

// engines returns what was begun and advanced to.
func (db *DB) engines(ctx context.Context) (engines, error) {
	e, gen := db.begun.recall()
	if e != nil {
		return *e, nil
	}
	read, err := readEngines(ctx, db.row)
	if err == nil {
		db.begun.keep(gen, read)
	}
	return read, err
}

// memory is of engines. What was read before forget is not kept after it. The zero
// value is ready.
type memory struct {
	mu  sync.Mutex
	gen uint64
	now *engines
}

func (m *memory) recall() (*engines, uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now, m.gen
}

func (m *memory) keep(gen uint64, e engines) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if gen == m.gen {
		m.now = &e
	}
}

func (m *memory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gen++
	m.now = nil
}

// seq is the place of an engine in the order of Begin, its last one; 0 if it was
// never begun.
func seqOf(ctx context.Context, row rower, e engines, of pratique.Engine) (int64, error) {
	if e.Latest.Seq != 0 && packed.SameEngine(e.Latest.Engine, of) {
		return e.Latest.Seq, nil
	}
	var id int64
	err := row(ctx, lastBegun, []any{of.Database.String(), of.Version, nanos(of.DatabaseAt)}, &id)
	if isNotFound(err) {
		return 0, nil
	}
	return id, err
}

const lastBegun = `SELECT id FROM engines WHERE database = ? AND version = ? AND database_at = ? ORDER BY id DESC LIMIT 1`

// Begin implements store.Fleet.
func (db *DB) Begin(ctx context.Context, e pratique.Engine) error {
	if e.Database == "" {
		return fmt.Errorf("begin: %w: the database has no digest", pratique.ErrNoDatabase)
	}
	now, err := db.engines(ctx)
	if err != nil {
		return annotate(err, "begin")
	}
	if now.Latest.Seq != 0 && packed.SameEngine(now.Latest.Engine, e) {
		return nil
	}
	defer db.begun.forget()
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		now, err := readEngines(ctx, txRow(tx))
		if err != nil || now.Latest.Seq != 0 && packed.SameEngine(now.Latest.Engine, e) {
			return err
		}
		if err := fenced(ctx, tx, e); err != nil {
			return err
		}
		_, err = begin(ctx, tx, e)
		return err
	}), "begin")
}

func begin(ctx context.Context, tx *sql.Tx, e pratique.Engine) (seq int64, err error) {
	err = tx.QueryRowContext(ctx, `INSERT INTO engines (version, database, database_at) VALUES (?, ?, ?) RETURNING id`,
		e.Version, e.Database.String(), nanos(e.DatabaseAt)).Scan(&seq)
	return seq, err
}

// Current implements store.Fleet.
func (db *DB) Current(ctx context.Context) (pratique.Engine, time.Time, error) {
	e, err := db.engines(ctx)
	if err == nil && e.Current.Seq == 0 {
		err = pratique.ErrNotFound
	}
	if err != nil {
		return pratique.Engine{}, time.Time{}, annotate(err, "engine that everything is current with")
	}
	return e.Current.Engine, e.At, nil
}

// Advance implements store.Fleet.
func (db *DB) Advance(ctx context.Context, e pratique.Engine, at time.Time) error {
	defer db.stamps.All()
	defer db.begun.forget()
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		now, err := readEngines(ctx, txRow(tx))
		if err != nil {
			return err
		}
		if now.Latest.Seq == 0 || !packed.SameEngine(now.Latest.Engine, e) {
			return store.ErrSuperseded
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO fleet (one, engine, at) VALUES (1, ?, ?) ON CONFLICT (one) DO UPDATE SET engine = excluded.engine, at = excluded.at`,
			now.Latest.Seq, nanos(at))
		return err
	}), "advance to %s", e.Database)
}

// askAtOnce is how many keys, ids or components one query names.
const askAtOnce = 1000

// ComponentsByKey implements store.Fleet, in no order.
func (db *DB) ComponentsByKey(ctx context.Context, keys []string) iter.Seq2[pratique.Component, error] {
	return db.componentsBy(ctx, `SELECT component FROM component_keys WHERE key IN (SELECT value FROM json_each(?))`, keys)
}

// ComponentsByVulnerability implements store.Fleet, in no order.
func (db *DB) ComponentsByVulnerability(ctx context.Context, ids []string) iter.Seq2[pratique.Component, error] {
	return db.componentsBy(ctx, `SELECT component FROM component_vulnerabilities WHERE vulnerability IN (SELECT value FROM json_each(?))`, ids)
}

func (db *DB) componentsBy(ctx context.Context, query string, names []string) iter.Seq2[pratique.Component, error] {
	return func(yield func(pratique.Component, error) bool) {
		hashes := make([]int64, len(names))
		for i, n := range names {
			hashes[i] = hash64(n)
		}
		rows, err := db.ints(ctx, query, hashes)
		if err != nil {
			yield(pratique.Component{}, annotate(err, "components"))
			return
		}
		db.components(ctx, rows, yield)
	}
}

// ints are the distinct integers that a query has for lists of others, sorted.
func (db *DB) ints(ctx context.Context, query string, of []int64) ([]int64, error) {
	var out []int64
	for part := range slices.Chunk(of, askAtOnce) {
		err := eachOf(ctx, db.query, query, part, func(scan func(...any) error) error {
			var n int64
			err := scan(&n)
			out = append(out, n)
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(out) > 8*len(of)+1<<20 { // many say the same
			slices.Sort(out)
			out = slices.Compact(out)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// components yields components by row; no statement is open while the caller's
// loop body runs.
func (db *DB) components(ctx context.Context, rows []int64, yield func(pratique.Component, error) bool) bool {
	for part := range slices.Chunk(rows, imagesPage) {
		cs, err := db.componentsByRow(ctx, part)
		if err != nil {
			yield(pratique.Component{}, annotate(err, "components"))
			return false
		}
		for _, row := range part {
			if !yield(cs[row], nil) {
				return false
			}
		}
	}
	return true
}

// AllComponents implements store.Fleet, in order of arrival.
func (db *DB) AllComponents(ctx context.Context) iter.Seq2[pratique.Component, error] {
	return func(yield func(pratique.Component, error) bool) {
		last := int64(0)
		for {
			var rows []int64
			err := db.rows(ctx, `SELECT id FROM components WHERE id > ? ORDER BY id LIMIT ?`, []any{last, askAtOnce}, func(scan func(...any) error) error {
				var id int64
				err := scan(&id)
				rows = append(rows, id)
				return err
			})
			if err != nil {
				yield(pratique.Component{}, annotate(err, "components"))
				return
			}
			if len(rows) == 0 || !db.components(ctx, rows, yield) {
				return
			}
			last = rows[len(rows)-1]
		}
	}
}

// Strays implements store.Fleet, in order of arrival.
func (db *DB) Strays(ctx context.Context, e pratique.Engine) iter.Seq2[pratique.Component, error] {
	return func(yield func(pratique.Component, error) bool) {
		now, err := db.engines(ctx)
		if err == nil && (now.Latest.Seq == 0 || !packed.SameEngine(now.Latest.Engine, e)) {
			err = store.ErrSuperseded
		}
		var rows []int64
		if err == nil {
			err = db.rows(ctx, `SELECT component FROM matched WHERE engine > ? AND engine < ? ORDER BY component`, []any{now.Current.Seq, now.Latest.Seq}, func(scan func(...any) error) error {
				var id int64
				err := scan(&id)
				rows = append(rows, id)
				return err
			})
		}
		if err != nil {
			yield(pratique.Component{}, annotate(err, "components matched with another engine"))
			return
		}
		db.components(ctx, rows, yield)
	}
}

// ImagesWith implements store.Fleet.
func (db *DB) ImagesWith(ctx context.Context, ids []pratique.ComponentID) ([]digest.Digest, error) {
	var out []digest.Digest
	images, err := db.imagesWith(ctx, ids)
	for part := range slices.Chunk(images, askAtOnce) {
		if err != nil {
			break
		}
		err = eachOf(ctx, db.query, `SELECT digest FROM scanned WHERE id IN (SELECT value FROM json_each(?))`, part, func(scan func(...any) error) error {
			var d digest.Digest
			err := scan(&d)
			out = append(out, d)
			return err
		})
	}
	if err != nil {
		return nil, annotate(err, "images of components")
	}
	slices.SortFunc(out, byDigest)
	return out, nil
}

func (db *DB) imagesWith(ctx context.Context, ids []pratique.ComponentID) ([]int64, error) {
	for _, id := range ids {
		if _, err := packed.Hash(id); err != nil {
			return nil, err
		}
	}
	var chunks []int64
	for part := range slices.Chunk(ids, askAtOnce) {
		err := eachOf(ctx, db.query, `SELECT DISTINCT cc.chunk FROM json_each(?) j JOIN components c ON c.hash = unhex(j.value) JOIN component_chunks cc ON cc.component = c.id`, part, func(scan func(...any) error) error {
			var n int64
			err := scan(&n)
			chunks = append(chunks, n)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(chunks)
	return db.ints(ctx, `SELECT image FROM chunk_images WHERE chunk IN (SELECT value FROM json_each(?))`, slices.Compact(chunks))
}
