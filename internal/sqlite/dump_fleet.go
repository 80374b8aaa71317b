package sqlite

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/packed"
	"pratique/store"
)

func (db *DB) pageInventories(ctx context.Context, after string) ([]store.Record, error) {
	d, analyzer, _ := strings.Cut(after, " ")
	// They may be large: a page is small.
	return db.records(ctx, store.KindInventories, `SELECT digest, analyzer, doc FROM inventories WHERE (digest, analyzer) > (?, ?) ORDER BY digest, analyzer LIMIT ?`,
		[]any{d, analyzer, dumpPage / 32}, func(scan func(...any) error) (string, any, error) {
			var v store.DumpedInventory
			var doc []byte
			if err := scan(&v.Digest, &v.Analyzer, &doc); err != nil {
				return "", nil, err
			}
			err := db.decode(doc, &v.Inventory)
			return v.Digest.String() + " " + v.Analyzer, v, err
		})
}

func (db *DB) loadInventories(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(_ string, v *store.DumpedInventory) error {
		doc, err := db.encode(v.Inventory)
		if err != nil {
			return err
		}
		return tx.exec(ctx, `INSERT INTO inventories (digest, analyzer, doc) VALUES (?, ?, ?) ON CONFLICT (digest, analyzer) DO UPDATE SET doc = excluded.doc`,
			v.Digest.String(), v.Analyzer, doc)
	})
}

func (db *DB) pageComponents(ctx context.Context, after string) ([]store.Record, error) {
	return db.records(ctx, store.KindComponents, `SELECT hash, doc FROM components WHERE hash > unhex(?) ORDER BY hash LIMIT ?`, []any{after, dumpPage}, func(scan func(...any) error) (string, any, error) {
		var h, doc []byte
		var c pratique.Component
		if err := scan(&h, &doc); err != nil {
			return "", nil, err
		}
		err := db.decode(doc, &c)
		return hex.EncodeToString(h), c, err
	})
}

func (db *DB) loadComponents(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(key string, c *pratique.Component) error {
		if id := c.ID(); key != string(id) {
			return fmt.Errorf("%w component with the id %s", pratique.ErrInvalid, id)
		}
		// What is there under the id is the same.
		w := &imageWriter{db: db, ctx: ctx, tx: tx}
		_, err := w.component(pratique.ComponentID(key), c)
		return err
	})
}

// loadedRow is the row of a component that is to be there.
func loadedRow(ctx context.Context, tx *prepared, id pratique.ComponentID) (row int64, err error) {
	h, err := packed.Hash(id)
	if err != nil {
		return 0, err
	}
	err = tx.row(ctx, `SELECT id FROM components WHERE hash = ?`, []any{h}, &row)
	if isNotFound(err) {
		err = fmt.Errorf("%w: no component %s", pratique.ErrInvalid, id)
	}
	return row, err
}

