package sqlite

import (
	"context"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Parents returns the indexes of ref's repository that list ref.Digest, the
// latest known first. None is an empty list. Link moves the stamp of every child
// of an index, so whoever keeps the answer by stamps notices another parent.
func (db *DB) Parents(ctx context.Context, ref pratique.Ref) ([]digest.Digest, error) {
	var out []digest.Digest
	err := db.rows(ctx, `SELECT p.digest FROM repositories r JOIN children c ON c.child = ?3
		JOIN images p ON p.id = c.parent JOIN links l ON l.image = p.id AND l.repository = r.id
		WHERE r.registry = ?1 AND r.name = ?2 ORDER BY p.id DESC`,
		[]any{ref.Registry, ref.Repo, ref.Digest.String()}, func(scan func(...any) error) error {
			var d digest.Digest
			if err := scan(&d); err != nil {
				return err
			}
			out = append(out, d)
			return nil
		})
	if err != nil {
		return nil, annotate(err, "indexes that list %s in %s", ref.Digest, ref.Repository())
	}
	return out, nil
}
