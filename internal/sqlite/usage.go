package sqlite

import (
	"context"
	"iter"
	"math"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// usagePage is how many rows Usage reads at once; no statement is open between
// pages.
const usagePage = 8192

var _ store.Usage = (*DB)(nil)

// Usage implements store.Usage. It reads the tables once, in pages, and joins them
// in memory: for each blob alone that would be millions of seeks where a base is
// shared by many images. What it keeps is about 200 bytes an image and a blob.
func (db *DB) Usage(ctx context.Context, pinned func(pratique.Ref) bool) iter.Seq2[store.Use, error] {
	return func(yield func(store.Use, error) bool) {
		u := usage{db: db, images: map[int64]*used{}, digests: map[digest.Digest]*used{}, blobs: map[int64]blobUse{}}
		steps := []func(context.Context) error{u.readImages, u.readChildren, u.readHolders}
		if pinned != nil {
			steps = []func(context.Context) error{
				u.readImages,
				func(ctx context.Context) error { return u.readReferences(ctx, pinned) },
				u.readChildren, u.readHolders,
			}
		}
		for _, step := range steps {
			if err := step(ctx); err != nil {
				yield(store.Use{}, annotate(err, "use of blobs"))
				return
			}
		}
		u.yield(ctx, yield)
	}
}

// used is one manifest.
type used struct {
	digest digest.Digest
	at     int64
	served bool
	pinned bool
}

// blobUse is what the manifests that name a blob say together.
type blobUse struct {
	image  *used // nil: one of them is not known yet
	pinned bool
}

// usage is one reading.
type usage struct {
	db      *DB
	images  map[int64]*used
	digests map[digest.Digest]*used
	blobs   map[int64]blobUse
}

// pages runs a query with (after…, limit) until it returns less than a page; each
// returns where the next one begins.
func (u *usage) pages(ctx context.Context, query string, after []any, each func(scan func(...any) error) (next []any, err error)) error {
	for {
		n := 0
		err := u.db.rows(ctx, query, append(append([]any{}, after...), usagePage), func(scan func(...any) error) (err error) {
			n++
			after, err = each(scan)
			return err
		})
		if err != nil || n < usagePage {
			return err
		}
	}
}

func (u *usage) readImages(ctx context.Context) error {
	return u.pages(ctx, `SELECT i.id, i.digest, i.first_seen, coalesce(s.last_at, 0) FROM images i LEFT JOIN served s ON s.digest = i.digest
		WHERE i.id > ? ORDER BY i.id LIMIT ?`, []any{int64(math.MinInt64)}, func(scan func(...any) error) ([]any, error) {
		var id, seen, served int64
		var d digest.Digest
		if err := scan(&id, &d, &seen, &served); err != nil {
			return nil, err
		}
		img := &used{digest: d, at: seen, served: served != 0}
		if img.served {
			img.at = served
		}
		u.images[id], u.digests[d] = img, img
		return []any{id}, nil
	})
}

// readReferences asks about each repository and tag.
func (u *usage) readReferences(ctx context.Context, pinned func(pratique.Ref) bool) error {
	refs := map[int64]pratique.Ref{}
	whole := map[int64]bool{}
	if err := u.pages(ctx, `SELECT id, registry, name FROM repositories WHERE id > ? ORDER BY id LIMIT ?`, []any{int64(math.MinInt64)}, func(scan func(...any) error) ([]any, error) {
		var id int64
		var ref pratique.Ref
		err := scan(&id, &ref.Registry, &ref.Repo)
		refs[id] = ref
		return []any{id}, err
	}); err != nil {
		return err
	}
	for id, ref := range refs {
		whole[id] = pinned(ref)
	}
	if err := u.pages(ctx, `SELECT image, repository FROM links WHERE (image, repository) > (?, ?) ORDER BY image, repository LIMIT ?`,
		[]any{int64(math.MinInt64), int64(0)}, func(scan func(...any) error) ([]any, error) {
			var image, repo int64
			err := scan(&image, &repo)
			if img := u.images[image]; img != nil && whole[repo] {
				img.pinned = true
			}
			return []any{image, repo}, err
		}); err != nil {
		return err
	}
	return u.pages(ctx, `SELECT repository, tag, digest FROM tags WHERE (repository, tag) > (?, ?) ORDER BY repository, tag LIMIT ?`,
		[]any{int64(math.MinInt64), ""}, func(scan func(...any) error) ([]any, error) {
			var repo int64
			var tag string
			var d digest.Digest
			err := scan(&repo, &tag, &d)
			if img := u.digests[d]; img != nil && !img.pinned {
				ref := refs[repo].At(d)
				ref.Tag = tag
				img.pinned = pinned(ref)
			}
			return []any{repo, tag}, err
		})
}

// readChildren hands down what is known of indexes, as deep as they nest.
func (u *usage) readChildren(ctx context.Context) error {
	type edge struct{ parent, child *used }
	var edges []edge
	if err := u.pages(ctx, `SELECT parent, child FROM children WHERE (parent, child) > (?, ?) ORDER BY parent, child LIMIT ?`,
		[]any{int64(math.MinInt64), ""}, func(scan func(...any) error) ([]any, error) {
			var parent int64
			var child digest.Digest
			err := scan(&parent, &child)
			if p, c := u.images[parent], u.digests[child]; p != nil && c != nil {
				edges = append(edges, edge{p, c})
			}
			return []any{parent, string(child)}, err
		}); err != nil {
		return err
	}
	for range pratique.MaxIndexDepth {
		for _, e := range edges {
			e.child.pinned = e.child.pinned || e.parent.pinned
			if e.child.served && e.parent.served {
				e.child.at = max(e.child.at, e.parent.at)
			}
		}
	}
	return nil
}

func (u *usage) readHolders(ctx context.Context) error {
	return u.pages(ctx, `SELECT repository, blob, image FROM holders WHERE (repository, blob, image) > (?, ?, ?) ORDER BY repository, blob, image LIMIT ?`,
		[]any{int64(math.MinInt64), int64(0), int64(0)}, func(scan func(...any) error) ([]any, error) {
			var repo, id, image int64
			if err := scan(&repo, &id, &image); err != nil {
				return nil, err
			}
			img := u.images[image]
			b, there := u.blobs[id]
			switch {
			case img == nil || there && b.image == nil:
				b.image = nil // linked meanwhile: more recent than all
			case !there || img.at > b.image.at:
				b.image = img
			}
			b.pinned = b.pinned || img != nil && img.pinned
			u.blobs[id] = b
			return []any{repo, id, image}, nil
		})
}

// yield names the blobs.
func (u *usage) yield(ctx context.Context, yield func(store.Use, error) bool) {
	page := make([]store.Use, 0, usagePage)
	after := int64(math.MinInt64)
	for {
		n := 0
		page = page[:0]
		err := u.db.rows(ctx, `SELECT id, digest FROM blobs WHERE id > ? ORDER BY id LIMIT ?`, []any{after, usagePage}, func(scan func(...any) error) error {
			n++
			var d digest.Digest
			if err := scan(&after, &d); err != nil {
				return err
			}
			if b := u.blobs[after]; b.image != nil && u.digests[d] == nil {
				page = append(page, store.Use{Blob: d, Image: b.image.digest, At: at(b.image.at), Pinned: b.pinned})
			}
			return nil
		})
		if err != nil {
			yield(store.Use{}, annotate(err, "use of blobs"))
			return
		}
		for _, use := range page {
			if !yield(use, nil) {
				return
			}
		}
		if n < usagePage {
			return
		}
	}
}
