package sqlite

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

func (db *DB) pageImages(ctx context.Context, after string) ([]store.Record, error) {
	var ids []int64
	var docs []store.DumpedImage
	err := db.rows(ctx, `SELECT id, first_seen, doc FROM images WHERE digest > ? ORDER BY digest LIMIT ?`, []any{after, dumpPage}, func(scan func(...any) error) error {
		var id, seen int64
		var doc []byte
		if err := scan(&id, &seen, &doc); err != nil {
			return err
		}
		var d store.DumpedImage
		if err := db.decode(doc, &d.Image); err != nil {
			return err
		}
		d.Image.FirstSeen = at(seen)
		ids, docs = append(ids, id), append(docs, d)
		return nil
	})
	out := make([]store.Record, len(docs))
	for i := range docs {
		if err == nil {
			err = db.rows(ctx, `SELECT r.registry, r.name FROM links l JOIN repositories r ON r.id = l.repository WHERE l.image = ? ORDER BY l.repository`, []any{ids[i]}, func(scan func(...any) error) error {
				var in store.DumpedIn
				err := scan(&in.Registry, &in.Repo)
				docs[i].In = append(docs[i].In, in)
				return err
			})
		}
		if err == nil {
			out[i], err = store.NewRecord(store.KindImages, docs[i].Image.Digest.String(), docs[i])
		}
	}
	return out, err
}

func (db *DB) loadImages(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(key string, d *store.DumpedImage) error {
		img, seen := d.Image, d.Image.FirstSeen
		if key != img.Digest.String() {
			return fmt.Errorf("%w manifest with the digest %s", pratique.ErrInvalid, img.Digest)
		}
		img.FirstSeen = time.Time{} // the column holds it
		doc, err := db.encode(img)
		if err != nil {
			return err
		}
		var image int64
		if err := tx.row(ctx, `INSERT INTO images (digest, kind, first_seen, doc) VALUES (?, ?, ?, ?)
			ON CONFLICT (digest) DO UPDATE SET kind = excluded.kind, first_seen = excluded.first_seen, doc = excluded.doc RETURNING id`,
			[]any{img.Digest.String(), string(img.Kind), nanos(seen), doc}, &image); err != nil {
			return err
		}
		if err := putStructure(ctx, tx.Tx, image, img); err != nil {
			return err
		}
		for _, in := range d.In {
			if err := loadLink(ctx, tx, in.Ref(), image, img); err != nil {
				return err
			}
		}
		return nil
	})
}

