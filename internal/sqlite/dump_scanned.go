package sqlite

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/packed"
	"pratique/store"
)

func (db *DB) pageScanned(ctx context.Context, after string) ([]store.Record, error) {
	type row struct {
		image            digest.Digest
		latest, standing *packed.Roster[int64]
	}
	var rows []row
	named := make(map[int64]bool)
	err := db.rows(ctx, `SELECT digest, latest, standing FROM scanned WHERE digest > ? ORDER BY digest LIMIT ?`, []any{after, dumpPage}, func(scan func(...any) error) error {
		var r row
		var latest, standing []byte
		err := scan(&r.image, &latest, &standing)
		if err == nil {
			r.latest, err = db.openRoster(latest, named)
		}
		if err == nil {
			r.standing, err = db.openRoster(standing, named)
		}
		rows = append(rows, r)
		return err
	})
	if err != nil {
		return nil, err
	}
	keys, err := db.chunkKeys(ctx, named)
	if err != nil {
		return nil, err
	}
	out := make([]store.Record, len(rows))
	for i, r := range rows {
		v := store.DumpedScanned{Latest: *dumpRoster(r.latest, keys), Standing: dumpRoster(r.standing, keys)}
		if out[i], err = store.NewRecord(store.KindScanned, r.image.String(), v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// openRoster reads a roster, and notes which chunks it names; nil is nil.
func (db *DB) openRoster(doc []byte, named map[int64]bool) (*packed.Roster[int64], error) {
	if doc == nil {
		return nil, nil //nolint:nilnil // an image without a report has none
	}
	u, err := db.Unpack(doc)
	if err != nil {
		return nil, err
	}
	l, err := packed.UnpackRoster(u, (*packed.Unpacker).Int)
	for _, c := range l.Chunks {
		named[c.ID] = true
	}
	return &l, err
}

// chunkKeys are the keys of chunks' records; one that is not there is an error.
func (db *DB) chunkKeys(ctx context.Context, named map[int64]bool) (map[int64]string, error) {
	ids := make([]int64, 0, len(named))
	for id := range named {
		ids = append(ids, id)
	}
	out := make(map[int64]string, len(ids))
	err := eachOf(ctx, db.query, `SELECT id, hash FROM chunks WHERE id IN (SELECT value FROM json_each(?))`, ids, func(scan func(...any) error) error {
		var id int64
		var h []byte
		err := scan(&id, &h)
		out[id] = hex.EncodeToString(h)
		return err
	})
	if err == nil && len(out) < len(ids) {
		err = fmt.Errorf("%d chunks of occurrences are missing from the state file", len(ids)-len(out))
	}
	return out, err
}

func dumpRoster(l *packed.Roster[int64], keys map[int64]string) *store.DumpedRoster {
	if l == nil {
		return nil
	}
	out := new(store.DumpedRoster)
	for _, c := range l.Chunks {
		out.Chunks = append(out.Chunks, store.DumpedListed{Chunk: keys[c.ID], Since: c.Since})
	}
	for _, r := range l.Runs {
		out.Runs = append(out.Runs, [2]int{r.Chunk, r.Length})
	}
	return out
}

func (db *DB) loadScanned(ctx context.Context, tx *prepared, rs []store.Record) error {
	ids := make(map[string]int64)
	return loadEach(rs, func(key string, v *store.DumpedScanned) error {
		latest, err := loadRoster(ctx, tx, &v.Latest, ids)
		if err != nil {
			return err
		}
		standing, err := loadRoster(ctx, tx, v.Standing, ids)
		if err != nil {
			return err
		}
		var row int64
		if err := tx.row(ctx, `INSERT INTO scanned (digest, latest, standing) VALUES (?, ?, ?)
			ON CONFLICT (digest) DO UPDATE SET latest = excluded.latest, standing = excluded.standing RETURNING id`, []any{key, latest, standing}, &row); err != nil {
			return err
		}
		// Chunks that it had and that it has no more stay: of the same source there are
		// none, and a row too many makes an image be looked at in vain.
		for _, l := range []*store.DumpedRoster{&v.Latest, v.Standing} {
			if l == nil {
				continue
			}
			for _, c := range l.Chunks {
				if err := tx.exec(ctx, `INSERT INTO chunk_images (chunk, image) VALUES (?, ?) ON CONFLICT DO NOTHING`, ids[c.Chunk], row); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// loadRoster packs a roster with the ids that its chunks have here.
func loadRoster(ctx context.Context, tx *prepared, l *store.DumpedRoster, ids map[string]int64) ([]byte, error) {
	if l == nil {
		return nil, nil
	}
	var out packed.Roster[int64]
	for _, c := range l.Chunks {
		id, known := ids[c.Chunk]
		if !known {
			h, err := packed.Hash(pratique.ComponentID(c.Chunk))
			if err == nil {
				err = tx.row(ctx, `SELECT id FROM chunks WHERE hash = ?`, []any{h}, &id)
			}
			if err != nil {
				return nil, fmt.Errorf("%w: chunk %s: %w", pratique.ErrInvalid, c.Chunk, err)
			}
			ids[c.Chunk] = id
		}
		out.Chunks = append(out.Chunks, packed.Listed[int64]{ID: id, Since: c.Since})
	}
	for _, r := range l.Runs {
		if r[0] < 0 || r[0] >= len(l.Chunks) {
			return nil, fmt.Errorf("%w: run of chunk %d", pratique.ErrInvalid, r[0])
		}
		out.Runs = append(out.Runs, packed.Run{Chunk: r[0], Length: r[1]})
	}
	p := packed.NewPacker()
	packed.PackRoster(p, out, (*packed.Packer).Int)
	return p.Bytes(), nil
}
