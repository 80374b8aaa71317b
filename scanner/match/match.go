// Package match asks the vulnerability database: components in, what is known
// against them out.
//
// It wraps Trivy's detection half and owns the one handle to the database that
// trivy-db keeps per process, with its lock and its swap. Fetching and judging
// a new database is scanner/database's; analysis of content is
// scanner/analyze's, which this package never links.
//
// Trivy fails open in many ways. Here a fault, a panic, an undecodable record
// or a finding that belongs to nobody fails the whole Match: no result is ever
// partial and no error is ever an empty list.
package match

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/aquasecurity/trivy/pkg/clock"
	"github.com/aquasecurity/trivy/pkg/licensing"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
)

// TrivyVersion is the version of the Trivy module that is linked in, part of
// every Engine: its comparers and end-of-life tables decide matches too. A test
// holds it against go.mod.
const TrivyVersion = "v0.74.0"

// Config adjusts a Matcher.
type Config struct {
	// Workers is how many goroutines match at once, over all Match calls. If
	// zero, GOMAXPROCS.
	Workers int
	// Now is the clock for end-of-life dates and Ubuntu's ESM switch. If nil,
	// Trivy's own, which is time.Now.
	Now func() time.Time
	// Log receives faults of the database and swaps. If nil, slog.Default().
	Log *slog.Logger
	// Metrics receives pratique_match_*. If nil, none are registered.
	Metrics prometheus.Registerer
}

// Matcher matches components against the adopted database. Its methods are
// safe for concurrent use. A process has one handle to a database, so it can
// have one Matcher with a database at a time; see Adopt and Close.
type Matcher struct {
	now     func() time.Time
	log     *slog.Logger
	slots   chan struct{} // one token for each goroutine that may match
	metrics metrics

	ends       table[pratique.OS, time.Time] // zero: not known
	licenses   table[string, license]
	classifier licensing.Scanner
}

// New returns a Matcher without a database: Match and Engine say
// pratique.ErrNoDatabase until Adopt succeeds.
func New(cfg Config) *Matcher {
	if cfg.Workers <= 0 {
		cfg.Workers = runtime.GOMAXPROCS(0)
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Matcher{
		now:     cfg.Now,
		log:     cfg.Log,
		slots:   make(chan struct{}, cfg.Workers),
		metrics: newMetrics(cfg.Metrics),

		classifier: newClassifier(),
	}
}

// Match returns, for each component in order, what the database says of it
// (nil: matched, nothing known), sorted by id, and the engine that said so. All
// answers come from one and the same database. No database is an error wrapping
// pratique.ErrNoDatabase; any failure fails the whole call.
//
// A swap of the database waits for running calls, and later calls wait for the
// swap: hand over thousands of components at once, not millions.
func (m *Matcher) Match(ctx context.Context, cs []pratique.Component) ([][]pratique.Vulnerability, pratique.Engine, error) {
	start := time.Now()
	shared.lock.RLock()
	defer shared.lock.RUnlock()
	engine, err := m.engine()
	if err != nil {
		return nil, pratique.Engine{}, err
	}
	out, err := m.detect(m.withClock(ctx), cs)
	if err != nil {
		m.metrics.errors.Inc()
		return nil, pratique.Engine{}, fmt.Errorf("matching against database %s: %w", engine.Database, err)
	}
	m.metrics.components.Add(float64(len(cs)))
	m.metrics.seconds.Observe(time.Since(start).Seconds())
	return out, engine, nil
}

// Engine is what Match would use now; without a database the error wraps
// pratique.ErrNoDatabase.
func (m *Matcher) Engine() (pratique.Engine, error) {
	shared.lock.RLock()
	defer shared.lock.RUnlock()
	return m.engine()
}

// engine needs shared.lock.
func (m *Matcher) engine() (pratique.Engine, error) {
	if shared.owner != m {
		return pratique.Engine{}, pratique.ErrNoDatabase
	}
	return shared.engine, nil
}

func (m *Matcher) withClock(ctx context.Context) context.Context {
	if m.now == nil {
		return ctx
	}
	return clock.With(ctx, m.now())
}

type metrics struct {
	components prometheus.Counter
	errors     prometheus.Counter
	seconds    prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		components: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pratique_match_components_total", Help: "Components matched against the vulnerability database.",
		}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pratique_match_errors_total", Help: "Match calls that failed; none of their components has a result.",
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pratique_match_seconds", Help: "Duration of successful Match calls.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
	}
	if reg != nil {
		reg.MustRegister(m.components, m.errors, m.seconds)
	}
	return m
}
