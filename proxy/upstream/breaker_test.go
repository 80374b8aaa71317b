package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/proxy/upstream"
)

// broken is an upstream with a client whose breaker opens after three failures,
// for 10 s of a clock that only the test moves.
type broken struct {
	*proxytest.Upstream
	*upstream.Client
	t   *testing.T
	reg *prometheus.Registry
	log bytes.Buffer
	now time.Time
}

func newBroken(t *testing.T) *broken {
	t.Helper()
	b := &broken{Upstream: proxytest.New(t), t: t, reg: prometheus.NewPedanticRegistry(), now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)}
	b.Image("app", "v1")
	b.Client = client(t, b.Upstream, func(cfg *upstream.Config) {
		cfg.BreakAfter, cfg.BreakPause = 3, 10*time.Second
		cfg.HeaderTimeout, cfg.StallTimeout = 200*time.Millisecond, 200*time.Millisecond
		cfg.Metrics, cfg.Now = b.reg, func() time.Time { return b.now }
		cfg.Log = slog.New(slog.NewTextHandler(&b.log, nil))
	})
	return b
}

// ask fetches the manifest and returns the status that a client would see.
func (b *broken) ask() (int, time.Duration) {
	b.t.Helper()
	_, _, err := b.Client.Manifest(b.t.Context(), "app", "v1")
	if err == nil {
		return 200, 0
	}
	var e *proxy.Error
	if !errors.As(err, &e) {
		b.t.Fatal(err)
	}
	return e.Status(), e.RetryAfter
}

// state is the breaker's metric.
func (b *broken) state() float64 {
	b.t.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "pratique_upstream_breaker_state" {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	b.t.Fatal("pratique_upstream_breaker_state is not there")
	return -1
}

func TestBreaker(t *testing.T) {
	never := make(chan struct{})
	for name, tt := range map[string]struct {
		fault  proxytest.Fault
		status int
	}{
		"502":     {proxytest.Status(502), 502},
		"503":     {proxytest.Status(503), 502},
		"504":     {proxytest.Status(504), 504},
		"reset":   {proxytest.Reset(), 502},
		"timeout": {proxytest.Stall(-1, never), 504},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroken(t)
			b.Fault("", 0, tt.fault)
			for range 3 {
				if status, _ := b.ask(); status != tt.status {
					t.Fatalf("%d, want %d", status, tt.status)
				}
			}
			b.Seen()
			if b.state() != 2 {
				t.Errorf("state %v, want open", b.state())
			}
			if status, after := b.ask(); status != tt.status || after != 10*time.Second {
				t.Errorf("open: %d, retry after %v", status, after)
			}
			b.Expect() // nothing was asked

			b.now = b.now.Add(10 * time.Second)
			if status, _ := b.ask(); status != tt.status {
				t.Errorf("the probe: %d", status)
			}
			if len(b.Seen()) == 0 {
				t.Error("no probe was made")
			}
			if status, after := b.ask(); status != tt.status || after != 10*time.Second {
				t.Errorf("open again: %d, retry after %v", status, after)
			}
			b.Expect()

			b.Heal()
			b.now = b.now.Add(10 * time.Second)
			if status, _ := b.ask(); status != 200 || b.state() != 0 {
				t.Errorf("back: %d, state %v", status, b.state())
			}
			if lines := strings.Count(b.log.String(), "\n"); lines != 2 {
				t.Errorf("%d lines, want one when it broke and one when it was back:\n%s", lines, b.log.String())
			}
		})
	}
}

// What shows that the upstream works does not open the breaker, however bad the
// news, and neither do failures with answers between them.
func TestBreakerStaysClosed(t *testing.T) {
	for name, fault := range map[string]proxytest.Fault{
		"404":                  proxytest.Status(404),
		"403":                  proxytest.Status(403),
		"401":                  proxytest.Status(401),
		"500":                  proxytest.Status(500),
		"429":                  proxytest.Status(429, "Retry-After", "1"),
		"redirect to metadata": proxytest.Redirect("http://169.254.169.254/"),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroken(t)
			b.Fault("", 0, fault)
			for range 10 {
				b.ask()
			}
			if b.state() != 0 {
				t.Errorf("state %v, want closed", b.state())
			}
		})
	}
	t.Run("answers between", func(t *testing.T) {
		b := newBroken(t)
		for range 5 {
			b.Fault("", 3, proxytest.Status(503)) // with its retries, one request
			b.Fault("", 3, proxytest.Status(503))
			b.ask()
			b.ask()
			if status, _ := b.ask(); status != 200 || b.state() != 0 {
				t.Fatalf("%d, state %v", status, b.state())
			}
		}
	})
	t.Run("clients that leave", func(t *testing.T) {
		b := newBroken(t)
		b.Fault("", 0, proxytest.Stall(-1, make(chan struct{})))
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(10*time.Millisecond, cancel)
			if _, _, err := b.Client.Manifest(ctx, "app", "v1"); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		if b.state() != 0 {
			t.Errorf("state %v, want closed", b.state())
		}
	})
}

