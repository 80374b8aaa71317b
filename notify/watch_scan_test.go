package notify_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/notify"
	"pratique/store"
)

func vulnerability(id string, s pratique.Severity) pratique.Finding {
	return pratique.Finding{ID: id, Kind: pratique.KindVulnerability, Package: "openssl", Installed: "1", Fixed: "2", Severity: s}
}

// found gives a report these findings and changes.
func found(at time.Time, fs []pratique.Finding, cs ...pratique.FindingChange) func(d *pratique.Decision) {
	return func(d *pratique.Decision) {
		d.Report.Findings, d.Report.Changes, d.Report.ScannedAt = fs, cs, at
		d.Report.OS = pratique.OS{Family: "debian", Name: "12.5"}
	}
}

// TestScanned: each scan that found something else is told, with how many of what;
// what a database changed is told with the changes since the last look.
func TestScanned(t *testing.T) {
	w := newWorld(t)
	w.look()
	one := []pratique.Finding{vulnerability("CVE-1", pratique.SeverityHigh), {ID: "key", Kind: pratique.KindSecret}}
	a := w.decide("a", pratique.OutcomeAllow, found(start, one))
	es := w.look(a)
	w.want(es, "image.scanned")
	got := data[notify.Scanned](t, es[0])
	got.Reasons = nil
	want := notify.Scanned{
		Image: notify.Image{
			Text: got.Reference + " was scanned: 1 high, 1 secrets", Reference: "docker.io/library/a:1@" + a.String(), Repository: "docker.io/library/a", Tag: "1",
			Digest: a, Outcome: pratique.OutcomeAllow, Verdict: "v-allow",
		},
		State: pratique.StateScanned, OS: "debian 12.5", Findings: notify.Counts{High: 1, Fixable: 1, Secrets: 1}, Engine: w.engine, ScannedAt: start, Cause: "scan",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("data (-want +got):\n%s", d)
	}
	if es[0].Cause != "scan" {
		t.Errorf("cause %q", es[0].Cause)
	}
	w.decide("a", pratique.OutcomeAllow, found(start.Add(time.Minute), []pratique.Finding{one[1], one[0]}))
	w.want(w.look(a), "") // scanned again, found the same
	w.restart()
	w.want(w.look(a), "")

	at := start.Add(time.Hour)
	w.clock.add(time.Hour)
	w.engine = pratique.Engine{Database: digest.FromString("db2"), DatabaseAt: at}
	appeared := pratique.FindingChange{Kind: pratique.ChangeAppeared, ID: "CVE-2", Package: "curl", Severity: pratique.SeverityCritical, At: at}
	rose := pratique.FindingChange{Kind: pratique.ChangeSeverity, ID: "CVE-1", Package: "openssl", Severity: pratique.SeverityMedium, Before: "HIGH", After: "MEDIUM", At: at}
	two := []pratique.Finding{vulnerability("CVE-1", pratique.SeverityMedium), vulnerability("CVE-2", pratique.SeverityCritical), one[1]}
	w.decide("a", pratique.OutcomeDeny, found(at, two, rose, appeared))
	es = w.look(a)
	w.want(es, "database.updated image.scanned verdict.changed")
	changes := &notify.Changes{
		Total: 2, Kinds: map[pratique.ChangeKind]int{pratique.ChangeAppeared: 1, pratique.ChangeSeverity: 1}, List: []pratique.FindingChange{appeared, rose},
	}
	s := data[notify.Scanned](t, es[1])
	if d := cmp.Diff(changes, s.Changes); d != "" || s.Cause != "database" || s.Text != s.Reference+" was scanned: 1 critical, 1 medium, 1 secrets; 1 appeared, 1 have another severity" {
		t.Errorf("%s: %s", s.Text, d)
	}
	if d := cmp.Diff(changes, data[notify.Changed](t, es[2]).Changes); d != "" {
		t.Error(d)
	}
	for _, e := range es {
		if e.Cause != "database@"+w.engine.Database.String() {
			t.Errorf("%s has the cause %q", e.Type, e.Cause)
		}
	}
	w.want(w.look(a), "")

	// Later, not by a database: the changes that were told are not told again.
	w.version = "2"
	w.clock.add(time.Minute)
	w.decide("a", pratique.OutcomeAllow, found(at, two, rose, appeared))
	es = w.look()
	w.want(es, "verdict.changed")
	if c := data[notify.Changed](t, es[0]); c.Changes != nil || c.Cause != "policy" || es[0].Cause != "policy@2" {
		t.Errorf("%q %+v", es[0].Cause, c)
	}
	// Another change of the same time, told as far as it is not known that it was.
	third := appeared
	third.ID = "CVE-3"
	w.decide("a", pratique.OutcomeAllow, found(at, append(two, vulnerability("CVE-3", pratique.SeverityLow)), rose, appeared, third))
	es = w.look(a)
	w.want(es, "image.scanned")
	if c := data[notify.Scanned](t, es[0]).Changes; c == nil || c.Total != 3 {
		t.Errorf("changes %+v", c)
	}
	// What was found before comes back: another fact.
	w.decide("a", pratique.OutcomeAllow, found(at, two, rose, appeared, third))
	w.clock.add(time.Minute)
	w.want(w.look(a), "image.scanned")
}

