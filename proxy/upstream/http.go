package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"pratique/proxy"
)

// request is one logical question, asked once or, when that is harmless, again.
type request struct {
	op      string // for metrics
	method  string
	url     *url.URL
	repo    string
	header  http.Header
	accept  []int      // statuses beside 2xx that are an answer
	unknown proxy.Code // what a 404 means
	what    string     // for people
}

const (
	maxRedirects = 5
	maxRetries   = 2
)

// do asks and returns a response whose status is 2xx or accepted. Closing its
// body ends the request. A nil error with any other status does not occur.
func (c *Client) do(ctx context.Context, q request) (*http.Response, error) {
	slots := c.requests
	if q.op == opBlob {
		slots = c.transfers
	}
	if e := c.breaker.pausing(); e != nil {
		return nil, e
	}
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return nil, c.transportError(ctx, q.what, ctx.Err())
	}
	release := sync.OnceFunc(func() { <-slots })
	if e := c.breaker.enter(); e != nil {
		release()
		return nil, e
	}
	res, err := c.retrying(ctx, q)
	if err == nil && q.op == opBlob {
		// How a blob went is known at its end: an upstream that sends headers and no
		// bytes is not asked for ever. A probe's header is enough to go on.
		c.breaker.header()
		res.Body = &slotBody{ReadCloser: res.Body, release: release, ended: func(err error) { c.breaker.leave(ctx, err) }}
		return res, nil
	}
	c.breaker.leave(ctx, err)
	if err != nil {
		release()
		return nil, err
	}
	res.Body = &slotBody{ReadCloser: res.Body, release: release}
	return res, nil
}

// retrying asks, and again where that is harmless and may help.
func (c *Client) retrying(ctx context.Context, q request) (*http.Response, error) {
	for try := 0; ; try++ {
		res, err := c.once(ctx, q)
		if err == nil || try == maxRetries || !retryable(err) {
			return res, err
		}
		if err := sleep(ctx, c.cfg.RetryPause<<(2*try)); err != nil {
			return nil, c.transportError(ctx, q.what, err)
		}
	}
}

// once asks once, with whatever it takes to be let in.
func (c *Client) once(ctx context.Context, q request) (*http.Response, error) {
	if e := c.holding(); e != nil {
		return nil, e
	}
	authorization, err := c.auth.known(ctx, q)
	if err != nil {
		return nil, err
	}
	res, err := c.send(ctx, q, q.url, authorization)
	if err != nil {
		return nil, err
	}
	// At most two challenges are answered: the upstream's, and one of the registry
	// that it then redirects to.
	answered := map[bool]bool{}
	for res.StatusCode == http.StatusUnauthorized && !answered[c.ours(res.Request.URL)] {
		answered[c.ours(res.Request.URL)] = true
		if res, err = c.challenged(ctx, q, res, authorization); err != nil {
			return nil, err
		}
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	if res.StatusCode == http.StatusUnauthorized {
		c.auth.doubt()
	}
	for _, s := range q.accept {
		if res.StatusCode == s {
			return res, nil
		}
	}
	e := c.statusError(res, q)
	e.Err = errors.Join(e.Err, status(res.StatusCode))
	res.Body.Close()
	if res.StatusCode == http.StatusTooManyRequests {
		c.hold(e)
	}
	return nil, e
}

// challenged answers a 401 once. A challenge that cannot be answered leaves the
// 401 as it is.
func (c *Client) challenged(ctx context.Context, q request, res *http.Response, used string) (*http.Response, error) {
	ch, ok := pickChallenge(res.Header)
	if !ok {
		return res, nil
	}
	to := q.url
	var authorization string
	var err error
	if c.ours(res.Request.URL) {
		authorization, err = c.auth.answer(ctx, q, ch, used)
	} else {
		// A redirect led to another registry that wants a token of its own: it
		// gets an anonymous one and never our credentials.
		to = res.Request.URL
		authorization, err = c.auth.anonymous(ctx, q, ch, to)
	}
	if err != nil {
		res.Body.Close()
		return nil, err
	}
	if authorization == "" {
		return res, nil
	}
	res.Body.Close()
	return c.send(ctx, q, to, authorization)
}

// send makes one HTTP exchange, redirects included.
func (c *Client) send(ctx context.Context, q request, to *url.URL, authorization string) (*http.Response, error) {
	inner, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(inner, q.method, to.String(), nil)
	if err != nil {
		cancel(err)
		return nil, fmt.Errorf("upstream %s: %w", c.key, err)
	}
	for k, vs := range q.header {
		req.Header[k] = vs
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	return c.roundTrip(ctx, req, q, cancel)
}

// roundTrip bounds the wait for the header and then each wait for a byte of the
// body. cancel ends req's context, whose parent ctx is the caller's.
func (c *Client) roundTrip(ctx context.Context, req *http.Request, q request, cancel context.CancelCauseFunc) (*http.Response, error) {
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	timer := time.AfterFunc(c.cfg.HeaderTimeout, func() { cancel(errTimeout) })
	res, err := c.http.Do(req)
	if !timer.Stop() && err == nil {
		res.Body.Close()
		err = errTimeout
	}
	if err != nil {
		if cause := context.Cause(req.Context()); errors.Is(cause, errTimeout) { //nolint:contextcheck // asks why the request's own context ended
			err = errTimeout
		}
		cancel(err)
		c.metrics.failed(ctx, q.op)
		return nil, c.transportError(ctx, q.what, err)
	}
	c.metrics.answered(q.op, res.StatusCode)
	res.Body = &body{client: c, ctx: ctx, inner: res.Body, cancel: cancel, what: q.what, req: req.Context()}
	return res, nil
}

// checkRedirect lets a redirect go to any host that the dialler permits, but
// never down to plain HTTP, and never with our credentials.
func (c *Client) checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: more than %d", errRedirect, maxRedirects)
	case req.URL.Scheme != "https" && (req.URL.Scheme != "http" || via[0].URL.Scheme == "https"):
		return fmt.Errorf("%w: from %s to %s", errRedirect, via[0].URL.Scheme, req.URL.Scheme)
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		return fmt.Errorf("%w: of a %s", errRedirect, req.Method)
	}
	if !sameHost(req.URL, via[0].URL) {
		req.Header.Del("Authorization")
	}
	req.Header.Del("Referer") // it would tell the next host of a presigned URL
	return nil
}

