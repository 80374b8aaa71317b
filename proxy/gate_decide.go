package proxy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique"
)

// decide finds the verdict on one manifest; depth counts indexes from 1. An
// error wrapping pratique.ErrPending means that it could not be known before
// ctx ended, or without waiting; the Decision then says of what, and a scan is
// open unless the inquiry is local and the manifest not here.
func (g *Gate) decide(ctx context.Context, ref pratique.Ref, img pratique.Image, q *inquiry, depth int) (pratique.Decision, error) {
	if img.Kind == pratique.KindIndex {
		return g.index(ctx, ref, img, q, depth)
	}
	d, err := g.image(ctx, ref, img, q)
	if g.reach.note(err) && !q.whole {
		// It turned out just now that the state is away: the last decision may stand.
		if v, ok := g.memory.recall(ref, img.Digest, q.client); ok {
			d, err = pratique.Decision{Ref: ref, Image: img, Verdict: v}, nil
		}
	}
	if err == nil {
		g.metrics.decided(d.Verdict.Outcome)
	}
	return d, err
}

// image decides on an image or an artifact.
func (g *Gate) image(ctx context.Context, ref pratique.Ref, img pratique.Image, q *inquiry) (pratique.Decision, error) {
	d := pratique.Decision{Ref: ref, Image: img}
	if !q.whole {
		if v, ok := g.memory.recall(ref, img.Digest, q.client); ok {
			d.Verdict = v
			return d, nil
		}
	}
	if l, ok := img.Foreign(); ok {
		return denied(d, "foreign-layer", fmt.Sprintf("layer %s is to be fetched from elsewhere (%s), so it can be neither cached nor scanned; build the image with all layers in the registry",
			l.Digest, clean(l.MediaType, 100))), nil
	}
	if g.reach.away() {
		return d, stateAway(nil) // at once: nothing could be found out, or scanned
	}
	stamp := g.memory.stamp(img.Digest)
	report, err := g.standing(ctx, img)
	switch {
	case err == nil:
		if report.State == pratique.StateFailed && q.wait {
			// Await does not wait where a report stands, but opens a new scan when
			// this one failed for a reason that has passed.
			if again, err := g.scans.Await(ctx, ref); err == nil {
				if report, err = vet(img, again); err != nil {
					return d, err
				}
			}
		}
		d.Report = report
		return g.judge(ctx, d, q, stamp)
	case !errors.Is(err, pratique.ErrNotFound):
		return d, err
	}
	// Without a report only a rule that names the unscanned lets it through;
	// then nobody waits, and the scan goes on behind. What such a rule needs and is
	// still being found out is not waited for before the scan, but beside it.
	d.Report = pratique.Report{Image: img.Digest}
	early, err := g.judge(ctx, d, q.glance(), stamp)
	if err != nil && !errors.Is(err, pratique.ErrPending) || err == nil && serves(early.Verdict) {
		return early, errors.Join(err, g.scans.Request(ctx, ref))
	}
	d.Report.State = pratique.StatePending
	if !q.wait || !q.hold() {
		if err := g.scans.Request(ctx, ref); err != nil {
			return d, err
		}
		return d, fmt.Errorf("%s: %w", ref, pratique.ErrPending)
	}
	begun := time.Now()
	stamp = g.memory.stamp(img.Digest)
	report, err = g.scans.Await(ctx, ref)
	g.metrics.waited.Observe(time.Since(begun).Seconds())
	if err == nil {
		report, err = vet(img, report)
	}
	switch {
	case err == nil:
		d.Report = report
		return g.judge(ctx, d, q, stamp)
	case ctx.Err() != nil || errors.Is(err, pratique.ErrNotFound):
		return d, fmt.Errorf("%s: %w", ref, pratique.ErrPending)
	}
	return d, err
}

