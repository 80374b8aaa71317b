package scanner

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	scans         *prometheus.CounterVec
	kept          prometheus.Counter
	analyses      prometheus.Counter
	reused        prometheus.Counter
	rematches     prometheus.Counter
	matchesReused prometheus.Counter
	matchSeconds  prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := metrics{
		scans: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_scanner_scans_total", Help: "Scans by the state of the report that stood afterwards, or error.",
		}, []string{"state"}),
		kept:          counter("pratique_scanner_reports_kept_total", "Scans that failed while an earlier report stood, and stands."),
		analyses:      counter("pratique_scanner_analyses_total", "Layers and configs handed to an analyzer."),
		reused:        counter("pratique_scanner_inventories_reused_total", "Layers and configs whose inventory was there already."),
		rematches:     counter("pratique_scanner_rematches_total", "Reports renewed with another database, without reading content."),
		matchesReused: counter("pratique_scanner_matches_reused_total", "Components whose matches against the database in use were there already."),
		matchSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pratique_scanner_match_seconds", Help: "Duration of matching the components of one image that were not matched before.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
	}
	if reg != nil {
		reg.MustRegister(m.scans, m.kept, m.analyses, m.reused, m.rematches, m.matchesReused, m.matchSeconds)
	}
	return m
}