func loadLink(ctx context.Context, tx *prepared, ref pratique.Ref, image int64, img pratique.Image) error {
	repo, err := repository(ctx, tx.Tx, ref)
	if err != nil {
		return err
	}
	if err := tx.exec(ctx, `INSERT INTO links (image, repository) VALUES (?, ?) ON CONFLICT DO NOTHING`, image, repo); err != nil {
		return err
	}
	for _, d := range contents(img) {
		blob, err := intern(ctx, tx.Tx, `SELECT id FROM blobs WHERE digest = ?`, `INSERT INTO blobs (digest) VALUES (?)`, d.String())
		if err != nil {
			return err
		}
		if err := tx.exec(ctx, `INSERT INTO holders (repository, blob, image) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, repo, blob, image); err != nil {
			return err
		}
	}
	return nil
}

// tagKey is the key of a tag's record.
func tagKey(ref pratique.Ref) string { return ref.Repository() + ":" + ref.Tag }

// placeOf is the repository's id and the tag of a record's key; a tag has no colon
// in it, and a registry no slash. "" is before all.
func (db *DB) placeOf(ctx context.Context, key, tag string) (int64, error) {
	if key == "" {
		return -1, nil
	}
	registry, repo, _ := strings.Cut(strings.TrimSuffix(key, ":"+tag), "/")
	var id int64
	err := db.row(ctx, `SELECT id FROM repositories WHERE registry = ? AND name = ?`, []any{registry, repo}, &id)
	return id, annotate(err, "%s", key)
}

func (db *DB) pageTags(ctx context.Context, after string) ([]store.Record, error) {
	tag := after[strings.LastIndexByte(after, ':')+1:]
	repo, err := db.placeOf(ctx, after, tag)
	if err != nil {
		return nil, err
	}
	var repos []int64
	var docs []store.DumpedTag
	err = db.rows(ctx, `SELECT t.repository, r.registry, r.name, t.tag, t.digest, t.media_type, t.size, t.checked_at, t.changed_at
		FROM tags t CROSS JOIN repositories r ON r.id = t.repository WHERE (t.repository, t.tag) > (?, ?) ORDER BY t.repository, t.tag LIMIT ?`,
		[]any{repo, tag, dumpPage}, func(scan func(...any) error) error {
			var repo, checked, changed int64
			var d store.DumpedTag
			err := scan(&repo, &d.Registry, &d.Repo, &d.Tag, &d.Digest, &d.MediaType, &d.Size, &checked, &changed)
			d.CheckedAt, d.ChangedAt = at(checked), at(changed)
			repos, docs = append(repos, repo), append(docs, d)
			return err
		})
	out := make([]store.Record, len(docs))
	for i := range docs {
		d := &docs[i]
		if err == nil {
			d.Spans, err = db.spans(ctx, repos[i], d.Tag, d.Digest)
		}
		if err == nil {
			out[i], err = store.NewRecord(store.KindTags, tagKey(pratique.Ref{Registry: d.Registry, Repo: d.Repo, Tag: d.Tag}), d)
		}
	}
	return out, err
}

func (db *DB) spans(ctx context.Context, repo int64, tag string, now digest.Digest) (out []store.DumpedSpan, err error) {
	err = db.rows(ctx, `SELECT digest, first_at, last_at, left_at FROM tag_spans WHERE repository = ? AND tag = ? ORDER BY first_at, id`, []any{repo, tag}, func(scan func(...any) error) error {
		var first, last, left int64
		var s store.DumpedSpan
		err := scan(&s.Digest, &first, &last, &left)
		if s.FirstAt = at(first); s.Digest != now {
			s.LastAt, s.LeftAt = at(last), at(left)
		}
		out = append(out, s)
		return err
	})
	return out, err
}

func (db *DB) loadTags(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(_ string, d *store.DumpedTag) error {
		repo, err := repository(ctx, tx.Tx, d.Ref())
		if err != nil {
			return err
		}
		if err := tx.exec(ctx, `INSERT OR REPLACE INTO tags (repository, tag, digest, media_type, size, checked_at, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			repo, d.Tag, d.Digest.String(), d.MediaType, d.Size, nanos(d.CheckedAt), nanos(d.ChangedAt)); err != nil {
			return err
		}
		if err := tx.exec(ctx, `DELETE FROM tag_spans WHERE repository = ? AND tag = ?`, repo, d.Tag); err != nil {
			return err
		}
		for _, s := range d.Spans {
			if err := tx.exec(ctx, `INSERT INTO tag_spans (repository, tag, digest, first_at, last_at, left_at) VALUES (?, ?, ?, ?, ?, ?)`,
				repo, d.Tag, s.Digest.String(), nanos(s.FirstAt), nanos(s.LastAt), nanos(s.LeftAt)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (db *DB) pageRepositories(ctx context.Context, after string) ([]store.Record, error) {
	repo, err := db.placeOf(ctx, after, "")
	if err != nil {
		return nil, err
	}
	var repos []int64
	var docs []store.DumpedRepository
	err = db.rows(ctx, `SELECT l.repository, r.registry, r.name, l.fetched_at, l.tags FROM tag_lists l CROSS JOIN repositories r ON r.id = l.repository
		WHERE l.repository > ? ORDER BY l.repository LIMIT ?`, []any{repo, dumpPage / 8}, func(scan func(...any) error) error {
		var repo, fetched int64
		var tags []byte
		var d store.DumpedRepository
		if err := scan(&repo, &d.Registry, &d.Repo, &fetched, &tags); err != nil {
			return err
		}
		d.FetchedAt = at(fetched)
		repos = append(repos, repo)
		err := db.decode(tags, &d.Tags)
		docs = append(docs, d)
		return err
	})
	out := make([]store.Record, len(docs))
	for i := range docs {
		d := &docs[i]
		if err == nil {
			d.Seen, err = db.TagsSeen(ctx, d.Ref())
		}
		if err == nil {
			out[i], err = store.NewRecord(store.KindRepositories, d.Ref().Repository(), d)
		}
	}
	return out, err
}

func (db *DB) loadRepositories(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(_ string, d *store.DumpedRepository) error {
		repo, err := repository(ctx, tx.Tx, d.Ref())
		if err != nil {
			return err
		}
		tags, err := db.encode(d.Tags)
		if err != nil {
			return err
		}
		if err := tx.exec(ctx, `INSERT OR REPLACE INTO tag_lists (repository, fetched_at, tags) VALUES (?, ?, ?)`, repo, nanos(d.FetchedAt), tags); err != nil {
			return err
		}
		if err := tx.exec(ctx, `DELETE FROM tags_seen WHERE repository = ?`, repo); err != nil {
			return err
		}
		for tag, first := range d.Seen {
			if err := tx.exec(ctx, `INSERT INTO tags_seen (repository, tag, first_at) VALUES (?, ?, ?)`, repo, tag, nanos(first)); err != nil {
				return err
			}
		}
		return nil
	})
}
