package policy

import (
	"testing"
	"time"

	"pratique"
)

// TestGraceIsNotHadBeforeTheFirstScan: an image that was served before its first
// scan, because a rule let it through, was not served before the findings of that
// scan: else whoever pulls a new build at once runs it for the whole grace.
func TestGraceIsNotHadBeforeTheFirstScan(t *testing.T) {
	set := load(t, `
name: p
default: allow
rules:
  - {name: early, unscanned: {}, action: warn}
  - {name: critical, vulnerability: {severity: CRITICAL}, action: deny, grace: {critical: 14d, kev: 7d}}`)
	pulled := testNow.AddDate(0, 0, -3)
	scannedAt := pulled.Add(time.Minute)
	old := pratique.Finding{ID: "CVE-1", Kind: pratique.KindVulnerability, Package: "p", Severity: pratique.SeverityCritical, FirstSeen: scannedAt}
	overnight, risen := old, old
	overnight.ID, overnight.FirstSeen = "CVE-2", testNow.AddDate(0, 0, -1)
	risen.ID = "CVE-3"
	risen.Milestones = []pratique.Milestone{{At: scannedAt, Severity: pratique.SeverityLow}, {At: testNow.AddDate(0, 0, -1), Severity: pratique.SeverityCritical}}
	for name, tc := range map[string]struct {
		finding      pratique.Finding
		firstScanned time.Time
		want         pratique.Outcome
	}{
		"of the first scan":       {old, scannedAt, pratique.OutcomeDeny},
		"appeared overnight":      {overnight, scannedAt, pratique.OutcomeWarn},
		"got worse overnight":     {risen, scannedAt, pratique.OutcomeWarn},
		"when that was not noted": {old, time.Time{}, pratique.OutcomeWarn},
	} {
		f := scanned(tc.finding)
		f.Now, f.FirstServed, f.LastServed = testNow, pulled, testNow
		f.Report.FirstScanned = tc.firstScanned
		if v := set.Decide(f); v.Outcome != tc.want {
			t.Errorf("%s: %s, want %s: %+v", name, v.Outcome, tc.want, v.Reasons)
		}
	}
}
