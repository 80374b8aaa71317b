package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// CreateException implements store.Exceptions.
func (db *DB) CreateException(ctx context.Context, e pratique.Exception) error {
	doc, err := db.encode(e)
	if err != nil {
		return annotate(err, "exception %s", e.ID)
	}
	defer db.stamps.Changed(store.ExceptionsKey)
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO exceptions (name, created, doc) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, e.ID, nanos(e.Created), doc)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n > 0 {
			return err
		}
		return store.ErrExists
	}), "exception %s", e.ID)
}

// RevokeException implements store.Exceptions.
func (db *DB) RevokeException(ctx context.Context, id, by, why string, when time.Time) (pratique.Exception, error) {
	defer db.stamps.Changed(store.ExceptionsKey)
	var e pratique.Exception
	err := db.write(ctx, func(tx *sql.Tx) error {
		var doc []byte
		err := found(tx.QueryRowContext(ctx, `SELECT doc FROM exceptions WHERE name = ?`, id).Scan(&doc))
		if err == nil {
			err = db.decode(doc, &e)
		}
		if err != nil || !e.Revoked.IsZero() {
			return err
		}
		e.Revoked, e.RevokedBy, e.RevokedWhy = when, by, why
		if doc, err = db.encode(e); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE exceptions SET doc = ? WHERE name = ?`, doc, id)
		return err
	})
	if err != nil {
		return pratique.Exception{}, annotate(err, "exception %s", id)
	}
	return e, nil
}

// Exceptions implements store.Exceptions.
func (db *DB) Exceptions(ctx context.Context) ([]pratique.Exception, error) {
	var out []pratique.Exception
	err := db.rows(ctx, `SELECT doc FROM exceptions ORDER BY created, name`, nil, func(scan func(...any) error) error {
		var doc []byte
		var e pratique.Exception
		if err := scan(&doc); err != nil {
			return err
		}
		if err := db.decode(doc, &e); err != nil {
			return err
		}
		out = append(out, e)
		return nil
	})
	if err != nil {
		return nil, annotate(err, "exceptions")
	}
	return out, nil
}

// Attestations implements store.Attestations.
func (db *DB) Attestations(ctx context.Context, image digest.Digest) (pratique.Attestations, error) {
	var doc []byte
	var a pratique.Attestations
	err := db.row(ctx, `SELECT doc FROM attestations WHERE digest = ?`, []any{image.String()}, &doc)
	if err == nil {
		err = db.decode(doc, &a)
	}
	if err != nil {
		return pratique.Attestations{}, annotate(err, "attestations of %s", image)
	}
	return a, nil
}

// PutAttestations implements store.Attestations.
func (db *DB) PutAttestations(ctx context.Context, a pratique.Attestations) error {
	doc, err := db.encode(a)
	if err != nil {
		return annotate(err, "attestations of %s", a.Image)
	}
	defer db.stamps.Changed(a.Image)
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO attestations (digest, doc) VALUES (?, ?) ON CONFLICT (digest) DO UPDATE SET doc = excluded.doc`, a.Image.String(), doc)
		return err
	}), "attestations of %s", a.Image)
}
