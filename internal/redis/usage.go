package redis

import (
	"context"
	"iter"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

var _ store.Usage = (*DB)(nil)

// Usage implements store.Usage. It reads the keys once, in pages, and joins them in
// memory: for each blob alone that would be millions of commands where a base is
// shared by many images. What it keeps is about 200 bytes an image and a blob, and the
// numbers of one repository.
func (db *DB) Usage(ctx context.Context, pinned func(pratique.Ref) bool) iter.Seq2[store.Use, error] {
	return func(yield func(store.Use, error) bool) {
		u := usage{db: db, pinned: pinned, images: make(map[string]*used), blobs: make(map[string]blobUse)}
		if err := u.read(ctx); err != nil {
			yield(store.Use{}, annotate(err, "use of blobs"))
			return
		}
		for blob, b := range u.blobs {
			if b.image == nil || u.images[blob] != nil {
				continue
			}
			if !yield(store.Use{Blob: long(blob), Image: b.image.digest, At: at(b.image.at), Pinned: b.pinned}, nil) {
				return
			}
		}
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

// usage is one reading. Digests are short.
type usage struct {
	db     *DB
	pinned func(pratique.Ref) bool
	images map[string]*used
	blobs  map[string]blobUse
}

func (u *usage) read(ctx context.Context) error {
	repos, err := u.db.repositories(ctx)
	if err != nil {
		return err
	}
	if err := u.readImages(ctx); err != nil {
		return err
	}
	if u.pinned != nil {
		for _, repo := range repos {
			if err := u.readReferences(ctx, inRepo(repo)); err != nil {
				return err
			}
		}
	}
	if err := u.readParents(ctx); err != nil {
		return err
	}
	for _, repo := range repos {
		if err := u.readHolders(ctx, inRepo(repo)); err != nil {
			return err
		}
	}
	return nil
}

// readImages reads when manifests were seen first and served last. One that was not
// served since the state was made anew may have been a moment before.
func (u *usage) readImages(ctx context.Context) error {
	rebuilt, err := u.db.rebuiltAt(ctx)
	if err != nil {
		return err
	}
	for n := range partitions {
		if err := u.db.scanned(ctx, u.db.key(partNumber(n), "firsts"), func(d, v string) error {
			seen, _, err := unpackFirst(v)
			if u.images[d] == nil { // a scan may give a field twice
				u.images[d] = &used{digest: long(d), at: max(seen, rebuilt)}
			}
			return err
		}); err != nil {
			return err
		}
		if err := u.db.scanned(ctx, u.db.key(partNumber(n), "served"), func(d, v string) error {
			img := u.images[short(digest.Digest(d))]
			_, text, ok := strings.Cut(v, " ")
			last, err := textTime(text)
			switch {
			case !ok || err != nil:
				return errDamaged("time of serving " + d)
			case img != nil:
				img.served, img.at = true, nanos(last)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// readReferences asks about a repository and its tags.
func (u *usage) readReferences(ctx context.Context, in pratique.Ref) error {
	if u.pinned(in) {
		if err := u.db.scanned(ctx, u.db.repoKey(in, "links"), func(d, _ string) error {
			if img := u.images[d]; img != nil {
				img.pinned = true
			}
			return nil
		}); err != nil {
			return err
		}
	}
	tags, err := u.db.tagsNow(ctx, in)
	for _, ref := range tags {
		if img := u.images[short(ref.Digest)]; img != nil && !img.pinned {
			img.pinned = u.pinned(ref)
		}
	}
	return err
}

// readParents hands down what is known of indexes, as deep as they nest.
func (u *usage) readParents(ctx context.Context) error {
	type edge struct{ parent, child *used }
	var edges []edge
	for n := range partitions {
		if err := u.db.scanned(ctx, u.db.key(partNumber(n), "parents"), func(field, value string) error {
			child, items := listItems(field, value)
			parents, err := unpackItems(items)
			c := u.images[child]
			if c == nil {
				return err
			}
			for _, p := range parents {
				if p := u.images[short(p)]; p != nil {
					edges = append(edges, edge{p, c})
				}
			}
			return err
		}); err != nil {
			return err
		}
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

// readHolders reads which manifests of a repository name which blobs.
func (u *usage) readHolders(ctx context.Context, in pratique.Ref) error {
	byNumber := make(map[uint32]*used)
	if err := u.db.scanned(ctx, u.db.repoKey(in, "links"), func(d, v string) error {
		n, err := strconv.ParseUint(v, 10, 32)
		if img := u.images[d]; img != nil {
			byNumber[uint32(n)] = img
		}
		return err
	}); err != nil {
		return err
	}
	return u.db.scanned(ctx, u.db.repoKey(in, "holders"), func(field, value string) error {
		blob, items := listItems(field, value)
		b, there := u.blobs[blob]
		for _, n := range numbers(items) {
			img := byNumber[n]
			switch {
			case img == nil || there && b.image == nil:
				b.image = nil // linked meanwhile: more recent than all
			case !there || img.at > b.image.at:
				b.image = img
			}
			b.pinned = b.pinned || img != nil && img.pinned
			there = true
		}
		if there {
			u.blobs[blob] = b
		}
		return nil
	})
}
