package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

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

// PutImage implements store.Components.
func (db *DB) PutImage(ctx context.Context, image digest.Digest, cs []pratique.Component, os []pratique.Occurrence) error {
	docs := make(map[pratique.ComponentID][]byte, len(cs))
	for _, c := range cs {
		doc, err := db.encode(c)
		if err != nil {
			return annotate(err, "components of %s", image)
		}
		docs[c.ID()] = doc
	}
	for _, o := range os {
		if _, ok := docs[o.Component]; !ok {
			return fmt.Errorf("components of %s: %w: occurrence of component %s, which is not among them", image, pratique.ErrInvalid, o.Component)
		}
	}
	doc, err := db.encode(os)
	if err != nil {
		return annotate(err, "components of %s", image)
	}
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		id, earlier, err := db.earlierComponents(ctx, tx, image)
		if err != nil {
			return err
		}
		if id == 0 {
			err = tx.QueryRowContext(ctx, `INSERT INTO occurrences (digest, doc) VALUES (?, ?) RETURNING id`, image.String(), doc).Scan(&id)
		} else {
			_, err = tx.ExecContext(ctx, `UPDATE occurrences SET doc = ? WHERE id = ?`, doc, id)
		}
		if err != nil {
			return err
		}
		if err := putComponents(ctx, tx, id, docs, earlier); err != nil {
			return err
		}
		for cid := range earlier { // in this image no more
			h, err := hash(cid)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM component_images WHERE image = ? AND component = (SELECT id FROM components WHERE hash = ?)`, id, h); err != nil {
				return err
			}
		}
		return nil
	}), "components of %s", image)
}

// earlierComponents returns the image's id, 0 if new, and its components.
func (db *DB) earlierComponents(ctx context.Context, tx *sql.Tx, image digest.Digest) (int64, map[pratique.ComponentID]bool, error) {
	var id int64
	var doc []byte
	err := found(tx.QueryRowContext(ctx, `SELECT id, doc FROM occurrences WHERE digest = ?`, image.String()).Scan(&id, &doc))
	if isNotFound(err) {
		return 0, nil, nil
	}
	var os []pratique.Occurrence
	if err == nil {
		err = db.decode(doc, &os)
	}
	cids := make(map[pratique.ComponentID]bool, len(os))
	for _, o := range os {
		cids[o.Component] = true
	}
	return id, cids, err
}

// putComponents stores the components that the image did not have, and takes
// those that it keeps out of earlier.
func putComponents(ctx context.Context, tx *sql.Tx, image int64, docs map[pratique.ComponentID][]byte, earlier map[pratique.ComponentID]bool) error {
	put, err := tx.PrepareContext(ctx, `INSERT INTO components (hash, doc) VALUES (?, ?) ON CONFLICT (hash) DO NOTHING`)
	if err != nil {
		return err
	}
	defer put.Close()
	link, err := tx.PrepareContext(ctx, `INSERT INTO component_images (component, image) SELECT id, ? FROM components WHERE hash = ? ON CONFLICT DO NOTHING`)
	if err != nil {
		return err
	}
	defer link.Close()
	for cid, doc := range docs {
		if earlier[cid] {
			delete(earlier, cid)
			continue
		}
		h, err := hash(cid)
		if err != nil {
			return err
		}
		if _, err := put.ExecContext(ctx, h, doc); err != nil {
			return err
		}
		if _, err := link.ExecContext(ctx, image, h); err != nil {
			return err
		}
	}
	return nil
}

// Occurrences implements store.Components.
func (db *DB) Occurrences(ctx context.Context, image digest.Digest) ([]pratique.Occurrence, map[pratique.ComponentID]pratique.Component, error) {
	var doc []byte
	var os []pratique.Occurrence
	err := db.row(ctx, `SELECT doc FROM occurrences WHERE digest = ?`, []any{image.String()}, &doc)
	if err == nil {
		err = db.decode(doc, &os)
	}
	if err != nil {
		return nil, nil, annotate(err, "components of %s", image)
	}
	ids := make([]pratique.ComponentID, len(os))
	for i, o := range os {
		ids[i] = o.Component
	}
	cs := make(map[pratique.ComponentID]pratique.Component, len(ids))
	err = db.byHash(ctx, `SELECT c.hash, c.doc FROM json_each(?1) j JOIN components c ON c.hash = unhex(j.value)`, ids, nil, func(id pratique.ComponentID, doc []byte) error {
		var c pratique.Component
		if err := db.decode(doc, &c); err != nil {
			return err
		}
		cs[id] = c
		return nil
	})
	if err == nil {
		for _, o := range os {
			if _, ok := cs[o.Component]; !ok { // an error is never a shorter list
				err = fmt.Errorf("component %s is missing from the state file", o.Component)
			}
		}
	}
	if err != nil {
		return nil, nil, annotate(err, "components of %s", image)
	}
	return os, cs, nil
}

// Matches implements store.Components.
func (db *DB) Matches(ctx context.Context, database digest.Digest, ids []pratique.ComponentID) (map[pratique.ComponentID][]pratique.Vulnerability, error) {
	ms := make(map[pratique.ComponentID][]pratique.Vulnerability, len(ids))
	err := db.byHash(ctx, `SELECT m.hash, m.doc FROM json_each(?1) j JOIN matches m ON m.hash = unhex(j.value)
		WHERE m.database = (SELECT id FROM databases WHERE digest = ?2)`, ids, []any{database.String()}, func(id pratique.ComponentID, doc []byte) error {
		vs := []pratique.Vulnerability{}
		if err := db.decode(doc, &vs); err != nil {
			return err
		}
		ms[id] = vs
		return nil
	})
	if err != nil {
		return nil, annotate(err, "matches")
	}
	return ms, nil
}

// PutMatches implements store.Components. A component keeps the results of one
// database, the last put.
func (db *DB) PutMatches(ctx context.Context, database digest.Digest, ms map[pratique.ComponentID][]pratique.Vulnerability) error {
	docs := make(map[pratique.ComponentID][]byte, len(ms))
	for id, vs := range ms {
		if vs == nil {
			vs = []pratique.Vulnerability{}
		}
		doc, err := db.encode(vs)
		if err != nil {
			return annotate(err, "matches")
		}
		docs[id] = doc
	}
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		dbID, err := intern(ctx, tx, `SELECT id FROM databases WHERE digest = ?`, `INSERT INTO databases (digest) VALUES (?)`, database.String())
		if err != nil {
			return err
		}
		put, err := tx.PrepareContext(ctx, `INSERT INTO matches (hash, database, doc) VALUES (?, ?, ?)
			ON CONFLICT (hash) DO UPDATE SET database = excluded.database, doc = excluded.doc`)
		if err != nil {
			return err
		}
		defer put.Close()
		for id, doc := range docs {
			h, err := hash(id)
			if err != nil {
				return err
			}
			if _, err := put.ExecContext(ctx, h, dbID, doc); err != nil {
				return err
			}
		}
		return nil
	}), "matches")
}

// byHash runs a query whose first argument is the JSON list of ids, and hands
// over hash and document of each row.
func (db *DB) byHash(ctx context.Context, query string, ids []pratique.ComponentID, args []any, each func(pratique.ComponentID, []byte) error) error {
	list, err := json.Marshal(distinct(ids))
	if err != nil {
		return err
	}
	return db.rows(ctx, query, append([]any{string(list)}, args...), func(scan func(...any) error) error {
		var h, doc []byte
		if err := scan(&h, &doc); err != nil {
			return err
		}
		return each(componentID(h), doc)
	})
}

func distinct(ids []pratique.ComponentID) []pratique.ComponentID {
	seen := make(map[pratique.ComponentID]bool, len(ids))
	out := make([]pratique.ComponentID, 0, len(ids))
	for _, id := range ids {
		if !seen[id] {
			seen[id] = true
			out = append(out, id)
		}
	}
	return out
}
