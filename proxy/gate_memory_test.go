package proxy

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
	"pratique/store"
)

// scripted are Policies that a test changes while a gate uses them. It counts
// what it is asked.
type scripted struct {
	readsClient bool
	asked       atomic.Int64

	mu      sync.Mutex
	version string
	decide  func(policy.Facts) pratique.Verdict
}

func (s *scripted) Decide(f policy.Facts) pratique.Verdict {
	s.asked.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.decide(f)
	v.Policy = s.version
	return v
}

func (s *scripted) Version() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version
}

func (s *scripted) ReadsClient() bool { return s.readsClient }

func (s *scripted) set(version string, decide func(policy.Facts) pratique.Verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version, s.decide = version, decide
}

func always(o pratique.Outcome) func(policy.Facts) pratique.Verdict {
	return func(policy.Facts) pratique.Verdict { return pratique.Verdict{ID: "v", Outcome: o} }
}

// TestVerdictsAreRemembered: the second request costs neither a report nor a
// decision, by tag, digest, index and blob.
func TestVerdictsAreRemembered(t *testing.T) {
	w := newWorld(t)
	d := w.image(t, app, "1", "a")
	w.clean(d)
	multi := w.image(t, app, "", "b")
	w.clean(multi)
	idx := w.index(t, app, "multi", at(multi, amd64))
	g := w.gate(GateConfig{})
	requests := []Request{get(app, "1"), get(app, string(d.Digest)), get(app, "multi"), get(app, string(idx.Digest)), head(app, "1")}
	ask := func() {
		t.Helper()
		for _, r := range requests {
			if _, err := g.Manifest(t.Context(), r); err != nil {
				t.Fatalf("%s: %v", r.Ref, err)
			}
		}
		if _, err := g.Blob(t.Context(), get(app, string(layerOf("a")))); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	read, looked := w.scans.read, w.catalog.asked
	ask()
	if w.scans.read != read || w.catalog.asked != looked {
		t.Errorf("the second time %d reports and %d looks into the catalog, want none", w.scans.read-read, w.catalog.asked-looked)
	}
}

// TestRememberedVerdictEnds: whatever a verdict depends on moves, and the very
// next request meets the new one.
func TestRememberedVerdictEnds(t *testing.T) {
	start := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	type scene struct {
		w   *world
		p   *scripted
		now *time.Time
		d   pratique.Descriptor
		r   *Request
	}
	tests := []struct {
		name        string
		first       func(policy.Facts) pratique.Verdict // if nil, always allow
		readsClient bool
		move        func(scene)
		want        string
	}{
		{"nothing moves", nil, false, func(scene) {}, ""},
		{"a report denies", nil, false, func(s scene) {
			s.p.decide = func(f policy.Facts) pratique.Verdict {
				if len(f.Report.Findings) > 0 {
					return pratique.Verdict{Outcome: pratique.OutcomeDeny}
				}
				return pratique.Verdict{Outcome: pratique.OutcomeAllow}
			}
			s.w.critical(s.d)
		}, deniedCode},
		{"a report allows", always(pratique.OutcomeDeny), false, func(s scene) {
			s.p.decide = always(pratique.OutcomeAllow)
			s.w.clean(s.d)
		}, ""},
		{"another policy", nil, false, func(s scene) { s.p.set("2", always(pratique.OutcomeDeny)) }, deniedCode},
		{"its time ends", func(f policy.Facts) pratique.Verdict {
			if f.Now.Before(start.Add(10 * time.Second)) {
				return pratique.Verdict{Outcome: pratique.OutcomeAllow, Until: start.Add(10 * time.Second)}
			}
			return pratique.Verdict{Outcome: pratique.OutcomeDeny}
		}, false, func(s scene) { *s.now = start.Add(10 * time.Second) }, deniedCode},
		{"the clock goes back", func(f policy.Facts) pratique.Verdict {
			if f.Now.Before(start) {
				return pratique.Verdict{Outcome: pratique.OutcomeDeny}
			}
			return pratique.Verdict{Outcome: pratique.OutcomeAllow}
		}, false, func(s scene) { *s.now = start.Add(-time.Second) }, deniedCode},
		{"it gets old", nil, false, func(s scene) {
			s.p.decide = always(pratique.OutcomeDeny)
			*s.now = start.Add(verdictLife)
		}, deniedCode},
		{"another client", func(f policy.Facts) pratique.Verdict {
			if f.Client == netip.MustParseAddr("192.0.2.66") {
				return pratique.Verdict{Outcome: pratique.OutcomeDeny}
			}
			return pratique.Verdict{Outcome: pratique.OutcomeAllow}
		}, true, func(s scene) { s.r.Client.Addr = netip.MustParseAddr("192.0.2.66") }, deniedCode},
		{"another tag", func(f policy.Facts) pratique.Verdict {
			if f.Ref.Tag == "2" {
				return pratique.Verdict{Outcome: pratique.OutcomeDeny}
			}
			return pratique.Verdict{Outcome: pratique.OutcomeAllow}
		}, false, func(s scene) { *s.r = get(app, "2") }, deniedCode},
		{"another repository", func(f policy.Facts) pratique.Verdict {
			if f.Ref.Repository() != app {
				return pratique.Verdict{Outcome: pratique.OutcomeDeny}
			}
			return pratique.Verdict{Outcome: pratique.OutcomeAllow}
		}, false, func(s scene) { *s.r = get(app+"/copy", "1") }, deniedCode},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, now := newWorld(t), start
			d := w.image(t, app, "1", "a")
			w.repo(app).tags["2"] = d.Digest
			w.image(t, app+"/copy", "1", "a")
			w.clean(d)
			if tt.first == nil {
				tt.first = always(pratique.OutcomeAllow)
			}
			p := &scripted{readsClient: tt.readsClient, version: "1", decide: tt.first}
			w.policies = p
			g := w.gate(GateConfig{Now: func() time.Time { return now }})
			r := get(app, "1")
			for range 3 {
				_, _ = g.Manifest(t.Context(), r)
			}
			if n := p.asked.Load(); n != 1 {
				t.Fatalf("decided %d times for three requests, want once", n)
			}
			tt.move(scene{w, p, &now, d, &r})
			if _, err := g.Manifest(t.Context(), r); code(err) != tt.want {
				t.Errorf("manifest: %v, want %q", err, tt.want)
			}
		})
	}
}

