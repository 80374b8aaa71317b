package redis

import (
	"context"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

var (
	_ store.Tagged   = (*DB)(nil)
	_ store.TagMoves = (*DB)(nil)
)

// Tagged implements store.Tagged. It keeps the names of all repositories, and the
// tags of one.
func (db *DB) Tagged(ctx context.Context) iter.Seq2[pratique.Ref, error] {
	return func(yield func(pratique.Ref, error) bool) {
		repos, err := db.repositories(ctx)
		if err != nil {
			yield(pratique.Ref{}, annotate(err, "tags"))
			return
		}
		slices.Sort(repos)
		for _, repo := range repos {
			refs, err := db.tagsNow(ctx, inRepo(repo))
			if err != nil {
				yield(pratique.Ref{}, annotate(err, "tags of %s", repo))
				return
			}
			for _, ref := range refs {
				if !yield(ref, nil) {
					return
				}
			}
		}
	}
}

// tagsNow are the tags of a repository that name something, sorted.
func (db *DB) tagsNow(ctx context.Context, in pratique.Ref) ([]pratique.Ref, error) {
	var refs []pratique.Ref
	err := db.scanned(ctx, db.repoKey(in, "tags"), func(tag, v string) error {
		d, _, ok := strings.Cut(v, "\n")
		if !ok {
			return errDamaged("tag " + tag)
		}
		if d != "" {
			ref := in.At(digest.Digest(d))
			ref.Tag = tag
			refs = append(refs, ref)
		}
		return nil
	})
	slices.SortStableFunc(refs, func(a, b pratique.Ref) int { return strings.Compare(a.Tag, b.Tag) })
	// A scan may give a field twice.
	refs = slices.CompactFunc(refs, func(a, b pratique.Ref) bool { return a.Tag == b.Tag })
	return refs, err
}

// TagMoves implements store.TagMoves, in two round trips. `moves` has them in order
// of microseconds; spans tell the time.
func (db *DB) TagMoves(ctx context.Context, since time.Time) ([]store.TagMove, error) {
	out, err := db.tagMoves(ctx, since)
	if err != nil {
		return nil, annotate(err, "tags that moved")
	}
	return out, nil
}

func (db *DB) tagMoves(ctx context.Context, since time.Time) ([]store.TagMove, error) {
	from := strconv.FormatInt(max(nanos(since), 0)/1000, 10)
	var cmds [partitions]*redis.StringSliceCmd
	if _, err := db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for n := range cmds {
			cmds[n] = pipe.ZRangeByScore(ctx, db.key(partNumber(n), "moves"), &redis.ZRangeBy{Min: from, Max: "+inf"})
		}
		return nil
	}); err != nil {
		return nil, err
	}
	moved := make(map[string][]string) // tags, by repository
	for _, cmd := range cmds {
		for _, m := range cmd.Val() {
			if f := strings.Split(m, "\n"); len(f) == 3 {
				moved[f[0]] = append(moved[f[0]], f[1])
			}
		}
	}
	spans, err := db.histories(ctx, moved)
	if err != nil {
		return nil, err
	}
	var out []store.TagMove
	for _, s := range spans {
		if s.left.IsZero() || s.left.Before(since) || s.now.Digest == s.digest {
			continue
		}
		ref := s.in.At(s.digest)
		ref.Tag = s.tag
		out = append(out, store.TagMove{Ref: ref, Now: s.now.Digest, At: s.left})
	}
	slices.SortFunc(out, func(a, b store.TagMove) int {
		if n := a.At.Compare(b.At); n != 0 {
			return n
		}
		return strings.Compare(a.Ref.String(), b.Ref.String())
	})
	return out, nil
}
