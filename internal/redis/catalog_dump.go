package redis

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

// dumpsCatalog is found by dump.go.
func (db *DB) dumpsCatalog() dumps {
	return dumps{
		store.KindImages:       {db.dumpImages, db.loadImages},
		store.KindTags:         {db.dumpTags, db.loadTags},
		store.KindRepositories: {db.dumpRepositories, db.loadRepositories},
	}
}

func (db *DB) dumpImages(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		for n := range partitions {
			fields, err := db.hashFields(ctx, db.key(partNumber(n), "images"))
			if err != nil {
				yield(store.Record{}, err)
				return
			}
			ds := make([]digest.Digest, 0, len(fields))
			for _, f := range fields {
				if d := long(f); d.String() > after {
					ds = append(ds, d)
				}
			}
			slices.Sort(ds)
			for page := range slices.Chunk(ds, dumpPage) {
				rs, err := db.imageRecords(ctx, page)
				if err != nil {
					yield(store.Record{}, err)
					return
				}
				for _, r := range rs {
					if !yield(r, nil) {
						return
					}
				}
			}
		}
	}
}

// imageRecords are the records of manifests. What no repository holds is of a link
// that came to nothing.
func (db *DB) imageRecords(ctx context.Context, ds []digest.Digest) ([]store.Record, error) {
	images, err := db.images(ctx, ds)
	if err != nil {
		return nil, err
	}
	held, err := db.held(ctx, ds)
	if err != nil {
		return nil, err
	}
	var out []store.Record
	for _, d := range ds {
		img, ok := images[d]
		if !ok || len(held[d]) == 0 {
			continue
		}
		doc := store.DumpedImage{Image: img}
		for _, ref := range held[d] {
			doc.In = append(doc.In, store.DumpedIn{Registry: ref.Registry, Repo: ref.Repo})
		}
		r, err := store.NewRecord(store.KindImages, d.String(), doc)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// loadImages does what Link does, in the same order, for all at once.
func (db *DB) loadImages(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.DumpedImage](rs)
	if err != nil {
		return err
	}
	digests := make([]digest.Digest, len(docs))
	for i, d := range docs {
		if digests[i] = d.Image.Digest; rs[i].Key != d.Image.Digest.String() {
			return fmt.Errorf("%w manifest with the digest %s", pratique.ErrInvalid, d.Image.Digest)
		}
	}
	if err := db.loadDocuments(ctx, docs); err != nil {
		return err
	}
	_, known, err := db.fields(ctx, "firsts", placesOf(digests))
	if err != nil {
		return err
	}
	var fresh []pratique.Image
	for i, d := range docs {
		if !known[i] {
			fresh = append(fresh, d.Image)
		}
	}
	if err := db.putStructure(ctx, fresh...); err != nil {
		return err
	}
	if err := db.loadManifests(ctx, docs); err != nil {
		return err
	}
	return db.loadLinks(ctx, docs)
}

// documentsAtOnce is how many documents of links are stored at once.
const documentsAtOnce = 16

// loadDocuments stores those of links that are not there.
func (db *DB) loadDocuments(ctx context.Context, docs []store.DumpedImage) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var done sync.WaitGroup
	slots := make(chan struct{}, documentsAtOnce)
	for _, d := range docs {
		for _, in := range d.In {
			slots <- struct{}{}
			done.Go(func() {
				defer func() { <-slots }()
				linked, _, err := db.lookUp(ctx, in.Ref(), d.Image.Digest)
				if err == nil && !linked {
					err = db.putLinkDocument(ctx, in.Ref(), d.Image)
				}
				if err != nil {
					cancel(err)
				}
			})
		}
	}
	done.Wait()
	return context.Cause(ctx)
}

