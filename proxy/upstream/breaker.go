package upstream

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique/proxy"
)

// Values of pratique_upstream_breaker_state.
const (
	breakerClosed   = 0 // the upstream is asked
	breakerHalfOpen = 1 // one request finds out whether it is back
	breakerOpen     = 2 // nothing is asked
)

// breaker stops asking an upstream that does not answer: after so many failures
// without an answer between them every request fails at once, until a pause is
// over and one request, the probe, is let through. If that is answered, all is
// as before; if not, the next pause begins.
//
// An answer is whatever shows that the upstream works: content, an unknown
// name, a refusal, a limit, even a 500, which may be about one image alone.
type breaker struct {
	failures int // that open it
	pause    time.Duration
	now      func() time.Time
	log      *slog.Logger
	key      string
	gauge    prometheus.Gauge

	mu      sync.Mutex
	state   int
	count   int          // failures since the last answer
	until   time.Time    // end of the pause, when open
	probing bool         // a probe is out, when half open
	last    *proxy.Error // the failure that opened it
}

// enter returns what to fail with instead of asking, or nil: then the caller
// asks and must say by leave how it went, once.
func (b *breaker) enter() *proxy.Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == breakerClosed {
		return nil
	}
	if b.state == breakerOpen && !b.now().Before(b.until) {
		b.turn(breakerHalfOpen)
	}
	if b.state == breakerHalfOpen && !b.probing {
		b.probing = true
		return nil
	}
	return b.refusal()
}

// pausing returns what to fail with while a pause runs, so that nobody waits
// for a slot only to be told so.
func (b *breaker) pausing() *proxy.Error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == breakerOpen && b.now().Before(b.until) {
		return b.refusal()
	}
	return nil
}

// refusal is the answer of an open breaker; the caller holds mu.
func (b *breaker) refusal() *proxy.Error {
	e := proxy.Unavailable(b.last.Status(), "upstream %s is not asked: the last %d requests failed; the last said: %s", b.key, b.count, b.last.Message)
	e.RetryAfter = max(b.until.Sub(b.now()), time.Second)
	return e
}

// leave records how asking ended; err is nil for an answer. ctx is the caller's:
// one that left says nothing about the upstream.
func (b *breaker) leave(ctx context.Context, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
	switch e := silence(err); {
	case err != nil && ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded):
	case e != nil:
		b.count++
		b.last = e
		if b.state == breakerHalfOpen || b.count >= b.failures {
			b.until = b.now().Add(b.pause)
			b.turn(breakerOpen)
		}
	case b.state == breakerOpen:
		// The end of what began before: only a probe closes.
	case err == nil || answered(err):
		b.count = 0
		b.turn(breakerClosed)
	}
}

// header records that a blob's header came, which ends a probe. How the blob
// went is known, and told to leave, when its body ends.
func (b *breaker) header() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == breakerHalfOpen {
		b.probing, b.count = false, 0
		b.turn(breakerClosed)
	}
}

// turn changes the state; the caller holds mu. The two lines that people need
// are written here, and not one for each request meanwhile.
func (b *breaker) turn(state int) {
	switch {
	case state == breakerOpen && b.state == breakerClosed:
		b.log.Warn("Upstream does not answer; requests fail at once until it does", "upstream", b.key, "failures", b.count, "error", b.last.Message)
	case state == breakerClosed && b.state != breakerClosed:
		b.log.Info("Upstream answers again", "upstream", b.key)
	}
	b.state = state
	b.gauge.Set(float64(state))
}

// silence is err when it says that the upstream does not work: nobody there, no
// answer in time, or a gateway before it that says so.
func silence(err error) *proxy.Error {
	var e *proxy.Error
	if !errors.As(err, &e) || permanent(err) {
		return nil
	}
	var s status
	if errors.As(err, &s) {
		if s == http.StatusBadGateway || s == http.StatusServiceUnavailable || s == http.StatusGatewayTimeout {
			return e
		}
		return nil
	}
	if e.Status() == http.StatusBadGateway || e.Status() == http.StatusGatewayTimeout {
		return e
	}
	return nil
}

// answered reports whether err is what the upstream answered.
func answered(err error) bool {
	var s status
	return errors.As(err, &s)
}
