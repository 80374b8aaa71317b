package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/store"
)

// Asked is one answered request for a manifest.
type Asked struct {
	Ref     pratique.Ref // with Digest
	Client  netip.Addr
	At      time.Time
	Head    bool
	Verdict pratique.Verdict
}

// Recorder is told who asked for what. Implemented by History. Record returns at
// once and keeps what it is given, which nobody changes afterwards.
type Recorder interface{ Record(a Asked) }

// PullStore keeps the history. Part of store.Pulls and store.PullLog.
type PullStore interface {
	Record(ctx context.Context, ps []store.Pull) error
	RecordVerdicts(ctx context.Context, js []store.Judged) error
	ForgetPulls(ctx context.Context, before time.Time) error
}

// Defaults and limits of History.
const (
	defaultRetention  = 90 * 24 * time.Hour
	defaultFlushEvery = 500 * time.Millisecond
	defaultMaxQueued  = 8192
	forgetEvery       = 24 * time.Hour
	lastFlush         = 5 * time.Second
	// keptFindings of each reason of a verdict are kept: worst first, they say why.
	keptFindings = 50
	// rememberedVerdicts are not written again by this process.
	rememberedVerdicts = 1 << 16
)

// HistoryConfig is what NewHistory may be told besides the store.
type HistoryConfig struct {
	// Retention is how long pulls and verdicts are kept. If zero, 90 days.
	Retention time.Duration
	// FlushEvery is how long a pull may be known in memory only: that much is lost
	// when the process is killed. If zero, 500 ms.
	FlushEvery time.Duration
	// Max is how many pulls may wait to be written; more are dropped. If zero, 8192.
	Max int
	// Reach tells whether the store answers. While it does not, nothing is written:
	// pulls wait, as many as Max. If nil, it always does.
	Reach store.Reach
	// Log receives failures. If nil, they are dropped.
	Log *slog.Logger
	// Metrics registers the history's metrics. If nil, nothing is exported.
	Metrics prometheus.Registerer
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
}

// History writes down who asked for what and which verdict met them, in batches
// and off the path of requests. Safe for concurrent use.
type History struct {
	store   PullStore
	cfg     HistoryConfig
	reach   *reach
	full    chan struct{} // the queue is half full: do not wait for the next tick
	dropped prometheus.Counter
	written prometheus.Counter
	failed  prometheus.Counter

	mu    sync.Mutex
	queue []Asked
	spare []Asked // an empty queue, used in turn

	// Of Run alone.
	known  *lru[string, struct{}] // ids of verdicts that are written
	broken bool                   // the last write failed, and that was logged
}

var _ Recorder = (*History)(nil)

// NewHistory writes to s once Run runs.
func NewHistory(s PullStore, cfg HistoryConfig) *History {
	if cfg.Retention == 0 {
		cfg.Retention = defaultRetention
	}
	if cfg.FlushEvery == 0 {
		cfg.FlushEvery = defaultFlushEvery
	}
	if cfg.Max == 0 {
		cfg.Max = defaultMaxQueued
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	counter := func(name, help string) prometheus.Counter {
		return registerCollector(cfg.Metrics, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help}))
	}
	return &History{
		store: s, cfg: cfg, reach: &reach{state: cfg.Reach}, full: make(chan struct{}, 1),
		dropped: counter("pratique_history_dropped_total", "Pulls that were not written down because too many waited for it."),
		written: counter("pratique_history_written_total", "Pulls written down."),
		failed:  counter("pratique_history_failures_total", "Writes of pulls or verdicts that failed; they are tried again."),
		known:   newLRU[string](rememberedVerdicts, func(struct{}) int64 { return 1 }),
	}
}

// Record notes a request. It never blocks: when too many wait to be written, the
// request is counted and forgotten.
func (h *History) Record(a Asked) {
	h.mu.Lock()
	if len(h.queue) >= h.cfg.Max {
		h.mu.Unlock()
		h.dropped.Inc()
		return
	}
	h.queue = append(h.queue, a)
	half := len(h.queue) == h.cfg.Max/2
	h.mu.Unlock()
	if half {
		select {
		case h.full <- struct{}{}:
		default:
		}
	}
}