// TestManyChanges: at most 20 are told, the worst that appeared first.
func TestManyChanges(t *testing.T) {
	w := newWorld(t)
	a := w.decide("a", pratique.OutcomeAllow, found(start, nil))
	w.look()
	var cs []pratique.FindingChange
	for i := range pratique.MaxChanges {
		c := pratique.FindingChange{Kind: pratique.ChangeGone, ID: fmt.Sprint("CVE-", i), Severity: pratique.SeverityCritical, At: start.Add(time.Minute)}
		if i%10 == 0 {
			c.Kind, c.Severity = pratique.ChangeAppeared, pratique.SeverityLow
		}
		cs = append(cs, c)
	}
	w.decide("a", pratique.OutcomeAllow, found(start, []pratique.Finding{vulnerability("x", "")}, cs...))
	es := w.look(a)
	w.want(es, "image.scanned")
	c := data[notify.Scanned](t, es[0]).Changes
	if c.Total != 100 || c.Kinds["appeared"] != 10 || c.Kinds["gone"] != 90 || len(c.List) != 20 || c.List[9].Kind != "appeared" || c.List[10].Kind != "gone" {
		t.Errorf("%+v", c)
	}
}

// TestNotScanned: what nobody runs, and what cannot be scanned, is no scan.
func TestNotScanned(t *testing.T) {
	w := newWorld(t)
	w.look()
	for state, want := range map[pratique.State]string{
		pratique.StateUnsupported: "", pratique.StateFailed: "scan.failed", pratique.StateIncomplete: "image.scanned", pratique.StateUnknown: "", pratique.StatePending: "",
	} {
		a := w.decide("a"+string(state), pratique.OutcomeDeny, func(d *pratique.Decision) { d.Report.State = state })
		w.want(w.look(a), want)
	}
}

// TestWantedScans: scans that no sink wants are not kept.
func TestWantedScans(t *testing.T) {
	w := newWorld(t)
	w.watch(newNotifier(t, w.db, map[string]notify.Sink{"a": {URL: "http://x", Transport: transport(t), Types: []string{"verdict.*"}}}, quick(&w.clock)), notify.WatcherConfig{})
	w.look()
	a := w.decide("a", pratique.OutcomeAllow, nil)
	w.want(w.look(a), "")
}

