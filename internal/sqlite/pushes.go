package sqlite

import (
	"context"
	"database/sql"

	"pratique/store"
)

var _ store.Pushes = (*DB)(nil)

// PutPushes implements store.Pushes.
func (db *DB) PutPushes(ctx context.Context, ps []store.Push) error {
	docs := make([][]byte, len(ps))
	for i, p := range ps {
		var err error
		if docs[i], err = db.encode(p); err != nil {
			return annotate(err, "push of %s", p.Ref)
		}
	}
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		for i, p := range ps {
			if _, err := tx.ExecContext(ctx, `INSERT INTO pushes (name, at, doc) VALUES (?, ?, ?)
				ON CONFLICT (name) DO UPDATE SET at = excluded.at, doc = excluded.doc`, p.Key(), nanos(p.At), docs[i]); err != nil {
				return err
			}
		}
		return nil
	}), "open pushes")
}

// OpenPushes implements store.Pushes.
func (db *DB) OpenPushes(ctx context.Context, limit int) ([]store.Push, error) {
	var out []store.Push
	err := db.rows(ctx, `SELECT doc FROM pushes ORDER BY at, name LIMIT ?`, []any{limit}, func(scan func(...any) error) error {
		var doc []byte
		if err := scan(&doc); err != nil {
			return err
		}
		var p store.Push
		if err := db.decode(doc, &p); err != nil {
			return err
		}
		out = append(out, p)
		return nil
	})
	if err != nil {
		return nil, annotate(err, "open pushes")
	}
	return out, nil
}

// ClosePush implements store.Pushes.
func (db *DB) ClosePush(ctx context.Context, p store.Push) error {
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM pushes WHERE name = ? AND at = ?`, p.Key(), nanos(p.At))
		return err
	}), "close push of %s", p.Ref)
}
