package scheduler

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/store"
)

// RescanConfig adjusts a Rescanner.
type RescanConfig struct {
	// Changed is told the images of which a component is known otherwise than before,
	// once what is stored says so. It is called from one goroutine at a time, with at
	// most a thousand. After a process that died in the middle of a rescan it is told
	// all that the rest of the rescan may concern. If nil, nobody is told.
	Changed func(ctx context.Context, images []digest.Digest)
	// Done is told of every rescan that came to its end, after Changed; also of one
	// that had nothing to do. If nil, nobody is told.
	Done func(ctx context.Context, r Rescanned)
	// Images and Rematch renew what of a report no component decides (ends of life),
	// when another version of Trivy came into use. If nil, nothing is renewed.
	Images  func(ctx context.Context) iter.Seq2[digest.Digest, error]
	Rematch func(ctx context.Context, image digest.Digest) (pratique.Report, error)
	// Batch is how many components are matched by one call, and Parallel how many
	// calls run at once: while one matches, another's answers are written. If zero,
	// 2000 and 2. A call is spread over the cores by the matcher.
	Batch, Parallel int
	// Clock is how often is looked whether time alone moved something, and whether
	// what could not be matched can be now. If zero, 1 hour.
	Clock time.Duration
	// Backoff is the delay before a failed rescan is tried again; it doubles up to
	// MaxBackoff. If zero, 1 second and 5 minutes.
	Backoff, MaxBackoff time.Duration
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
	// Log receives rescans, and what could not be matched. If nil, slog.Default().
	Log *slog.Logger
	// Metrics receives pratique_scheduler_rescan_* and _fullpass_*. If nil, none are
	// registered.
	Metrics prometheus.Registerer
}

// Rescanned is what a rescan did.
type Rescanned struct {
	Engine     pratique.Engine // that everything is current with
	All        bool            // everything was matched again
	Components int             // that were matched
	Changed    int             // of which something else is known than before
	Images     int             // that hold one of those
	Took       time.Duration
}

// Rescanner keeps what is known of components current with the database in use:
// what a database says otherwise than the one before is matched again, and nothing
// else. Images are not touched: their reports are joins of what is stored of their
// components.
//
// What stands, stands until it is replaced: while a rescan runs, when it fails, and
// for a component that cannot be matched. Its methods are safe for concurrent use.
type Rescanner struct {
	matching Matching
	fleet    Fleet
	differ   Differ
	cfg      RescanConfig
	metrics  rescanMetrics

	database chan struct{} // holds one value when the database moved
	turn     chan struct{} // holds one value while a rescan or a full pass runs

	// Owned by whoever has the turn.
	unmatched map[pratique.ComponentID]pratique.Component // what failed the last time, at most maxUnmatched
	untold    []pratique.ComponentID                      // changed by rescans that failed afterwards
	settled   bool                                        // a rescan of this process came to its end
}

// maxUnmatched bounds what is remembered of components that cannot be matched.
const maxUnmatched = 10000

