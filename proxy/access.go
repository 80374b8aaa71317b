package proxy

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/store"
)

// outcome is how a request ended, for logs and metrics.
type outcome string

// Outcomes of requests: a closed set, because it labels metrics.
const (
	outcomeServed   outcome = "served"
	outcomeWarned   outcome = "warned"   // served, with warnings
	outcomeRefused  outcome = "refused"  // by policy
	outcomePending  outcome = "pending"  // no verdict yet
	outcomeUnknown  outcome = "unknown"  // there is no such thing
	outcomeInvalid  outcome = "invalid"  // the client's mistake
	outcomeLimited  outcome = "limited"  // an upstream told us to come later
	outcomeUpstream outcome = "upstream" // an upstream failed
	outcomeAway     outcome = "away"     // the state or the storage did not answer
	outcomeFailed   outcome = "failed"   // Pratique failed
	outcomeCanceled outcome = "canceled" // the client left
)

// access is the one log line of a request, filled while it is answered.
type access struct {
	parsed
	start   time.Time
	status  int
	outcome outcome
	verdict string
	bytes   int64
	hit     bool
	stale   bool
	err     error // cause, when it did not go well
}

// fail files an error under an outcome.
func (a *access) fail(ctx context.Context, e *Error) {
	a.err = e
	if r, ok := e.Detail.(*Refusal); ok {
		a.verdict = r.Verdict.ID
	}
	switch {
	case errors.Is(e, context.Canceled) && ctx.Err() != nil:
		a.outcome = outcomeCanceled
	case errors.Is(e, store.ErrUnreachable):
		a.outcome = outcomeAway
	case errors.Is(e, pratique.ErrPending):
		a.outcome = outcomePending
	case e.Code == codeInternal, errors.Is(e, syscall.ENOSPC), errors.Is(e, syscall.EDQUOT):
		a.outcome = outcomeFailed
	case e.Status() >= 502 && e.Status() <= 504:
		a.outcome = outcomeUpstream
	case e.Code == CodeTooManyRequests:
		a.outcome = outcomeLimited
	case e.Code == CodeDenied:
		a.outcome = outcomeRefused
	case e.Status() == 404:
		a.outcome = outcomeUnknown
	case e.Status() < 500:
		a.outcome = outcomeInvalid
	default:
		a.outcome = outcomeFailed
	}
}

// maxAgent bounds what a client may write into the log.
const maxAgent = 200

// log writes the line. Pings are not worth one.
func (a *access) log(ctx context.Context, log *slog.Logger, method, agent string, took time.Duration) {
	level := slog.LevelInfo
	switch {
	case a.outcome == outcomeFailed:
		level = slog.LevelError
	case a.kind == kindBase && a.status < 400:
		level = slog.LevelDebug
	}
	if !log.Enabled(ctx, level) {
		return
	}
	reference := a.Ref.Tag
	if reference == "" {
		reference = a.Ref.Digest.String()
	}
	if len(agent) > maxAgent {
		agent = agent[:maxAgent]
	}
	if len(method) > 16 {
		method = method[:16]
	}
	attrs := make([]slog.Attr, 0, 17)
	attrs = append(attrs,
		slog.String("method", method),
		slog.String("kind", string(a.kind)),
		slog.String("upstream", a.Ref.Registry),
		slog.String("repository", a.Ref.Repo),
		slog.String("reference", reference),
		slog.String("digest", a.Ref.Digest.String()),
		slog.Int("status", a.status),
		slog.String("outcome", string(a.outcome)),
		slog.String("verdict", a.verdict),
		slog.Int64("bytes", a.bytes),
		slog.Bool("hit", a.hit),
		slog.Duration("duration", took),
		slog.String("client", a.Client.Addr.String()),
		slog.String("agent", agent),
	)
	if a.stale {
		attrs = append(attrs, slog.Bool("stale", true))
	}
	if a.err != nil {
		attrs = append(attrs, slog.Any("error", cause(a.err)))
	}
	log.LogAttrs(ctx, level, "request", attrs...)
}

// cause is an error with what only the log may know: the chain behind it.
func cause(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Err != nil {
		return errors.New(e.Error() + ": " + e.Err.Error())
	}
	return err
}

// serverMetrics count what clients got.
type serverMetrics struct {
	pulls    *prometheus.CounterVec
	requests *prometheus.HistogramVec
	bytes    *prometheus.CounterVec

	// What the vectors gave before, so that a request looks nothing up by words.
	// There are no more entries than kinds times outcomes.
	mu     sync.RWMutex
	series map[series]*counters
}

// series is one combination of labels.
type series struct {
	kind    kind
	outcome outcome
	pull    bool // a GET of a manifest
	sent    bool // content was
}

// counters are those of one series; those that do not apply are nil, because to
// look one up is to export it.
type counters struct {
	pulls    prometheus.Counter
	requests prometheus.Observer
	bytes    prometheus.Counter
}

// newServerMetrics registers them, or finds those of an earlier server: one is
// made anew when the configuration is read again. With a nil registerer they
// count unseen.
func newServerMetrics(reg prometheus.Registerer) *serverMetrics {
	return &serverMetrics{
		series: make(map[series]*counters),
		pulls: registerCollector(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_proxy_pulls_total",
			Help: "Manifest GET requests by how they ended.",
		}, []string{"outcome"})),
		requests: registerCollector(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "pratique_proxy_request_seconds",
			Help:    "Duration of requests to the last byte, by kind and how they ended.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25, 60, 300},
		}, []string{"kind", "outcome"})),
		bytes: registerCollector(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pratique_proxy_sent_bytes_total",
			Help: "Bytes of content sent to clients, by kind.",
		}, []string{"kind"})),
	}
}

func (m *serverMetrics) observe(a *access, took time.Duration) {
	c := m.counters(series{a.kind, a.outcome, a.kind == kindManifest && !a.Head, a.bytes > 0})
	c.requests.Observe(took.Seconds())
	if c.pulls != nil {
		c.pulls.Inc()
	}
	if c.bytes != nil {
		c.bytes.Add(float64(a.bytes))
	}
}

func (m *serverMetrics) counters(s series) *counters {
	m.mu.RLock()
	c, ok := m.series[s]
	m.mu.RUnlock()
	if ok {
		return c
	}
	c = &counters{requests: m.requests.WithLabelValues(string(s.kind), string(s.outcome))}
	if s.pull {
		c.pulls = m.pulls.WithLabelValues(string(s.outcome))
	}
	if s.sent {
		c.bytes = m.bytes.WithLabelValues(string(s.kind))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.series[s] = c // the same counters, whoever was first
	return c
}
