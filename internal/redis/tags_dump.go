package redis

import (
	"context"
	"iter"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

func (db *DB) loadTags(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.DumpedTag](rs)
	if err != nil {
		return err
	}
	var trails, naming []call
	for _, d := range docs {
		for _, s := range d.Spans {
			trails = append(trails, call{[]string{db.key(partOfDigest(s.Digest), "trails")}, []any{short(s.Digest), d.Ref().Repository()}})
			naming = append(naming, call{[]string{db.repoKey(d.Ref(), "naming")}, []any{short(s.Digest), d.Tag}})
		}
	}
	if _, err := db.calls(ctx, scriptNote, append(trails, naming...)); err != nil {
		return err
	}
	gone, err := db.spansGone(ctx, docs)
	if err != nil {
		return err
	}
	_, err = db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, d := range docs {
			db.loadTag(ctx, pipe, d, gone[i])
		}
		return nil
	})
	return err
}

// spansGone are the digests that tags named so far and that a record lacks.
func (db *DB) spansGone(ctx context.Context, docs []store.DumpedTag) ([][]digest.Digest, error) {
	out := make([][]digest.Digest, len(docs))
	asked := make(map[string][]string)
	place := make(map[string]int)
	for i, d := range docs {
		repo := d.Ref().Repository()
		asked[repo] = append(asked[repo], d.Tag)
		place[tagRecordKey(d.Ref(), d.Tag)] = i
	}
	spans, err := db.histories(ctx, asked)
	for _, s := range spans {
		i := place[tagRecordKey(s.in, s.tag)]
		if !slices.ContainsFunc(docs[i].Spans, func(d store.DumpedSpan) bool { return d.Digest == s.digest }) {
			out[i] = append(out[i], s.digest)
		}
	}
	return out, err
}

func (db *DB) loadTag(ctx context.Context, pipe redis.Pipeliner, d store.DumpedTag, gone []digest.Digest) {
	ref := d.Ref()
	p := partOfRepo(ref)
	pipe.SAdd(ctx, db.key(p, "repositories"), ref.Repository())
	move := func(of digest.Digest) string { return ref.Repository() + "\n" + d.Tag + "\n" + of.String() }
	for _, of := range gone {
		pipe.HDel(ctx, db.repoKey(ref, "spans"), short(of)+d.Tag)
		pipe.ZRem(ctx, db.key(p, "moves"), move(of))
	}
	named := make([]string, len(d.Spans))
	for i, s := range d.Spans {
		named[i] = s.Digest.String()
		pipe.HSet(ctx, db.repoKey(ref, "spans"), short(s.Digest)+d.Tag, packSpan(s.FirstAt, s.LastAt, s.LeftAt))
		if s.LeftAt.IsZero() {
			pipe.ZRem(ctx, db.key(p, "moves"), move(s.Digest))
		} else {
			pipe.ZAdd(ctx, db.key(p, "moves"), redis.Z{Score: float64(nanos(s.LeftAt) / 1000), Member: move(s.Digest)})
		}
	}
	if len(named) > 0 {
		pipe.HSet(ctx, db.repoKey(ref, "history"), d.Tag, strings.Join(named, "\n"))
	} else {
		pipe.HDel(ctx, db.repoKey(ref, "history"), d.Tag)
	}
	pipe.HSet(ctx, db.repoKey(ref, "tags"), d.Tag, packTag(store.TagState{
		Digest: d.Digest, MediaType: d.MediaType, Size: d.Size, CheckedAt: d.CheckedAt, ChangedAt: d.ChangedAt,
	}))
}

func (db *DB) dumpRepositories(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return db.dumpHash(ctx, "lists", after, partOf, func(repo, value string) (store.Record, error) {
		in := inRepo(repo)
		var list tagList
		if err := db.Decode([]byte(value), &list); err != nil {
			return store.Record{}, err
		}
		seen, err := db.TagsSeen(ctx, in)
		if err != nil {
			return store.Record{}, err
		}
		return store.NewRecord(store.KindRepositories, repo, store.DumpedRepository{
			DumpedIn: store.DumpedIn{Registry: in.Registry, Repo: in.Repo}, Tags: list.Tags, FetchedAt: at(list.Fetched), Seen: seen,
		})
	})
}

func (db *DB) loadRepositories(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.DumpedRepository](rs)
	if err != nil {
		return err
	}
	for _, d := range docs {
		if err := db.loadRepository(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

func (db *DB) loadRepository(ctx context.Context, d store.DumpedRepository) error {
	ref := pratique.Ref{Registry: d.Registry, Repo: d.Repo}
	doc, err := db.Encode(tagList{nanos(d.FetchedAt), d.Tags})
	if err != nil {
		return err
	}
	seen := make([]any, 0, 2*len(d.Seen))
	for tag, since := range d.Seen {
		seen = append(seen, tag, timeText(since))
	}
	p := partOfRepo(ref)
	_, err = db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.SAdd(ctx, db.key(p, "repositories"), ref.Repository())
		pipe.Del(ctx, db.repoKey(ref, "seen"))
		for page := range slices.Chunk(seen, 2*seeBatch) {
			pipe.HSet(ctx, db.repoKey(ref, "seen"), page...)
		}
		pipe.HSet(ctx, db.key(p, "lists"), ref.Repository(), doc)
		return nil
	})
	return err
}