// TestNotRemembered: without a stamp, a version, or a report that was made, each
// request is decided anew.
func TestNotRemembered(t *testing.T) {
	allow := func(f policy.Facts) pratique.Verdict { return pratique.Verdict{Outcome: pratique.OutcomeAllow} }
	tests := []struct {
		name   string
		report pratique.State
		gate   func(w *world, p *scripted) *Gate
	}{
		{"no stamps", pratique.StateScanned, func(w *world, p *scripted) *Gate {
			return NewGate(w, w.scans, w.catalog, p, GateConfig{})
		}},
		{"policies without a version", pratique.StateScanned, func(w *world, p *scripted) *Gate {
			w.policies = policiesFunc(p.Decide)
			return w.gate(GateConfig{})
		}},
		{"an empty version", pratique.StateScanned, func(w *world, p *scripted) *Gate {
			p.version = ""
			w.policies = p
			return w.gate(GateConfig{})
		}},
		{"a failed report", pratique.StateFailed, func(w *world, p *scripted) *Gate {
			w.policies = p
			return w.gate(GateConfig{})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			d := w.image(t, app, "1", "a")
			w.scans.set(report(d.Digest, tt.report))
			p := &scripted{version: "1", decide: allow}
			g := tt.gate(w, p)
			for range 3 {
				if _, err := g.Manifest(t.Context(), get(app, "1")); err != nil {
					t.Fatal(err)
				}
			}
			if n := p.asked.Load(); n != 3 {
				t.Errorf("decided %d times for three requests, want three times", n)
			}
		})
	}
}

// TestRememberedVoucherEnds: a blob that was served stops being served with the
// image that vouched for it, and when an image that may not be had turns up
// behind an artifact that named the blob first.
func TestRememberedVoucherEnds(t *testing.T) {
	w := newWorld(t)
	d := w.image(t, app, "1", "a")
	w.clean(d)
	g := w.gate(GateConfig{})
	pull := func(repo, reference string) error {
		_, err := g.Manifest(t.Context(), get(repo, reference))
		return err
	}
	blob := func(repo string, d digest.Digest) string {
		_, err := g.Blob(t.Context(), get(repo, string(d)))
		return code(err)
	}
	if err := pull(app, "1"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := blob(app, layerOf("a")); got != "" {
			t.Fatal(got)
		}
	}
	w.critical(d)
	if got := blob(app, layerOf("a")); got != deniedCode {
		t.Errorf("after the report: %q, want %q", got, deniedCode)
	}
	w.clean(d)
	if got := blob(app, layerOf("a")); got != "" {
		t.Errorf("after the next report: %q", got)
	}

	const other = "docker.io/library/other"
	bad := w.image(t, other, "bad", "x")
	w.critical(bad)
	w.manifest(t, other, "chart", pratique.MediaTypeImageManifest, map[string]any{
		"config": w.blob(other, "application/vnd.cncf.helm.config.v1+json", `{}x`),
		"layers": []any{pratique.Descriptor{MediaType: "application/vnd.cncf.helm.chart.content.v1.tar+gzip", Digest: layerOf("x"), Size: 1}},
	})
	if err := pull(other, "chart"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := blob(other, layerOf("x")); got != "" {
			t.Fatal(got)
		}
	}
	if err := pull(other, "bad"); code(err) != deniedCode {
		t.Fatal(err)
	}
	if got := blob(other, layerOf("x")); got != deniedCode {
		t.Errorf("after the image is known: %q, want %q", got, deniedCode)
	}
}

