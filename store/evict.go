package store

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
)

// EvictorConfig says what is kept.
type EvictorConfig struct {
	// MaxSize is how many bytes of blobs are kept. If zero, there is no limit.
	MaxSize int64
	// Low is the share of MaxSize that is left when MaxSize was passed: room for
	// what comes, so that not every arrival makes room for itself. If zero, 0.9.
	Low float64
	// UnusedFor is for how long a blob is kept that nobody wants. If zero, for ever.
	UnusedFor time.Duration
	// Pins choose what is never removed, whatever the limits say.
	Pins pratique.Patterns
	// Interval is between two looks of Run for what UnusedFor removes. If zero, 1 hour.
	Interval time.Duration
	// Recount is between two walks over the store, which count the bytes anew: what
	// others remove or add, by hand or from another replica, is not known before. If
	// zero, 6 hours, or 10 minutes with an object store, where others add all the time.
	Recount time.Duration
	// Pause is the least time between two evictions for the sake of MaxSize. If zero,
	// 1 second.
	Pause time.Duration
	// Now is the clock that uses and the blobs' times are held against. If nil, time.Now.
	Now func() time.Time
	// Log receives what was removed and what failed. If nil, slog.Default().
	Log *slog.Logger
	// Metrics receives pratique_cache_kept* and pratique_cache_evict*. If nil, none
	// are registered.
	Metrics prometheus.Registerer
}

func (cfg *EvictorConfig) setDefaults(shared bool) {
	if cfg.Low == 0 {
		cfg.Low = 0.9
	}
	if cfg.Interval == 0 {
		cfg.Interval = time.Hour
	}
	if cfg.Recount == 0 {
		cfg.Recount = 6 * time.Hour
		if shared {
			cfg.Recount = 10 * time.Minute
		}
	}
	if cfg.Pause == 0 {
		cfg.Pause = time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
}

// Evictor removes layers and configs of images that were not used for longest.
// Manifests, links, inventories and reports stay: what is pulled again costs its
// bytes, which are fetched and verified as the first time, and no analysis.
//
// The unit is the image: a blob is as recent as the most recently used image that
// names it, or as its own arrival. Nothing that is read or on its way is cut:
// see Blobs.evict. A crash in between leaves fewer blobs than before and nothing
// else: there is no state about what is here but what is here.
//
// Of the replicas that share an object store one runs it (Lead); two at once remove
// more than they had to, and nothing wrong.
type Evictor struct {
	blobs   *Blobs
	usage   Usage
	cfg     EvictorConfig
	metrics evictMetrics

	one  sync.Mutex    // one eviction at a time
	wake chan struct{} // something arrived and there is too much now, or the disk is full

	mu   sync.Mutex
	full bool // the disk was found full since the last eviction
	last LastEviction
}

// EvictReason is why a blob goes.
type EvictReason string

// The reasons.
const (
	EvictSize   EvictReason = "size"   // least recently used, and there is too much
	EvictUnused EvictReason = "unused" // nobody wanted it for UnusedFor
)

// Evicted is what an eviction removed, or would.
type Evicted struct {
	Blobs int
	Bytes int64
	// Images are those whose blobs they were, the least recently used first. A blob
	// that several name counts for the one that was used last.
	Images []EvictedImage
	// Kept are the bytes left. Over says how many of them are more than was to stay,
	// because they are pinned or belong to no image (manifests, orphans), or because
	// they are read now.
	Kept, Over int64
}

// EvictedImage is one image that lost blobs.
type EvictedImage struct {
	Digest digest.Digest
	Blobs  int
	Bytes  int64
	UsedAt time.Time
	Reason EvictReason
}

// LastEviction is how the last eviction ended that had something to do.
type LastEviction struct {
	At    time.Time // zero: there was none since the start
	Took  time.Duration
	Blobs int
	Bytes int64
	// UsedAt is when the most recent of what went had been used: what was not used
	// since then is what MaxSize has no room for. Zero when nothing went.
	UsedAt time.Time
	Over   int64 // see Evicted
	Err    error
}

// NewEvictor returns one that does nothing before Evict or Run.
func NewEvictor(blobs *Blobs, usage Usage, cfg EvictorConfig) *Evictor {
	cfg.setDefaults(blobs.root == "")
	e := &Evictor{blobs: blobs, usage: usage, cfg: cfg, wake: make(chan struct{}, 1)}
	e.metrics = newEvictMetrics(cfg.Metrics, blobs, cfg.MaxSize)
	if cfg.MaxSize > 0 {
		blobs.ledger.mu.Lock()
		blobs.ledger.grown = func(bytes int64) {
			if bytes > cfg.MaxSize {
				e.stir()
			}
		}
		blobs.ledger.mu.Unlock()
	}
	return e
}

// stir makes Run look, now or as soon as it may.
func (e *Evictor) stir() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// DiskFull says that a write failed for want of space. With a limit of bytes, which
// is then larger than the disk, Run makes room; without one it was not asked to
// remove anything, and does not; nor when the disk is not the one of the blobs. It
// returns at once and reports whether there will be room.
func (e *Evictor) DiskFull() bool {
	if e.cfg.MaxSize <= 0 || e.blobs.root == "" {
		return false
	}
	e.mu.Lock()
	e.full = true
	e.mu.Unlock()
	e.stir()
	return true
}

// Evict brings the store to its limits and returns what it removed, also when it
// ends in an error. It may run beside everything else.
func (e *Evictor) Evict(ctx context.Context) (Evicted, error) {
	return e.evict(ctx, func() (int64, error) { return e.target(ctx) })
}

// EvictTo is Evict with another limit of bytes for once, to which it goes down.
func (e *Evictor) EvictTo(ctx context.Context, size int64) (Evicted, error) {
	return e.evict(ctx, func() (int64, error) { return size, e.counted(ctx) })
}

// Plan is what Evict would remove now; with a size that is not negative, EvictTo.
func (e *Evictor) Plan(ctx context.Context, size int64) (Evicted, error) {
	var err error
	if size < 0 {
		size, err = e.target(ctx)
	} else {
		err = e.counted(ctx)
	}
	if err != nil {
		return Evicted{}, err
	}
	going, err := e.plan(ctx, size)
	if err != nil {
		return Evicted{}, err
	}
	var t tally
	for _, c := range going {
		t.add(c)
	}
	return e.result(t, size, t.Bytes), nil
}

// counted makes sure that the bytes kept are known.
func (e *Evictor) counted(ctx context.Context) error {
	if _, _, known := e.blobs.ledger.totals(); known {
		return nil
	}
	return e.blobs.measure(ctx)
}

// noTarget is the target when there is no limit of bytes, or it holds.
const noTarget = -1

// target is how many bytes are to be left, or noTarget.
func (e *Evictor) target(ctx context.Context) (int64, error) {
	if err := e.counted(ctx); err != nil {
		return 0, err
	}
	_, bytes, _ := e.blobs.ledger.totals()
	low := int64(float64(e.cfg.MaxSize) * e.cfg.Low)
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.cfg.MaxSize <= 0:
		return noTarget, nil
	case e.full:
		return min(low, int64(float64(bytes)*e.cfg.Low)), nil
	case bytes > e.cfg.MaxSize:
		return low, nil
	}
	return noTarget, nil
}

