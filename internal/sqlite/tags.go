package sqlite

import (
	"context"
	"database/sql"
	"time"

	"pratique"
	"pratique/store"
)

// Tag implements store.Tags.
func (db *DB) Tag(ctx context.Context, ref pratique.Ref) (store.TagState, error) {
	var s store.TagState
	var checked, changed int64
	err := db.row(ctx, `SELECT t.digest, t.media_type, t.size, t.checked_at, t.changed_at
		FROM repositories r JOIN tags t ON t.repository = r.id WHERE r.registry = ? AND r.name = ? AND t.tag = ?`,
		[]any{ref.Registry, ref.Repo, ref.Tag}, &s.Digest, &s.MediaType, &s.Size, &checked, &changed)
	if err != nil {
		return store.TagState{}, annotate(err, "tag %s:%s", ref.Repository(), ref.Tag)
	}
	s.CheckedAt, s.ChangedAt = at(checked), at(changed)
	return s, nil
}

// SetTag implements store.Tags.
func (db *DB) SetTag(ctx context.Context, ref pratique.Ref, s store.TagState) error {
	err := db.write(ctx, func(tx *sql.Tx) error {
		repo, err := repository(ctx, tx, ref)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO tags (repository, tag, digest, media_type, size, checked_at, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (repository, tag) DO UPDATE SET digest = excluded.digest, media_type = excluded.media_type, size = excluded.size, checked_at = excluded.checked_at,
				changed_at = iif(tags.digest = excluded.digest, tags.changed_at, excluded.changed_at)`,
			repo, ref.Tag, s.Digest.String(), s.MediaType, s.Size, nanos(s.CheckedAt), nanos(s.ChangedAt))
		return err
	})
	return annotate(err, "tag %s:%s", ref.Repository(), ref.Tag)
}

// TagList implements store.Tags.
func (db *DB) TagList(ctx context.Context, ref pratique.Ref) ([]string, time.Time, error) {
	var fetched int64
	var doc []byte
	var tags []string
	err := db.row(ctx, `SELECT t.fetched_at, t.tags FROM repositories r JOIN tag_lists t ON t.repository = r.id WHERE r.registry = ? AND r.name = ?`,
		[]any{ref.Registry, ref.Repo}, &fetched, &doc)
	if err == nil {
		err = db.decode(doc, &tags)
	}
	if err != nil {
		return nil, time.Time{}, annotate(err, "tags of %s", ref.Repository())
	}
	return tags, at(fetched), nil
}

// SetTagList implements store.Tags.
func (db *DB) SetTagList(ctx context.Context, ref pratique.Ref, tags []string, fetched time.Time) error {
	doc, err := db.encode(tags)
	if err != nil {
		return annotate(err, "tags of %s", ref.Repository())
	}
	err = db.write(ctx, func(tx *sql.Tx) error {
		repo, err := repository(ctx, tx, ref)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO tag_lists (repository, fetched_at, tags) VALUES (?, ?, ?)
			ON CONFLICT (repository) DO UPDATE SET fetched_at = excluded.fetched_at, tags = excluded.tags`, repo, nanos(fetched), doc)
		return err
	})
	return annotate(err, "tags of %s", ref.Repository())
}
