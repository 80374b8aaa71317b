package notify

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	events     *prometheus.CounterVec
	deliveries *prometheus.CounterVec
	backlog    *prometheus.GaugeVec
	seconds    *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		events: f.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_notify_events_total", Help: "Events put into the outbox, by type.",
		}, []string{"type"}),
		deliveries: f.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_notify_deliveries_total", Help: "Attempts to deliver events to a sink: done, retry, dead.",
		}, []string{"sink", "outcome"}),
		backlog: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pratique_notify_backlog", Help: "Deliveries to a sink that are open, or dead until they are replayed.",
		}, []string{"sink", "state"}),
		seconds: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pratique_notify_request_seconds", Help: "How long a sink took for an event.",
			Buckets: []float64{.01, .05, .1, .5, 1, 5, 10},
		}, []string{"sink"}),
	}
}