// standing is the report to judge an image by; pratique.ErrNotFound when a
// scan has to make it first. What no client runs is not sent to the scanner:
// its report is always the same.
func (g *Gate) standing(ctx context.Context, img pratique.Image) (pratique.Report, error) {
	report, err := g.scans.Report(ctx, img.Digest)
	if errors.Is(err, pratique.ErrNotFound) && !img.Runnable() {
		return pratique.Report{Image: img.Digest, State: pratique.StateUnsupported, FirstSeen: img.FirstSeen}, nil
	}
	if err != nil {
		return pratique.Report{}, err
	}
	return vet(img, report)
}

// vet holds a report against the image it is said to be about.
func vet(img pratique.Image, r pratique.Report) (pratique.Report, error) {
	switch {
	case r.Image != img.Digest:
		return pratique.Report{}, fmt.Errorf("the report on %s is about %q", img.Digest, r.Image)
	case r.State == pratique.StateUnknown || r.State == pratique.StatePending:
		return pratique.Report{}, fmt.Errorf("report on %s: %w", img.Digest, pratique.ErrNotFound)
	case r.State == pratique.StateUnsupported && img.Runnable():
		// Rules let the unsupported through because nobody runs it.
		r.State = pratique.StateIncomplete
		r.Problems = append(r.Problems[:len(r.Problems):len(r.Problems)], pratique.Problem{
			Source: "gate", Message: "the image can be run, but the scanner read nothing of it",
		})
	}
	return r, nil
}

// gateMetrics count decisions and waiting.
type gateMetrics struct {
	held      prometheus.Gauge
	decisions *prometheus.CounterVec
	allowed   prometheus.Counter // of decisions, looked up once
	recalled  prometheus.Counter
	renewed   prometheus.Counter
	last      prometheus.Counter // of recalled, those given again while the state was away
	waited    prometheus.Histogram
	gathered  prometheus.Histogram
	overflow  prometheus.Counter
}

// newGateMetrics finds those of an earlier gate, if there was one: a gate is made
// anew when the configuration is read again, and what it counts goes on.
func newGateMetrics(reg prometheus.Registerer, state *reach) *gateMetrics {
	registerCollector(reg, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pratique_state_confirmed_age_seconds",
		Help: "How long ago this replica last knew of every change to the state; above 2 the state counts as away.",
	}, state.age))
	decisions := registerCollector(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pratique_gate_decisions_total",
		Help: "Decisions on single manifests, by outcome.",
	}, []string{"outcome"}))
	return &gateMetrics{
		held: registerCollector(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pratique_gate_held_requests",
			Help: "Requests that wait for a first verdict now.",
		})),
		decisions: decisions,
		allowed:   decisions.WithLabelValues(pratique.OutcomeAllow.String()),
		recalled: registerCollector(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pratique_gate_recalled_total",
			Help: "Decisions for which an earlier verdict still stood.",
		})),
		renewed: registerCollector(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pratique_gate_renewed_total",
			Help: "Verdicts made anew before anybody asked, because what they stood on had changed.",
		})),
		last: registerCollector(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pratique_gate_served_last_total",
			Help: "Decisions given again because the state did not answer and state.failure is serve-last.",
		})),
		waited: registerCollector(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pratique_gate_wait_seconds",
			Help:    "How long a request waited for one image's first report.",
			Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 15, 20, 25, 30},
		})),
		gathered: registerCollector(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pratique_gate_evidence_wait_seconds",
			Help:    "How long a request waited for facts that are not in a report: signatures, tags, versions, bases.",
			Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 15, 20, 25, 30},
		})),
		overflow: registerCollector(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pratique_gate_overflow_total",
			Help: "Requests that were not held because too many were.",
		})),
	}
}

// decided counts a decision.
func (m *gateMetrics) decided(o pratique.Outcome) {
	if o == pratique.OutcomeAllow {
		m.allowed.Inc()
		return
	}
	m.decisions.WithLabelValues(o.String()).Inc()
}
