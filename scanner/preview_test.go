package scanner_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scanner"
)

func TestPreview(t *testing.T) {
	before, now := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	curl := pratique.Component{Context: pratique.Context{Class: pratique.ClassOS, Type: "debian", Name: "12"}, Name: "curl", Version: "1"}
	occurrences := []pratique.Occurrence{{Component: curl.ID(), Installed: "1"}}
	components := map[pratique.ComponentID]pratique.Component{curl.ID(): curl}
	found := map[pratique.ComponentID][]pratique.Vulnerability{curl.ID(): {{ID: "CVE-NEW", Severity: pratique.SeverityHigh}, {ID: "CVE-STAYS", Severity: pratique.SeverityLow}}}
	standing := pratique.Report{
		Image: digest.FromString("image"), State: pratique.StateScanned, ScannedAt: before,
		Engine: pratique.Engine{Version: "1", Analyzer: "a", Database: digest.FromString("old")},
		Findings: []pratique.Finding{
			{ID: "CVE-GOES", Kind: pratique.KindVulnerability, Package: "curl", FirstSeen: before, Severity: pratique.SeverityHigh},
			{ID: "CVE-STAYS", Kind: pratique.KindVulnerability, Package: "curl", FirstSeen: before, Severity: pratique.SeverityLow},
			{ID: "key", Kind: pratique.KindSecret, Path: "k", FirstSeen: before, Severity: pratique.SeverityHigh},
		},
	}
	untouched := append([]pratique.Finding(nil), standing.Findings...)
	engine := pratique.Engine{Version: "1", Database: digest.FromString("new"), DatabaseAt: now}
	got, err := scanner.Preview(standing, occurrences, components, found, engine, now)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]time.Time)
	for _, f := range got.Findings {
		seen[f.ID] = f.FirstSeen
	}
	if diff := cmp.Diff(map[string]time.Time{"CVE-NEW": now, "CVE-STAYS": before, "key": before}, seen); diff != "" {
		t.Error(diff)
	}
	engine.Analyzer = "a"
	if diff := cmp.Diff(engine, got.Engine); diff != "" || !got.ScannedAt.Equal(now) {
		t.Errorf("%s, scanned at %s", diff, got.ScannedAt)
	}
	if diff := cmp.Diff(untouched, standing.Findings); diff != "" {
		t.Errorf("the standing report was changed: %s", diff)
	}
	if r, err := scanner.Preview(standing, occurrences, components, nil, engine, now); err == nil {
		t.Errorf("a component that was not matched has no vulnerabilities: %+v", r)
	}
	standing.State = pratique.StateFailed
	if got, err = scanner.Preview(standing, occurrences, components, nil, engine, now); err != nil || !cmp.Equal(got, standing) {
		t.Errorf("a failed report: %+v, %v", got, err)
	}
}
