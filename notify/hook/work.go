package hook

import (
	"container/heap"
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// How a push was followed up.
const (
	pushDecided = "decided"
	pushGone    = "gone"    // deleted upstream, or never there
	pushUnknown = "unknown" // nobody asked for it here, and it is not prefetched
	pushFailed  = "failed"  // given up
)

// Delays between attempts.
const (
	firstDelay = 200 * time.Millisecond
	maxDelay   = 2 * time.Minute
	lookDelay  = 100 * time.Millisecond // for a verdict
	maxLook    = 2 * time.Second
	oneAttempt = 2 * time.Minute
)

// again says that an item is to be looked at later.
type again struct{ after time.Duration }

func (again) Error() string { return "not yet" }

// work makes one attempt and closes the item or makes it due again.
func (q *Queue) work(ctx context.Context, it *item) {
	q.mu.Lock()
	p := it.push
	q.mu.Unlock()
	attempt, cancel := context.WithTimeout(ctx, oneAttempt)
	outcome, err := q.follow(attempt, it, p)
	cancel()
	if ctx.Err() != nil {
		return // the push is on disk
	}
	var later again
	if errors.As(err, &later) {
		q.later(it, later.after)
		return
	}
	if err != nil {
		q.cfg.Log.WarnContext(ctx, "push is not followed up any longer", "ref", p.Ref, "error", err)
		outcome = pushFailed
	}
	q.close(ctx, it, p, outcome)
}

// later gives the item back.
func (q *Queue) later(it *item, after time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.giveBack(it, after)
}

// giveBack needs q.mu.
func (q *Queue) giveBack(it *item, after time.Duration) {
	if it.replaced {
		after = 0
	}
	it.working, it.replaced = false, false
	it.due = q.cfg.Now().Add(after)
	heap.Push(&q.due, it)
	q.poke()
}

// close ends p, unless another push took its place meanwhile.
func (q *Queue) close(ctx context.Context, it *item, p store.Push, outcome string) {
	q.metrics.pushes.WithLabelValues(outcome).Inc()
	if outcome == pushDecided {
		q.metrics.seconds.Observe(q.cfg.Now().Sub(p.At).Seconds())
	}
	if err := q.pushes.ClosePush(ctx, p); err != nil && ctx.Err() == nil {
		// The next process follows it up again, which does no harm.
		q.cfg.Log.WarnContext(ctx, "push stays open", "ref", p.Ref, "error", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if it.replaced {
		q.giveBack(it, 0)
		return
	}
	delete(q.open, p.Key())
	q.metrics.open.Set(float64(len(q.open)))
}

// follow makes one attempt: the tag is asked for upstream, then a verdict on what it
// names.
func (q *Queue) follow(ctx context.Context, it *item, p store.Push) (string, error) {
	q.mu.Lock()
	image := it.image
	q.mu.Unlock()
	if image != "" {
		return q.verdict(ctx, it, p, image)
	}
	if p.Ref.Tag == "" {
		return q.untagged(ctx, it, p)
	}
	wanted, err := q.wanted(ctx, p.Ref)
	if err != nil {
		return "", q.retry(it, err, q.cfg.Patience)
	}
	if !wanted {
		return pushUnknown, nil
	}
	d, _, err := q.tags.Revalidate(ctx, p.Ref)
	switch {
	case errors.Is(err, pratique.ErrInvalid):
		return "", err
	case err != nil:
		return "", q.retry(it, err, q.cfg.Patience)
	case d == "" && p.Deleted:
		return pushGone, nil
	case d == "" || !p.Deleted && p.Ref.Digest != "" && d != p.Ref.Digest:
		// Not there yet: registries tell of a push before they serve it, some before the
		// tag is set. Or it moved on, which another push tells of.
		if late := q.retry(it, errEarly, q.cfg.Settle); !errors.Is(late, errEarly) {
			return "", late
		}
		if d == "" {
			return pushGone, nil
		}
	}
	return q.beginVerdict(ctx, it, p, d)
}

var errEarly = errors.New("the upstream does not have it yet")

// wanted reports whether a push concerns anybody: its tag was asked for here before,
// or is to be prefetched.
func (q *Queue) wanted(ctx context.Context, ref pratique.Ref) (bool, error) {
	if q.cfg.Prefetch.Match(ref) {
		return true, nil
	}
	_, err := q.known.Tag(ctx, ref)
	if errors.Is(err, pratique.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// untagged follows up what was told of a digest: an image that is known here is
// decided; one that is not is a part of an index, or gets a tag of which will be told.
// Of a deleted one the tags are asked for.
func (q *Queue) untagged(ctx context.Context, it *item, p store.Push) (string, error) {
	if p.Deleted {
		spans, err := q.known.TagsOf(ctx, p.Ref)
		if err != nil {
			return "", q.retry(it, err, q.cfg.Patience)
		}
		var ps []store.Push
		for _, s := range spans {
			if s.Now == p.Ref.Digest && len(ps) < maxEvents {
				ref := p.Ref
				ref.Tag, ref.Digest = s.Tag, ""
				ps = append(ps, store.Push{Ref: ref, Deleted: true, At: p.At})
			}
		}
		if len(ps) == 0 {
			return pushUnknown, nil
		}
		if err := q.Put(ctx, ps); err != nil {
			return "", q.retry(it, err, q.cfg.Patience)
		}
		return pushGone, nil
	}
	holders, err := q.known.Holders(ctx, p.Ref, p.Ref.Digest)
	switch {
	case errors.Is(err, pratique.ErrNotFound), err == nil && holders[0] != p.Ref.Digest:
		return pushUnknown, nil
	case err != nil:
		return "", q.retry(it, err, q.cfg.Patience)
	}
	return q.beginVerdict(ctx, it, p, p.Ref.Digest)
}

// beginVerdict turns to the verdict on what a tag was found to name.
func (q *Queue) beginVerdict(ctx context.Context, it *item, p store.Push, image digest.Digest) (string, error) {
	q.mu.Lock()
	if !it.replaced {
		it.image, it.since, it.attempts = image, q.cfg.Now(), 0
	}
	q.mu.Unlock()
	return q.verdict(ctx, it, p, image)
}

// verdict asks the gate without waiting there: a pull that waits comes first, and
// nobody's place is taken. The scan that it opens has a webhook's priority. The image
// is asked for by its digest until it is decided, so that the upstream is not asked
// for the tag each time; then by its tag, which rules may be about.
func (q *Queue) verdict(ctx context.Context, it *item, p store.Push, image digest.Digest) (string, error) {
	ref := p.Ref
	ref.Tag, ref.Digest = "", image
	_, err := q.gate.Check(ctx, ref, netip.Addr{}, 0)
	if err == nil && p.Ref.Tag != "" {
		ref.Tag, ref.Digest = p.Ref.Tag, ""
		_, err = q.gate.Check(ctx, ref, netip.Addr{}, 0)
	}
	switch {
	case err == nil:
		return pushDecided, nil
	case !errors.Is(err, pratique.ErrPending):
		return "", q.retry(it, err, q.cfg.Patience)
	}
	q.mu.Lock()
	age := q.cfg.Now().Sub(it.since)
	q.mu.Unlock()
	if age >= q.cfg.Verdict {
		return "", err
	}
	return "", again{min(max(lookDelay, age/4), maxLook)}
}

// retry says when to try again, or after limit that it is over: then the error is err.
func (q *Queue) retry(it *item, err error, limit time.Duration) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if it.replaced {
		return again{}
	}
	if it.attempts == 0 {
		it.since = q.cfg.Now() // not when it was told: it may have waited, or been left by an earlier process
	}
	if q.cfg.Now().Sub(it.since) >= limit {
		return err
	}
	it.attempts++
	return again{min(firstDelay<<min(it.attempts-1, 16), maxDelay)}
}