// TestDatabaseEffect: an update is told once it is known what it did, with that; or
// without, when that does not come.
func TestDatabaseEffect(t *testing.T) {
	w := newWorld(t)
	n := newNotifier(t, w.db, nil, quick(&w.clock))
	w.watch(n, notify.WatcherConfig{Settle: time.Minute})
	var images []digest.Digest
	for i := range 5 {
		images = append(images, w.decide(fmt.Sprint(i), []pratique.Outcome{pratique.OutcomeAllow, pratique.OutcomeDeny}[i%2], found(start, nil)))
	}
	w.want(w.look(), "")
	w.clock.add(time.Second)
	w.engine = pratique.Engine{Database: digest.FromString("db2"), DatabaseAt: start}
	w.want(w.look(), "") // in use, and nobody knows yet what it does
	for i := range 5 {
		c := pratique.FindingChange{Kind: pratique.ChangeAppeared, ID: "CVE-1", At: start.Add(time.Second)}
		w.decide(fmt.Sprint(i), []pratique.Outcome{pratique.OutcomeDeny, pratique.OutcomeAllow}[i%2], found(start, nil, c))
	}
	w.watcher.ChangedAll(images)
	w.watcher.Updated(notify.Update{Database: w.engine.Database, Components: 70, Changed: 7, Images: 5, Took: 1500 * time.Millisecond})
	es := w.look()
	w.want(es, "verdict.changed verdict.changed verdict.changed verdict.changed verdict.changed database.updated")
	d := data[notify.Database](t, es[5])
	if diff := cmp.Diff(&notify.Effect{
		Components: 70, Changed: 7, Images: 5, Findings: map[pratique.ChangeKind]int{"appeared": 5}, Refused: 3, Admitted: 2, Seconds: 1.5,
	}, d.Effect); diff != "" {
		t.Error(diff)
	}
	if want := "vulnerability database of 2026-11-23T10:00:00Z is in use; 70 components were matched again, 7 of them changed, in 5 images: 5 appeared; 3 images are refused now that were served, 2 are served again"; d.Text != want {
		t.Errorf("text %q", d.Text)
	}
	w.want(w.look(), "")
	w.engine.Database = digest.FromString("db3")
	w.want(w.look(), "")
	w.clock.add(59 * time.Second)
	w.want(w.look(), "")
	w.clock.add(time.Second)
	es = w.look()
	w.want(es, "database.updated")
	if d := data[notify.Database](t, es[0]); d.Effect != nil {
		t.Errorf("effect %+v", d.Effect)
	}
}

// TestManyImages: thousands at once are each told once, whatever fails in between,
// and none is forgotten.
func TestManyImages(t *testing.T) {
	const many = 600 // more than are looked at together
	w := newWorld(t)
	images := make([]digest.Digest, many)
	for i := range images {
		images[i] = w.decide(fmt.Sprint(i), pratique.OutcomeAllow, nil)
	}
	f := &failing{Box: w.db}
	w.watch(newNotifier(t, f, map[string]notify.Sink{"a": {URL: "http://x", Transport: transport(t)}}, quick(&w.clock)), notify.WatcherConfig{})
	w.look()
	w.clock.add(time.Second)
	w.fail[images[77]] = errBroken
	for i := range images {
		w.decide(fmt.Sprint(i), pratique.OutcomeDeny, nil)
	}
	f.Box, f.after = w.db, true // written, and not known to be
	w.watcher.ChangedAll(images)
	w.watcher.Look(t.Context())
	f.after = false
	delete(w.fail, images[77])
	for range 2 {
		w.clock.add(2 * time.Minute)
		w.watcher.Look(t.Context())
	}
	told := map[string]int{}
	for _, e := range w.events() {
		if e.Type == notify.TypeChanged {
			told[e.Order]++
		}
	}
	for _, d := range images {
		if told[d.String()] != 1 {
			t.Fatalf("%s is told %d times", d, told[d.String()])
		}
	}
}

// TestUnmoved: what did not move since it was looked at is not looked at again,
// before everything may have changed.
func TestUnmoved(t *testing.T) {
	w := newWorld(t)
	a := w.decide("a", pratique.OutcomeAllow, nil)
	w.decide("b", pratique.OutcomeAllow, nil)
	w.look()
	looked := func(want int) {
		t.Helper()
		before := w.looked
		w.clock.add(2 * time.Hour)
		w.look()
		if got := w.looked - before; got != want {
			t.Errorf("%d images were looked at, want %d", got, want)
		}
	}
	looked(0)
	w.stamps.Changed(a)
	looked(1)
	looked(0)
	w.version = "2"
	looked(2)
	w.fail[a] = errBroken
	w.stamps.Changed(a)
	looked(1)
	looked(1)
	delete(w.fail, a)
	if err := w.db.Append(t.Context(), nil, []store.Mark{{Key: "image/" + a.String(), Due: w.clock.Now(), Doc: []byte("{}")}}); err != nil {
		t.Fatal(err)
	}
	looked(1 + 1)
	looked(0)
}
