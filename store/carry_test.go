package store_test

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"pratique"
	"pratique/store"
)

// life is what a finding went through: state after state, by report; nil where
// it was not there.
type life []*pratique.Milestone

// want is the milestones of a life, by the words of Report and Milestone: the
// first is at FirstSeen, and another one whenever the worst so far rose.
func (l life) want(times []time.Time) []pratique.Milestone {
	var out []pratique.Milestone
	var worst pratique.Milestone
	for i, s := range l {
		if s == nil {
			continue
		}
		next := pratique.Milestone{At: times[i], Severity: worst.Severity, Fixable: worst.Fixable || s.Fixable}
		if len(out) == 0 || s.Severity.Rank() > worst.Severity.Rank() {
			next.Severity = s.Severity
		}
		if len(out) == 0 || next.Severity.Rank() > worst.Severity.Rank() || next.Fixable != worst.Fixable {
			out, worst = append(out, next), next
		}
	}
	return out
}

// TestCarryProperty: whatever findings go through (they come, go, come back, get
// worse and milder, twice in one report), after every report they have the
// FirstSeen and the Milestones of their whole life, also when all that is kept
// was written and read in between.
func TestCarryProperty(t *testing.T) {
	severities := []pratique.Severity{"UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL"}
	ids := []string{"CVE-1", "CVE-2", "CVE-3", "CVE-4"}
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 4))
		lives := make([]life, len(ids))
		var times []time.Time
		var stands pratique.Report
		var past []store.Past
		at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		for range 12 {
			at = at.Add(time.Duration(random.IntN(72)) * time.Hour)
			times = append(times, at)
			next := pratique.Report{State: pratique.StateScanned, ScannedAt: at}
			empty := random.IntN(6) == 0 // a failed scan, a rolled back database
			for i, id := range ids {
				if empty || random.IntN(3) == 0 {
					lives[i] = append(lives[i], nil)
					continue
				}
				state := pratique.Milestone{Severity: severities[random.IntN(5)], Fixable: random.IntN(3) == 0}
				f := pratique.Finding{ID: id, Kind: pratique.KindVulnerability, Package: "p", Severity: state.Severity,
					FirstSeen: at.Add(-1000 * time.Hour), Milestones: []pratique.Milestone{{At: at.Add(-1000 * time.Hour), Severity: "LOW"}}} // a claim
				if state.Fixable {
					f.Fixed = "2"
				}
				next.Findings = append(next.Findings, f)
				if random.IntN(4) == 0 { // another version of it, somewhere in the same place: milder
					g := f
					g.Severity, g.Fixed, g.Installed = "UNKNOWN", "", "other"
					next.Findings = append(next.Findings, g)
				}
				lives[i] = append(lives[i], &state)
			}
			random.Shuffle(len(next.Findings), func(i, j int) {
				next.Findings[i], next.Findings[j] = next.Findings[j], next.Findings[i]
			})
			claimed := clone(t, next)
			before := clone(t, stands)
			findings, left := store.Carry(stands, past, next)
			if d := cmp.Diff(claimed, next, cmpopts.EquateEmpty()); d != "" {
				t.Fatalf("seed %d: next was changed (-before +after):\n%s", seed, d)
			}
			if d := cmp.Diff(before, stands, cmpopts.EquateEmpty()); d != "" {
				t.Fatalf("seed %d: what stood was changed (-before +after):\n%s", seed, d)
			}
			for _, f := range findings {
				want := lives[slices.Index(ids, f.ID)].want(times)
				if !f.FirstSeen.Equal(want[0].At) {
					t.Fatalf("seed %d: %s first seen %s, want %s", seed, f.ID, f.FirstSeen, want[0].At)
				}
				if len(want) == 1 {
					want = nil
				}
				if d := cmp.Diff(want, f.Milestones); d != "" {
					t.Fatalf("seed %d: milestones of %s (-want +got):\n%s", seed, f.ID, d)
				}
			}
			next.Findings = findings
			stands, past = clone(t, next), clone(t, left)
		}
	}
}

// clone is v as a restart would find it.
func clone[T any](t *testing.T, v T) (out T) {
	t.Helper()
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCarry(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC) }
	finding := func(sev pratique.Severity, fixed string) pratique.Finding {
		return pratique.Finding{ID: "CVE-1", Kind: pratique.KindVulnerability, Severity: sev, Fixed: fixed}
	}
	seen := func(f pratique.Finding, at time.Time, ms ...pratique.Milestone) pratique.Finding {
		f.FirstSeen, f.Milestones = at, ms
		return f
	}
	report := func(d int, fs ...pratique.Finding) pratique.Report {
		return pratique.Report{ScannedAt: day(d), Findings: fs}
	}
	high, critical := pratique.SeverityHigh, pratique.SeverityCritical
	tests := []struct {
		name     string
		prev     pratique.Report
		past     []store.Past
		next     pratique.Report
		want     []pratique.Finding
		wantPast int
	}{
		{name: "new", next: report(3, finding(high, "")), want: []pratique.Finding{seen(finding(high, ""), day(3))}},
		{name: "the same", prev: report(1, seen(finding(high, ""), day(1))), next: report(3, finding(high, "")),
			want: []pratique.Finding{seen(finding(high, ""), day(1))}},
		{name: "of a version that kept no times", prev: report(1, finding(high, "")), next: report(3, finding(high, "")),
			want: []pratique.Finding{seen(finding(high, ""), day(3))}},
		{name: "a fix came out", prev: report(1, seen(finding(high, ""), day(1))), next: report(3, finding(high, "2")),
			want: []pratique.Finding{seen(finding(high, "2"), day(1), pratique.Milestone{At: day(1), Severity: high}, pratique.Milestone{At: day(3), Severity: high, Fixable: true})}},
		{name: "milder: nothing to be seen, but remembered", prev: report(1, seen(finding(critical, ""), day(1))), next: report(3, finding(high, "")),
			want: []pratique.Finding{seen(finding(high, ""), day(1))}, wantPast: 1},
		{name: "as bad as it was once", prev: report(1, seen(finding(high, ""), day(1))), next: report(3, finding(critical, "")),
			past: []store.Past{{Kind: pratique.KindVulnerability, ID: "CVE-1", Milestones: []pratique.Milestone{{At: day(1), Severity: critical}}}},
			want: []pratique.Finding{seen(finding(critical, ""), day(1))}},
		{name: "gone", prev: report(1, seen(finding(high, ""), day(1))), next: report(3), want: nil, wantPast: 1},
		{name: "the clock of the machine went back", prev: report(5, seen(finding(high, ""), day(5))), next: report(3, finding(critical, "")),
			want: []pratique.Finding{seen(finding(critical, ""), day(5), pratique.Milestone{At: day(5), Severity: high}, pratique.Milestone{At: day(5), Severity: critical})}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, past := store.Carry(tt.prev, tt.past, tt.next)
			if d := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("findings (-want +got):\n%s", d)
			}
			if len(past) != tt.wantPast {
				t.Errorf("past %v, want %d", past, tt.wantPast)
			}
		})
	}
}
