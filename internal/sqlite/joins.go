package sqlite

import (
	"context"
	"database/sql"
	"slices"

	"pratique/internal/packed"
)

// joinsSize is how many bytes of joint chunks are kept in memory. What is not kept
// is read again.
const joinsSize = 32 << 20

// maxRereads is how often a reader begins anew because what it read was replaced
// meanwhile.
const maxRereads = 8

// Reports are joined by package packed, with rows as names.
type (
	roster = packed.Roster[int64]
	listed = packed.Listed[int64]
	chunk  = packed.Chunk[int64]
	part   = packed.Part[int64]
	image  = packed.Image[int64]
	joins  = packed.Memory[int64, int64]
	record = packed.Record
)

func (db *DB) joinImage(ctx context.Context, l roster) (*image, error) {
	parts, err := db.parts(ctx, l.IDs())
	if err != nil {
		return nil, err
	}
	return newImage(l, parts), nil
}

func newImage(l roster, parts []*part) *image { return packed.NewImage(parts, l.Since(), l.Runs) }

// forget drops what was made of records of these components, or may be made now of
// what was read before.
func (db *DB) forget(rows []int64) {
	if len(rows) == 0 {
		return
	}
	var changed spoken
	for _, r := range rows {
		changed.set(r)
	}
	db.joins.Forget(changed.has)
}

// parts returns the chunks of a list, joint. One that was replaced meanwhile is
// errChunkGone.
func (db *DB) parts(ctx context.Context, chunks []int64) ([]*part, error) {
	out := make([]*part, len(chunks))
	missing, gen := db.joins.Find(chunks, out)
	if len(missing) == 0 {
		return out, nil
	}
	if err := db.spoken.load(ctx, db); err != nil {
		return nil, err
	}
	docs, err := readChunks(ctx, db.query, db.codec, missing)
	if err != nil {
		return nil, err
	}
	var rows []int64
	for _, c := range docs {
		rows = append(rows, db.spoken.of(c.Components)...)
	}
	slices.Sort(rows)
	records := make(map[int64]*record, len(rows))
	unread := db.joins.Records(slices.Compact(rows), records)
	if err := readRecords(ctx, db.query, db.codec, unread, records); err != nil {
		return nil, err
	}
	for i, c := range chunks {
		if out[i] != nil {
			continue
		}
		p, err := packed.NewPart(docs[c], records)
		if err != nil {
			return nil, err
		}
		out[i] = p
		db.joins.Keep(c, p, gen)
	}
	return out, nil
}

// readRecords reads what was ever said of components.
func readRecords(ctx context.Context, query querier, docs codec, rows []int64, out map[int64]*record) error {
	for part := range slices.Chunk(rows, askAtOnce) {
		err := eachOf(ctx, query, `SELECT component, doc FROM matches WHERE component IN (SELECT value FROM json_each(?))`, part, func(scan func(...any) error) error {
			var row int64
			var doc sql.RawBytes
			if err := scan(&row, &doc); err != nil {
				return err
			}
			r, err := docs.UnpackRecord(doc)
			out[row] = r
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
