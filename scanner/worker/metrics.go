package worker

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of a pool; they count even when nobody reads them.
type metrics struct {
	seconds *prometheus.HistogramVec
	deaths  *prometheus.CounterVec
	busy    prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (metrics, error) {
	m := metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "pratique_worker_analysis_seconds",
			Help:    "Time to analyse one layer or image config, waiting for its bytes included.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 150, 300},
		}, []string{"kind"}),
		deaths: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_worker_deaths_total",
			Help: "Analyzer processes that ended before they answered, by reason.",
		}, []string{"reason"}),
		busy: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pratique_worker_busy",
			Help: "Analyzer processes that work on a layer.",
		}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.seconds, m.deaths, m.busy} {
		if err := r.Register(c); err != nil {
			return metrics{}, fmt.Errorf("metrics of the analyzer pool: %w", err)
		}
	}
	return m, nil
}
