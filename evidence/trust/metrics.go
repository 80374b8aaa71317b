package trust

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	lookups  *prometheus.CounterVec // by outcome
	seconds  prometheus.Histogram
	problems prometheus.Counter
}

// newMetrics makes the metrics. Those that an earlier Trust registered with reg,
// before the configuration was read again, are gone on with.
func newMetrics(reg prometheus.Registerer) *metrics {
	return &metrics{
		lookups: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_trust_lookups_total",
			Help: "Images whose signatures and attestations were looked for, by outcome: verified, none, failed.",
		}, []string{"outcome"})),
		seconds: register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pratique_trust_lookup_seconds",
			Help:    "How long it took to look for and verify the signatures of one image.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		})),
		problems: register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pratique_trust_problems_total",
			Help: "Signatures and attestations that were found and did not verify.",
		})),
	}
}

func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
	}
	return c
}
