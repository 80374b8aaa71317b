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