func (db *DB) pageChunks(ctx context.Context, after string) ([]store.Record, error) {
	var hashes []string
	var chunks []*packed.Chunk[int64]
	err := db.rows(ctx, `SELECT hash, doc FROM chunks WHERE hash > unhex(?) ORDER BY hash LIMIT ?`, []any{after, dumpPage / 8}, func(scan func(...any) error) error {
		var h, doc []byte
		if err := scan(&h, &doc); err != nil {
			return err
		}
		u, err := db.Unpack(doc)
		if err != nil {
			return err
		}
		c, err := packed.UnpackChunk(u, (*packed.Unpacker).Int)
		hashes, chunks = append(hashes, hex.EncodeToString(h)), append(chunks, c)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := make([]store.Record, len(chunks))
	for i, c := range chunks {
		ids, err := db.idsOf(ctx, c.Components)
		if err != nil {
			return nil, err
		}
		v := store.DumpedChunk{Layer: c.Layer}
		err = c.Each(func(int) bool { return true }, func(component, _ int, o pratique.Occurrence) {
			o.Component = ids[c.Components[component]]
			v.Occurrences = append(v.Occurrences, o)
		})
		if err == nil {
			out[i], err = store.NewRecord(store.KindChunks, hashes[i], v)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// idsOf are the ids of components by row; one that is not there is an error.
func (db *DB) idsOf(ctx context.Context, rows []int64) (map[int64]pratique.ComponentID, error) {
	out := make(map[int64]pratique.ComponentID, len(rows))
	err := eachOf(ctx, db.query, `SELECT id, hash FROM components WHERE id IN (SELECT value FROM json_each(?))`, rows, func(scan func(...any) error) error {
		var row int64
		var h []byte
		err := scan(&row, &h)
		out[row] = packed.ComponentID(string(h))
		return err
	})
	if err == nil && len(out) < len(rows) {
		err = fmt.Errorf("%d components are missing from the state file", len(rows)-len(out))
	}
	return out, err
}

func (db *DB) loadChunks(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(key string, v *store.DumpedChunk) error {
		h, err := packed.Hash(pratique.ComponentID(key))
		if err != nil {
			return err
		}
		var id int64
		if err := tx.row(ctx, `SELECT id FROM chunks WHERE hash = ?`, []any{h}, &id); !isNotFound(err) {
			return err // a hash is of one content
		}
		parts, _, err := packed.Split(v.Occurrences)
		if err != nil {
			return err
		}
		if len(parts) != 1 || parts[0].Layer != v.Layer {
			return fmt.Errorf("%w chunk: not of one layer", pratique.ErrInvalid)
		}
		rows := make([]int64, len(parts[0].Components))
		for i, c := range parts[0].Components {
			if rows[i], err = loadedRow(ctx, tx, c); err != nil {
				return err
			}
		}
		p := packed.NewPacker()
		packed.PackChunk(p, &parts[0], rows, (*packed.Packer).Int)
		if err := tx.row(ctx, `INSERT INTO chunks (hash, doc) VALUES (?, ?) RETURNING id`, []any{h, db.Pack(p, packAbove)}, &id); err != nil {
			return err
		}
		for _, row := range rows {
			if err := tx.exec(ctx, `INSERT INTO component_chunks (component, chunk) VALUES (?, ?)`, row, id); err != nil {
				return err
			}
		}
		return nil
	})
}

func (db *DB) pageFleet(ctx context.Context, after string) ([]store.Record, error) {
	if after != "" {
		return nil, nil
	}
	var v store.DumpedFleet
	err := db.rows(ctx, `SELECT id, version, database, database_at FROM engines ORDER BY id`, nil, func(scan func(...any) error) error {
		var e store.DumpedEngine
		var since int64
		err := scan(&e.Seq, &e.Engine.Version, &e.Engine.Database, &since)
		e.Engine.DatabaseAt = at(since)
		v.Begun = append(v.Begun, e)
		return err
	})
	if err != nil || len(v.Begun) == 0 {
		return nil, err
	}
	var since int64
	err = db.row(ctx, `SELECT engine, at FROM fleet`, nil, &v.Current, &since)
	if v.At = at(since); err != nil && !isNotFound(err) {
		return nil, err
	}
	r, err := store.NewRecord(store.KindFleet, "fleet", v)
	return []store.Record{r}, err
}

func (db *DB) loadFleet(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(_ string, v *store.DumpedFleet) error {
		for _, gone := range []string{`DELETE FROM fleet`, `DELETE FROM engines`} {
			if err := tx.exec(ctx, gone); err != nil {
				return err
			}
		}
		for _, e := range v.Begun {
			if err := tx.exec(ctx, `INSERT INTO engines (id, version, database, database_at) VALUES (?, ?, ?, ?)`, e.Seq, e.Engine.Version, e.Engine.Database.String(), nanos(e.Engine.DatabaseAt)); err != nil {
				return err
			}
		}
		if v.Current == 0 {
			return nil
		}
		return tx.exec(ctx, `INSERT INTO fleet (one, engine, at) VALUES (1, ?, ?)`, v.Current, nanos(v.At))
	})
}

func (db *DB) pageMatches(ctx context.Context, after string) ([]store.Record, error) {
	return db.records(ctx, store.KindMatches, `SELECT c.hash, d.engine, d.first_at, m.doc FROM components c CROSS JOIN matched d ON d.component = c.id
		LEFT JOIN matches m ON m.component = c.id WHERE c.hash > unhex(?) ORDER BY c.hash LIMIT ?`, []any{after, dumpPage}, func(scan func(...any) error) (string, any, error) {
		var h, doc []byte
		var first int64
		var v store.DumpedMatch
		if err := scan(&h, &v.Engine, &first, &doc); err != nil {
			return "", nil, err
		}
		v.First = at(first)
		if doc == nil {
			return hex.EncodeToString(h), v, nil
		}
		r, err := db.UnpackRecord(doc)
		if err != nil {
			return "", nil, err
		}
		v.First, v.Tracks = r.First, r.Tracks
		return hex.EncodeToString(h), v, nil
	})
}

func (db *DB) loadMatches(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(key string, v *store.DumpedMatch) error {
		id := pratique.ComponentID(key)
		row, err := loadedRow(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := tx.exec(ctx, `INSERT OR REPLACE INTO matched (component, engine, first_at, found) VALUES (?, ?, ?, ?)`, row, v.Engine, nanos(v.First), len(v.Tracks) > 0); err != nil {
			return err
		}
		if err := db.unloadMatch(ctx, tx, row); err != nil || len(v.Tracks) == 0 {
			return err
		}
		var doc []byte
		var c pratique.Component
		err = tx.row(ctx, `SELECT doc FROM components WHERE id = ?`, []any{row}, &doc)
		if err == nil {
			err = db.decode(doc, &c)
		}
		if err != nil {
			return err
		}
		r := &packed.Record{Component: id, Name: c.Name, Ecosystem: c.Context.Type, History: store.History{First: v.First, Tracks: v.Tracks}}
		if doc, err = db.PackRecord(r, packAbove); err != nil {
			return err
		}
		db.spoken.add(row)
		if err := tx.exec(ctx, `INSERT INTO matches (component, doc) VALUES (?, ?)`, row, doc); err != nil {
			return err
		}
		for _, v := range r.Vulnerabilities() {
			if err := tx.exec(ctx, `INSERT INTO component_vulnerabilities (vulnerability, component) VALUES (?, ?) ON CONFLICT DO NOTHING`, hash64(v.ID), row); err != nil {
				return err
			}
		}
		return nil
	})
}

// unloadMatch removes what was said of a component.
func (db *DB) unloadMatch(ctx context.Context, tx *prepared, row int64) error {
	var doc []byte
	err := tx.row(ctx, `DELETE FROM matches WHERE component = ? RETURNING doc`, []any{row}, &doc)
	if err != nil {
		if isNotFound(err) {
			return nil
		}
		return err
	}
	r, err := db.UnpackRecord(doc)
	if err != nil {
		return err
	}
	for _, v := range r.Vulnerabilities() {
		if err := tx.exec(ctx, `DELETE FROM component_vulnerabilities WHERE vulnerability = ? AND component = ?`, hash64(v.ID), row); err != nil {
			return err
		}
	}
	return nil
}

func (db *DB) pageReports(ctx context.Context, after string) ([]store.Record, error) {
	return db.records(ctx, store.KindReports, `SELECT digest, doc, findings, past, engine FROM reports WHERE digest > ? ORDER BY digest LIMIT ?`, []any{after, dumpPage}, func(scan func(...any) error) (string, any, error) {
		var image digest.Digest
		var doc, findings, past []byte
		var v store.DumpedReport
		err := scan(&image, &doc, &findings, &past, &v.Engine)
		if err == nil {
			err = db.decode(doc, &v.Report)
		}
		if err == nil {
			v.Report.Findings, err = db.UnpackFindings(findings)
		}
		if err == nil && past != nil {
			err = db.decode(past, &v.Past)
		}
		return image.String(), v, err
	})
}

func (db *DB) loadReports(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(_ string, v *store.DumpedReport) error {
		head := v.Report
		head.Findings, head.Changes = nil, nil
		doc, err := db.encode(head)
		if err != nil {
			return err
		}
		var past []byte
		if len(v.Past) > 0 {
			if past, err = db.encode(v.Past); err != nil {
				return err
			}
		}
		r := &v.Report
		return tx.exec(ctx, `INSERT OR REPLACE INTO reports (digest, state, scanned_at, database_at, doc, findings, past, engine) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			r.Image.String(), string(r.State), nanos(r.ScannedAt), nanos(r.Engine.DatabaseAt), doc, db.PackFindings(r.Findings, packAbove), past, v.Engine)
	})
}
