package web_test

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
	"pratique/web"
)

// now is the instant at which these tests happen.
var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func digestOf(s string) digest.Digest { return digest.FromString(s) }

// fakeUpstreams is a set of keys and other names.
type fakeUpstreams map[string]string

func (f fakeUpstreams) Lookup(name string) (string, bool) {
	key, ok := f[name]
	return key, ok
}

func (f fakeUpstreams) Keys() []string { return []string{"docker.io", "ghcr.io", "lab"} }

func upstreams() fakeUpstreams {
	return fakeUpstreams{"docker.io": "docker.io", "index.docker.io": "docker.io", "ghcr.io": "ghcr.io", "lab": "lab", "127.0.0.1:7001": "lab"}
}

// fakeGate answers with a decision or a failure and remembers what it was
// asked. What it says of standing images is in reports; standingErr fails that.
type fakeGate struct {
	mu          sync.Mutex
	asked       []string
	clients     []netip.Addr
	waits       []time.Duration
	decision    pratique.Decision
	fail        error
	panics      bool
	reports     map[digest.Digest]pratique.Report
	standingErr error
}

func (f *fakeGate) Check(_ context.Context, ref pratique.Ref, client netip.Addr, wait time.Duration) (pratique.Decision, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked, f.clients, f.waits = append(f.asked, ref.String()), append(f.clients, client), append(f.waits, wait)
	if f.panics {
		panic("as asked")
	}
	if f.fail != nil {
		return pratique.Decision{Ref: ref}, f.fail
	}
	d := f.decision
	d.Ref = ref
	return d, nil
}

// Standing allows what is scanned and has no findings.
func (f *fakeGate) Standing(_ context.Context, ref pratique.Ref, img pratique.Image) (pratique.Decision, error) {
	d := pratique.Decision{Ref: ref, Image: img, Report: f.reports[img.Digest]}
	if d.Report.State == pratique.StateScanned && len(d.Report.Findings) == 0 {
		d.Verdict.Outcome = pratique.OutcomeAllow
	}
	return d, f.standingErr
}

// fakeCatalog lists images; failAt makes it fail before that element.
type fakeCatalog struct {
	known  []store.Known
	failAt int
}

func (f *fakeCatalog) Images(context.Context) iter.Seq2[store.Known, error] {
	return func(yield func(store.Known, error) bool) {
		for i, k := range f.known {
			if f.failAt > 0 && i == f.failAt {
				yield(store.Known{}, io.ErrUnexpectedEOF)
				return
			}
			if !yield(k, nil) {
				return
			}
		}
	}
}

// fakeDatabase remembers what was imported.
type fakeDatabase struct {
	content string
	force   bool
	asked   bool
	undo    bool
	fail    error
}

func (f *fakeDatabase) Status(context.Context) (web.DatabaseStatus, error) {
	if f.content == "" {
		return web.DatabaseStatus{LastError: "no source answers"}, nil
	}
	return web.DatabaseStatus{Database: &web.DatabaseInfo{Digest: digestOf(f.content).String(), UpdatedAt: now}}, nil
}

func (f *fakeDatabase) Import(_ context.Context, r io.Reader, force bool) error {
	f.asked = true
	if f.fail != nil {
		return f.fail
	}
	b, err := io.ReadAll(r)
	f.content, f.force = string(b), force
	return err
}

func (f *fakeDatabase) Rollback(_ context.Context, undo bool) error {
	f.undo = undo
	return f.fail
}

func (f *fakeDatabase) Export(_ context.Context, which string, begin func(digest.Digest), w io.Writer) error {
	if which == "previous" {
		return fmt.Errorf("%w: there is no previous database", pratique.ErrNotFound)
	}
	begin(digestOf(f.content))
	if _, err := io.WriteString(w, f.content); err != nil {
		return err
	}
	return f.fail
}

func (f *fakeDatabase) Diff(_ context.Context, from, to string) (any, error) {
	return map[string]string{"old": from, "new": to}, f.fail
}

// serve starts the handler on loopback.
func serve(t *testing.T, cfg web.Config) *httptest.Server {
	t.Helper()
	if cfg.Upstreams == nil {
		cfg.Upstreams = upstreams()
	}
	if cfg.Spool == "" {
		cfg.Spool = t.TempDir()
	}
	srv := httptest.NewServer(web.New(cfg))
	t.Cleanup(srv.Close)
	return srv
}

// ask sends one request and returns status and body.
func ask(t *testing.T, method, url, body string, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}
