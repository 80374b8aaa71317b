package scheduler

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	jobs       *prometheus.CounterVec
	seconds    prometheus.Histogram
	running    prometheus.Gauge
	rematches  *prometheus.CounterVec
	rematching prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, queue Queue) metrics {
	m := metrics{
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_scheduler_jobs_total", Help: "Attempts at scans by outcome: done, retry, dead.",
		}, []string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pratique_scheduler_job_seconds", Help: "Duration of attempts at scans, transfers included.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 25, 60, 150, 300, 900},
		}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pratique_scheduler_jobs_running", Help: "Scans running now.",
		}),
		rematches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_scheduler_rematches_total", Help: "Reports looked at after the database moved, by outcome: done, failed.",
		}, []string{"outcome"}),
		rematching: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pratique_scheduler_rematching", Help: "1 while reports are renewed after the database moved.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.jobs, m.seconds, m.running, m.rematches, m.rematching, depth{queue})
	}
	return m
}

// depth counts open jobs when it is scraped.
type depth struct{ queue Queue }

var depthDesc = prometheus.NewDesc("pratique_scheduler_queue_jobs", "Open jobs by priority: 0 a pull waits, 1 webhook, 2 database, 3 schedule.", []string{"priority"}, nil)

func (d depth) Describe(c chan<- *prometheus.Desc) { c <- depthDesc }

func (d depth) Collect(c chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	n, err := d.queue.Len(ctx)
	if err != nil { // a missing number, not a zero
		c <- prometheus.NewInvalidMetric(depthDesc, err)
		return
	}
	for p := PriorityPull; p <= PrioritySchedule; p++ {
		c <- prometheus.MustNewConstMetric(depthDesc, prometheus.GaugeValue, float64(n[p]), strconv.Itoa(int(p)))
	}
}
