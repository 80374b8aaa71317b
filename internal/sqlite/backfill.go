package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"pratique"
)

// backfills complete a migration, by its number, in its transaction: they read
// the documents that SQL cannot read.
var backfills = map[int]func(context.Context, *sql.Tx) error{
	2: backfillHistory,
	4: backfillFleet,
}

// backfillHistory fills children and chains from the manifests, and tags_seen
// from the tag lists: a tag of a list was there when the list was fetched.
func backfillHistory(ctx context.Context, tx *sql.Tx) error {
	docs, err := newCodec()
	if err != nil {
		return err
	}
	err = eachDoc(ctx, tx, `SELECT id, 0, doc FROM images WHERE id > ? ORDER BY id LIMIT 256`, func(id, _ int64, doc []byte) error {
		var img pratique.Image
		if err := docs.decode(doc, &img); err != nil {
			return fmt.Errorf("manifest: %w", err)
		}
		return putStructure(ctx, tx, id, img)
	})
	if err != nil {
		return err
	}
	return eachDoc(ctx, tx, `SELECT repository, fetched_at, tags FROM tag_lists WHERE repository > ? ORDER BY repository LIMIT 16`, func(repo, fetched int64, doc []byte) error {
		var tags []string
		if err := docs.decode(doc, &tags); err != nil {
			return fmt.Errorf("tag list: %w", err)
		}
		return seeTags(ctx, tx, repo, tags, fetched)
	})
}

// eachDoc calls each for the rows of a query for id, number and document, whose
// only argument is the id to go on after; no row is open while each runs.
func eachDoc(ctx context.Context, tx *sql.Tx, query string, each func(id, number int64, doc []byte) error) error {
	type row struct {
		id, number int64
		doc        []byte
	}
	last := int64(0)
	for {
		var page []row
		err := func() error {
			rs, err := tx.QueryContext(ctx, query, last)
			if err != nil {
				return err
			}
			defer rs.Close()
			for rs.Next() {
				var r row
				if err := rs.Scan(&r.id, &r.number, &r.doc); err != nil {
					return err
				}
				page = append(page, r)
			}
			return rs.Err()
		}()
		if err != nil || len(page) == 0 {
			return err
		}
		for _, r := range page {
			if err := each(r.id, r.number, r.doc); err != nil {
				return err
			}
		}
		last = page[len(page)-1].id
	}
}