// Run writes until ctx ends, and then once more.
func (h *History) Run(ctx context.Context) error {
	flush, forget := time.NewTicker(h.cfg.FlushEvery), time.NewTicker(forgetEvery)
	defer flush.Stop()
	defer forget.Stop()
	h.forget(ctx)
	for {
		select {
		case <-flush.C:
			h.write(ctx)
		case <-h.full:
			h.write(ctx)
		case <-forget.C:
			h.forget(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
			defer cancel()
			h.flush(last)
			return nil
		}
	}
}

// write flushes, unless it is known already that the store does not answer.
func (h *History) write(ctx context.Context) {
	if !h.reach.away() {
		h.flush(ctx)
		return
	}
	if !h.broken {
		h.broken = true
		h.cfg.Log.WarnContext(ctx, "the state does not answer; pulls are written down when it does")
	}
}

// flush writes what waits. Verdicts come first: a pull is never on record
// without the verdict that people may ask for. What cannot be written waits on,
// before what came meanwhile.
func (h *History) flush(ctx context.Context) {
	batch := h.take()
	if len(batch) == 0 {
		return
	}
	err := h.verdicts(ctx, batch)
	if err == nil {
		err = h.pulls(ctx, batch)
	}
	if err != nil {
		h.reach.note(err)
		h.putBack(batch)
		if errors.Is(ctx.Err(), context.Canceled) {
			return // stopping: the last flush comes
		}
		h.failed.Inc()
		if !h.broken {
			h.cfg.Log.ErrorContext(ctx, "pulls cannot be written down, and wait", "error", err)
		}
		h.broken = true
		return
	}
	if h.broken {
		h.cfg.Log.InfoContext(ctx, "pulls are written down again")
	}
	h.broken = false
	h.written.Add(float64(len(batch)))
	h.giveBack(batch)
}

func (h *History) take() []Asked {
	h.mu.Lock()
	defer h.mu.Unlock()
	batch := h.queue
	h.queue, h.spare = h.spare, nil
	return batch
}

// giveBack has the room of a batch used again.
func (h *History) giveBack(batch []Asked) {
	clear(batch) // verdicts are large
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spare = batch[:0]
}

// putBack queues a batch again, as much of it as there is room for.
func (h *History) putBack(batch []Asked) {
	h.mu.Lock()
	defer h.mu.Unlock()
	room := max(0, h.cfg.Max-len(h.queue))
	if over := len(batch) - room; over > 0 {
		h.dropped.Add(float64(over))
		batch = batch[:room]
	}
	h.queue = append(batch, h.queue...)
}

// pulls writes a batch. What one client asked several times and got the same
// answer to is one pull: people retry in seconds, loops in milliseconds.
func (h *History) pulls(ctx context.Context, batch []Asked) error {
	type key struct {
		ref     pratique.Ref
		client  netip.Addr
		head    bool
		outcome pratique.Outcome
		verdict string
	}
	seen := make(map[key]bool)
	var ps []store.Pull
	for i := range batch {
		a := &batch[i]
		k := key{a.Ref, a.Client, a.Head, a.Verdict.Outcome, a.Verdict.ID}
		if seen[k] {
			continue
		}
		seen[k] = true
		ps = append(ps, store.Pull{
			Ref: a.Ref, Client: address(a.Client), At: a.At, Outcome: a.Verdict.Outcome, Verdict: a.Verdict.ID, Head: a.Head,
		})
	}
	return h.store.Record(ctx, ps)
}

// verdicts writes those that somebody may ask about: refusals, warnings, and
// what was let through by an exception. Each once.
func (h *History) verdicts(ctx context.Context, batch []Asked) error {
	var js []store.Judged
	fresh := make(map[string]bool)
	for i := range batch {
		a := &batch[i]
		if a.Verdict.ID == "" || fresh[a.Verdict.ID] || a.Verdict.Outcome == pratique.OutcomeAllow && len(a.Verdict.Lifted) == 0 {
			continue
		}
		if _, ok := h.known.get(a.Verdict.ID); ok {
			continue
		}
		fresh[a.Verdict.ID] = true
		js = append(js, store.Judged{Ref: a.Ref, Client: address(a.Client), At: a.At, Verdict: essence(a.Verdict)})
	}
	if len(js) == 0 {
		return nil
	}
	if err := h.store.RecordVerdicts(ctx, js); err != nil {
		return err
	}
	for id := range fresh {
		h.known.put(id, struct{}{})
	}
	return nil
}

// forget removes what is older than is kept.
func (h *History) forget(ctx context.Context) {
	if err := h.store.ForgetPulls(ctx, h.cfg.Now().Add(-h.cfg.Retention)); err != nil && ctx.Err() == nil {
		h.failed.Inc()
		h.cfg.Log.WarnContext(ctx, "old pulls cannot be removed", "error", err)
	}
}

// essence is a verdict without most of a long list of findings.
func essence(v pratique.Verdict) pratique.Verdict {
	out := v
	out.Reasons = make([]pratique.Reason, len(v.Reasons))
	for i, r := range v.Reasons {
		if len(r.Findings) > keptFindings {
			r.Findings = r.Findings[:keptFindings:keptFindings]
		}
		out.Reasons[i] = r
	}
	return out
}

// address is empty for a client without one.
func address(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
