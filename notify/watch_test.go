package notify_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/notify"
	"pratique/store"
)

func data[T any](t *testing.T, e store.Event) T {
	t.Helper()
	var out T
	if err := json.Unmarshal(e.Data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func (w *world) want(es []store.Event, want string) {
	w.t.Helper()
	if got := kinds(es); got != want {
		w.t.Errorf("events %q, want %q", got, want)
	}
}

// pulled writes a pull into the history.
func (w *world) pulled(d digest.Digest, client string, outcome pratique.Outcome, at time.Time) {
	w.t.Helper()
	ref := pratique.Ref{Registry: "docker.io", Repo: "library/a", Tag: "1", Digest: d}
	v := pratique.Verdict{ID: "v-" + outcome.String(), Outcome: outcome, Reasons: []pratique.Reason{{Policy: "default", Rule: "critical", Action: outcome, Message: "CVE-2026-1"}}}
	if err := w.db.RecordVerdicts(w.t.Context(), []store.Judged{{Ref: ref, Client: client, At: at, Verdict: v}}); err != nil {
		w.t.Fatal(err)
	}
	if err := w.db.Record(w.t.Context(), []store.Pull{{Ref: ref, Client: client, At: at, Outcome: outcome, Verdict: v.ID}}); err != nil {
		w.t.Fatal(err)
	}
}

// TestVerdictChanged: refused that was served, and back; each told once, with who
// had it, and not again after a restart.
func TestVerdictChanged(t *testing.T) {
	w := newWorld(t)
	a := w.decide("a", pratique.OutcomeAllow, nil)
	w.decide("refused from the beginning", pratique.OutcomeDeny, nil)
	w.want(w.look(), "")
	w.pulled(a, "10.0.0.1", pratique.OutcomeAllow, start.Add(-40*24*time.Hour))
	w.pulled(a, "10.0.0.2", pratique.OutcomeAllow, start.Add(-3*24*time.Hour))
	w.pulled(a, "10.0.0.3", pratique.OutcomeAllow, start.Add(-time.Hour))
	w.pulled(a, "10.0.0.9", pratique.OutcomeDeny, start.Add(-time.Hour))
	w.want(w.look(a), "")

	w.clock.add(time.Minute)
	w.engine = pratique.Engine{Database: digest.FromString("db2"), DatabaseAt: start.Add(time.Minute)}
	w.decide("a", pratique.OutcomeDeny, nil)
	es := w.look(a)
	w.want(es, "database.updated verdict.changed")
	if len(es) != 2 {
		t.FailNow()
	}
	got := data[notify.Changed](t, es[1])
	want := notify.Changed{
		Image: notify.Image{
			Text:      got.Reference + " is refused now: critical: CVE-2026-1 in openssl",
			Reference: "docker.io/library/a:1@" + a.String(), Repository: "docker.io/library/a", Tag: "1", Digest: a,
			Verdict: "v-deny",
			Reasons: []notify.Reason{{Policy: "default", Rule: "critical", Message: "CVE-2026-1 in openssl", Findings: []notify.Finding{
				{ID: "CVE-2026-1", Severity: "CRITICAL", Package: "openssl", Installed: "1", Fixed: "2"},
			}}},
		},
		Previous: pratique.OutcomeAllow, Cause: "database",
		Pulled: &notify.Pulled{
			Since: start.Add(time.Minute - 30*24*time.Hour), Last: start.Add(-time.Hour), Pulls: 2, Clients: []string{"10.0.0.3", "10.0.0.2"},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("data (-want +got):\n%s", d)
	}
	if es[1].Subject != "docker.io/library/a@"+a.String() || es[1].Order != a.String() {
		t.Errorf("event %+v", es[1])
	}
	w.restart()
	w.want(w.look(a), "")

	w.version = "2"
	w.decide("a", pratique.OutcomeWarn, nil)
	w.clock.add(time.Minute)
	es = w.look() // another version: all images are looked at
	w.want(es, "verdict.changed")
	if c := data[notify.Changed](t, es[0]); c.Cause != "policy" || c.Previous != pratique.OutcomeDeny || c.Outcome != pratique.OutcomeWarn || c.Pulled != nil {
		t.Errorf("back: %+v", c)
	}
	w.decide("a", pratique.OutcomeAllow, nil)
	w.want(w.look(a), "") // warned or allowed: served
}

// TestUndecided: what has no report, or no verdict just now, changes nothing; it is
// looked at again.
func TestUndecided(t *testing.T) {
	w := newWorld(t)
	a := w.decide("a", pratique.OutcomeAllow, nil)
	w.look()
	w.decide("a", pratique.OutcomeDeny, nil)
	w.fail[a] = errBroken
	w.want(w.look(a), "")
	w.fail[a] = pratique.ErrPending
	w.clock.add(2 * time.Minute)
	w.want(w.look(), "")
	delete(w.fail, a)
	w.want(w.look(), "") // not before its time
	w.clock.add(2 * time.Minute)
	w.want(w.look(), "verdict.changed")
	n := w.decide("new", pratique.OutcomeDeny, func(d *pratique.Decision) { d.Report.State = pratique.StateUnknown })
	w.want(w.look(n), "")
	w.decide("new", pratique.OutcomeAllow, nil)
	w.want(w.look(n), "image.scanned") // its first verdict is no change
	w.decide("new", pratique.OutcomeDeny, nil)
	w.want(w.look(n), "verdict.changed")
	w.want(w.look(digest.FromString("nobody knows it")), "")
}

// TestGrace: start, half and end, each once, whoever is restarted in between.
func TestGrace(t *testing.T) {
	w := newWorld(t)
	a := w.decide("a", pratique.OutcomeAllow, nil)
	w.look()
	ends := start.Add(10 * time.Hour)
	in := func(d *pratique.Decision) {
		d.Verdict.Until, d.Verdict.Reasons[0].GraceEnds = ends, ends
	}
	w.decide("a", pratique.OutcomeWarn, in)
	es := w.look(a)
	w.want(es, "grace.started")
	if g := data[notify.Grace](t, es[0]); !g.Starts.Equal(start) || !g.Ends.Equal(ends) || g.Policy != "default" || g.Rule != "critical" {
		t.Errorf("grace %+v", g)
	}
	w.want(w.look(a), "")
	w.clock.add(5*time.Hour - time.Second)
	w.want(w.look(), "")
	w.restart()
	w.clock.add(time.Second)
	w.want(w.look(), "grace.ending")
	w.want(w.look(a), "")
	w.clock.add(5*time.Hour - time.Second)
	w.want(w.look(), "")
	w.clock.add(time.Second)
	w.decide("a", pratique.OutcomeDeny, nil)
	w.restart()
	es = w.look() // nothing told it but the time
	w.want(es, "grace.ended verdict.changed")
	if len(es) == 2 {
		if c := data[notify.Changed](t, es[1]); c.Cause != "time" {
			t.Errorf("cause %q", c.Cause)
		}
	}
	w.want(w.look(a), "")
}

// TestGraceOver: one that ends early because the finding went is not told to have
// ended; one that was missed while no process ran is; one that ran before anybody
// watched is not told to start, but to end.
func TestGraceOver(t *testing.T) {
	w := newWorld(t)
	ends := start.Add(10 * time.Hour)
	in := func(d *pratique.Decision) {
		d.Verdict.Until, d.Verdict.Reasons[0].GraceEnds = ends, ends
	}
	before := w.decide("before", pratique.OutcomeWarn, in)
	fixed := w.decide("fixed", pratique.OutcomeAllow, nil)
	w.want(w.look(), "")
	w.decide("fixed", pratique.OutcomeWarn, in)
	w.want(w.look(fixed), "grace.started")
	w.decide("fixed", pratique.OutcomeAllow, nil)
	w.want(w.look(fixed), "")
	w.clock.add(20 * time.Hour)
	w.decide("before", pratique.OutcomeDeny, nil)
	w.restart()
	w.want(w.look(before), "grace.ended verdict.changed")
}

func TestScanFailed(t *testing.T) {
	w := newWorld(t)
	w.look()
	broken := func(at time.Time) func(d *pratique.Decision) {
		return func(d *pratique.Decision) {
			d.Report.State, d.Report.ScannedAt = pratique.StateFailed, at
			d.Report.Problems = []pratique.Problem{{Message: "worker died", Fatal: true}}
		}
	}
	a := w.decide("a", pratique.OutcomeDeny, broken(start))
	es := w.look(a)
	w.want(es, "scan.failed")
	if i := data[notify.Image](t, es[0]); i.Text != "the scan of "+i.Reference+" failed: worker died" {
		t.Errorf("text %q", i.Text)
	}
	w.decide("a", pratique.OutcomeDeny, broken(start.Add(time.Minute)))
	w.want(w.look(a), "") // still
	w.decide("a", pratique.OutcomeAllow, nil)
	w.want(w.look(a), "image.scanned verdict.changed")
}

// TestPulls: refused for the same reasons is one event, whoever asks how often;
// admitted is the first time that an image is served.
func TestPulls(t *testing.T) {
	w := newWorld(t)
	old := digest.FromString("old")
	w.pulled(old, "10.0.0.1", pratique.OutcomeAllow, start.Add(-time.Hour))
	w.look()
	a, b := digest.FromString("a"), digest.FromString("b")
	for i, client := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.1"} {
		w.pulled(a, client, pratique.OutcomeDeny, start.Add(time.Duration(i)*time.Second))
		w.pulled(b, client, pratique.OutcomeWarn, start.Add(time.Duration(i)*time.Second))
		w.pulled(old, client, pratique.OutcomeAllow, start.Add(time.Duration(i)*time.Second))
	}
	w.clock.add(time.Minute)
	es := w.look()
	w.want(es, "image.refused image.admitted")
	if len(es) != 2 {
		t.FailNow()
	}
	i := data[notify.Image](t, es[0])
	if i.Client != "10.0.0.1" || i.Verdict != "v-deny" || i.Outcome != pratique.OutcomeDeny || i.Text != i.Reference+" was refused: critical: CVE-2026-1" {
		t.Errorf("refused: %+v", i)
	}
	w.want(w.look(), "")
	w.restart()
	w.pulled(b, "10.0.0.7", pratique.OutcomeWarn, start.Add(50*time.Second))
	w.want(w.look(), "")
	w.clock.add(time.Hour)
	w.want(w.look(), "")
	w.pulled(b, "10.0.0.7", pratique.OutcomeDeny, start.Add(time.Hour))
	w.want(w.look(), "image.refused")
}

func TestTagMoved(t *testing.T) {
	w := newWorld(t)
	ref := pratique.Ref{Registry: "docker.io", Repo: "library/a", Tag: "1"}
	set := func(d digest.Digest) {
		t.Helper()
		now := w.clock.Now()
		if err := w.db.SetTag(t.Context(), ref, store.TagState{Digest: d, CheckedAt: now, ChangedAt: now}); err != nil {
			t.Fatal(err)
		}
	}
	a, b := digest.FromString("a"), digest.FromString("b")
	set(a)
	w.look()
	w.clock.add(10 * time.Minute)
	set(b)
	es := w.look()
	w.want(es, "tag.moved")
	m := data[notify.TagMoved](t, es[0])
	m.Text = ""
	if d := cmp.Diff(notify.TagMoved{Repository: "docker.io/library/a", Tag: "1", From: a, To: b}, m); d != "" {
		t.Error(d)
	}
	w.want(w.look(), "")
	w.restart()
	w.want(w.look(), "")
	w.clock.add(time.Minute)
	set(a)
	w.want(w.look(), "tag.moved")
	w.clock.add(time.Hour)
	set("")
	w.want(w.look(), "tag.moved")
}

// TestExceptions: made, about to expire, expired, revoked.
func TestExceptions(t *testing.T) {
	w := newWorld(t)
	day := 24 * time.Hour
	create := func(id string, life time.Duration) {
		t.Helper()
		now := w.clock.Now()
		if err := w.db.CreateException(t.Context(), pratique.Exception{
			ID: id, Finding: "CVE-2026-1", Repository: "docker.io/**", Reason: "waiting", Author: "ann", Created: now, Expires: now.Add(life), Source: "api",
		}); err != nil {
			t.Fatal(err)
		}
	}
	create("ex-0", 14*day)
	w.want(w.look(), "") // there when it began
	create("ex-1", 10*day)
	create("ex-2", 2*day)
	w.want(w.look(), "exception.created exception.created")
	w.want(w.look(), "")
	w.clock.add(day - time.Second)
	w.want(w.look(), "")
	w.clock.add(time.Second) // half of a short life
	es := w.look()
	w.want(es, "exception.expiring")
	if x := data[notify.Exception](t, es[0]); x.Exception.ID != "ex-2" || x.Exception.Author != "ann" || x.Text == "" {
		t.Errorf("%+v", x)
	}
	if _, err := w.db.RevokeException(t.Context(), "ex-2", "bob", "fixed", w.clock.Now()); err != nil {
		t.Fatal(err)
	}
	w.want(w.look(), "exception.revoked")
	w.restart()
	w.clock.add(6*day - time.Second)
	w.want(w.look(), "")
	w.clock.add(time.Second) // three days before the end
	w.want(w.look(), "exception.expiring")
	w.clock.add(3 * day)
	w.want(w.look(), "exception.expired")
	w.restart()
	w.want(w.look(), "")
	w.clock.add(day)
	w.want(w.look(), "exception.expiring") // ex-0: what began before the watcher ends too
}

func TestDatabase(t *testing.T) {
	w := newWorld(t)
	first := w.engine
	w.engine = pratique.Engine{}
	w.want(w.look(), "")
	w.engine = first
	w.want(w.look(), "database.updated")
	w.want(w.look(), "")
	for range 2 { // there and back again are facts of their own
		w.clock.add(time.Hour)
		w.engine = pratique.Engine{Database: digest.FromString("db2"), DatabaseAt: start}
		w.want(w.look(), "database.updated")
		w.clock.add(time.Hour)
		w.engine = first
		w.want(w.look(), "database.updated")
	}
	w.restart()
	w.want(w.look(), "")
}

// TestFilters: by type, with and without the prefix, and by repository.
func TestFilters(t *testing.T) {
	for _, tc := range []struct {
		types, repositories []string
		want                int
	}{
		{nil, nil, 1},
		{[]string{"verdict.*"}, nil, 1},
		{[]string{"dev.pratique.verdict.changed"}, nil, 1},
		{[]string{"image.*", "*.changed"}, nil, 1},
		{[]string{"image.*"}, nil, 0},
		{[]string{"verdict"}, nil, 0},
		{nil, []string{"docker.io/library/*"}, 1},
		{nil, []string{"docker.io/*"}, 0},
		{nil, []string{"docker.io/**"}, 1},
		{nil, []string{"docker.io/library/?"}, 1},
		{nil, []string{"ghcr.io/**", "quay.io/**"}, 0},
		{[]string{"verdict.*"}, []string{"ghcr.io/**"}, 0},
	} {
		w := newWorld(t)
		n := newNotifier(t, w.db, map[string]notify.Sink{
			"a": {URL: w.recv.URL, Transport: transport(t), Types: tc.types, Repositories: tc.repositories},
		}, quick(&w.clock))
		w.watcher = notify.NewWatcher(n, notify.Sources{
			Gate: w, Catalog: w, Pulls: w.db, Exceptions: w.db, Tags: w.db, Marks: w.db,
			Database: func() (pratique.Engine, error) { return w.engine, nil }, Version: func() string { return "" },
		}, notify.WatcherConfig{})
		a := w.decide("a", pratique.OutcomeAllow, nil)
		w.look()
		w.decide("a", pratique.OutcomeDeny, nil)
		es := w.look(a)
		w.want(es, "verdict.changed")
		rs, err := w.db.Events(t.Context(), store.EventQuery{ID: es[0].ID, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(rs[0].Deliveries); got != tc.want {
			t.Errorf("types %v, repositories %v: %d sinks told, want %d", tc.types, tc.repositories, got, tc.want)
		}
	}
}

// TestNothingNew: looking at what did not change writes nothing.
func TestNothingNew(t *testing.T) {
	w := newWorld(t)
	a := w.decide("a", pratique.OutcomeAllow, func(d *pratique.Decision) { d.Verdict.Until = start.Add(100 * time.Hour) })
	w.look()
	m, err := w.db.Mark(t.Context(), "image/"+a.String())
	if err != nil {
		t.Fatal(err)
	}
	if !m.Due.Equal(start.Add(100 * time.Hour)) {
		t.Errorf("due %s", m.Due)
	}
	if err := w.db.Append(t.Context(), nil, []store.Mark{{Key: m.Key, Due: start.Add(time.Hour), Doc: m.Doc}}); err != nil {
		t.Fatal(err)
	}
	w.look(a)
	if m, err = w.db.Mark(t.Context(), m.Key); err != nil || !m.Due.Equal(start.Add(time.Hour)) {
		t.Errorf("the mark was written again: %v %v", m, err)
	}
}

// TestGraceOfTwoReasons: of one rule that which ends first counts, and the other
// one does not begin anew at every look.
func TestGraceOfTwoReasons(t *testing.T) {
	w := newWorld(t)
	a := w.decide("a", pratique.OutcomeAllow, nil)
	w.look()
	w.decide("a", pratique.OutcomeWarn, func(d *pratique.Decision) {
		r := d.Verdict.Reasons[0]
		r.GraceEnds = start.Add(20 * time.Hour)
		d.Verdict.Reasons[0].GraceEnds = start.Add(10 * time.Hour)
		d.Verdict.Reasons = []pratique.Reason{r, d.Verdict.Reasons[0]}
	})
	w.want(w.look(a), "grace.started")
	w.clock.add(5 * time.Hour)
	w.want(w.look(a), "grace.ending")
	w.want(w.look(a), "")
}

// failing is an outbox whose Append fails: before it wrote, or after.
type failing struct {
	notify.Box
	before, after bool
}

func (f *failing) Append(ctx context.Context, es []store.Addressed, ms []store.Mark) error {
	if f.before {
		return errBroken
	}
	err := f.Box.Append(ctx, es, ms)
	if f.after {
		return errBroken
	}
	return err
}

// TestFailedAppend: what could not be written, or was written although that
// failed, is told once in the end.
func TestFailedAppend(t *testing.T) {
	for name, broken := range map[string]failing{"not persisted": {before: true}, "persisted": {after: true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			f := &failing{Box: w.db}
			n := newNotifier(t, f, nil, quick(&w.clock))
			w.watcher = notify.NewWatcher(n, notify.Sources{
				Gate: w, Catalog: w, Pulls: w.db, Exceptions: w.db, Tags: w.db, Marks: w.db,
				Database: func() (pratique.Engine, error) { return w.engine, nil }, Version: func() string { return "" },
			}, notify.WatcherConfig{})
			a := w.decide("a", pratique.OutcomeAllow, nil)
			*f = failing{w.db, broken.before, broken.after}
			w.look() // beginning fails too
			*f = failing{Box: w.db}
			w.look()
			w.decide("a", pratique.OutcomeDeny, nil)
			w.clock.add(time.Minute)
			w.pulled(a, "10.0.0.1", pratique.OutcomeDeny, w.clock.Now())
			w.engine.Database = digest.FromString("db2")
			*f = failing{w.db, broken.before, broken.after}
			before := len(w.events())
			w.look(a)
			*f = failing{Box: w.db}
			for range 3 {
				w.clock.add(time.Minute)
				w.look()
			}
			w.want(w.events()[before:], "database.updated verdict.changed image.refused")
		})
	}
}