// ours reports whether u is the configured upstream.
func (c *Client) ours(u *url.URL) bool { return sameHost(u, c.base) }

// sameHost compares scheme, host and port: credentials for one are not for
// another.
func sameHost(a, b *url.URL) bool {
	port := func(u *url.URL) string {
		if p := u.Port(); p != "" {
			return p
		}
		return map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

// hold makes further requests fail at once with e until its time is over.
func (c *Client) hold(e *proxy.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until := c.cfg.Now().Add(e.RetryAfter); until.After(c.held) {
		c.held, c.why = until, e
	}
}

// holding returns the upstream's last 429 while it stands.
func (c *Client) holding() *proxy.Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := c.held.Sub(c.cfg.Now())
	if left <= 0 {
		return nil
	}
	e := *c.why
	e.RetryAfter = left
	return &e
}

// status lets retryable see the upstream's own status.
type status int

func (s status) Error() string { return fmt.Sprintf("status %d", int(s)) }

// retryable reports whether asking again at once may help and costs little:
// resets, refusals and gateways that hiccup, but not time-outs.
func retryable(err error) bool {
	var s status
	if errors.As(err, &s) {
		return s == http.StatusBadGateway || s == http.StatusServiceUnavailable || s == http.StatusGatewayTimeout
	}
	var e *proxy.Error
	if !errors.As(err, &e) || e.Status() != http.StatusBadGateway {
		return false
	}
	return !permanent(err)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// slotBody gives the slot back when the body is closed, and then tells ended how
// it went: bytes that came are an answer, whatever broke them off.
type slotBody struct {
	io.ReadCloser
	release func()
	ended   func(error) // may be nil

	some bool  // a byte came
	err  error // the last that Read returned
}

func (b *slotBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.some = b.some || n > 0
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

func (b *slotBody) Close() error {
	if b.ended != nil {
		if b.some {
			b.err = nil
		}
		b.ended(b.err)
		b.ended = nil
	}
	defer b.release()
	return b.ReadCloser.Close()
}

// body turns a stall into an error and errors into what callers expect. It
// never reports an early end as io.EOF: net/http does not, given a length or
// chunks.
type body struct {
	client *Client
	ctx    context.Context //nolint:containedctx // the caller's; io.Reader has none
	req    context.Context //nolint:containedctx // the request's
	inner  io.ReadCloser
	cancel context.CancelCauseFunc
	what   string

	// Of the window that runs: time spent in waiting, and what came in it. Only
	// waiting counts, because a reader of ours that is slow is no fault of theirs.
	waited time.Duration
	came   int64
}

func (b *body) Read(p []byte) (int, error) {
	stall := b.client.cfg.StallTimeout
	timer := time.AfterFunc(stall, func() { b.cancel(errStalled) })
	began := time.Now()
	n, err := b.inner.Read(p)
	timer.Stop()
	b.client.metrics.bytes.Add(float64(n))
	b.waited, b.came = b.waited+time.Since(began), b.came+int64(n)
	if err == nil && b.waited >= stall {
		if float64(b.came) < float64(b.client.cfg.MinSpeed)*b.waited.Seconds() {
			b.cancel(errStalled)
			return n, b.client.transportError(b.ctx, b.what, fmt.Errorf("%w: %d bytes in %s", errStalled, b.came, b.waited.Round(time.Millisecond)))
		}
		b.waited, b.came = 0, 0
	}
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if errors.Is(context.Cause(b.req), errStalled) {
		err = errStalled
	}
	return n, b.client.transportError(b.ctx, b.what, err)
}

func (b *body) Close() error {
	b.cancel(nil)
	return b.inner.Close()
}
