package storetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

func report(img string, databaseAt, scanned time.Time, findings ...pratique.Finding) pratique.Report {
	return pratique.Report{
		Image: sum(img), State: pratique.StateScanned, OS: pratique.OS{Family: "debian", Name: "12"}, Findings: findings,
		Engine:    pratique.Engine{Version: "v0.74.0", Analyzer: "k", Database: sum(databaseAt.String()), DatabaseAt: databaseAt},
		ScannedAt: scanned, FirstSeen: clock,
	}
}

func finding(id, pkg, path string) pratique.Finding {
	return pratique.Finding{ID: id, Kind: pratique.KindVulnerability, Package: pkg, Path: path, Installed: "1", Severity: pratique.SeverityHigh}
}

// Reports checks an implementation of store.Reports.
func Reports[T store.Reports](t *testing.T, fresh Fresh[T]) {
	t.Run("Put", func(t *testing.T) { reportsPut(t, fresh(t)) })
	t.Run("FirstSeen", func(t *testing.T) { reportsFirstSeen(t, fresh(t)) })
	t.Run("NeverReset", func(t *testing.T) { reportsNeverReset(t, fresh(t)) })
	t.Run("FirstScanned", func(t *testing.T) { reportsFirstScanned(t, fresh(t)) })
	t.Run("NewerDatabaseStands", func(t *testing.T) { reportsNewerStands(t, fresh(t)()) })
	t.Run("Images", func(t *testing.T) { reportsImages(t, fresh(t)()) })
	t.Run("Concurrent", func(t *testing.T) { reportsConcurrent(t, fresh(t)()) })
}

func reportsPut[T store.Reports](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	_, err := s.Report(ctx, sum("a"))
	wantNotFound(t, "Report before PutReport", err)
	r := report("a", clock, clock, finding("CVE-1", "x", "p"))
	r.Problems = []pratique.Problem{{Source: "dpkg", Message: "m"}}
	stored, err := s.PutReport(ctx, r)
	mustBe(t, err)
	s = open()
	got, err := s.Report(ctx, sum("a"))
	mustBe(t, err)
	same(t, "what PutReport returned is what stands", got, stored)
	r.Findings[0].FirstSeen, r.FirstScanned = r.ScannedAt, r.ScannedAt
	same(t, "Report after reopening", got, r)

	failed := pratique.Report{Image: sum("a"), State: pratique.StateFailed, Engine: r.Engine, ScannedAt: clock.Add(time.Minute)}
	_, err = s.PutReport(ctx, failed)
	mustBe(t, err)
	got, err = s.Report(ctx, sum("a"))
	mustBe(t, err)
	failed.FirstScanned = r.ScannedAt
	same(t, "replaced", got, failed)
	if _, err := s.PutReport(ctx, pratique.Report{Image: sum("a"), State: "clean"}); err == nil {
		t.Error("a report in a state that is none is stored")
	}
}

func reportsFirstSeen[T store.Reports](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	day := 24 * time.Hour
	put := func(scanned time.Time, fs ...pratique.Finding) map[string]time.Time {
		t.Helper()
		r, err := s.PutReport(ctx, report("a", clock, scanned, fs...))
		mustBe(t, err)
		seen := make(map[string]time.Time)
		for _, f := range r.Findings {
			seen[fmt.Sprint(f.Kind, " ", f.ID, " ", f.Package, " ", f.Path)] = f.FirstSeen
		}
		return seen
	}
	x, y := finding("CVE-1", "x", "p"), finding("CVE-1", "y", "p")
	put(clock, x, y)
	s = open()
	changed := x
	changed.Severity, changed.Fixed, changed.Installed, changed.Layer = pratique.SeverityCritical, "2", "1.1", sum("l")
	secret := x
	secret.Kind = pratique.KindSecret
	claimed := finding("CVE-2", "x", "p")
	claimed.FirstSeen = clock.Add(-100 * day)
	got := put(clock.Add(day), changed, finding("CVE-1", "x", "elsewhere"), secret, claimed)
	want := map[string]time.Time{
		"vulnerability CVE-1 x p":         clock,
		"vulnerability CVE-1 x elsewhere": clock.Add(day),
		"secret CVE-1 x p":                clock.Add(day),
		"vulnerability CVE-2 x p":         clock.Add(day),
	}
	same(t, "FirstSeen", got, want)
	r, err := s.Report(ctx, sum("a"))
	mustBe(t, err)
	if f := r.Findings[0]; f.Severity != pratique.SeverityCritical || f.Fixed != "2" {
		t.Errorf("carrying FirstSeen carried more: %+v", f)
	}
}

