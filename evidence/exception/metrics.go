package exception

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	created, revoked, failures prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, active func() float64) *metrics {
	m := &metrics{
		created:  prometheus.NewCounter(prometheus.CounterOpts{Name: "pratique_exceptions_created_total", Help: "Exceptions created, through the API or a file."}),
		revoked:  prometheus.NewCounter(prometheus.CounterOpts{Name: "pratique_exceptions_revoked_total", Help: "Exceptions revoked before they expired."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "pratique_exceptions_reload_failures_total", Help: "Readings of the exceptions and their files that failed; what was in force stays."}),
	}
	if reg != nil {
		reg.MustRegister(m.created, m.revoked, m.failures, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pratique_exceptions_active", Help: "Exceptions in force now.",
		}, active))
	}
	return m
}
