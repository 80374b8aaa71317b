package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/packed"
)

// PutImage implements store.Components.
func (db *DB) PutImage(ctx context.Context, image digest.Digest, cs []pratique.Component, os []pratique.Occurrence) error {
	given := make(map[pratique.ComponentID]*pratique.Component, len(cs))
	for i := range cs {
		given[cs[i].ID()] = &cs[i]
	}
	for _, o := range os {
		if _, ok := given[o.Component]; !ok {
			return fmt.Errorf("components of %s: %w: occurrence of component %s, which is not among them", image, pratique.ErrInvalid, o.Component)
		}
	}
	chunks, runs, err := packed.Split(os)
	if err != nil {
		return annotate(err, "components of %s", image)
	}
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		w := &imageWriter{db: db, ctx: ctx, tx: prepare(tx), given: given}
		return w.put(image, chunks, runs)
	}), "components of %s", image)
}

// imageWriter stores one image in a transaction.
type imageWriter struct {
	db    *DB
	ctx   context.Context //nolint:containedctx // of one call
	tx    *prepared
	given map[pratique.ComponentID]*pratique.Component
}

func (w *imageWriter) put(image digest.Digest, docs []packed.NewChunk, runs []packed.Run) error {
	next := roster{Runs: runs}
	for i := range docs {
		id, err := w.chunk(&docs[i])
		if err != nil {
			return err
		}
		next.Chunks = append(next.Chunks, listed{ID: id})
	}
	for id, c := range w.given { // of no occurrence
		if _, err := w.component(id, c); err != nil {
			return err
		}
	}
	var row int64
	var latest, standing []byte
	err := w.tx.row(w.ctx, `SELECT id, latest, standing FROM scanned WHERE digest = ?`, []any{image.String()}, &row, &latest, &standing)
	switch {
	case isNotFound(err):
		if err := w.tx.row(w.ctx, `INSERT INTO scanned (digest, latest) VALUES (?, ?) RETURNING id`, []any{image.String(), packRoster(next)}, &row); err != nil {
			return err
		}
		return w.link(row, nil, next.Chunks)
	case err != nil:
		return err
	}
	before, err := w.db.unpackRoster(latest)
	if err != nil || before.Same(next) {
		return err
	}
	if err := w.tx.exec(w.ctx, `UPDATE scanned SET latest = ? WHERE id = ?`, packRoster(next), row); err != nil {
		return err
	}
	keep := next.Chunks
	if standing != nil {
		stands, err := w.db.unpackRoster(standing)
		if err != nil {
			return err
		}
		keep = append(slices.Clone(keep), stands.Chunks...)
	}
	return w.link(row, before.Chunks, keep)
}

// link makes after the chunks that are known to be in the image, and removes those
// that were and are in no image any more.
func (w *imageWriter) link(image int64, before, after []listed) error {
	kept := make(map[int64]bool, len(after))
	for _, c := range after {
		if kept[c.ID] {
			continue
		}
		kept[c.ID] = true
		if err := w.tx.exec(w.ctx, `INSERT INTO chunk_images (chunk, image) VALUES (?, ?) ON CONFLICT DO NOTHING`, c.ID, image); err != nil {
			return err
		}
	}
	for _, c := range before {
		if kept[c.ID] {
			continue
		}
		if err := w.tx.exec(w.ctx, `DELETE FROM chunk_images WHERE chunk = ? AND image = ?`, c.ID, image); err != nil {
			return err
		}
		var one int
		err := w.tx.row(w.ctx, `SELECT 1 FROM chunk_images WHERE chunk = ? LIMIT 1`, []any{c.ID}, &one)
		if !isNotFound(err) {
			if err != nil {
				return err
			}
			continue
		}
		if err := w.discard(c.ID); err != nil {
			return err
		}
	}
	return nil
}

func (w *imageWriter) discard(chunk int64) error {
	docs, err := readChunks(w.ctx, w.tx.QueryContext, w.db.codec, []int64{chunk})
	if err != nil {
		return err
	}
	for _, c := range docs[chunk].Components {
		if err := w.tx.exec(w.ctx, `DELETE FROM component_chunks WHERE component = ? AND chunk = ?`, c, chunk); err != nil {
			return err
		}
	}
	err = w.tx.exec(w.ctx, `DELETE FROM chunks WHERE id = ?`, chunk)
	return err
}

// chunk returns the id of a chunk, made on first use with its components. Those of
// its components need nothing more: a chunk is stored with them.
func (w *imageWriter) chunk(d *packed.NewChunk) (int64, error) {
	var id int64
	err := w.tx.row(w.ctx, `SELECT id FROM chunks WHERE hash = ?`, []any{[]byte(d.Hash)}, &id)
	if !isNotFound(err) {
		for _, c := range d.Components {
			delete(w.given, c)
		}
		return id, err
	}
	ids := make([]int64, len(d.Components))
	for i, c := range d.Components {
		if ids[i], err = w.component(c, w.given[c]); err != nil {
			return 0, err
		}
	}
	p := packed.NewPacker()
	packed.PackChunk(p, d, ids, (*packed.Packer).Int)
	if err := w.tx.row(w.ctx, `INSERT INTO chunks (hash, doc) VALUES (?, ?) RETURNING id`, []any{[]byte(d.Hash), w.db.Pack(p, packAbove)}, &id); err != nil {
		return 0, err
	}
	for _, c := range ids {
		if err := w.tx.exec(w.ctx, `INSERT INTO component_chunks (component, chunk) VALUES (?, ?)`, c, id); err != nil {
			return 0, err
		}
	}
	return id, nil
}

// component returns the id of a component, made on first use with its keys.
func (w *imageWriter) component(id pratique.ComponentID, c *pratique.Component) (int64, error) {
	h, err := packed.Hash(id)
	if err != nil {
		return 0, err
	}
	var row int64
	err = w.tx.row(w.ctx, `SELECT id FROM components WHERE hash = ?`, []any{h}, &row)
	if !isNotFound(err) {
		return row, err
	}
	doc, err := w.db.encode(c)
	if err != nil {
		return 0, err
	}
	if err := w.tx.row(w.ctx, `INSERT INTO components (hash, doc) VALUES (?, ?) RETURNING id`, []any{h, doc}, &row); err != nil {
		return 0, err
	}
	return row, putKeys(w.ctx, w.tx, row, c)
}

func putKeys(ctx context.Context, tx *prepared, component int64, c *pratique.Component) error {
	for _, k := range c.Keys() {
		if err := tx.exec(ctx, `INSERT INTO component_keys (key, component) VALUES (?, ?) ON CONFLICT DO NOTHING`, hash64(k), component); err != nil {
			return err
		}
	}
	return nil
}