func (e *Evictor) evict(ctx context.Context, target func() (int64, error)) (Evicted, error) {
	e.one.Lock()
	defer e.one.Unlock()
	began := time.Now()
	size, err := target()
	e.mu.Lock()
	e.full = false
	e.mu.Unlock()
	var t tally
	if err == nil {
		err = e.remove(ctx, size, &t)
	}
	out := e.result(t, size, 0)
	if err != nil {
		err = fmt.Errorf("making room in the cache: %w", err)
		e.metrics.failures.Inc()
	}
	if t.Blobs > 0 || err != nil || out.Over > 0 {
		e.mu.Lock()
		e.last = LastEviction{At: e.cfg.Now(), Took: time.Since(began), Blobs: t.Blobs, Bytes: t.Bytes, UsedAt: t.latest, Over: out.Over, Err: err}
		e.mu.Unlock()
	}
	return out, err
}

// result is what t removed, or would: pending bytes are not gone yet.
func (e *Evictor) result(t tally, size, pending int64) Evicted {
	out := t.Evicted
	_, out.Kept, _ = e.blobs.ledger.totals()
	out.Kept -= pending
	if size != noTarget {
		out.Over = max(0, out.Kept-size)
	}
	return out
}

// remove removes until size bytes are left.
func (e *Evictor) remove(ctx context.Context, size int64, t *tally) error {
	planned := e.cfg.Now()
	going, err := e.plan(ctx, size)
	if err != nil {
		return err
	}
	for _, c := range going {
		if err := ctx.Err(); err != nil {
			return err
		}
		gone, err := e.blobs.evict(ctx, c.Blob, c.arrived, planned.Add(time.Nanosecond))
		if err != nil {
			return err
		}
		if !gone {
			continue // read now, or not the same any more
		}
		t.add(c)
		e.metrics.blobs.WithLabelValues(string(c.reason)).Inc()
		e.metrics.bytes.WithLabelValues(string(c.reason)).Add(float64(c.size))
		e.metrics.unused.Set(e.cfg.Now().Sub(c.At).Seconds())
	}
	return nil
}
