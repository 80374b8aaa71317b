package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

var _ store.Shelf = (*DB)(nil)

const selectWanted = `SELECT version, database, doc FROM wanted WHERE kind = ?`

// WantedDatabase implements store.Shelf.
func (db *DB) WantedDatabase(ctx context.Context, kind string) (store.WantedDatabase, error) {
	var w store.WantedDatabase
	var d string
	err := db.row(ctx, selectWanted, []any{kind}, &w.Version, &d, &w.Doc)
	w.Database = digest.Digest(d)
	if err != nil {
		return store.WantedDatabase{}, annotate(err, "wanted %s database", kind)
	}
	return w, nil
}

// PutWantedDatabase implements store.Shelf.
func (db *DB) PutWantedDatabase(ctx context.Context, kind string, before int64, next store.WantedDatabase) error {
	if next.Version <= before || next.Database == "" {
		return fmt.Errorf("wanted %s database: %w version %d after %d, digest %q", kind, pratique.ErrInvalid, next.Version, before, next.Database)
	}
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		var now int64
		err := txRow(tx)(ctx, `SELECT version FROM wanted WHERE kind = ?`, []any{kind}, &now)
		if err != nil && !isNotFound(err) {
			return err
		}
		if now != before {
			return store.ErrSuperseded
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO wanted (kind, version, database, doc) VALUES (?, ?, ?, ?)
			ON CONFLICT (kind) DO UPDATE SET version = excluded.version, database = excluded.database, doc = excluded.doc`,
			kind, next.Version, next.Database.String(), append([]byte{}, next.Doc...))
		return err
	}), "wanted %s database", kind)
}

// fenced fails when an engine is not to be begun, because another database is
// wanted.
func fenced(ctx context.Context, tx *sql.Tx, e pratique.Engine) error {
	var wanted string
	err := txRow(tx)(ctx, `SELECT database FROM wanted WHERE kind = ?`, []any{store.VulnerabilityDatabase}, &wanted)
	switch {
	case isNotFound(err):
		return nil
	case err != nil:
		return err
	case wanted != e.Database.String():
		return fmt.Errorf("database %s is wanted, not %s: %w", wanted, e.Database, store.ErrSuperseded)
	}
	return nil
}