// Blobs whose header comes and whose bytes do not open it too; bytes that come
// are an answer, whatever ends them.
func TestBreakerAndBlobs(t *testing.T) {
	fetch := func(b *broken, d digest.Digest) {
		body, _, err := b.Client.Blob(b.t.Context(), "app", d, 0)
		if err != nil {
			return
		}
		_, err = io.Copy(io.Discard, body)
		if cerr := body.Close(); err == nil || cerr != nil {
			b.t.Errorf("%v, %v", err, cerr)
		}
	}
	for name, tt := range map[string]struct {
		sent  int
		state float64
	}{"no byte": {0, 2}, "some bytes": {50_000, 0}} {
		t.Run(name, func(t *testing.T) {
			b := newBroken(t)
			d := b.Upstream.Blob("app", "", make([]byte, 100_000)).Digest
			b.Fault("GET /v2/app/blobs", 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if tt.sent == 0 {
					w.Header().Set("Content-Length", "100000")
					w.WriteHeader(200)
					_ = http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				}
				proxytest.Truncate(tt.sent)(w, r, next)
			})
			for range 5 {
				fetch(b, d)
			}
			if b.state() != tt.state {
				t.Errorf("state %v, want %v", b.state(), tt.state)
			}
		})
	}
}

// While half open one request asks, whoever else comes is told at once.
func TestBreakerLetsOneThrough(t *testing.T) {
	b := newBroken(t)
	b.Fault("", 9, proxytest.Status(503))
	for range 3 {
		b.ask()
	}
	b.Seen()
	b.now = b.now.Add(10 * time.Second)
	asked, release := make(chan struct{}), make(chan struct{})
	b.Fault("", 1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		close(asked)
		<-release
		next.ServeHTTP(w, r)
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if status, _ := b.ask(); status != 200 {
			t.Errorf("the probe: %d", status)
		}
	})
	<-asked
	if status, after := b.ask(); status != 502 || after == 0 || b.state() != 1 {
		t.Errorf("beside the probe: %d, retry after %v, state %v", status, after, b.state())
	}
	close(release)
	wg.Wait()
	b.Expect("GET /v2/app/manifests/v1")
}

// A body that trickles is ended like one that stalls.
func TestMinSpeed(t *testing.T) {
	for name, tt := range map[string]struct {
		speed int64
		ok    bool
	}{"too slow": {1 << 20, false}, "any speed": {-1, true}, "fast enough": {1, true}} {
		t.Run(name, func(t *testing.T) {
			u := proxytest.New(t)
			d := u.Blob("app", "", make([]byte, 60))
			u.Fault("GET", 0, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
				w.Header().Set("Content-Length", "60")
				for range 60 {
					_, _ = w.Write([]byte{0})
					_ = http.NewResponseController(w).Flush()
					time.Sleep(10 * time.Millisecond)
				}
			})
			c := client(t, u, func(cfg *upstream.Config) { cfg.StallTimeout, cfg.MinSpeed = 200*time.Millisecond, tt.speed })
			body, _, err := c.Blob(t.Context(), "app", d.Digest, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			n, err := io.Copy(io.Discard, body)
			if tt.ok {
				if err != nil || n != 60 {
					t.Errorf("%d bytes, %v", n, err)
				}
				return
			}
			is(t, err, proxy.CodeTooManyRequests, 504)
		})
	}
}

// Blobs and other requests have slots of their own.
func TestTransfersTakeNoSlotOfRequests(t *testing.T) {
	u := proxytest.New(t)
	u.Image("app", "v1")
	d := u.Blob("app", "", make([]byte, 100)).Digest
	c := client(t, u, func(cfg *upstream.Config) { cfg.MaxTransfers, cfg.MaxRequests = 1, 1 })
	body, _, err := c.Blob(t.Context(), "app", d, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Manifest(t.Context(), "app", "v1"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, _, err := c.Blob(ctx, "app", d, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a second transfer: %v", err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	again, _, err := c.Blob(t.Context(), "app", d, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
