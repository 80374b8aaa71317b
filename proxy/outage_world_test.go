package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/evidence"
	"pratique/evidence/exception"
	"pratique/policy"
	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/store"
)

// backend is what a replica needs of a state.
type backend interface {
	store.Catalog
	store.Tags
	store.Exceptions
	Report(ctx context.Context, image digest.Digest) (pratique.Report, error)
	PutReport(ctx context.Context, r pratique.Report) (pratique.Report, error)
	Served(ctx context.Context, image digest.Digest) (first, last time.Time, err error)
}

// memory is one that costs no disk.
type memory struct {
	*proxytest.State
	reports    sync.Map // of pratique.Report
	mu         sync.Mutex
	exceptions []pratique.Exception
}

func (m *memory) Report(_ context.Context, d digest.Digest) (pratique.Report, error) {
	if r, ok := m.reports.Load(d); ok {
		return r.(pratique.Report), nil
	}
	return pratique.Report{}, pratique.ErrNotFound
}

func (m *memory) PutReport(_ context.Context, r pratique.Report) (pratique.Report, error) {
	m.reports.Store(r.Image, r)
	return r, nil
}

func (*memory) Served(context.Context, digest.Digest) (first, last time.Time, err error) {
	return first, last, pratique.ErrNotFound
}

func (m *memory) Exceptions(context.Context) ([]pratique.Exception, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.exceptions), nil
}

func (m *memory) CreateException(_ context.Context, e pratique.Exception) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.exceptions = append(m.exceptions, e)
	return nil
}

func (m *memory) RevokeException(_ context.Context, id, by, why string, at time.Time) (pratique.Exception, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.exceptions {
		if e := &m.exceptions[i]; e.ID == id {
			e.Revoked, e.RevokedBy, e.RevokedWhy = at, by, why
			return *e, nil
		}
	}
	return pratique.Exception{}, pratique.ErrNotFound
}

// exact are stamps that no two digests share.
type exact struct {
	mu     sync.Mutex
	counts map[digest.Digest]uint64
	all    uint64
}

func (e *exact) Stamp(d digest.Digest) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.counts[d] + e.all
}

func (e *exact) Changed(ds ...digest.Digest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, d := range ds {
		e.counts[d]++
	}
}

func (e *exact) All() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all++
}

// remote is a state as if it were somewhere else: it counts what it is asked, and
// can be away. What others write to it is told by a message, unless it is away.
type remote struct {
	backend
	stamps *exact
	down   atomic.Bool
	frozen atomic.Int64 // if set, when the state was confirmed last, Unix nanoseconds

	mu      sync.Mutex
	calls   []string
	failing error
}

var errGone = fmt.Errorf("read tcp: i/o timeout: %w", store.ErrUnreachable)

func (r *remote) called(method string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, method)
	if r.down.Load() {
		return errGone
	}
	return r.failing
}

// fail has every question fail with err, until it is called with nil.
func (r *remote) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failing = err
}

// asked returns the calls since it was called last.
func (r *remote) asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

// away lets the state not answer, for so long already that it is known.
func (r *remote) away() { r.down.Store(true); r.frozen.Store(time.Now().Add(-time.Minute).UnixNano()) }

// silent lets it not answer from now on, which nobody knows yet.
func (r *remote) silent() { r.down.Store(true); r.frozen.Store(time.Now().UnixNano()) }

// back lets it answer: what changed meanwhile is not known.
func (r *remote) back() { r.stamps.All(); r.down.Store(false); r.frozen.Store(0) }

func (r *remote) Confirmed() time.Time {
	if n := r.frozen.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Now()
}

func (r *remote) Stamp(d digest.Digest) uint64 { return r.stamps.Stamp(d) }

func (r *remote) Link(ctx context.Context, ref pratique.Ref, img pratique.Image, now time.Time) error {
	defer func() {
		r.stamps.Changed(img.Digest, img.Config.Digest)
		for _, l := range append(img.Layers, img.Children...) {
			r.stamps.Changed(l.Digest)
		}
	}()
	if err := r.called("Link"); err != nil {
		return err
	}
	return r.backend.Link(ctx, ref, img, now)
}

