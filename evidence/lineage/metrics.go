package lineage

import "github.com/prometheus/client_golang/prometheus"

// metrics count what Run does.
type metrics struct {
	watched  *prometheus.GaugeVec
	upstream *prometheus.CounterVec
	fetched  prometheus.Counter
	passes   prometheus.Counter
}

// Labels.
const (
	kindList = "list"
	kindTag  = "tag"
	kindBase = "base"
)

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		watched: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pratique_lineage_watched",
			Help: "Tags and bases that are watched because somebody pulled what they name.",
		}, []string{"kind"}),
		upstream: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_lineage_lookups_total",
			Help: "Lookups of tags, lists of tags and bases for the watch, by outcome.",
		}, []string{"kind", "outcome"}),
		fetched: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pratique_lineage_candidates_total",
			Help: "Newer versions that were fetched to be scanned.",
		}),
		passes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pratique_lineage_passes_total",
			Help: "Passes over what is watched.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.watched, m.upstream, m.fetched, m.passes)
	}
	return m
}
