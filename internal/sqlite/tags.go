package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/opencontainers/go-digest"

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

// SetTag implements store.Tags, and keeps what Lineage tells of the tag: tag and
// spans are one transaction. The usual case, a tag that names what it named, is
// one row.
func (db *DB) SetTag(ctx context.Context, ref pratique.Ref, s store.TagState) error {
	concerned := []digest.Digest{s.Digest}
	defer func() { db.stamps.Changed(append(concerned, store.TagKey(ref))...) }()
	err := db.write(ctx, func(tx *sql.Tx) error {
		repo, err := repository(ctx, tx, ref)
		if err != nil {
			return err
		}
		var before string
		var checked int64
		err = found(tx.QueryRowContext(ctx, `SELECT digest, checked_at FROM tags WHERE repository = ? AND tag = ?`, repo, ref.Tag).Scan(&before, &checked))
		known := err == nil
		if err != nil && !isNotFound(err) {
			return err
		}
		if _, err = tx.ExecContext(ctx, `INSERT INTO tags (repository, tag, digest, media_type, size, checked_at, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (repository, tag) DO UPDATE SET digest = excluded.digest, media_type = excluded.media_type, size = excluded.size, checked_at = excluded.checked_at,
				changed_at = iif(tags.digest = excluded.digest, tags.changed_at, excluded.changed_at)`,
			repo, ref.Tag, s.Digest.String(), s.MediaType, s.Size, nanos(s.CheckedAt), nanos(s.ChangedAt)); err != nil {
			return err
		}
		if known && before == s.Digest.String() {
			concerned = nil
			return nil
		}
		if before != "" {
			if _, err := tx.ExecContext(ctx, `UPDATE tag_spans SET last_at = max(last_at, ?), left_at = ? WHERE repository = ? AND tag = ? AND digest = ?`,
				checked, nanos(s.ChangedAt), repo, ref.Tag, before); err != nil {
				return err
			}
		}
		if s.Digest != "" {
			if _, err := tx.ExecContext(ctx, `INSERT INTO tag_spans (repository, tag, digest, first_at, last_at, left_at) VALUES (?, ?, ?, ?, ?, 0)
				ON CONFLICT (repository, tag, digest) DO UPDATE SET first_at = min(first_at, excluded.first_at), last_at = max(last_at, excluded.last_at), left_at = 0`,
				repo, ref.Tag, s.Digest.String(), nanos(s.ChangedAt), nanos(s.CheckedAt)); err != nil {
				return err
			}
		}
		concerned, err = tagConcerns(ctx, tx, repo, ref.Tag)
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
	defer db.stamps.Changed(store.TagKey(pratique.Ref{Registry: ref.Registry, Repo: ref.Repo}))
	err = db.write(ctx, func(tx *sql.Tx) error {
		repo, err := repository(ctx, tx, ref)
		if err != nil {
			return err
		}
		fresh, err := db.unlisted(ctx, tx, repo, tags)
		if err == nil {
			err = seeTags(ctx, tx, repo, fresh, nanos(fetched))
		}
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO tag_lists (repository, fetched_at, tags) VALUES (?, ?, ?)
			ON CONFLICT (repository) DO UPDATE SET fetched_at = excluded.fetched_at, tags = excluded.tags`, repo, nanos(fetched), doc)
		return err
	})
	return annotate(err, "tags of %s", ref.Repository())
}

// unlisted returns those of tags that the list kept now lacks: the others were
// noted with it.
func (db *DB) unlisted(ctx context.Context, tx *sql.Tx, repo int64, tags []string) ([]string, error) {
	var doc []byte
	var listed []string
	err := found(tx.QueryRowContext(ctx, `SELECT tags FROM tag_lists WHERE repository = ?`, repo).Scan(&doc))
	if isNotFound(err) {
		return tags, nil
	}
	if err == nil {
		err = db.decode(doc, &listed)
	}
	if err != nil {
		return nil, err
	}
	have := make(map[string]bool, len(listed))
	for _, t := range listed {
		have[t] = true
	}
	var out []string
	for _, t := range tags {
		if !have[t] {
			out = append(out, t)
		}
	}
	return out, nil
}
