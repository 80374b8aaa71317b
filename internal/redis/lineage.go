package redis

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

var _ store.Lineage = (*DB)(nil)

// span is a tag that names or named a digest.
type span struct {
	in                pratique.Ref // Registry and Repo
	tag               string
	digest            digest.Digest
	first, last, left time.Time
	now               store.TagState
}

// told is the span as Lineage tells it of d, which is its digest or is listed by it.
func (s span) told(d digest.Digest) store.TagSpan {
	out := store.TagSpan{Tag: s.tag, Digest: d, FirstAt: s.first, LastAt: s.last, Now: s.now.Digest, MovedAt: s.left}
	if s.digest == s.now.Digest {
		out.Now, out.LastAt, out.MovedAt = d, s.now.CheckedAt, time.Time{}
	}
	return out
}

// spansOf reads what scriptSpans and scriptHistory return; fill says what the number
// and the word of each are.
func spansOf(reply *redis.Cmd, fill func(s *span, number int64, word string)) ([]span, error) {
	fields, err := reply.Slice()
	if err != nil {
		return nil, err
	}
	var out []span
	for f := range slices.Chunk(fields, 4) {
		if len(f) != 4 {
			return nil, errDamaged("span")
		}
		number, _ := f[0].(int64)
		word, _ := f[1].(string)
		times, _ := f[2].(string)
		state, _ := f[3].(string)
		var s span
		if s.first, s.last, s.left, err = unpackSpan(times); err != nil {
			return nil, err
		}
		if s.now, err = unpackTag(state); err != nil {
			return nil, err
		}
		fill(&s, number, word)
		out = append(out, s)
	}
	return out, nil
}

func packSpan(first, last, left time.Time) string {
	return timeText(first) + " " + timeText(last) + " " + timeText(left)
}

func unpackSpan(v string) (first, last, left time.Time, err error) {
	fields := strings.Split(v, " ")
	if len(fields) != 3 {
		return first, last, left, errDamaged("span")
	}
	if first, err = textTime(fields[0]); err != nil {
		return first, last, left, err
	}
	if last, err = textTime(fields[1]); err != nil {
		return first, last, left, err
	}
	left, err = textTime(fields[2])
	return first, last, left, err
}

// spans are those of all tags that name or named digests, by repository.
func (db *DB) spans(ctx context.Context, asked map[string][]digest.Digest) ([]span, error) {
	var calls []call
	var of []func(s *span, number int64, word string)
	for repo, ds := range asked {
		in := inRepo(repo)
		for chunk := range slices.Chunk(ds, fieldsBatch) {
			c := call{keys: []string{db.repoKey(in, "tags"), db.repoKey(in, "spans"), db.repoKey(in, "naming")}}
			for _, d := range chunk {
				c.args = append(c.args, short(d))
			}
			calls = append(calls, c)
			of = append(of, func(s *span, number int64, word string) { s.in, s.digest, s.tag = in, chunk[number-1], word })
		}
	}
	return db.readSpans(ctx, scriptSpans, calls, of)
}

// histories are the spans of tags, by repository.
func (db *DB) histories(ctx context.Context, asked map[string][]string) ([]span, error) {
	var calls []call
	var of []func(s *span, number int64, word string)
	for repo, tags := range asked {
		in := inRepo(repo)
		slices.Sort(tags)
		for chunk := range slices.Chunk(slices.Compact(tags), fieldsBatch) {
			c := call{keys: []string{db.repoKey(in, "tags"), db.repoKey(in, "spans"), db.repoKey(in, "history")}}
			for _, tag := range chunk {
				c.args = append(c.args, tag)
			}
			calls = append(calls, c)
			of = append(of, func(s *span, number int64, word string) {
				s.in, s.tag, s.digest = in, chunk[number-1], digest.Digest(word)
			})
		}
	}
	return db.readSpans(ctx, scriptHistory, calls, of)
}

func (db *DB) readSpans(ctx context.Context, script *redis.Script, calls []call, of []func(s *span, number int64, word string)) ([]span, error) {
	replies, err := db.calls(ctx, script, calls)
	if err != nil {
		return nil, err
	}
	var out []span
	for i, reply := range replies {
		ss, err := spansOf(reply, of[i])
		if err != nil {
			return nil, err
		}
		out = append(out, ss...)
	}
	return out, nil
}

// TagsOf implements store.Lineage. The spans of one tag that led to the digest,
// itself or through several indexes, become one.
func (db *DB) TagsOf(ctx context.Context, ref pratique.Ref) ([]store.TagSpan, error) {
	out, err := db.tagsOf(ctx, ref)
	if err != nil {
		return nil, annotate(err, "tags of %s", ref)
	}
	return out, nil
}

func (db *DB) tagsOf(ctx context.Context, ref pratique.Ref) ([]store.TagSpan, error) {
	upper, _, err := db.upper(ctx, []digest.Digest{ref.Digest})
	if err != nil {
		return nil, err
	}
	spans, err := db.spans(ctx, map[string][]digest.Digest{ref.Repository(): upper})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(spans, func(a, b span) int { return strings.Compare(a.tag, b.tag) })
	var out []store.TagSpan
	for _, s := range spans {
		told := s.told(ref.Digest)
		if n := len(out) - 1; n >= 0 && out[n].Tag == s.tag {
			out[n] = joined(out[n], told)
		} else {
			out = append(out, told)
		}
	}
	return out, nil
}

// joined is two spans of one tag and one digest as one: it is named as long as
// either is, and left when the later was.
func joined(a, b store.TagSpan) store.TagSpan {
	first := a.FirstAt
	if b.FirstAt.Before(first) {
		first = b.FirstAt
	}
	// What names it now wins, else what did last.
	if current := b.Now == b.Digest; current || a.Now != a.Digest && b.MovedAt.After(a.MovedAt) {
		a = b
	}
	a.FirstAt = first
	return a
}

// TagHistory implements store.Lineage, in one round trip.
func (db *DB) TagHistory(ctx context.Context, ref pratique.Ref) ([]store.TagSpan, error) {
	spans, err := db.histories(ctx, map[string][]string{ref.Repository(): {ref.Tag}})
	if err != nil {
		return nil, annotate(err, "history of %s:%s", ref.Repository(), ref.Tag)
	}
	out := make([]store.TagSpan, len(spans))
	for i, s := range spans { // in the order in which they began to be
		out[i] = s.told(s.digest)
	}
	slices.SortStableFunc(out, func(a, b store.TagSpan) int { return a.FirstAt.Compare(b.FirstAt) })
	return out, nil
}