// NewRescanner returns a Rescanner that does nothing before Run.
func NewRescanner(matching Matching, fleet Fleet, differ Differ, cfg RescanConfig) *Rescanner {
	or := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	or(&cfg.Clock, time.Hour)
	or(&cfg.Backoff, time.Second)
	or(&cfg.MaxBackoff, 5*time.Minute)
	if cfg.Batch <= 0 {
		cfg.Batch = 2000
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = 2
	}
	if cfg.Changed == nil {
		cfg.Changed = func(context.Context, []digest.Digest) {}
	}
	if cfg.Done == nil {
		cfg.Done = func(context.Context, Rescanned) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Rescanner{
		matching: matching, fleet: fleet, differ: differ, cfg: cfg, metrics: newRescanMetrics(cfg.Metrics),
		database: make(chan struct{}, 1), turn: make(chan struct{}, 1),
		unmatched: make(map[pratique.ComponentID]pratique.Component),
	}
}

// DatabaseChanged says that another vulnerability database is in use. It returns at
// once; a rescan that is under way begins again.
func (r *Rescanner) DatabaseChanged(context.Context) { notify(r.database) }

// Run rescans whenever the database or the clock moved, until ctx ends, and returns
// nil. It begins with a look of its own: the last process may have died in the
// middle of a rescan, or with another database. Of processes that share their state
// one is to run it (store.Lead); it may be called again when it has returned.
func (r *Rescanner) Run(ctx context.Context) error {
	if leave, err := r.enter(ctx); err == nil {
		r.settled = false // also when this process ran before, and another since
		leave()
	}
	notify(r.database)
	clock := time.NewTicker(r.cfg.Clock)
	defer clock.Stop()
	for failures := 0; ; {
		select {
		case <-r.database:
		case <-clock.C:
		case <-ctx.Done():
			return nil
		}
		err := r.Rescan(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil, errors.Is(err, pratique.ErrNoDatabase):
			failures = 0 // with no database there is nothing to do before the next change
			continue
		}
		r.metrics.failures.Inc()
		r.cfg.Log.ErrorContext(ctx, "rescan failed, will be tried again; what stands, stands", "error", err)
		if !sleep(ctx, backoff(r.cfg.Backoff, r.cfg.MaxBackoff, failures)) {
			return nil
		}
		failures++
		notify(r.database)
	}
}

func backoff(first, most time.Duration, failures int) time.Duration {
	return min(first<<min(failures, 20), most)
}

// Rescan brings everything up to the database in use, if it is not, and returns when
// it is.
func (r *Rescanner) Rescan(ctx context.Context) error {
	leave, err := r.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	_, err = r.rescan(ctx)
	return err
}

// enter waits for the turn.
func (r *Rescanner) enter(ctx context.Context) (leave func(), err error) {
	select {
	case r.turn <- struct{}{}:
		return func() { <-r.turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// maxOvertaken is how many databases may come into use during one rescan before it
// is an error.
const maxOvertaken = 10

// rescan needs the turn. It returns the engine that everything is current with.
func (r *Rescanner) rescan(ctx context.Context) (pratique.Engine, error) {
	for n := 0; ; n++ {
		e, err := r.matching.Engine()
		if err == nil {
			err = r.follow(ctx, e)
		}
		if !errors.Is(err, store.ErrSuperseded) || n == maxOvertaken {
			return e, err
		}
		// Another database came into use. What this one said of components stays
		// stored, and Strays tells of which.
		if !sleep(ctx, backoff(r.cfg.Backoff/100, r.cfg.Backoff, n)) {
			return e, context.Cause(ctx)
		}
	}
}

// follow makes e what everything is current with.
func (r *Rescanner) follow(ctx context.Context, e pratique.Engine) error {
	start := time.Now()
	if err := r.fleet.Begin(ctx, e); err != nil {
		return fmt.Errorf("database %s: %w", e.Database, err)
	}
	now := r.cfg.Now() // before anything is matched: what time moves meanwhile is looked at again
	t, err := r.plan(ctx, e, now)
	if err != nil {
		return err
	}
	r.metrics.phase("diff", start)
	if t.idle() {
		r.settled = true
		r.cfg.Done(context.WithoutCancel(ctx), Rescanned{Engine: e, Took: time.Since(start)})
		return nil
	}
	r.metrics.running.Set(1)
	defer r.metrics.running.Set(0)
	images, err := r.carryOut(ctx, t)
	if err != nil {
		return err
	}
	r.cfg.Done(context.WithoutCancel(ctx), Rescanned{
		Engine: e, All: t.delta.All, Components: t.matched, Changed: len(t.changed), Images: images, Took: time.Since(start),
	})
	r.cfg.Log.InfoContext(ctx, "rescanned", "database", e.Database, "former", t.from.Database, "all", t.delta.All,
		"keys", len(t.delta.Keys), "vulnerabilities", len(t.delta.Vulnerabilities),
		"components", t.matched, "changed", len(t.changed), "failed", len(t.failed), "images", images, "took", time.Since(start))
	return nil
}

// plan says what has to be matched again so that everything is current with e.
func (r *Rescanner) plan(ctx context.Context, e pratique.Engine, now time.Time) (*task, error) {
	t := &task{engine: e, now: now, seen: make(map[pratique.ComponentID]bool)}
	from, at, err := r.fleet.Current(ctx)
	first := errors.Is(err, pratique.ErrNotFound)
	if err != nil && !first {
		return nil, err
	}
	t.from, t.same = from, !first && sameEngine(from, e)
	for c, err := range r.fleet.Strays(ctx, e) {
		if err != nil {
			return nil, err
		}
		t.extra = append(t.extra, c)
	}
	if !first {
		t.delta.Keys = r.matching.Clock(at, now)
	}
	t.advance = !t.same || len(t.extra) > 0 || len(t.delta.Keys) > 0
	t.extra = slices.AppendSeq(t.extra, maps.Values(r.unmatched))
	if t.same {
		return t, nil
	}
	// Also when there is nothing to compare with: what the differ needs of e to
	// compare the next database with it is kept.
	delta, err := r.differ.Diff(ctx, from.Database, e.Database)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		r.cfg.Log.WarnContext(ctx, "databases not compared, everything is matched again", "error", err)
		delta = Delta{All: true}
	}
	t.upgrade = !first && from.Version != e.Version
	if first || t.upgrade || delta.All {
		t.delta = Delta{All: true}
		t.interrupted = !first && !r.settled
		return t, nil
	}
	t.delta.Keys = append(t.delta.Keys, delta.Keys...)
	t.delta.Vulnerabilities = delta.Vulnerabilities
	t.interrupted = !r.settled
	return t, nil
}

// sameEngine is store.Fleet's word for it.
func sameEngine(a, b pratique.Engine) bool {
	return a.Version == b.Version && a.Database == b.Database && a.DatabaseAt.Equal(b.DatabaseAt)
}

// carryOut matches, makes what was matched count, and tells whom it concerns. When
// it fails in between, what it changed is told at the end of the next that does not.
func (r *Rescanner) carryOut(ctx context.Context, t *task) (images int, err error) {
	defer func() {
		if err != nil {
			r.untold = append(r.untold, t.concerns()...)
		}
	}()
	if err := r.match(ctx, t, r.concerned(ctx, t)); err != nil {
		return 0, err
	}
	if t.upgrade {
		if err := r.renew(ctx); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	affected, err := r.imagesWith(ctx, slices.Concat(r.untold, t.concerns()))
	if err != nil {
		return 0, err
	}
	if t.advance {
		if err := r.fleet.Advance(ctx, t.engine, t.now); err != nil {
			return 0, err
		}
	}
	r.settled, r.untold, r.unmatched = true, nil, t.failed
	r.metrics.unmatched.Set(float64(len(t.failed)))
	// They would not be told again: not even a stop comes in between.
	r.announce(context.WithoutCancel(ctx), affected)
	r.metrics.phase("images", start)
	return len(affected), nil
}
