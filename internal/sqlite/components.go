package sqlite

import (
	"context"
	"database/sql"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Inventory implements store.Inventories.
func (db *DB) Inventory(ctx context.Context, d digest.Digest, analyzer string) (pratique.Inventory, error) {
	var doc []byte
	var inv pratique.Inventory
	err := db.row(ctx, `SELECT doc FROM inventories WHERE digest = ? AND analyzer = ?`, []any{d.String(), analyzer}, &doc)
	if err == nil {
		err = db.decode(doc, &inv)
	}
	if err != nil {
		return pratique.Inventory{}, annotate(err, "inventory of %s", d)
	}
	return inv, nil
}

// PutInventory implements store.Inventories.
func (db *DB) PutInventory(ctx context.Context, d digest.Digest, analyzer string, inv pratique.Inventory) error {
	doc, err := db.encode(inv)
	if err != nil {
		return annotate(err, "inventory of %s", d)
	}
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO inventories (digest, analyzer, doc) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, d.String(), analyzer, doc)
		return err
	}), "inventory of %s", d)
}
