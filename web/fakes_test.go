package web_test

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
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

// fakeChecker answers with a decision or a failure and remembers what it was asked.
type fakeChecker struct {
	mu       sync.Mutex
	asked    []string
	decision pratique.Decision
	fail     func(ctx context.Context) error
}

func (f *fakeChecker) Check(ctx context.Context, ref pratique.Ref) (pratique.Decision, error) {
	f.mu.Lock()
	f.asked = append(f.asked, ref.String())
	f.mu.Unlock()
	if f.fail != nil {
		if err := f.fail(ctx); err != nil {
			return pratique.Decision{Ref: ref}, err
		}
	}
	d := f.decision
	d.Ref = ref
	return d, nil
}

// fakeStore is a catalog and its reports. failAt makes the catalog fail before
// that element, reportErr every report.
type fakeStore struct {
	known     []store.Known
	reports   map[digest.Digest]pratique.Report
	failAt    int
	reportErr error
}

func (f *fakeStore) Images(context.Context) iter.Seq2[store.Known, error] {
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

func (f *fakeStore) Report(_ context.Context, d digest.Digest) (pratique.Report, error) {
	if f.reportErr != nil {
		return pratique.Report{}, f.reportErr
	}
	r, ok := f.reports[d]
	if !ok {
		return pratique.Report{}, fmt.Errorf("report of %s: %w", d, pratique.ErrNotFound)
	}
	return r, nil
}

// cleanOnly allows what is scanned and has no findings.
type cleanOnly struct{}

func (cleanOnly) Decide(f policy.Facts) pratique.Verdict {
	if f.Now.IsZero() {
		panic("decided without a time")
	}
	if f.Report.State == pratique.StateScanned && len(f.Report.Findings) == 0 && f.Ref.Digest == f.Image.Digest {
		return pratique.Verdict{Outcome: pratique.OutcomeAllow}
	}
	return pratique.Verdict{}
}

// fakeDatabase remembers what was imported.
type fakeDatabase struct {
	content string
	force   bool
	path    string
	fail    error
}

func (f *fakeDatabase) Status(context.Context) (web.DatabaseStatus, error) {
	if f.content == "" {
		return web.DatabaseStatus{LastError: "no source answers"}, nil
	}
	return web.DatabaseStatus{Database: &web.DatabaseInfo{Digest: digestOf(f.content).String(), UpdatedAt: now}}, nil
}

func (f *fakeDatabase) Import(_ context.Context, path string, force bool) error {
	f.path = path
	if f.fail != nil {
		return f.fail
	}
	b, err := os.ReadFile(path)
	f.content, f.force = string(b), force
	return err
}

// serve starts the handler on loopback.
func serve(t *testing.T, cfg web.Config) *httptest.Server {
	t.Helper()
	if cfg.Upstreams == nil {
		cfg.Upstreams = upstreams()
	}
	cfg.Now = func() time.Time { return now }
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
