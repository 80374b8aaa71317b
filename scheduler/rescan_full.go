package scheduler

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique/store"
)

// Pass is what a full pass found.
type Pass struct {
	Components int `json:"components"` // matched
	// Differences are components of which something else stood than the database says:
	// none, unless a rescan missed them. They are put right.
	Differences int           `json:"differences"`
	Failed      int           `json:"failed"` // components that cannot be matched
	Images      int           `json:"images"` // that hold one that differed
	Took        time.Duration `json:"took"`
}

// FullPass matches everything against the database in use: the proof that rescans
// missed nothing. It brings everything up to the database first, so that only what a
// rescan missed is a difference. Scans and rescans are not held up: the first share
// the matcher, and a database that comes into use makes the pass begin again behind
// a rescan.
func (r *Rescanner) FullPass(ctx context.Context) (Pass, error) {
	leave, err := r.enter(ctx)
	if err != nil {
		return Pass{}, err
	}
	defer leave()
	start := time.Now()
	for {
		p, err := r.pass(ctx)
		if errors.Is(err, store.ErrSuperseded) && ctx.Err() == nil {
			continue
		}
		p.Took = time.Since(start)
		return p, err
	}
}

// pass needs the turn.
func (r *Rescanner) pass(ctx context.Context) (Pass, error) {
	e, err := r.rescan(ctx)
	if err != nil {
		return Pass{}, err
	}
	r.metrics.running.Set(1)
	defer r.metrics.running.Set(0)
	t := &task{engine: e, from: e, now: r.cfg.Now(), delta: Delta{All: true}, advance: true}
	images, err := r.carryOut(ctx, t)
	p := Pass{Components: t.matched, Differences: t.differences, Failed: len(t.failed), Images: images}
	r.metrics.differences.Add(float64(p.Differences))
	if p.Differences > 0 {
		r.cfg.Log.ErrorContext(ctx, "a full pass found what rescans missed; it is put right, please report this",
			"components", p.Differences, "of", p.Components, "some", t.sample, "database", e.Database)
	}
	if err != nil {
		return Pass{}, err
	}
	r.cfg.Log.InfoContext(ctx, "full pass", "components", p.Components, "differences", p.Differences, "failed", p.Failed, "images", p.Images)
	return p, nil
}

type rescanMetrics struct {
	components  *prometheus.CounterVec
	images      prometheus.Counter
	seconds     *prometheus.HistogramVec
	running     prometheus.Gauge
	unmatched   prometheus.Gauge
	failures    prometheus.Counter
	differences prometheus.Gauge
}

func newRescanMetrics(reg prometheus.Registerer) rescanMetrics {
	m := rescanMetrics{
		components: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_scheduler_rescan_components_total", Help: "Components matched again by outcome: same, changed, failed.",
		}, []string{"outcome"}),
		images: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pratique_scheduler_rescan_images_total", Help: "Images that hold a component of which a rescan found something else.",
		}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pratique_scheduler_rescan_seconds", Help: "Duration of rescans by phase: diff (databases compared), match (and written), renew (reports after an upgrade), images (found and told).",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 30, 60, 90, 180, 600},
		}, []string{"phase"}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pratique_scheduler_rescanning", Help: "1 while components are matched again, after the database moved or in a full pass.",
		}),
		unmatched: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pratique_scheduler_unmatched_components", Help: "Components that could not be matched with the database in use; what stood of them, stands.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pratique_scheduler_rescan_failures_total", Help: "Rescans that failed as a whole and were tried again.",
		}),
		differences: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pratique_scheduler_fullpass_differences", Help: "Components that full passes since the start found to be known otherwise than the database says; anything but 0 is a fault of Pratique.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.components, m.images, m.seconds, m.running, m.unmatched, m.failures, m.differences)
	}
	return m
}

func (m *rescanMetrics) phase(name string, start time.Time) {
	m.seconds.WithLabelValues(name).Observe(time.Since(start).Seconds())
}
