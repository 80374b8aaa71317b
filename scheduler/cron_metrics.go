package scheduler

import "github.com/prometheus/client_golang/prometheus"

// cronMetrics count runs.
type cronMetrics struct {
	runs    *prometheus.CounterVec
	running *prometheus.GaugeVec
	done    *prometheus.GaugeVec
}

func newCronMetrics(reg prometheus.Registerer) cronMetrics {
	m := cronMetrics{
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_schedule_runs_total", Help: "Runs of schedules by how they ended: done, failed, stopped.",
		}, []string{"schedule", "outcome"}),
		running: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pratique_schedule_running", Help: "Whether a schedule runs now.",
		}, []string{"schedule"}),
		done: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pratique_schedule_done_timestamp_seconds", Help: "When a schedule was last done by this process.",
		}, []string{"schedule"}),
	}
	if reg != nil {
		reg.MustRegister(m.runs, m.running, m.done)
	}
	return m
}

// use shows a schedule that did not run yet.
func (m cronMetrics) use(name string) {
	m.running.WithLabelValues(name).Add(0)
	m.runs.WithLabelValues(name, string(OutcomeFailed)).Add(0)
}

func (m cronMetrics) ended(name string, r Run) {
	m.runs.WithLabelValues(name, string(r.Outcome)).Inc()
	if r.Outcome == OutcomeDone {
		m.done.WithLabelValues(name).Set(float64(r.EndedAt.Unix()))
	}
}
