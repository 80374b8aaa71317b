package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// errChunkGone says that a chunk was replaced since it was named: whoever read its
// name reads again.
var errChunkGone = errors.New("occurrences were replaced meanwhile")

// chunkDoc is the occurrences of one layer in an image, in their order.
type chunkDoc struct {
	hash       []byte
	layer      digest.Digest
	components []pratique.ComponentID // distinct, in order of first use
	records    []byte                 // packed: how many, then index of component and occurrence each
}

// split makes chunks of occurrences, by layer in order of first use, and says how
// they interleave: runs of a chunk's index and a number of occurrences; nil when
// the chunks follow one another.
func split(os []pratique.Occurrence) ([]chunkDoc, []run, error) {
	type part struct {
		chunkDoc
		index map[pratique.ComponentID]int
		n     int
		body  packer
	}
	var parts []*part
	byLayer := make(map[digest.Digest]int)
	var runs []run
	for i := range os {
		o := &os[i]
		at, known := byLayer[o.Layer]
		if !known {
			at = len(parts)
			byLayer[o.Layer] = at
			parts = append(parts, &part{chunkDoc: chunkDoc{layer: o.Layer}, index: make(map[pratique.ComponentID]int)})
		}
		if n := len(runs); n > 0 && runs[n-1].chunk == at {
			runs[n-1].length++
		} else {
			runs = append(runs, run{at, 1})
		}
		p := parts[at]
		c, known := p.index[o.Component]
		if !known {
			c = len(p.components)
			p.index[o.Component] = c
			p.components = append(p.components, o.Component)
		}
		p.n++
		p.body.uint(c)
		p.body.occurrence(o)
	}
	out := make([]chunkDoc, len(parts))
	for i, p := range parts {
		named := newPacker()
		named.str(p.layer.String())
		for _, id := range p.components {
			h, err := hash(id)
			if err != nil {
				return nil, nil, err
			}
			named.raw(h)
		}
		var records packer
		records.uint(p.n)
		records.raw(p.body.b)
		named.raw(records.b)
		sum := sha256.Sum256(named.b)
		p.hash, p.records = sum[:16], records.b
		out[i] = p.chunkDoc
	}
	if len(runs) == len(parts) {
		runs = nil
	}
	return out, runs, nil
}

// run is a number of occurrences in a row from one chunk of a list.
type run struct{ chunk, length int }

// roster is which chunks an image has, and since when each is in force there.
type roster struct {
	chunks []listed
	runs   []run
}

type listed struct {
	id    int64
	since time.Time
}

func packRoster(l roster) []byte {
	p := newPacker()
	p.uint(len(l.chunks))
	for _, c := range l.chunks {
		p.int(c.id)
		p.at(c.since)
	}
	p.uint(len(l.runs))
	for _, r := range l.runs {
		p.uint(r.chunk)
		p.uint(r.length)
	}
	return p.b
}

func (c codec) unpackRoster(doc []byte) (l roster, err error) {
	u, err := c.open(doc)
	if err != nil {
		return roster{}, err
	}
	l.chunks = make([]listed, u.count())
	for i := range l.chunks {
		l.chunks[i] = listed{u.int(), u.at()}
	}
	l.runs = make([]run, u.count())
	for i := range l.runs {
		l.runs[i] = run{u.uint(), u.uint()}
		if l.runs[i].chunk >= len(l.chunks) {
			return roster{}, errPacked
		}
	}
	return l, u.err()
}

// same reports whether two lists are of the same occurrences.
func (l roster) same(o roster) bool {
	return slices.EqualFunc(l.chunks, o.chunks, func(a, b listed) bool { return a.id == b.id }) && slices.Equal(l.runs, o.runs)
}

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
	chunks, runs, err := split(os)
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

func (w *imageWriter) put(image digest.Digest, docs []chunkDoc, runs []run) error {
	next := roster{runs: runs}
	for i := range docs {
		id, err := w.chunk(&docs[i])
		if err != nil {
			return err
		}
		next.chunks = append(next.chunks, listed{id: id})
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
		return w.link(row, nil, next.chunks)
	case err != nil:
		return err
	}
	before, err := w.db.unpackRoster(latest)
	if err != nil || before.same(next) {
		return err
	}
	if err := w.tx.exec(w.ctx, `UPDATE scanned SET latest = ? WHERE id = ?`, packRoster(next), row); err != nil {
		return err
	}
	keep := next.chunks
	if standing != nil {
		stands, err := w.db.unpackRoster(standing)
		if err != nil {
			return err
		}
		keep = append(slices.Clone(keep), stands.chunks...)
	}
	return w.link(row, before.chunks, keep)
}