// TestRememberedVerdictsUnderChange: while others ask all the time, no request
// that begins after a report was stored is answered from the one before.
func TestRememberedVerdictsUnderChange(t *testing.T) {
	w := newWorld(t)
	d := w.image(t, app, "1", "a")
	idx := w.index(t, app, "multi", at(d, amd64))
	w.clean(d)
	g := w.gate(GateConfig{})
	requests := []Request{get(app, "1"), get(app, string(idx.Digest)), get(app, string(layerOf("a")))}
	ask := func(i int) string {
		if i == 2 {
			_, err := g.Blob(t.Context(), requests[i])
			return code(err)
		}
		_, err := g.Manifest(t.Context(), requests[i])
		return code(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					ask(i)
				}
			}
		})
	}
	for round := range 200 {
		want := ""
		if round%2 == 0 {
			w.critical(d)
			want = deniedCode
		} else {
			w.clean(d)
		}
		for i, r := range requests {
			if got := ask(i); got != want {
				t.Errorf("round %d, %s: %q, want %q", round, r.Ref, got, want)
			}
		}
	}
	close(stop)
	wg.Wait()
}

// TestVerdictMemoryIsBounded by bytes, however many images and findings.
func TestVerdictMemoryIsBounded(t *testing.T) {
	m := newVerdicts(GateConfig{Stamps: store.NewStamps(), Now: time.Now}, &scripted{version: "1"}, nil, newGateMetrics(nil, nil))
	many := make([]pratique.Finding, 100)
	for i := range 20_000 {
		d := digest.FromString(fmt.Sprint(i))
		v := pratique.Verdict{Policy: "1", Outcome: pratique.OutcomeAllow}
		if i%10 == 0 {
			v.Reasons = []pratique.Reason{{Findings: many}}
		}
		ref := pratique.Ref{Registry: "docker.io", Repo: "library/app", Digest: d}
		m.keep(ref, netip.Addr{}, report(d, pratique.StateScanned), v, 0, time.Now())
		m.vouch(ref, pratique.Image{Digest: d, Kind: pratique.KindImage, Layers: make([]pratique.Descriptor, 20)}, 0)
	}
	for name, l := range map[string]struct {
		total int64
		items int
	}{"verdicts": {m.entries.total, len(m.entries.items)}, "vouchers": {m.vouchers.total, len(m.vouchers.items)}} {
		if l.total > verdictMemoryLimit || l.items == 0 || l.items >= 20_000 {
			t.Errorf("%s: %d bytes in %d entries, want at most %d bytes and some entries", name, l.total, l.items, verdictMemoryLimit)
		}
	}
}

// BenchmarkRecall is the decision on what was decided before: it must not
// allocate (held to by TestRecallDoesNotAllocate).
func BenchmarkRecall(b *testing.B) {
	m, ref := remembered()
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := m.recall(ref, ref.Digest, netip.Addr{}); !ok {
			b.Fatal("forgotten")
		}
	}
}

func TestRecallDoesNotAllocate(t *testing.T) {
	m, ref := remembered()
	if n := testing.AllocsPerRun(100, func() { m.recall(ref, ref.Digest, netip.Addr{}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func remembered() (*verdicts, pratique.Ref) {
	m := newVerdicts(GateConfig{Stamps: store.NewStamps(), Now: time.Now}, &scripted{version: "1"}, nil, newGateMetrics(nil, nil))
	ref := pratique.Ref{Registry: "docker.io", Repo: "library/app", Tag: "1", Digest: digest.FromString("x")}
	m.keep(ref, netip.Addr{}, report(ref.Digest, pratique.StateScanned), pratique.Verdict{Policy: "1", Outcome: pratique.OutcomeAllow}, m.stamp(ref.Digest), time.Now())
	return m, ref
}
