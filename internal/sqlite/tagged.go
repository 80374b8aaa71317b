package sqlite

import (
	"context"
	"iter"

	"pratique"
	"pratique/store"
)

var _ store.Tagged = (*DB)(nil)

// taggedPage is how many tags are read at a time.
const taggedPage = 256

// Tagged implements store.Tagged.
func (db *DB) Tagged(ctx context.Context) iter.Seq2[pratique.Ref, error] {
	return func(yield func(pratique.Ref, error) bool) {
		repo, tag := int64(-1), ""
		for {
			var page []pratique.Ref
			err := db.rows(ctx, `SELECT t.repository, r.registry, r.name, t.tag, t.digest FROM tags t JOIN repositories r ON r.id = t.repository
				WHERE (t.repository, t.tag) > (?, ?) AND t.digest <> '' ORDER BY t.repository, t.tag LIMIT ?`, []any{repo, tag, taggedPage}, func(scan func(...any) error) error {
				var ref pratique.Ref
				err := scan(&repo, &ref.Registry, &ref.Repo, &ref.Tag, &ref.Digest)
				tag = ref.Tag
				page = append(page, ref)
				return err
			})
			if err != nil {
				yield(pratique.Ref{}, annotate(err, "tags"))
				return
			}
			for _, ref := range page {
				if !yield(ref, nil) {
					return
				}
			}
			if len(page) < taggedPage {
				return
			}
		}
	}
}
