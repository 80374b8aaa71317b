package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"pratique"
	"pratique/store"
)

// memPulls is a PullStore in memory. err fails writes; block keeps them from
// returning.
type memPulls struct {
	mu        sync.Mutex
	batches   int
	pulls     []store.Pull
	verdicts  []store.Judged
	forgotten []time.Time
	err       error
	verdict   error // fails writes of verdicts alone
	block     chan struct{}
}

func (m *memPulls) Record(ctx context.Context, ps []store.Pull) error {
	if m.block != nil {
		select {
		case <-m.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	m.batches++
	m.pulls = append(m.pulls, ps...)
	return nil
}

func (m *memPulls) RecordVerdicts(_ context.Context, js []store.Judged) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.err, m.verdict); err != nil {
		return err
	}
	m.verdicts = append(m.verdicts, js...)
	return nil
}

func (m *memPulls) ForgetPulls(_ context.Context, before time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forgotten = append(m.forgotten, before)
	return m.err
}

func (m *memPulls) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *memPulls) ids() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, p := range m.pulls {
		out = append(out, p.Verdict)
	}
	return out
}

// asked is a pull of docker.io/library/app:1 that met a verdict.
func asked(id string, o pratique.Outcome) Asked {
	return Asked{
		Ref: pratique.Ref{Registry: "docker.io", Repo: "library/app", Tag: "1", Digest: hexDigest}, Client: netip.MustParseAddr("192.0.2.7"),
		At: time.Now(), Verdict: pratique.Verdict{ID: id, Outcome: o, Reasons: []pratique.Reason{{Rule: "r", Findings: make([]pratique.Finding, 60)}}},
	}
}

// running runs a history in a bubble; stop ends it and returns when it has.
func running(t *testing.T, h *History) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestHistoryWritesInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memPulls{}
		h := NewHistory(m, HistoryConfig{})
		stop := running(t, h)
		h.Record(asked("a", pratique.OutcomeAllow))
		h.Record(asked("d", pratique.OutcomeDeny))
		h.Record(asked("d", pratique.OutcomeDeny)) // again, in the same half second
		head := asked("d", pratique.OutcomeDeny)
		head.Head = true
		h.Record(head)
		lifted := asked("l", pratique.OutcomeAllow)
		lifted.Verdict.Lifted = []pratique.Lift{{By: "exception ex-1"}}
		h.Record(lifted)
		if len(m.ids()) != 0 {
			t.Error("a pull is written while its request waits")
		}
		time.Sleep(time.Second)
		if diff := cmp.Diff([]string{"a", "d", "d", "l"}, m.ids()); diff != "" || m.batches != 1 {
			t.Errorf("in %d batches (-want +got):\n%s", m.batches, diff)
		}
		if p := m.pulls[1]; p.Client != "192.0.2.7" || p.Ref.Tag != "1" || p.Ref.Digest != hexDigest || p.At.IsZero() || p.Head || !m.pulls[2].Head {
			t.Errorf("%+v", p)
		}
		h.Record(asked("d", pratique.OutcomeDeny))
		h.Record(asked("w", pratique.OutcomeWarn))
		stop() // what waits is written
		if diff := cmp.Diff([]string{"a", "d", "d", "l", "d", "w"}, m.ids()); diff != "" {
			t.Errorf("after the stop (-want +got):\n%s", diff)
		}
		var ids []string
		for _, j := range m.verdicts {
			ids = append(ids, j.Verdict.ID)
			if n := len(j.Verdict.Reasons[0].Findings); n != keptFindings {
				t.Errorf("%d findings kept", n)
			}
		}
		if diff := cmp.Diff([]string{"d", "l", "w"}, ids); diff != "" {
			t.Errorf("verdicts (-want +got):\n%s", diff)
		}
	})
}

// TestHistoryTriesAgain: what a full disk kept from being written is written
// when it can be, in order, the verdicts too.
func TestHistoryTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memPulls{err: errors.New("disk full")}
		h := NewHistory(m, HistoryConfig{Max: 4})
		stop := running(t, h)
		defer stop()
		for i := range 3 {
			h.Record(asked(fmt.Sprint(i), pratique.OutcomeDeny))
			time.Sleep(time.Second)
		}
		m.fail(nil)
		time.Sleep(time.Second)
		if diff := cmp.Diff([]string{"0", "1", "2"}, m.ids()); diff != "" || len(m.verdicts) != 3 {
			t.Errorf("%d verdicts (-want +got):\n%s", len(m.verdicts), diff)
		}
		if testutil.ToFloat64(h.failed) < 2 || testutil.ToFloat64(h.dropped) != 0 || testutil.ToFloat64(h.written) != 3 {
			t.Error("metrics do not tell")
		}
	})
}

// TestHistoryKeepsVerdictAndPullTogether: a pull is not on record without its
// verdict, and not twice.
func TestHistoryKeepsVerdictAndPullTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memPulls{verdict: errors.New("locked")}
		h := NewHistory(m, HistoryConfig{})
		stop := running(t, h)
		h.Record(asked("0", pratique.OutcomeDeny))
		time.Sleep(2 * time.Second)
		if n := len(m.ids()); n != 0 {
			t.Errorf("%d pulls without their verdicts", n)
		}
		m.mu.Lock()
		m.verdict = nil
		m.mu.Unlock()
		stop()
		if len(m.ids()) != 1 || len(m.verdicts) != 1 {
			t.Errorf("%d pulls, %d verdicts", len(m.ids()), len(m.verdicts))
		}
	})
}

