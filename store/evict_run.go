package store

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"pratique"
)

// Pauses of Run.
const (
	// restFactor bounds the share of time that evictions take: after one that took a
	// second, there is none for so many.
	restFactor = 5
	// stuckPause is waited after an eviction that failed or could not remove enough.
	stuckPause = time.Minute
)

// Run counts what is there, and keeps it within the limits until ctx ends: as soon
// as MaxSize is passed, and after every Interval. A failure is logged; the next
// look does what it left.
func (e *Evictor) Run(ctx context.Context) error {
	recount, look := time.NewTicker(e.cfg.Recount), time.NewTicker(e.cfg.Interval)
	defer recount.Stop()
	defer look.Stop()
	e.recount(ctx)
	for {
		pause := e.bring(ctx)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		select {
		case <-e.wake:
		case <-look.C:
		case <-recount.C:
			e.recount(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

func (e *Evictor) recount(ctx context.Context) {
	if err := e.blobs.measure(ctx); err != nil && ctx.Err() == nil {
		e.metrics.failures.Inc()
		e.cfg.Log.ErrorContext(ctx, "The bytes of the cache could not be counted; the last count stands", "error", err)
	}
}

// bring evicts once, says so, and returns how long to wait at least.
func (e *Evictor) bring(ctx context.Context) time.Duration {
	began := time.Now()
	out, err := e.Evict(ctx)
	pause := max(e.cfg.Pause, restFactor*time.Since(began))
	switch {
	case ctx.Err() != nil:
		return 0
	case err != nil:
		e.cfg.Log.ErrorContext(ctx, "Room in the cache could not be made, the next look goes on", "removed", out.Blobs, "bytes", out.Bytes, "error", err)
		return max(pause, stuckPause)
	case out.Over > 0 && out.Kept > e.cfg.MaxSize:
		e.cfg.Log.WarnContext(ctx, "The cache stays over its limit: what is left is pinned, read now, or no layer",
			"kept", out.Kept, "over", out.Over, "limit", e.cfg.MaxSize, "removed", out.Blobs)
		return max(pause, stuckPause)
	case out.Blobs > 0:
		e.cfg.Log.InfoContext(ctx, "Room made in the cache", "images", len(out.Images), "blobs", out.Blobs, "bytes", out.Bytes, "kept", out.Kept)
	}
	return pause
}

// EvictorStatus is what the store holds, by what may become of it.
type EvictorStatus struct {
	MaxSize   int64         // 0: no limit
	UnusedFor time.Duration // 0: for ever
	Blobs     int
	Bytes     int64
	// Pinned stay; Other belong to no image or are manifests, and stay as well.
	Pinned, Other Kept
	// Oldest is when the least recently used blob was used that may go; zero when
	// there is none.
	Oldest time.Time
	// Refetched are the bytes that were removed to make room since the start and
	// then fetched again.
	Refetched int64
	Last      LastEviction
}

// Kept is a number of blobs and their bytes.
type Kept struct {
	Blobs int
	Bytes int64
}

func (k *Kept) add(bytes int64) { k.Blobs++; k.Bytes += bytes }

// Status looks at everything that is kept.
func (e *Evictor) Status(ctx context.Context) (EvictorStatus, error) {
	if err := e.counted(ctx); err != nil {
		return EvictorStatus{}, err
	}
	st := EvictorStatus{MaxSize: e.cfg.MaxSize, UnusedFor: e.cfg.UnusedFor}
	var named Kept
	err := e.each(ctx, func(c candidate) {
		named.add(c.size)
		switch {
		case c.Pinned:
			st.Pinned.add(c.size)
		case st.Oldest.IsZero() || c.At.Before(st.Oldest):
			st.Oldest = c.At
		}
	})
	if err != nil {
		return EvictorStatus{}, err
	}
	st.Blobs, st.Bytes, _ = e.blobs.ledger.totals()
	st.Other = Kept{max(0, st.Blobs-named.Blobs), max(0, st.Bytes-named.Bytes)}
	e.blobs.ledger.mu.Lock()
	st.Refetched = e.blobs.ledger.refetched
	e.blobs.ledger.mu.Unlock()
	e.mu.Lock()
	st.Last = e.last
	e.mu.Unlock()
	return st, nil
}

// Pin is what one pin keeps.
type Pin struct {
	Pattern pratique.Pattern
	Kept    Kept
}

// Pins tells for each pin what it keeps; what two keep counts for both.
func (e *Evictor) Pins(ctx context.Context) ([]Pin, error) {
	if err := e.counted(ctx); err != nil {
		return nil, err
	}
	out := make([]Pin, len(e.cfg.Pins))
	for i, p := range e.cfg.Pins {
		out[i].Pattern = p
		for use, err := range e.usage.Usage(ctx, p.Match) {
			if err != nil {
				return nil, err
			}
			if kept, ok := e.blobs.ledger.find(use.Blob); ok && use.Pinned {
				out[i].Kept.add(kept.size)
			}
		}
	}
	return out, nil
}

type evictMetrics struct {
	blobs, bytes *prometheus.CounterVec
	failures     prometheus.Counter
	unused       prometheus.Gauge
}

func newEvictMetrics(reg prometheus.Registerer, blobs *Blobs, limit int64) evictMetrics {
	f := promauto.With(reg)
	gauge := func(name, help string, value func(l *ledger) int64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			blobs.ledger.mu.Lock()
			defer blobs.ledger.mu.Unlock()
			return float64(value(&blobs.ledger))
		})
	}
	gauge("pratique_cache_kept_blobs", "Blobs that are kept; counted anew at start, so 0 for a moment.", func(l *ledger) int64 { return int64(len(l.kept)) })
	gauge("pratique_cache_kept_bytes", "Bytes of blobs that are kept; counted anew at start, so 0 for a moment.", func(l *ledger) int64 { return l.bytes })
	gauge("pratique_cache_limit_bytes", "Bytes of blobs that may be kept (cache.maxSize); 0 is no limit.", func(*ledger) int64 { return limit })
	f.NewCounterFunc(prometheus.CounterOpts{
		Name: "pratique_cache_refetched_bytes_total",
		Help: "Bytes that were removed to make room and fetched again later.",
	}, func() float64 {
		blobs.ledger.mu.Lock()
		defer blobs.ledger.mu.Unlock()
		return float64(blobs.ledger.refetched)
	})
	reason := []string{"reason"}
	m := evictMetrics{
		blobs: f.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_cache_evicted_blobs_total",
			Help: "Blobs removed to make room (size) or because nobody used them (unused).",
		}, reason),
		bytes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_cache_evicted_bytes_total",
			Help: "Bytes of blobs removed to make room (size) or because nobody used them (unused).",
		}, reason),
		failures: f.NewCounter(prometheus.CounterOpts{
			Name: "pratique_cache_eviction_failures_total",
			Help: "Evictions and counts of the cache that failed; the next one goes on.",
		}),
		unused: f.NewGauge(prometheus.GaugeOpts{
			Name: "pratique_cache_evicted_unused_seconds",
			Help: "For how long nobody had used the blob that was removed last.",
		}),
	}
	for _, r := range []EvictReason{EvictSize, EvictUnused} {
		m.blobs.WithLabelValues(string(r))
		m.bytes.WithLabelValues(string(r))
	}
	return m
}