func (db *DB) loadManifests(ctx context.Context, docs []store.DumpedImage) error {
	if _, err := db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, d := range docs {
			p, field := partOfDigest(d.Image.Digest), short(d.Image.Digest)
			doc, err := db.Encode(d.Image)
			if err != nil {
				return err
			}
			pipe.HSet(ctx, db.key(p, "images"), field, doc)
			pipe.HSet(ctx, db.key(p, "firsts"), field, packFirst(d.Image))
		}
		return nil
	}); err != nil {
		return err
	}
	var notes []call
	for _, d := range docs {
		for _, in := range d.In {
			notes = append(notes, call{[]string{db.key(partOfDigest(d.Image.Digest), "places")}, []any{short(d.Image.Digest), in.Ref().Repository()}})
		}
	}
	_, err := db.calls(ctx, scriptNote, notes)
	return err
}

func (db *DB) loadLinks(ctx context.Context, docs []store.DumpedImage) error {
	var blobs []digest.Digest
	var links []call
	for _, d := range docs {
		if len(d.In) == 0 {
			continue
		}
		own := contents(d.Image)
		blobs = append(append(blobs, own...), d.Image.Digest)
		for _, in := range d.In {
			links = append(links, db.linkCall(in.Ref(), d.Image, own, []digest.Digest{d.Image.Digest}, time.Now().Add(24*time.Hour)))
		}
	}
	slices.Sort(blobs)
	if len(links) == 0 {
		return nil
	}
	if err := db.named(ctx, slices.Compact(blobs)); err != nil {
		return err
	}
	_, err := db.calls(ctx, scriptLink, links)
	return err
}

// tagRecordKey is the key of a tag's record.
func tagRecordKey(in pratique.Ref, tag string) string { return in.Repository() + ":" + tag }

func (db *DB) dumpTags(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		repos, err := db.repositories(ctx)
		if err != nil {
			yield(store.Record{}, err)
			return
		}
		slices.Sort(repos)
		from, fromTag := "", ""
		if i := strings.LastIndexByte(after, ':'); i >= 0 { // no tag has one in it
			from, fromTag = after[:i], after[i+1:]
		}
		for _, repo := range repos {
			if repo < from {
				continue
			}
			tags, err := db.hashFields(ctx, db.repoKey(inRepo(repo), "tags"))
			if err != nil {
				yield(store.Record{}, err)
				return
			}
			if repo == from {
				tags = slices.DeleteFunc(tags, func(t string) bool { return t <= fromTag })
			}
			for page := range slices.Chunk(tags, dumpPage) {
				rs, err := db.tagRecords(ctx, inRepo(repo), page)
				if err != nil {
					yield(store.Record{}, err)
					return
				}
				for _, r := range rs {
					if !yield(r, nil) {
						return
					}
				}
			}
		}
	}
}

func (db *DB) tagRecords(ctx context.Context, in pratique.Ref, tags []string) ([]store.Record, error) {
	states, err := db.rdb.HMGet(ctx, db.repoKey(in, "tags"), tags...).Result()
	if err != nil {
		return nil, err
	}
	spans, err := db.histories(ctx, map[string][]string{in.Repository(): slices.Clone(tags)})
	if err != nil {
		return nil, err
	}
	byTag := make(map[string][]store.DumpedSpan)
	for _, s := range spans {
		d := store.DumpedSpan{Digest: s.digest, FirstAt: s.first}
		if s.digest != s.now.Digest {
			d.LastAt, d.LeftAt = s.last, s.left
		}
		byTag[s.tag] = append(byTag[s.tag], d)
	}
	var out []store.Record
	for i, tag := range tags {
		v, ok := states[i].(string)
		if !ok {
			continue // removed since
		}
		s, err := unpackTag(v)
		if err != nil {
			return nil, err
		}
		slices.SortStableFunc(byTag[tag], func(a, b store.DumpedSpan) int { return a.FirstAt.Compare(b.FirstAt) })
		r, err := store.NewRecord(store.KindTags, tagRecordKey(in, tag), store.DumpedTag{
			DumpedIn: store.DumpedIn{Registry: in.Registry, Repo: in.Repo}, Tag: tag, Digest: s.Digest, MediaType: s.MediaType, Size: s.Size,
			CheckedAt: s.CheckedAt, ChangedAt: s.ChangedAt, Spans: byTag[tag],
		})
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}
