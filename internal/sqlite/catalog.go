package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Link implements store.Catalog. Everything of one manifest is one transaction:
// a crash leaves it linked whole or not at all.
func (db *DB) Link(ctx context.Context, ref pratique.Ref, img pratique.Image, now time.Time) error {
	// The usual case on the pull path, decided without the write lock.
	var one int
	err := db.row(ctx, `SELECT 1 FROM repositories r JOIN links l ON l.repository = r.id JOIN images i ON i.id = l.image
		WHERE r.registry = ? AND r.name = ? AND i.digest = ?`, []any{ref.Registry, ref.Repo, img.Digest.String()}, &one)
	if !isNotFound(err) {
		return annotate(err, "link %s", ref.At(img.Digest))
	}
	img.FirstSeen = time.Time{} // the column holds it
	doc, err := db.encode(img)
	if err != nil {
		return annotate(err, "link %s", ref.At(img.Digest))
	}
	concerned := append(contents(img), img.Digest)
	defer func() { db.stamps.Changed(concerned...) }()
	err = db.write(ctx, func(tx *sql.Tx) error {
		repo, err := repository(ctx, tx, ref)
		if err != nil {
			return err
		}
		// The first link of a digest sets kind, document and first_seen for ever.
		if _, err := tx.ExecContext(ctx, `INSERT INTO images (digest, kind, first_seen, doc) VALUES (?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING`,
			img.Digest.String(), string(img.Kind), nanos(now), doc); err != nil {
			return err
		}
		var image int64
		if err := tx.QueryRowContext(ctx, `SELECT id FROM images WHERE digest = ?`, img.Digest.String()).Scan(&image); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO links (image, repository) VALUES (?, ?) ON CONFLICT DO NOTHING`, image, repo); err != nil {
			return err
		}
		if err := putStructure(ctx, tx, image, img); err != nil {
			return err
		}
		others, err := linkConcerns(ctx, tx, img)
		if err != nil {
			return err
		}
		concerned = append(concerned, others...)
		for _, d := range contents(img) {
			blob, err := intern(ctx, tx, `SELECT id FROM blobs WHERE digest = ?`, `INSERT INTO blobs (digest) VALUES (?)`, d.String())
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO holders (repository, blob, image) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, repo, blob, image); err != nil {
				return err
			}
		}
		return nil
	})
	return annotate(err, "link %s", ref.At(img.Digest))
}

// contents are the digests of the blobs that the manifest names.
func contents(img pratique.Image) []digest.Digest {
	var ds []digest.Digest
	if img.Config.Digest != "" {
		ds = append(ds, img.Config.Digest)
	}
	for _, l := range img.Layers {
		ds = append(ds, l.Digest)
	}
	return ds
}

// Image implements store.Catalog.
func (db *DB) Image(ctx context.Context, d digest.Digest) (pratique.Image, error) {
	var seen int64
	var doc []byte
	var img pratique.Image
	err := db.row(ctx, `SELECT first_seen, doc FROM images WHERE digest = ?`, []any{d.String()}, &seen, &doc)
	if err == nil {
		err = db.decode(doc, &img)
	}
	if err != nil {
		return pratique.Image{}, annotate(err, "manifest %s", d)
	}
	img.FirstSeen = at(seen)
	return img, nil
}

// Holders implements store.Catalog; the manifests that name d come newest first.
func (db *DB) Holders(ctx context.Context, ref pratique.Ref, d digest.Digest) ([]digest.Digest, error) {
	var out []digest.Digest
	err := db.rows(ctx, `
		WITH repo AS (SELECT id FROM repositories WHERE registry = ?1 AND name = ?2)
		SELECT 1 AS self, i.id AS id, i.digest FROM repo JOIN images i ON i.digest = ?3 JOIN links l ON l.image = i.id AND l.repository = repo.id
		UNION ALL
		SELECT 0, i.id, i.digest FROM repo JOIN blobs b ON b.digest = ?3 JOIN holders h ON h.repository = repo.id AND h.blob = b.id JOIN images i ON i.id = h.image
		ORDER BY self DESC, id DESC`,
		[]any{ref.Registry, ref.Repo, d.String()}, func(scan func(...any) error) error {
			var self, id int64
			var s string
			if err := scan(&self, &id, &s); err != nil {
				return err
			}
			if self == 1 || len(out) == 0 || out[0].String() != s { // a manifest may name itself only by a broken hash
				out = append(out, digest.Digest(s))
			}
			return nil
		})
	if err == nil && len(out) == 0 {
		err = pratique.ErrNotFound
	}
	if err != nil {
		return nil, annotate(err, "holders of %s in %s", d, ref.Repository())
	}
	return out, nil
}

// imagesPage is how many manifests Images reads at once; no statement is open
// between pages.
const imagesPage = 256

// Images implements store.Catalog.
func (db *DB) Images(ctx context.Context) iter.Seq2[store.Known, error] {
	return func(yield func(store.Known, error) bool) {
		last := ""
		for {
			page, err := db.imagesAfter(ctx, last)
			if err != nil {
				yield(store.Known{}, annotate(err, "manifests"))
				return
			}
			for _, k := range page {
				if !yield(k, nil) {
					return
				}
			}
			if len(page) < imagesPage {
				return
			}
			last = page[len(page)-1].Image.Digest.String()
		}
	}
}

func (db *DB) imagesAfter(ctx context.Context, last string) ([]store.Known, error) {
	return db.known(ctx, `WHERE i.digest > ? AND i.kind <> ? ORDER BY i.digest LIMIT ?`, last, string(pratique.KindIndex), imagesPage)
}

// Known implements scheduler.Catalog: a manifest of any kind with one of the
// references that lead to it, preferably one that a tag names now.
func (db *DB) Known(ctx context.Context, d digest.Digest) (store.Known, error) {
	ks, err := db.known(ctx, `WHERE i.digest = ?`, d.String())
	if err == nil && len(ks) == 0 {
		err = pratique.ErrNotFound
	}
	if err != nil {
		return store.Known{}, annotate(err, "manifest %s", d)
	}
	return ks[0], nil
}

// Knowns returns those of ds that are known, as Known does, by digest.
func (db *DB) Knowns(ctx context.Context, ds []digest.Digest) (map[digest.Digest]store.Known, error) {
	list, err := json.Marshal(ds)
	if err != nil {
		return nil, annotate(err, "manifests")
	}
	ks, err := db.known(ctx, `WHERE i.digest IN (SELECT value FROM json_each(?))`, string(list))
	if err != nil {
		return nil, annotate(err, "manifests")
	}
	out := make(map[digest.Digest]store.Known, len(ks))
	for _, k := range ks {
		out[k.Image.Digest] = k
	}
	return out, nil
}

func (db *DB) known(ctx context.Context, where string, args ...any) ([]store.Known, error) {
	var page []store.Known
	err := db.rows(ctx, `
		SELECT i.first_seen, i.doc, r.registry, r.name, coalesce(t.tag, '')
		FROM images i
		JOIN links l ON l.image = i.id AND l.repository = (
			SELECT l2.repository FROM links l2 LEFT JOIN tags t2 ON t2.digest = i.digest AND t2.repository = l2.repository
			WHERE l2.image = i.id ORDER BY t2.tag IS NULL, l2.repository LIMIT 1)
		JOIN repositories r ON r.id = l.repository
		LEFT JOIN tags t ON t.repository = r.id AND t.tag = (
			SELECT min(t3.tag) FROM tags t3 WHERE t3.digest = i.digest AND t3.repository = r.id)
		`+where, args, func(scan func(...any) error) error {
		var k store.Known
		var seen int64
		var doc []byte
		if err := scan(&seen, &doc, &k.Ref.Registry, &k.Ref.Repo, &k.Ref.Tag); err != nil {
			return err
		}
		if err := db.decode(doc, &k.Image); err != nil {
			return err
		}
		k.Image.FirstSeen = at(seen)
		k.Ref.Digest = k.Image.Digest
		page = append(page, k)
		return nil
	})
	return page, err
}

func isNotFound(err error) bool { return errors.Is(err, pratique.ErrNotFound) }

// annotate says what err is about; nil stays nil.
func annotate(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
