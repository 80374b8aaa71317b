package hook

import (
	"container/heap"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/store"
)

// Tags asks upstreams. Implemented by proxy.Cache.
type Tags interface {
	// Revalidate asks the upstream what ref's tag names now and records the answer; d
	// is empty when there is no such tag any more.
	Revalidate(ctx context.Context, ref pratique.Ref) (d digest.Digest, moved bool, err error)
}

// Gate decides. Implemented by proxy.Gate.
type Gate interface {
	// Check has ref fetched and scanned when it is not yet, and decides. With a wait of
	// 0 it asks for the scan, less urgently than a pull would, and returns an error
	// wrapping pratique.ErrPending while there is no verdict.
	Check(ctx context.Context, ref pratique.Ref, client netip.Addr, wait time.Duration) (pratique.Decision, error)
}

// Known is what is known here. Part of store.Tags, store.Catalog and store.Lineage.
type Known interface {
	Tag(ctx context.Context, ref pratique.Ref) (store.TagState, error)
	Holders(ctx context.Context, ref pratique.Ref, d digest.Digest) ([]digest.Digest, error)
	TagsOf(ctx context.Context, ref pratique.Ref) ([]store.TagSpan, error)
}

// QueueConfig adjusts a Queue.
type QueueConfig struct {
	// Prefetch chooses what is fetched, scanned and decided although nobody asked for
	// it here before. If nil, nothing.
	Prefetch pratique.Patterns
	// Workers is how many pushes are followed up at once. Most of it is waiting for
	// upstreams, which have limits of their own. If zero, 8.
	Workers int
	// Limit is how many may wait. If zero, 10,000.
	Limit int
	// Settle is how long an upstream may go on answering what it did before the push:
	// registries tell before they serve. If zero, 20 seconds.
	Settle time.Duration
	// Patience is how long an upstream that does not answer is asked again. If zero,
	// 15 minutes.
	Patience time.Duration
	// Verdict is how long a verdict is waited for; the scan goes on after it. If zero,
	// 30 minutes.
	Verdict time.Duration
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
	// Log receives pushes that could not be followed up. If nil, they are dropped.
	Log *slog.Logger
	// Metrics receives pratique_hook_*. If nil, none are registered.
	Metrics prometheus.Registerer
}

func (c QueueConfig) withDefaults() QueueConfig {
	or := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	if c.Workers <= 0 {
		c.Workers = 8
	}
	if c.Limit <= 0 {
		c.Limit = 10_000
	}
	or(&c.Settle, 20*time.Second)
	or(&c.Patience, 15*time.Minute)
	or(&c.Verdict, 30*time.Minute)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Queue follows pushes up: one after another for each tag, a few at once, and again
// while an upstream does not have yet what it told of. What is put into it survives
// the process. Its methods are safe for concurrent use; nothing happens before Run.
type Queue struct {
	pushes  store.Pushes
	tags    Tags
	gate    Gate
	known   Known
	cfg     QueueConfig
	metrics *queueMetrics
	wake    chan struct{} // holds a word when something may be due

	mu   sync.Mutex
	open map[string]*item // by Push.Key
	due  schedule         // those that nobody works on
}

var _ Pushes = (*Queue)(nil)

// NewQueue makes a queue over what is open in pushes.
func NewQueue(pushes store.Pushes, tags Tags, gate Gate, known Known, cfg QueueConfig) *Queue {
	cfg = cfg.withDefaults()
	return &Queue{
		pushes: pushes, tags: tags, gate: gate, known: known, cfg: cfg, metrics: newQueueMetrics(cfg.Metrics),
		wake: make(chan struct{}, 1), open: map[string]*item{},
	}
}

// item is one push on its way. All of it is under the queue's lock.
type item struct {
	push     store.Push
	due      time.Time
	attempts int
	since    time.Time     // when the attempts, or the wait for a verdict, began
	image    digest.Digest // what the tag was found to name; a verdict is waited for
	working  bool
	replaced bool // by another push while it was worked on
	index    int  // in the schedule
}

// Put implements Pushes: what is told of a tag that waits already replaces it.
func (q *Queue) Put(ctx context.Context, ps []store.Push) error {
	last := make(map[string]store.Push, len(ps))
	for _, p := range ps {
		last[p.Key()] = p
	}
	ps = slices.DeleteFunc(slices.Clone(ps), func(p store.Push) bool { return last[p.Key()] != p })
	q.mu.Lock()
	fresh := 0
	for key := range last {
		if q.open[key] == nil {
			fresh++
		}
	}
	full := len(q.open)+fresh > q.cfg.Limit
	q.mu.Unlock()
	if full {
		return ErrFull
	}
	// First on disk: a crash between the two leaves pushes that the next start finds.
	if err := q.pushes.PutPushes(ctx, ps); err != nil {
		return fmt.Errorf("keep pushes: %w", err)
	}
	for _, p := range ps {
		q.enter(p)
	}
	q.poke()
	return nil
}

// enter makes a push due.
func (q *Queue) enter(p store.Push) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if it := q.open[p.Key()]; it != nil {
		it.push, it.attempts, it.image = p, 0, ""
		if it.working {
			it.replaced = true
			return
		}
		it.due = q.cfg.Now()
		heap.Fix(&q.due, it.index)
		return
	}
	it := &item{push: p, due: q.cfg.Now()}
	q.open[p.Key()] = it
	heap.Push(&q.due, it)
	q.metrics.open.Set(float64(len(q.open)))
}

func (q *Queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Run follows up until ctx ends, beginning with what an earlier process left. What is
// under way then is broken off and begun anew by the next process.
func (q *Queue) Run(ctx context.Context) error {
	for {
		left, err := q.pushes.OpenPushes(ctx, q.cfg.Limit)
		if err == nil {
			for _, p := range left {
				if q.holds(p) {
					continue // it came while we read
				}
				q.enter(p)
			}
			break
		}
		q.cfg.Log.ErrorContext(ctx, "pushes that an earlier process took cannot be read", "error", err)
		if !wait(ctx, time.Second, nil) {
			return ctx.Err()
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, q.cfg.Workers)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		it, idle := q.take()
		if it == nil {
			<-places
			if !wait(ctx, idle, q.wake) {
				return ctx.Err()
			}
			continue
		}
		wg.Go(func() {
			defer func() { <-places }()
			q.work(ctx, it)
		})
	}
}

func (q *Queue) holds(p store.Push) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.open[p.Key()] != nil
}

// take returns the item that is due, or how long none will be.
func (q *Queue) take() (*item, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.due) == 0 {
		return nil, time.Minute
	}
	if idle := q.due[0].due.Sub(q.cfg.Now()); idle > 0 {
		return nil, min(idle, time.Minute)
	}
	it := heap.Pop(&q.due).(*item)
	it.working = true
	return it, 0
}

// wait reports whether ctx goes on; a word in wake ends it early.
func wait(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// schedule is a heap of items by when they are due.
type schedule []*item

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].due.Before(s[j].due) }
func (s schedule) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].index, s[j].index = i, j
}

// Push implements heap.Interface.
func (s *schedule) Push(x any) {
	it := x.(*item)
	it.index = len(*s)
	*s = append(*s, it)
}

// Pop implements heap.Interface.
func (s *schedule) Pop() any {
	old := *s
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*s = old[:len(old)-1]
	return it
}
