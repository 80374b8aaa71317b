package hook

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Outcomes of calls.
const (
	outcomeAccepted     = "accepted"
	outcomeDuplicate    = "duplicate"
	outcomeIgnored      = "ignored"
	outcomeUnauthorized = "unauthorized"
	outcomeInvalid      = "invalid"
	outcomeLimited      = "limited"
	outcomeFull         = "full"
	outcomeFailed       = "failed"
)

func outcomes() []string {
	return []string{outcomeAccepted, outcomeDuplicate, outcomeIgnored, outcomeUnauthorized, outcomeInvalid, outcomeLimited, outcomeFull, outcomeFailed}
}

type metrics struct{ calls *prometheus.CounterVec }

func newMetrics(reg prometheus.Registerer) *metrics {
	return &metrics{calls: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "pratique_hook_calls_total",
		Help: "Webhooks of registries: accepted, duplicate, ignored (no push), unauthorized, invalid, limited, full, failed.",
	}, []string{"hook", "outcome"})}
}

type queueMetrics struct {
	pushes  *prometheus.CounterVec
	open    prometheus.Gauge
	seconds prometheus.Histogram
}

func newQueueMetrics(reg prometheus.Registerer) *queueMetrics {
	f := promauto.With(reg)
	m := &queueMetrics{
		pushes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_hook_pushes_total",
			Help: "Pushes that were followed up: decided, gone (deleted upstream), unknown (neither known here nor prefetched), failed.",
		}, []string{"outcome"}),
		open: f.NewGauge(prometheus.GaugeOpts{
			Name: "pratique_hook_open_pushes", Help: "Pushes that are not followed up yet.",
		}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "pratique_hook_decided_seconds", Help: "From a webhook to the verdict on what was pushed.",
			Buckets: []float64{.25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}),
	}
	for _, outcome := range []string{pushDecided, pushGone, pushUnknown, pushFailed} {
		m.pushes.WithLabelValues(outcome)
	}
	return m
}
