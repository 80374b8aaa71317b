package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/opencontainers/go-digest"
)

// unlinked selects those of a JSON array of digests that nothing names. A row of
// blobs is made with the first row of holders that leads to it, in one
// transaction, and neither is ever removed.
const unlinked = `SELECT d.value FROM json_each(?) d
	WHERE NOT EXISTS (SELECT 1 FROM images WHERE digest = d.value) AND NOT EXISTS (SELECT 1 FROM blobs WHERE digest = d.value)
	ORDER BY d.key`

// Unlinked implements store.Links.
func (db *DB) Unlinked(ctx context.Context, ds []digest.Digest) ([]digest.Digest, error) {
	if len(ds) == 0 {
		return nil, nil
	}
	asked, err := json.Marshal(ds)
	if err != nil {
		return nil, annotate(err, "unlinked blobs")
	}
	var out []digest.Digest
	err = db.rows(ctx, unlinked, []any{string(asked)}, func(scan func(...any) error) error {
		var s string
		if err := scan(&s); err != nil {
			return err
		}
		out = append(out, digest.Digest(s))
		return nil
	})
	if err != nil {
		return nil, annotate(err, "unlinked blobs")
	}
	return out, nil
}

// Discard implements store.Links. It holds the write lock while remove runs, and
// writes nothing itself.
func (db *DB) Discard(ctx context.Context, d digest.Digest, remove func() error) error {
	asked, err := json.Marshal([]digest.Digest{d})
	if err != nil {
		return annotate(err, "discard %s", d)
	}
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		var one string
		switch err := tx.QueryRowContext(ctx, unlinked, string(asked)).Scan(&one); {
		case errors.Is(err, sql.ErrNoRows):
			return nil
		case err != nil:
			return err
		}
		return remove()
	}), "discard %s", d)
}