// reportsFirstScanned: what is matched first sets it, for ever; neither a scan that
// failed nor what a report itself says does.
func reportsFirstScanned[T store.Reports](t *testing.T, open func() T) {
	for i, step := range []struct {
		state pratique.State
		want  time.Time
	}{
		{pratique.StateFailed, time.Time{}},
		{pratique.StateIncomplete, clock.Add(time.Hour)},
		{pratique.StateScanned, clock.Add(time.Hour)},
		{pratique.StateFailed, clock.Add(time.Hour)},
		{pratique.StateScanned, clock.Add(time.Hour)},
	} {
		s := open()
		r := report("a", clock.Add(time.Duration(i)*time.Hour), clock.Add(time.Duration(i)*time.Hour))
		r.State, r.FirstScanned = step.state, clock.Add(-time.Hour)
		_, err := s.PutReport(t.Context(), r)
		mustBe(t, err)
		got, err := s.Report(t.Context(), sum("a"))
		mustBe(t, err)
		if !got.FirstScanned.Equal(step.want) {
			t.Errorf("after report %d, %s: first scanned %s, want %s", i, step.state, got.FirstScanned, step.want)
		}
	}
}

// reportsNeverReset: no clock of a finding starts anew, whatever the reports in
// between say, whichever database they were made with, and however often the
// store was opened.
func reportsNeverReset[T store.Reports](t *testing.T, open func() T) {
	day := func(n int) time.Time { return clock.Add(time.Duration(n) * 24 * time.Hour) }
	low, high, fixed := finding("CVE-1", "x", "p"), finding("CVE-1", "x", "p"), finding("CVE-1", "x", "p")
	low.Severity, fixed.Fixed = pratique.SeverityLow, "2"
	steps := []struct {
		name     string
		database int
		failed   bool
		findings []pratique.Finding
		want     []pratique.Milestone // the first is FirstSeen; nil where the finding is not there
	}{
		{"new, and high", 0, false, []pratique.Finding{high}, []pratique.Milestone{{At: day(0), Severity: high.Severity}}},
		{"lower", 1, false, []pratique.Finding{low}, []pratique.Milestone{{At: day(0), Severity: high.Severity}}},
		{"a database that lacks it", 2, false, nil, nil},
		{"and the next", 3, false, nil, nil},
		{"there again, as bad as it was", 4, false, []pratique.Finding{high}, []pratique.Milestone{{At: day(0), Severity: high.Severity}}},
		{"a failed scan", 4, true, nil, nil},
		{"a fix", 5, false, []pratique.Finding{fixed}, []pratique.Milestone{{At: day(0), Severity: high.Severity}, {At: day(6), Severity: high.Severity, Fixable: true}}},
		{"the fix withdrawn", 6, false, []pratique.Finding{high}, []pratique.Milestone{{At: day(0), Severity: high.Severity}, {At: day(6), Severity: high.Severity, Fixable: true}}},
		{"a database rolled back: what stands stays", 2, false, nil, []pratique.Milestone{{At: day(0), Severity: high.Severity}, {At: day(6), Severity: high.Severity, Fixable: true}}},
		{"gone", 7, false, nil, nil},
		{"there again, with the fix", 8, false, []pratique.Finding{fixed}, []pratique.Milestone{{At: day(0), Severity: high.Severity}, {At: day(6), Severity: high.Severity, Fixable: true}}},
	}
	for i, tt := range steps {
		s, ctx := open(), t.Context()
		r := report("a", day(tt.database), day(i), tt.findings...)
		if tt.failed {
			r.State = pratique.StateFailed
		}
		stored, err := s.PutReport(ctx, r)
		mustBe(t, err)
		s = open()
		got, err := s.Report(ctx, sum("a"))
		mustBe(t, err)
		same(t, tt.name+": what PutReport returned is what stands", got, stored)
		if tt.want == nil {
			same(t, tt.name, got.Findings, nil)
			continue
		}
		same(t, tt.name, got.Findings[0].FirstSeen, tt.want[0].At)
		ms := tt.want
		if len(ms) == 1 {
			ms = nil
		}
		same(t, tt.name, got.Findings[0].Milestones, ms)
	}
	other, err := open().PutReport(t.Context(), report("b", clock, day(99), high))
	mustBe(t, err)
	same(t, "another image has its own clock", other.Findings[0].FirstSeen, day(99))
}

