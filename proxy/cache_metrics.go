package proxy

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Labels of pratique_cache_requests_total.
const (
	cacheManifest = "manifest"
	cacheBlob     = "blob"
	cacheTags     = "tags"

	resultHit   = "hit"
	resultMiss  = "miss"
	resultStale = "stale"
	resultError = "error"
)

type cacheMetrics struct {
	requests  *prometheus.CounterVec
	transfers *prometheus.CounterVec
	resumes   prometheus.Counter
	running   prometheus.Gauge
	bytes     prometheus.Counter
}

func newCacheMetrics(reg prometheus.Registerer) cacheMetrics {
	return cacheMetrics{
		requests: registerCollector(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_cache_requests_total",
			Help: "Requests to the cache by kind, and whether it had the bytes (hit, miss, stale) or failed.",
		}, []string{"kind", "result"})),
		transfers: registerCollector(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_cache_transfers_total",
			Help: "Blob transfers from upstreams that ended, by outcome.",
		}, []string{"outcome"})),
		resumes: registerCollector(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pratique_cache_resumes_total",
			Help: "Blob transfers that broke off and were resumed where they had stopped.",
		})),
		running: registerCollector(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pratique_cache_transfers_running",
			Help: "Blob transfers from upstreams that are running or wait for one of their upstream's slots.",
		})),
		bytes: registerCollector(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pratique_cache_stored_bytes_total",
			Help: "Bytes of blobs that were verified and stored.",
		})),
	}
}

// registerCollector returns the collector that is registered under c's name
// already, if there is one: two caches in one process count together.
func registerCollector[T prometheus.Collector](reg prometheus.Registerer, c T) T {
	if reg == nil {
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &already) {
		if same, ok := already.ExistingCollector.(T); ok {
			return same
		}
	} else if err != nil {
		panic(err) // a programming error: two metrics of one name
	}
	return c
}

func (m cacheMetrics) request(kind, result string) { m.requests.WithLabelValues(kind, result).Inc() }

func (m cacheMetrics) manifest(got Manifest, err error) {
	switch {
	case err != nil:
		m.request(cacheManifest, resultError)
	case got.Stale:
		m.request(cacheManifest, resultStale)
	case got.Hit:
		m.request(cacheManifest, resultHit)
	default:
		m.request(cacheManifest, resultMiss)
	}
}