func (r *remote) SetTag(ctx context.Context, ref pratique.Ref, s store.TagState) error {
	told := []digest.Digest{store.TagKey(ref)}
	if before, err := r.backend.Tag(ctx, ref); err != nil || before.Digest != s.Digest {
		told = append(told, s.Digest)
	}
	defer r.stamps.Changed(told...)
	if err := r.called("SetTag"); err != nil {
		return err
	}
	return r.backend.SetTag(ctx, ref, s)
}

func (r *remote) SetTagList(ctx context.Context, ref pratique.Ref, tags []string, at time.Time) error {
	defer r.stamps.Changed(store.TagKey(pratique.Ref{Registry: ref.Registry, Repo: ref.Repo}))
	if err := r.called("SetTagList"); err != nil {
		return err
	}
	return r.backend.SetTagList(ctx, ref, tags, at)
}

func (r *remote) Image(ctx context.Context, d digest.Digest) (pratique.Image, error) {
	if err := r.called("Image"); err != nil {
		return pratique.Image{}, err
	}
	return r.backend.Image(ctx, d)
}

func (r *remote) Holders(ctx context.Context, ref pratique.Ref, d digest.Digest) ([]digest.Digest, error) {
	if err := r.called("Holders"); err != nil {
		return nil, err
	}
	return r.backend.Holders(ctx, ref, d)
}

func (r *remote) Tag(ctx context.Context, ref pratique.Ref) (store.TagState, error) {
	if err := r.called("Tag"); err != nil {
		return store.TagState{}, err
	}
	return r.backend.Tag(ctx, ref)
}

func (r *remote) TagList(ctx context.Context, ref pratique.Ref) ([]string, time.Time, error) {
	if err := r.called("TagList"); err != nil {
		return nil, time.Time{}, err
	}
	return r.backend.TagList(ctx, ref)
}

func (r *remote) Served(ctx context.Context, d digest.Digest) (first, last time.Time, err error) {
	if err := r.called("Served"); err != nil {
		return first, last, err
	}
	return r.backend.Served(ctx, d)
}

func (r *remote) Exceptions(ctx context.Context) ([]pratique.Exception, error) {
	if err := r.called("Exceptions"); err != nil {
		return nil, err
	}
	return r.backend.Exceptions(ctx)
}

// Report, Await and Request implement proxy.Scans: nothing is ever scanned here.
func (r *remote) Report(ctx context.Context, d digest.Digest) (pratique.Report, error) {
	if err := r.called("Report"); err != nil {
		return pratique.Report{}, err
	}
	return r.backend.Report(ctx, d)
}

func (r *remote) Await(ctx context.Context, ref pratique.Ref) (pratique.Report, error) {
	rep, err := r.Report(ctx, ref.Digest)
	if errors.Is(err, pratique.ErrNotFound) {
		<-ctx.Done()
		err = fmt.Errorf("%s: %w", ref, pratique.ErrPending)
	}
	return rep, err
}

func (r *remote) Request(context.Context, pratique.Ref) error { return r.called("Request") }

// onePolicy is what a test swaps.
type onePolicy struct{ atomic.Pointer[policy.Set] }

func (p *onePolicy) Decide(f policy.Facts) pratique.Verdict { return p.Load().Decide(f) }
func (p *onePolicy) Version() string                        { return p.Load().Version() }
func (p *onePolicy) ReadsClient() bool                      { return p.Load().ReadsClient() }
func (p *onePolicy) Needs() policy.Needs                    { return p.Load().Needs() }

const (
	normalRules = `
name: test
default: allow
rules:
  - {name: secrets, secret: {}, action: deny}
  - {name: unused, unusedFor: {longerThan: 30d}, action: warn}
`
	strictRules = "name: test\ndefault: deny\nrules:\n  - {name: secrets, secret: {}, action: deny}\n"
	laxRules    = "name: test\ndefault: allow\nrules:\n  - {name: secrets, secret: {}, action: warn}\n"
)

func (p *onePolicy) use(t *testing.T, rules string) {
	t.Helper()
	set, err := policy.Load(policy.File{Name: "test.yaml", Data: []byte(rules)})
	if err != nil {
		t.Fatal(err)
	}
	p.Store(set)
}

// replica is the whole pull path of one of several, wired as the product wires it.
type replica struct {
	*pulled
	remote     *remote
	policies   onePolicy
	exceptions *exception.Exceptions
	gate       *proxy.Gate
	handler    http.Handler

	good, bad, fresh, late digest.Digest // lab/app:good, …
	layers                 map[string][]byte
}