func reportsNewerStands[T store.Reports](t *testing.T, s T) {
	ctx := t.Context()
	newer := report("a", clock.Add(time.Hour), clock, finding("CVE-NEW", "x", "p"))
	stands, err := s.PutReport(ctx, newer)
	mustBe(t, err)
	got, err := s.PutReport(ctx, report("a", clock, clock.Add(2*time.Hour)))
	mustBe(t, err)
	same(t, "an older database's report: the standing one is returned", got, stands)
	got, err = s.Report(ctx, sum("a"))
	mustBe(t, err)
	same(t, "and stands", got, stands)
	got, err = s.PutReport(ctx, report("a", clock.Add(time.Hour), clock.Add(3*time.Hour)))
	mustBe(t, err)
	same(t, "the same database's replaces it", len(got.Findings), 0)
	got, err = s.PutReport(ctx, pratique.Report{Image: sum("a"), State: pratique.StateFailed, ScannedAt: clock.Add(4 * time.Hour)})
	mustBe(t, err)
	same(t, "a failure without a database does not", got.State, pratique.StateScanned)
}

func reportsImages[T store.Reports](t *testing.T, s T) {
	ctx := t.Context()
	const n = 2500
	want := make([]digest.Digest, n)
	concurrently(t, 4, func(ctx context.Context, g int) error {
		for i := g; i < n; i += 4 {
			img := fmt.Sprint("img", i)
			want[i] = sum(img)
			if _, err := s.PutReport(ctx, report(img, clock, clock)); err != nil {
				return err
			}
		}
		return nil
	})
	var got []digest.Digest
	for d, err := range s.ReportedImages(ctx) {
		mustBe(t, err)
		if got = append(got, d); len(got) == 10 { // the loop's body may write
			_, err := s.PutReport(ctx, pratique.Report{Image: d, State: pratique.StateFailed, Engine: pratique.Engine{DatabaseAt: clock}})
			mustBe(t, err)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	same(t, "ReportedImages", got, want)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	var last error
	for _, err := range s.ReportedImages(ended) {
		last = err
	}
	if last == nil {
		t.Error("ReportedImages with an ended context yielded no error")
	}
}

func reportsConcurrent[T store.Reports](t *testing.T, s T) {
	// Writers with databases of all ages race: the newest must stand.
	const n = 24
	concurrently(t, n, func(ctx context.Context, i int) error {
		_, err := s.PutReport(ctx, report("a", clock.Add(time.Duration(i)*time.Minute), clock, finding(fmt.Sprint("CVE-", i), "x", "p")))
		return err
	})
	r, err := s.Report(t.Context(), sum("a"))
	mustBe(t, err)
	if !r.Engine.DatabaseAt.Equal(clock.Add((n-1)*time.Minute)) || r.Findings[0].ID != fmt.Sprint("CVE-", n-1) {
		t.Errorf("stands: %v with %v, want the newest database's", r.Engine.DatabaseAt, r.Findings)
	}
}

// Pulls checks an implementation of store.Pulls.
func Pulls[T store.Pulls](t *testing.T, fresh Fresh[T]) {
	pull := func(img string, at time.Time, o pratique.Outcome) store.Pull {
		return store.Pull{Ref: pratique.Ref{Registry: "docker.io", Repo: "r", Tag: "v1", Digest: sum(img)}, Client: "10.0.0.1", At: at, Outcome: o, Verdict: "v"}
	}
	open := fresh(t)
	s, ctx := open(), t.Context()
	_, _, err := s.Served(ctx, sum("a"))
	wantNotFound(t, "Served before Record", err)
	mustBe(t, s.Record(ctx, nil))
	mustBe(t, s.Record(ctx, []store.Pull{
		pull("a", clock.Add(time.Hour), pratique.OutcomeAllow),
		pull("a", clock, pratique.OutcomeWarn), // batches may come out of order
		pull("a", clock.Add(-time.Hour), pratique.OutcomeDeny),
		pull("refused", clock, pratique.OutcomeDeny),
	}))
	mustBe(t, s.Record(ctx, []store.Pull{pull("a", clock.Add(2*time.Hour), pratique.OutcomeAllow), pull("b", clock, pratique.OutcomeAllow)}))
	s = open()
	first, last, err := s.Served(ctx, sum("a"))
	mustBe(t, err)
	same(t, "first served", first, clock)
	same(t, "last served", last, clock.Add(2*time.Hour))
	_, _, err = s.Served(ctx, sum("refused"))
	wantNotFound(t, "Served of what was only refused", err)
}
