package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
	"pratique/web"
)

// scannedAt is when everything in these tests was scanned.
var scannedAt = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// fakeServer is everything behind a real web handler.
type fakeServer struct {
	decisions map[string]pratique.Decision // by reference
	pending   map[string]int               // how often a check of it is pending first
	fail      error
	imported  []byte
	forced    bool
	refuse    error
}

func (f *fakeServer) Lookup(name string) (string, bool) {
	return name, name == "docker.io" || name == "lab"
}

func (f *fakeServer) Keys() []string { return []string{"docker.io", "lab"} }

func (f *fakeServer) Check(_ context.Context, ref pratique.Ref, _ netip.Addr, _ time.Duration) (pratique.Decision, error) {
	if f.fail != nil {
		return pratique.Decision{}, f.fail
	}
	if f.pending[ref.String()] > 0 {
		f.pending[ref.String()]--
		return pratique.Decision{Ref: ref}, fmt.Errorf("%s: %w", ref, pratique.ErrPending)
	}
	d, ok := f.decisions[ref.String()]
	if !ok {
		return pratique.Decision{}, fmt.Errorf("%s: %w", ref, pratique.ErrNotFound)
	}
	d.Ref = ref
	return d, nil
}

// Images yields the decisions' images in order of digest; more than a page of them when asked to.
func (f *fakeServer) Images(context.Context) iter.Seq2[store.Known, error] {
	return func(yield func(store.Known, error) bool) {
		for i := range 1500 {
			ref := pratique.Ref{Registry: "lab", Repo: "app", Tag: fmt.Sprint(i)}
			d := digest.Digest(fmt.Sprintf("sha256:%064x", i+1))
			if !yield(store.Known{Ref: ref, Image: pratique.Image{Digest: d, Kind: pratique.KindImage}}, nil) {
				return
			}
		}
	}
}

func (f *fakeServer) Standing(_ context.Context, ref pratique.Ref, img pratique.Image) (pratique.Decision, error) {
	d := pratique.Decision{Ref: ref, Image: img}
	if strings.HasSuffix(img.Digest.String(), "1") {
		d.Report = pratique.Report{Image: img.Digest, State: pratique.StateScanned, ScannedAt: scannedAt, Findings: []pratique.Finding{{Severity: pratique.SeverityHigh}}}
		d.Verdict.Outcome = pratique.OutcomeAllow
	}
	return d, nil
}

func (f *fakeServer) Status(context.Context) (web.DatabaseStatus, error) {
	st := web.DatabaseStatus{Sources: []string{"mirror.example/trivy-db:2"}, LastError: "mirror.example: 429"}
	if f.imported != nil {
		st.Database = &web.DatabaseInfo{Digest: digest.FromBytes(f.imported).String(), UpdatedAt: scannedAt, AdoptedAt: &scannedAt, Source: "import", Vulnerabilities: 7, Advisories: 9}
		st.LastError = ""
	}
	return st, nil
}

func (f *fakeServer) Import(_ context.Context, r io.Reader, force bool) (err error) {
	if f.refuse != nil && !force {
		return f.refuse
	}
	f.forced = force
	f.imported, err = io.ReadAll(r)
	return err
}

func (f *fakeServer) Rollback(context.Context, bool) error { return pratique.ErrNotFound }

func (f *fakeServer) Export(context.Context, string, func(digest.Digest), io.Writer) error {
	return pratique.ErrNotFound
}

func (f *fakeServer) Diff(context.Context, string, string) (any, error) {
	return nil, pratique.ErrNotFound
}

// start serves f behind the product's own handler.
func (f *fakeServer) start(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(web.New(web.Config{
		Gate: f, Catalog: f, Database: f, Upstreams: f,
		Spool: t.TempDir(), MaxWait: 10 * time.Millisecond,
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// result is what a person or a script sees of a command.
type result struct {
	code        int
	out, errout string
}

// runCommand runs the program in this process, against server when it is not
// empty.
func runCommand(t *testing.T, server string, args ...string) result {
	t.Helper()
	var stdout, stderr strings.Builder
	code := run(t.Context(), args, strings.NewReader(""), &stdout, &stderr, []string{"PRATIQUE_SERVER=" + server})
	return result{code, stdout.String(), stderr.String()}
}

// notPratique is a server of another kind.
func notPratique(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html>welcome</html>")
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}
