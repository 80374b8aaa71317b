package policy

import (
	"testing"
	"time"

	"pratique"
)

// TestATagThatMovedOnLiftsNothing: what a rule lifts from a tag's image is no longer
// lifted from its digest when the tag names another image: else whatever
// such a tag ever named could be had for ever.
func TestATagThatMovedOnLiftsNothing(t *testing.T) {
	for name, rule := range map[string]string{
		"match":      `{name: legacy, match: {tag: [stable]}, action: exempt, lifts: [high], message: known}`,
		"expression": `{name: legacy, match: {repository: ["**"]}, expression: 'ref.tag == "stable"', action: exempt, lifts: [high], message: known}`,
	} {
		set := load(t, "name: p\ndefault: allow\nrules:\n  - {name: high, vulnerability: {severity: HIGH}, action: deny}\n  - "+rule+"\n")
		f := scanned(pratique.Finding{ID: "CVE-1", Kind: pratique.KindVulnerability, Severity: pratique.SeverityHigh})
		f.Now = testNow
		f.Ref = pratique.Ref{Registry: "docker.io", Repo: "a", Digest: imageDigest}
		f.Lineage.Current = []string{"stable"}
		if v := set.Decide(f); v.Outcome != pratique.OutcomeAllow {
			t.Errorf("%s, by digest, while the tag names it: %s", name, v.Outcome)
		}
		f.Lineage = pratique.Lineage{Moved: []pratique.TagMove{{Tag: "stable", To: "sha256:b", At: testNow.Add(-time.Hour)}}}
		if v := set.Decide(f); v.Outcome != pratique.OutcomeDeny {
			t.Errorf("%s, by digest, after the tag moved: %s", name, v.Outcome)
		}
	}
}

// TestATagThatMovedOnIsNotWhatVendorsSpeakOf: nor does a statement about a tag hold
// for what the tag named once.
func TestATagThatMovedOnIsNotWhatVendorsSpeakOf(t *testing.T) {
	set := load(t, `
name: p
default: allow
rules:
  - {name: high, vulnerability: {severity: HIGH}, action: deny}
  - {name: no-dev, match: {tag: [dev]}, always: {}, action: deny}`)
	f := scanned(pratique.Finding{ID: "CVE-1", Kind: pratique.KindVulnerability, Severity: pratique.SeverityHigh})
	f.Now = testNow
	f.Ref = pratique.Ref{Registry: "docker.io", Repo: "acme/a", Digest: imageDigest}
	f.Statements = NewStatements([]pratique.Statement{{
		IDs: []string{"CVE-1"}, Status: "not_affected", Products: []pratique.Product{{ID: "pkg:oci/a@1.0?repository_url=docker.io/acme/a"}},
	}})
	f.Lineage.Current = []string{"1.0"}
	if v := set.Decide(f); v.Outcome != pratique.OutcomeAllow {
		t.Errorf("while the tag names it: %s", v.Outcome)
	}
	f.Lineage = pratique.Lineage{Moved: []pratique.TagMove{{Tag: "1.0", To: "sha256:b", At: testNow.Add(-time.Hour)}}}
	if v := set.Decide(f); v.Outcome != pratique.OutcomeDeny {
		t.Errorf("after the tag moved: %s", v.Outcome)
	}
}