// TestHistoryNeverBlocks: a store that does not answer costs pulls their
// history, never their answer, and a bounded amount of memory.
func TestHistoryNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memPulls{block: make(chan struct{})}
		h := NewHistory(m, HistoryConfig{Max: 10})
		stop := running(t, h)
		h.Record(asked("0", pratique.OutcomeAllow))
		time.Sleep(time.Second) // it hangs in the store
		for i := range 100 {
			h.Record(asked(fmt.Sprint(i), pratique.OutcomeAllow))
		}
		if n := testutil.ToFloat64(h.dropped); n != 90 {
			t.Errorf("%v dropped, want 90", n)
		}
		close(m.block)
		stop()
		if n := len(m.ids()); n != 11 {
			t.Errorf("%d written, want 11", n)
		}
	})
}

// TestHistoryHalfFull: a burst is written before the queue is full.
func TestHistoryHalfFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memPulls{}
		h := NewHistory(m, HistoryConfig{Max: 10, FlushEvery: time.Hour})
		stop := running(t, h)
		defer stop()
		for i := range 100 {
			h.Record(asked(fmt.Sprint(i), pratique.OutcomeAllow))
			if i%5 == 4 {
				synctest.Wait()
			}
		}
		if n := testutil.ToFloat64(h.dropped); n != 0 || len(m.ids()) != 100 {
			t.Errorf("%v dropped, %d written", n, len(m.ids()))
		}
	})
}

func TestHistoryForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memPulls{err: errors.New("locked")} // a failure is tried again the next day
		start := time.Now()
		stop := running(t, NewHistory(m, HistoryConfig{Retention: 48 * time.Hour}))
		time.Sleep(25 * time.Hour)
		stop()
		if diff := cmp.Diff([]time.Time{start.Add(-48 * time.Hour), start.Add(-24 * time.Hour)}, m.forgotten); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestHistoryStopsThoughTheStoreHangs within seconds.
func TestHistoryStopsThoughTheStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memPulls{block: make(chan struct{})}
		h := NewHistory(m, HistoryConfig{FlushEvery: time.Hour})
		stop := running(t, h)
		h.Record(asked("0", pratique.OutcomeAllow))
		begun := time.Now()
		stop()
		if took := time.Since(begun); took > lastFlush {
			t.Errorf("it took %s", took)
		}
	})
}

// TestGateRecords what clients asked for and got, and nothing else.
func TestGateRecords(t *testing.T) {
	w := newWorld(t)
	good, bad := w.image(t, app, "good", "good"), w.image(t, app, "bad", "bad")
	w.clean(good)
	w.critical(bad)
	w.image(t, app, "fresh", "fresh")
	idx := w.index(t, app, "multi", at(good, amd64))
	var got []string
	g := w.gate(GateConfig{Hold: time.Millisecond, Record: recorder(func(a Asked) {
		got = append(got, fmt.Sprintf("%t %s %s %s", a.Head, a.Ref.Tag, a.Ref.Digest, a.Verdict.Outcome))
		if a.Verdict.ID == "" || a.Client != netip.MustParseAddr("192.0.2.7") || a.At.IsZero() {
			t.Errorf("%+v", a)
		}
	})})
	for _, r := range []Request{
		get(app, "good"), get(app, "good"), head(app, "good"), get(app, "bad"), head(app, "bad"), get(app, "multi"), get(app, string(good.Digest)),
		get(app, "fresh"), head(app, "fresh"), get(app, "nothing"),
	} {
		r.Client.Addr = netip.MustParseAddr("192.0.2.7")
		_, _ = g.Manifest(t.Context(), r)
	}
	_, _ = g.Blob(t.Context(), get(app, string(layerOf("good"))))
	_, _ = g.Blob(t.Context(), get(app, string(good.Digest)))
	_, _ = g.Referrers(t.Context(), get(app, string(good.Digest)))
	_, _ = g.Check(t.Context(), ref(app, "good"), netip.Addr{}, 0)
	want := []string{
		"false good " + good.Digest.String() + " allow", "false good " + good.Digest.String() + " allow", "true good " + good.Digest.String() + " allow",
		"false bad " + bad.Digest.String() + " deny", "true bad " + bad.Digest.String() + " deny",
		"false multi " + idx.Digest.String() + " allow", "false  " + good.Digest.String() + " allow",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

type recorder func(Asked)

func (r recorder) Record(a Asked) { r(a) }

// BenchmarkRecord is what a warm pull pays for being on record.
func BenchmarkRecord(b *testing.B) {
	h := NewHistory(&memPulls{}, HistoryConfig{Max: 1 << 10})
	a := asked("v", pratique.OutcomeAllow)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		h.Record(a)
		if n%1000 == 999 {
			h.giveBack(h.take())
		}
	}
}

func TestRecordDoesNotAllocate(t *testing.T) {
	h := NewHistory(&memPulls{}, HistoryConfig{})
	a := asked("v", pratique.OutcomeAllow)
	fill := func() {
		for range 1000 {
			h.Record(a)
		}
		h.giveBack(h.take())
	}
	fill() // both queues get their room once
	fill()
	if n := testing.AllocsPerRun(10, fill); n != 0 {
		t.Errorf("%v allocations in 1000 records", n)
	}
}
