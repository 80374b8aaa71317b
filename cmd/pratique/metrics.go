package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// newMetrics is the process's one registry, with what is true of any process.
// Everything else stands beside the code that it counts; docs/operate.md lists
// all of it, held to by a test.
func newMetrics() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	v := readVersion()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "pratique_build_info",
		Help:        "Always 1; the labels say what this binary is made of.",
		ConstLabels: prometheus.Labels{"version": v.Version, "commit": v.Commit, "trivy": v.Trivy, "go": v.Go},
	})
	build.Set(1)
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build)
	return reg
}