// link makes after the chunks that are known to be in the image, and removes those
// that were and are in no image any more.
func (w *imageWriter) link(image int64, before, after []listed) error {
	kept := make(map[int64]bool, len(after))
	for _, c := range after {
		if kept[c.id] {
			continue
		}
		kept[c.id] = true
		if err := w.tx.exec(w.ctx, `INSERT INTO chunk_images (chunk, image) VALUES (?, ?) ON CONFLICT DO NOTHING`, c.id, image); err != nil {
			return err
		}
	}
	for _, c := range before {
		if kept[c.id] {
			continue
		}
		if err := w.tx.exec(w.ctx, `DELETE FROM chunk_images WHERE chunk = ? AND image = ?`, c.id, image); err != nil {
			return err
		}
		var one int
		err := w.tx.row(w.ctx, `SELECT 1 FROM chunk_images WHERE chunk = ? LIMIT 1`, []any{c.id}, &one)
		if !isNotFound(err) {
			if err != nil {
				return err
			}
			continue
		}
		if err := w.discard(c.id); err != nil {
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
	for _, c := range docs[chunk].components {
		if err := w.tx.exec(w.ctx, `DELETE FROM component_chunks WHERE component = ? AND chunk = ?`, c, chunk); err != nil {
			return err
		}
	}
	err = w.tx.exec(w.ctx, `DELETE FROM chunks WHERE id = ?`, chunk)
	return err
}

// chunk returns the id of a chunk, made on first use with its components. Those of
// its components need nothing more: a chunk is stored with them.
func (w *imageWriter) chunk(d *chunkDoc) (int64, error) {
	var id int64
	err := w.tx.row(w.ctx, `SELECT id FROM chunks WHERE hash = ?`, []any{d.hash}, &id)
	if !isNotFound(err) {
		for _, c := range d.components {
			delete(w.given, c)
		}
		return id, err
	}
	p := newPacker()
	p.str(d.layer.String())
	p.uint(len(d.components))
	ids := make([]int64, len(d.components))
	for i, c := range d.components {
		if ids[i], err = w.component(c, w.given[c]); err != nil {
			return 0, err
		}
		p.int(ids[i])
	}
	p.raw(d.records)
	if err := w.tx.row(w.ctx, `INSERT INTO chunks (hash, doc) VALUES (?, ?) RETURNING id`, []any{d.hash, w.db.close(p)}, &id); err != nil {
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
	h, err := hash(id)
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

// chunk is a chunk as stored.
type chunk struct {
	layer      digest.Digest
	components []int64
	records    unpacker
}

// each calls f for the occurrences of the components that want says, with the
// component's index and the occurrence's place in the chunk.
func (c *chunk) each(want func(component int) bool, f func(component, seq int, o pratique.Occurrence)) error {
	u := c.records
	n := u.count()
	for i := range n {
		at := u.uint()
		if at < 0 || at >= len(c.components) {
			return errPacked
		}
		if !want(at) {
			for range 4 {
				u.skip()
			}
			continue
		}
		o := u.occurrence()
		o.Layer = c.layer
		f(at, i, o)
	}
	return u.err()
}

func (c codec) unpackChunk(doc []byte) (*chunk, error) {
	u, err := c.open(doc)
	if err != nil {
		return nil, err
	}
	out := &chunk{layer: digest.Digest(u.str())}
	out.components = make([]int64, u.count())
	for i := range out.components {
		out.components[i] = u.int()
	}
	out.records = *u
	if u.bad {
		return nil, errPacked
	}
	return out, nil
}

// querier is QueryContext of a transaction or of a pool.
type querier func(ctx context.Context, query string, args ...any) (*sql.Rows, error)

// readChunks reads chunks; one that is not there is errChunkGone.
func readChunks(ctx context.Context, query querier, docs codec, ids []int64) (map[int64]*chunk, error) {
	out := make(map[int64]*chunk, len(ids))
	err := eachOf(ctx, query, `SELECT id, doc FROM chunks WHERE id IN (SELECT value FROM json_each(?))`, ids, func(scan func(...any) error) error {
		var id int64
		var doc sql.RawBytes
		if err := scan(&id, &doc); err != nil {
			return err
		}
		c, err := docs.unpackChunk(doc)
		out[id] = c
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if out[id] == nil {
			return nil, errChunkGone
		}
	}
	return out, nil
}

// eachOf runs a query whose only argument is a JSON list, and hands over its rows.
func eachOf[T any](ctx context.Context, query querier, q string, of []T, each func(scan func(...any) error) error) error {
	if len(of) == 0 {
		return nil
	}
	asked, err := json.Marshal(of)
	if err != nil {
		return err
	}
	rs, err := query(ctx, q, string(asked))
	if err != nil {
		return err
	}
	defer rs.Close()
	for rs.Next() {
		if err := each(rs.Scan); err != nil {
			return err
		}
	}
	return rs.Err()
}

// Occurrences implements store.Components.
func (db *DB) Occurrences(ctx context.Context, image digest.Digest) ([]pratique.Occurrence, map[pratique.ComponentID]pratique.Component, error) {
	for range maxRereads {
		os, cs, err := db.occurrences(ctx, image)
		if !errors.Is(err, errChunkGone) {
			return os, cs, annotate(err, "components of %s", image)
		}
	}
	return nil, nil, annotate(errChunkGone, "components of %s", image)
}

func (db *DB) occurrences(ctx context.Context, image digest.Digest) ([]pratique.Occurrence, map[pratique.ComponentID]pratique.Component, error) {
	var latest []byte
	if err := db.row(ctx, `SELECT latest FROM scanned WHERE digest = ?`, []any{image.String()}, &latest); err != nil {
		return nil, nil, err
	}
	l, err := db.unpackRoster(latest)
	if err != nil {
		return nil, nil, err
	}
	chunks, err := readChunks(ctx, db.query, db.codec, l.ids())
	if err != nil {
		return nil, nil, err
	}
	var rows []int64
	for _, c := range chunks {
		rows = append(rows, c.components...)
	}
	slices.Sort(rows)
	byRow, err := db.componentsByRow(ctx, slices.Compact(rows))
	if err != nil {
		return nil, nil, err
	}
	cs := make(map[pratique.ComponentID]pratique.Component, len(byRow))
	ids := make(map[int64]pratique.ComponentID, len(byRow))
	for row, c := range byRow {
		ids[row] = c.ID()
		cs[ids[row]] = c
	}
	parts := make([][]pratique.Occurrence, len(l.chunks))
	for i, at := range l.chunks {
		c := chunks[at.id]
		err := c.each(func(int) bool { return true }, func(component, _ int, o pratique.Occurrence) {
			o.Component = ids[c.components[component]]
			parts[i] = append(parts[i], o)
		})
		if err != nil {
			return nil, nil, err
		}
	}
	os, err := weave(parts, l.runs)
	return os, cs, err
}

// weave puts what the chunks of a list have into the image's order.
func weave[T any](parts [][]T, runs []run) ([]T, error) {
	if len(runs) == 0 {
		return slices.Concat(parts...), nil
	}
	var out []T
	for _, r := range runs {
		if r.length > len(parts[r.chunk]) {
			return nil, errPacked
		}
		out = append(out, parts[r.chunk][:r.length]...)
		parts[r.chunk] = parts[r.chunk][r.length:]
	}
	return out, nil
}

func (l roster) ids() []int64 {
	out := make([]int64, len(l.chunks))
	for i, c := range l.chunks {
		out[i] = c.id
	}
	return out
}

// componentsByRow reads components; one that is not there is an error.
func (db *DB) componentsByRow(ctx context.Context, rows []int64) (map[int64]pratique.Component, error) {
	out := make(map[int64]pratique.Component, len(rows))
	err := eachOf(ctx, db.query, `SELECT id, doc FROM components WHERE id IN (SELECT value FROM json_each(?))`, rows, func(scan func(...any) error) error {
		var id int64
		var doc sql.RawBytes
		if err := scan(&id, &doc); err != nil {
			return err
		}
		var c pratique.Component
		err := db.decode(doc, &c)
		out[id] = c
		return err
	})
	if err == nil && len(out) != len(rows) { // an error is never a shorter list
		err = fmt.Errorf("%d components are missing from the state file", len(rows)-len(out))
	}
	return out, err
}

// query is QueryContext on the pool for reading, with a prepared statement.
func (db *DB) query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	st, err := db.stmt(ctx, query) //nolint:sqlclosecheck // kept until Close, see stmt
	if err != nil {
		return nil, err
	}
	return st.QueryContext(ctx, args...)
}
