package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/packed"
)

// errChunkGone says that a chunk was replaced since it was named: whoever read its
// name reads again.
var errChunkGone = errors.New("occurrences were replaced meanwhile")

func packRoster(l roster) []byte {
	p := packed.NewPacker()
	packed.PackRoster(p, l, (*packed.Packer).Int)
	return p.Bytes()
}

func (c codec) unpackRoster(doc []byte) (roster, error) {
	u, err := c.Unpack(doc)
	if err != nil {
		return roster{}, err
	}
	l, err := packed.UnpackRoster(u, (*packed.Unpacker).Int)
	if err != nil {
		return roster{}, err
	}
	return l, u.Err()
}

func (c codec) unpackChunk(doc []byte) (*chunk, error) {
	u, err := c.Unpack(doc)
	if err != nil {
		return nil, err
	}
	return packed.UnpackChunk(u, (*packed.Unpacker).Int)
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
	chunks, err := readChunks(ctx, db.query, db.codec, l.IDs())
	if err != nil {
		return nil, nil, err
	}
	var rows []int64
	for _, c := range chunks {
		rows = append(rows, c.Components...)
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
	parts := make([][]pratique.Occurrence, len(l.Chunks))
	for i, at := range l.Chunks {
		c := chunks[at.ID]
		err := c.Each(func(int) bool { return true }, func(component, _ int, o pratique.Occurrence) {
			o.Component = ids[c.Components[component]]
			parts[i] = append(parts[i], o)
		})
		if err != nil {
			return nil, nil, err
		}
	}
	os, err := packed.Weave(parts, l.Runs)
	return os, cs, err
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
