package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"pratique"
	"pratique/internal/config"
	"pratique/store"
	"pratique/web"
)

// reloader reads the configuration again and applies what can be applied while
// requests run. A configuration or policy with a mistake changes nothing.
type reloader struct {
	load  func() (config.Config, error)
	live  *live
	fetch *fetcher
	level *slog.LevelVar
	log   *slog.Logger
	// schedules are kept as configured; nil: there are none.
	schedules *schedules

	outcomes *prometheus.CounterVec
	good     prometheus.Gauge
	applied  prometheus.Gauge

	late chan struct{} // holds a word while the state has to be asked again

	mu      sync.Mutex
	pending []string // keys that a restart would change
	failure error    // of the last reload
	waits   bool     // for a state that is away
}

func newReloader(p process, l *live, fetch *fetcher) *reloader {
	f := promauto.With(p.metrics)
	r := &reloader{
		load: p.load, live: l, fetch: fetch, level: p.level, log: p.log, late: make(chan struct{}, 1),
		outcomes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_config_reloads_total",
			Help: "Reloads of configuration and policies: applied, or failed, which changes nothing.",
		}, []string{"outcome"}),
		good: f.NewGauge(prometheus.GaugeOpts{
			Name: "pratique_config_reload_successful",
			Help: "Whether the last reload was applied; 1 before the first.",
		}),
		applied: f.NewGauge(prometheus.GaugeOpts{
			Name: "pratique_config_reload_success_timestamp_seconds",
			Help: "When the configuration in force was read.",
		}),
	}
	r.good.Set(1)
	r.applied.Set(float64(time.Now().Unix()))
	return r
}

// lateRetry is how long after a state did not answer it is asked again.
const lateRetry = time.Second

// run reloads for every signal until ctx ends, and asks a state again that was away.
func (r *reloader) run(ctx context.Context, signals <-chan os.Signal) error {
	for {
		select {
		case <-signals:
			_, _ = r.Reload(ctx) // it is in the log
			continue
		case <-r.late:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(lateRetry):
			r.catchUp(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// catchUp does what a reload left because the state was away.
func (r *reloader) catchUp(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.shared(ctx, r.live.current.Load().cfg)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		r.failure = err
		r.log.ErrorContext(ctx, "what a reload left cannot be applied", "error", err)
	case !r.waits:
		r.log.InfoContext(ctx, "the state answers again: exceptions and schedules are those of the configuration")
	}
}

// shared applies what is kept in the state. One that is away keeps nothing else of a
// reload from being applied: what was known before stays in force until it answers.
func (r *reloader) shared(ctx context.Context, cfg config.Config) error {
	err := r.live.facts.exceptions.Reload(ctx)
	if err == nil && r.schedules != nil {
		err = r.schedules.use(ctx, cfg)
	}
	before := r.waits
	r.waits = errors.Is(err, store.ErrUnreachable) && !errors.Is(err, pratique.ErrInvalid)
	if !r.waits {
		return err
	}
	if !before {
		r.log.WarnContext(ctx, "the state does not answer: exceptions and schedules stay as they were until it does", "error", err)
	}
	signalTo(r.late)
	return nil
}

// Reload implements web.Reloader.
func (r *reloader) Reload(ctx context.Context) (web.Reloaded, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out, err := r.reload(ctx)
	if r.failure = err; err != nil {
		r.outcomes.WithLabelValues("failed").Inc()
		r.good.Set(0)
		r.log.ErrorContext(ctx, "configuration not reloaded, the one in force stays", "error", err)
		return web.Reloaded{}, err
	}
	r.pending = out.NeedsRestart
	r.outcomes.WithLabelValues("applied").Inc()
	r.good.Set(1)
	r.applied.Set(float64(time.Now().Unix()))
	r.log.InfoContext(ctx, "configuration reloaded", "policies", out.Policies, "changed", out.Changed)
	if len(out.NeedsRestart) > 0 {
		r.log.WarnContext(ctx, "changed keys need a restart", "keys", out.NeedsRestart)
	}
	return out, nil
}

// reload makes everything before it changes anything.
func (r *reloader) reload(ctx context.Context) (web.Reloaded, error) {
	next, err := r.load()
	if err != nil {
		return web.Reloaded{}, err
	}
	old := r.live.current.Load()
	now := hot(old.cfg, next)
	policies, err := now.LoadPolicies()
	if err != nil {
		return web.Reloaded{}, err
	}
	ups, err := newUpstreams(now, old.upstreams, r.live.metrics)
	if err != nil {
		return web.Reloaded{}, err
	}
	facts, err := r.live.facts.prepare(now)
	if err != nil {
		return web.Reloaded{}, err
	}
	if err := r.shared(ctx, now); err != nil {
		return web.Reloaded{}, err
	}
	r.live.facts.use(facts)
	setLevel(r.level, now.Log)
	r.fetch.use(ups)
	r.live.put(now, policies, ups)
	for key, c := range old.upstreams.clients {
		if ups.clients[key] != c {
			c.Close() // idle connections alone: requests that run end as they would
		}
	}
	changed := config.Differences(old.cfg, now)
	if old.policies.Version() != policies.Version() {
		changed = append(changed, "policies (content)")
	}
	return web.Reloaded{Policies: policies.Version(), Changed: changed, NeedsRestart: config.Differences(now, next)}, nil
}

// hot is the configuration in force with those keys of the next one that can be
// applied while the process runs. Every other key needs a restart.
func hot(current, next config.Config) config.Config {
	current.Policies = next.Policies
	current.VEX.Files = next.VEX.Files
	current.Trust = next.Trust
	current.Upstreams = next.Upstreams
	current.Platforms = next.Platforms
	current.Refusal = next.Refusal
	current.Schedules = next.Schedules
	current.Registry.Hold = next.Registry.Hold
	current.Registry.MaxHeld = next.Registry.MaxHeld
	current.Log.Level = next.Log.Level
	return current
}

// note is what a person who looks at /readyz should know; "" is nothing. None of
// it makes the process unready: a configuration that is in force stands.
func (r *reloader) note() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.failure != nil:
		return fmt.Sprintf("the last reload failed and changed nothing: %v", r.failure)
	case r.waits:
		return "exceptions and schedules are read again when the state answers"
	case len(r.pending) > 0:
		return "changed keys need a restart: " + strings.Join(r.pending, ", ")
	}
	return ""
}

// probe shows the note.
func (r *reloader) probe() web.Probe {
	return web.Probe{Name: "configuration", Check: func(context.Context) error { return nil }, Note: r.note}
}

// setLevel makes the log as talkative as the configuration says.
func setLevel(v *slog.LevelVar, cfg config.Log) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		level = slog.LevelInfo // not reached: the configuration holds four words only
	}
	v.Set(level)
}

// everything is a configuration of the log that leaves the level to leveled.
func everything(cfg config.Log) config.Log {
	cfg.Level = "debug"
	return cfg
}

// leveled drops what is below a level that can change.
type leveled struct {
	slog.Handler
	level *slog.LevelVar
}

// Enabled implements slog.Handler.
func (h leveled) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// WithAttrs implements slog.Handler.
func (h leveled) WithAttrs(as []slog.Attr) slog.Handler {
	return leveled{h.Handler.WithAttrs(as), h.level}
}

// WithGroup implements slog.Handler.
func (h leveled) WithGroup(name string) slog.Handler {
	return leveled{h.Handler.WithGroup(name), h.level}
}
