package s3test

import (
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Faults are what a Proxy does to requests. The zero Faults lets everything pass.
type Faults struct {
	// Errors is the share of requests, 0 to 1, that are answered with Status instead
	// of being passed on.
	Errors float64
	// Status of these answers. If zero, 500.
	Status int
	// Latency is added to every request.
	Latency time.Duration
	// Refuse ends every connection without an answer.
	Refuse bool
	// Cut ends the connection of a GET after so many bytes of its body. 0 cuts none.
	Cut int64
	// Stall makes a GET stand still after so many bytes of its body, until the client
	// leaves. 0 stalls none.
	Stall int64
	// Only limits the faults to these methods. If empty, all.
	Only []string
	// Flip changes one bit of every body that a GET returns.
	Flip bool
}

// Proxy passes requests on to a Server and does damage on the way. It invents no
// answers but those of Faults.
type Proxy struct {
	server *Server
	http   *httptest.Server

	mu     sync.Mutex
	faults Faults
	seen   []string
}

// Proxy starts one; it ends with the test.
func (s *Server) Proxy(tb testing.TB) *Proxy {
	tb.Helper()
	target := &url.URL{Scheme: "http", Host: s.Addr}
	p := &Proxy{server: s}
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
	reverse := &httputil.ReverseProxy{
		Transport: transport,
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		// The host is part of what is signed, so it stays the proxy's.
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		ErrorHandler:   func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ModifyResponse: p.damage,
	}
	p.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := p.note(r)
		if f.Latency > 0 {
			select {
			case <-time.After(f.Latency):
			case <-r.Context().Done():
			}
		}
		switch {
		case f.Refuse:
			panic(http.ErrAbortHandler)
		case rand.Float64() < f.Errors:
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(max(f.Status, http.StatusInternalServerError))
			_, _ = io.WriteString(w, `<Error><Code>InternalError</Code><Message>injected</Message></Error>`)
		default:
			reverse.ServeHTTP(w, r)
		}
	}))
	tb.Cleanup(func() {
		p.http.CloseClientConnections()
		p.http.Close()
		transport.CloseIdleConnections()
	})
	return p
}

// note records the request and returns what is to be done to it.
func (p *Proxy) note(r *http.Request) Faults {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, r.Method+" "+r.URL.Path)
	if len(p.faults.Only) > 0 && !slices.Contains(p.faults.Only, r.Method) {
		return Faults{}
	}
	return p.faults
}

// Set changes the faults for the requests to come.
func (p *Proxy) Set(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = f
}

// Seen counts the requests so far of a method whose path holds part.
func (p *Proxy) Seen(method, part string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, s := range p.seen {
		if strings.HasPrefix(s, method+" ") && strings.Contains(s, part) {
			n++
		}
	}
	return n
}

// Parameters of distribution's s3 driver for a bucket behind the proxy.
func (p *Proxy) Parameters(bucket string) map[string]any {
	return parameters(p.http.Listener.Addr().String(), bucket)
}

// Addr is host:port of the proxy.
func (p *Proxy) Addr() string { return p.http.Listener.Addr().String() }

// damage spoils the body of a GET's answer.
func (p *Proxy) damage(resp *http.Response) error {
	p.mu.Lock()
	f := p.faults
	p.mu.Unlock()
	if resp.Request.Method != http.MethodGet || resp.StatusCode >= http.StatusMultipleChoices {
		return nil
	}
	body := &damaged{ReadCloser: resp.Body, faults: f, left: -1, gone: resp.Request.Context().Done()}
	switch {
	case f.Cut > 0:
		body.left = f.Cut
	case f.Stall > 0:
		body.left = f.Stall
	}
	resp.Body = body
	return nil
}

type damaged struct {
	io.ReadCloser
	faults  Faults
	left    int64 // -1: no end
	flipped bool
	gone    <-chan struct{}
}

func (d *damaged) Read(b []byte) (int, error) {
	if d.left == 0 {
		if d.faults.Stall > 0 && d.faults.Cut == 0 {
			<-d.gone
		}
		return 0, errors.New("cut")
	}
	if d.left > 0 {
		b = b[:min(int64(len(b)), d.left)]
	}
	n, err := d.ReadCloser.Read(b)
	if d.left > 0 {
		d.left -= int64(n)
	}
	if n > 0 && d.faults.Flip && !d.flipped {
		b[0] ^= 1
		d.flipped = true
	}
	return n, err
}