func newReplica(t *testing.T, change ...func(*proxy.GateConfig)) *replica {
	t.Helper()
	return newReplicaOver(t, &memory{State: proxytest.NewState()}, newPulled(t), change...)
}

func newReplicaOver(t *testing.T, state backend, p *pulled, change ...func(*proxy.GateConfig)) *replica {
	t.Helper()
	r := &replica{pulled: p, remote: &remote{backend: state, stamps: &exact{counts: map[digest.Digest]uint64{}}}, layers: map[string][]byte{}}
	r.policies.use(t, normalRules)
	r.exceptions = exception.New(r.remote, exception.Config{Now: r.clock})
	if err := r.exceptions.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	catalog := proxy.RememberCatalog(r.remote, r.remote)
	r.startOver(catalog, proxy.RememberTags(r.remote, r.remote), func(cfg *proxy.CacheConfig) { cfg.Reach, cfg.Stamps = r.remote, r.remote })
	names, err := proxy.NewUpstreamIndex(map[string]string{"lab": r.lab.URL, "hub": r.hub.URL})
	if err != nil {
		t.Fatal(err)
	}
	cfg := proxy.GateConfig{
		Upstreams: names, Now: r.clock, Stamps: r.remote, Reach: r.remote, FailureAge: 12 * time.Hour,
		Evidence: evidence.New(evidence.Config{Exceptions: r.exceptions, History: r.remote}),
	}
	for _, f := range change {
		f(&cfg)
	}
	r.gate = proxy.NewGate(r.Cache, r.remote, catalog, &r.policies, cfg)
	r.handler = proxy.NewServer(r.gate, proxy.ServerConfig{Upstreams: names, BareHead: true, Log: slog.New(slog.DiscardHandler)})
	for i, name := range []string{"good", "bad", "fresh", "late"} {
		r.layers[name] = noise(byte(10+i), 50_000)
	}
	r.good, _ = r.lab.Image("app", "good", r.layers["good"])
	r.bad, _ = r.lab.Image("app", "bad", r.layers["bad"])
	r.fresh, _ = r.lab.Image("app", "fresh", r.layers["fresh"])
	r.late, _ = r.lab.Image("app", "late", r.layers["late"])
	r.report(r.good)
	r.report(r.late)
	r.report(r.bad, leaked)
	return r
}

var leaked = pratique.Finding{ID: "aws-access-key-id", Kind: pratique.KindSecret, Path: "etc/key", Severity: pratique.SeverityCritical}

// report is what a scan anywhere says now.
func (r *replica) report(d digest.Digest, fs ...pratique.Finding) {
	r.t.Helper()
	_, err := r.remote.PutReport(r.t.Context(), pratique.Report{Image: d, State: pratique.StateScanned, Findings: fs, ScannedAt: r.clock()})
	if err != nil {
		r.t.Fatal(err)
	}
	if !r.remote.down.Load() {
		r.remote.stamps.Changed(d)
	}
}

// answer is what a client got.
type answer struct {
	status int
	retry  string
	body   string
}

func (r *replica) do(method, path string) answer {
	r.t.Helper()
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, httptest.NewRequestWithContext(r.t.Context(), method, "/v2/lab/app/"+path, nil))
	return answer{w.Code, w.Header().Get("Retry-After"), w.Body.String()}
}

func (r *replica) get(path string) answer { r.t.Helper(); return r.do(http.MethodGet, path) }

// want fails unless a GET of path has this status. What is served is what was asked
// for, and a 503 says when to ask again, and why.
func (r *replica) want(path string, status int) answer {
	r.t.Helper()
	a := r.get(path)
	if a.status != status || status == http.StatusServiceUnavailable && a.retry == "" {
		r.t.Errorf("GET %s: %d, Retry-After %q, %.200q; want %d", path, a.status, a.retry, a.body, status)
	}
	return a
}

func (r *replica) layer(name string) string {
	return "blobs/" + digest.FromBytes(r.layers[name]).String()
}

// warm pulls what clients of this replica pull.
func (r *replica) warm() {
	r.t.Helper()
	for _, path := range []string{"manifests/good", "manifests/" + r.good.String(), r.layer("good")} {
		r.want(path, 200)
	}
	for _, path := range []string{"manifests/bad", "manifests/" + r.bad.String(), r.layer("bad")} {
		r.want(path, 403)
	}
	r.remote.asked()
	r.lab.Seen()
}
