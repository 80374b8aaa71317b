package scheduler

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	jobs    *prometheus.CounterVec
	seconds prometheus.Histogram
	running *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer, queue Queue, jobs Jobs, pauses Pauses) metrics {
	m := metrics{
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_scheduler_jobs_total", Help: "Attempts at scans by outcome: done, retry, dead.",
		}, []string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pratique_scheduler_job_seconds", Help: "Duration of attempts at scans, transfers included.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 25, 60, 150, 300, 900},
		}),
		running: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pratique_scheduler_jobs_running", Help: "Scans running now: for a pull that waits, or in the background.",
		}, []string{"for"}),
	}
	if reg != nil {
		reg.MustRegister(m.jobs, m.seconds, m.running, depth{queue, jobs, pauses})
	}
	return m
}

// busy shows how the workers are shared out.
func (m metrics) busy(b share) {
	m.running.WithLabelValues("pull").Set(float64(b.pulls))
	m.running.WithLabelValues("background").Set(float64(b.background))
}

// depth counts jobs when it is scraped. What it cannot know it leaves out.
type depth struct {
	queue  Queue
	jobs   Jobs
	pauses Pauses
}

var (
	depthDesc  = prometheus.NewDesc("pratique_scheduler_queue_jobs", "Open jobs by priority: 0 a pull waits, 1 webhook, 2 database, 3 schedule.", []string{"priority"}, nil)
	deadDesc   = prometheus.NewDesc("pratique_scheduler_dead_jobs", "Jobs that were given up and that nobody tried again since.", nil, nil)
	pausedDesc = prometheus.NewDesc("pratique_scheduler_paused", "Whether a priority is paused.", []string{"priority"}, nil)
)

func (d depth) Describe(c chan<- *prometheus.Desc) {
	c <- depthDesc
	c <- deadDesc
	c <- pausedDesc
}

func (d depth) Collect(c chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if n, err := d.queue.Len(ctx); err != nil { // a missing number, not a zero
		c <- prometheus.NewInvalidMetric(depthDesc, err)
	} else {
		for p := PriorityPull; p <= PrioritySchedule; p++ {
			c <- prometheus.MustNewConstMetric(depthDesc, prometheus.GaugeValue, float64(n[p]), strconv.Itoa(int(p)))
		}
	}
	if d.jobs != nil {
		if n, err := d.jobs.DeadJobs(ctx); err != nil {
			c <- prometheus.NewInvalidMetric(deadDesc, err)
		} else {
			c <- prometheus.MustNewConstMetric(deadDesc, prometheus.GaugeValue, float64(n))
		}
	}
	if d.pauses == nil {
		return
	}
	paused, err := d.pauses.Paused(ctx)
	if err != nil {
		c <- prometheus.NewInvalidMetric(pausedDesc, err)
		return
	}
	for _, p := range Background() {
		v := 0.0
		if _, ok := paused[p]; ok {
			v = 1
		}
		c <- prometheus.MustNewConstMetric(pausedDesc, prometheus.GaugeValue, v, strconv.Itoa(int(p)))
	}
}
