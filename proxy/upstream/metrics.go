package upstream

import (
	"context"
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Operations, as metrics name them.
const (
	opResolve   = "resolve"
	opManifest  = "manifest"
	opBlob      = "blob"
	opTags      = "tags"
	opReferrers = "referrers"
	opToken     = "token"
)

// metrics of one upstream. Its key is a label: the configuration bounds it.
type metrics struct {
	requests *prometheus.CounterVec // op, status
	bytes    prometheus.Counter
	breaker  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, key string) metrics {
	requests := register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pratique_upstream_requests_total",
		Help: "Requests to upstreams and their token services, by operation and class of status (error: no answer).",
	}, []string{"upstream", "operation", "status"}))
	bytes := register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pratique_upstream_received_bytes_total",
		Help: "Bytes of response bodies received from upstreams.",
	}, []string{"upstream"}))
	breaker := register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "pratique_upstream_breaker_state",
		Help: "Whether an upstream is asked: 0 yes, 1 one request tries whether it is back, 2 not at all.",
	}, []string{"upstream"}))
	return metrics{
		requests: requests.MustCurryWith(prometheus.Labels{"upstream": key}),
		bytes:    bytes.WithLabelValues(key),
		breaker:  breaker.WithLabelValues(key),
	}
}

// register returns the collector that another upstream registered, if one did.
func register[T prometheus.Collector](reg prometheus.Registerer, c T) T {
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

func (m metrics) answered(op string, status int) {
	m.requests.WithLabelValues(op, strconv.Itoa(status/100)+"xx").Inc()
}

func (m metrics) failed(ctx context.Context, op string) {
	if ctx.Err() == nil { // a caller that left is no failure
		m.requests.WithLabelValues(op, "error").Inc()
	}
}
