// Package upstream is the client for one configured upstream registry: names
// to bytes over the pull side of OCI distribution-spec 1.1.
//
// It owns authentication, tokens, limits, retries and time-outs, and the rule
// about which addresses may be dialled. It keeps nothing but tokens and
// verifies only what it holds whole: caching and verifying blobs is the
// caller's (proxy.Cache).
package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique/proxy"
)

// Config of one upstream.
type Config struct {
	// URL of the upstream: https://host[:port], or http:// when it has no TLS.
	// Nothing is asked by plain HTTP unless this says so.
	URL string
	// Private permits loopback, private (RFC 1918, ULA) and carrier-grade NAT
	// addresses for the upstream, its redirects and its token service. If
	// false, names that resolve to one are refused when they are dialled.
	// Link-local addresses and the metadata services of clouds are refused
	// always.
	Private bool
	// Credentials for the upstream. If zero, anonymous.
	Credentials Credentials
	// CAFile names a PEM file with certificates trusted beside the system's.
	CAFile string
	// DialTimeout bounds a connection's set-up. If zero, 10 s.
	DialTimeout time.Duration
	// HeaderTimeout bounds the time until a response's header is there,
	// redirects included. If zero, 20 s.
	HeaderTimeout time.Duration
	// StallTimeout ends a body that brings no byte for so long. If zero, 30 s.
	StallTimeout time.Duration
	// RetryPause is waited before a request that failed at once (a reset, a
	// gateway's 502) is asked a second time, four times that before the third
	// and last. If zero, 200 ms.
	RetryPause time.Duration
	// MinSpeed is how many bytes of a body must come in a second, on average over
	// StallTimeout of waiting; a slower one is ended as one that stalls is. If
	// zero, 1024; if negative, any speed will do.
	MinSpeed int64
	// MaxTransfers bounds the blobs that are fetched at the same time; more wait.
	// If zero, 32.
	MaxTransfers int
	// MaxRequests bounds the other requests likewise. If zero, 64.
	MaxRequests int
	// BreakAfter is how many requests must fail without an answer, one after
	// another, until the upstream is not asked for BreakPause. If zero, 5.
	BreakAfter int
	// BreakPause is how long it is not asked; then one request tries. If zero, 10 s.
	BreakPause time.Duration
	// MaxTags bounds a tag list; a longer one is an error, never cut. If zero,
	// 100,000.
	MaxTags int
	// UserAgent is sent with each request. If empty, "pratique".
	UserAgent string
	// Log gets a line when the upstream stops answering, and one when it answers
	// again. If nil, slog.Default().
	Log *slog.Logger
	// Metrics; if nil, none.
	Metrics prometheus.Registerer
	// Now is the clock; if nil, time.Now.
	Now func() time.Time

	// Environment variables such as HTTPS_PROXY are not obeyed: behind a proxy
	// the rule about private addresses could not be kept.
}

// Client asks one upstream. It is safe for concurrent use.
type Client struct {
	key       string
	cfg       Config
	base      *url.URL
	http      *http.Client
	auth      *authorizer
	requests  chan struct{} // a slot per request that is not a blob's
	transfers chan struct{} // a slot per open blob
	breaker   *breaker
	metrics   metrics

	mu   sync.Mutex
	held time.Time    // until then the upstream is not asked
	why  *proxy.Error // what it said
}

var _ proxy.Upstream = (*Client)(nil)

// New makes the client of the upstream with this key in the configuration. It
// contacts nobody.
func New(key string, cfg Config) (*Client, error) {
	fail := func(err error) (*Client, error) { return nil, fmt.Errorf("upstream %s: %w", key, err) }
	base, err := parseURL(cfg.URL)
	if err != nil {
		return fail(err)
	}
	cfg.setDefaults()
	pool, err := loadCA(cfg.CAFile)
	if err != nil {
		return fail(err)
	}
	c := &Client{
		key:       key,
		cfg:       cfg,
		base:      base,
		requests:  make(chan struct{}, cfg.MaxRequests),
		transfers: make(chan struct{}, cfg.MaxTransfers),
		metrics:   newMetrics(cfg.Metrics, key),
	}
	c.breaker = &breaker{
		failures: cfg.BreakAfter, pause: cfg.BreakPause, now: cfg.Now, log: cfg.Log, key: key, gauge: c.metrics.breaker,
	}
	dialer := &net.Dialer{Timeout: cfg.DialTimeout, KeepAlive: 30 * time.Second, ControlContext: guard(cfg.Private)}
	c.http = &http.Client{
		CheckRedirect: c.checkRedirect,
		Transport: &http.Transport{
			DialContext:           dialer.DialContext,
			TLSClientConfig:       &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:   cfg.DialTimeout,
			ForceAttemptHTTP2:     true,
			MaxIdleConns:          cfg.MaxRequests,
			MaxIdleConnsPerHost:   cfg.MaxRequests,
			IdleConnTimeout:       90 * time.Second,
			ExpectContinueTimeout: time.Second,
			// The bytes are what counts, not what they unpack to.
			DisableCompression: true,
		},
	}
	creds, err := newCredentials(cfg.Credentials, base, cfg.Now)
	if err != nil {
		return fail(err)
	}
	c.auth = &authorizer{client: c, creds: creds}
	return c, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (cfg *Config) setDefaults() {
	setDefault(&cfg.DialTimeout, 10*time.Second)
	setDefault(&cfg.HeaderTimeout, 20*time.Second)
	setDefault(&cfg.StallTimeout, 30*time.Second)
	setDefault(&cfg.RetryPause, 200*time.Millisecond)
	setDefault(&cfg.MinSpeed, 1024)
	setDefault(&cfg.MaxTransfers, 32)
	setDefault(&cfg.MaxRequests, 64)
	setDefault(&cfg.BreakAfter, 5)
	setDefault(&cfg.BreakPause, 10*time.Second)
	setDefault(&cfg.MaxTags, 100_000)
	setDefault(&cfg.UserAgent, "pratique")
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		return nil, fmt.Errorf("url %q: want https://host[:port] or http://host[:port]", s)
	case u.User != nil:
		return nil, errors.New("url: user and password belong under credentials")
	case strings.Trim(u.Path, "/") != "", u.RawQuery != "", u.Fragment != "":
		return nil, fmt.Errorf("url %q: only scheme, host and port", s)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

func loadCA(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil // the system's
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it", path)
	}
	return pool, nil
}
