package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"pratique"
	"pratique/policy"
	"pratique/policy/cases"
)

// Tests that write their facts as cases do.

func load(t *testing.T, text string) *policy.Set {
	t.Helper()
	s, err := policy.Load(policy.File{Name: "p.yaml", Data: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func facts(t *testing.T, d cases.Facts) policy.Facts {
	t.Helper()
	f, err := d.Policy()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestExplain(t *testing.T) {
	set := load(t, `
name: p
default: deny
rules:
  - {name: high, vulnerability: {severity: HIGH}, action: deny, grace: 14d}
  - {name: secrets, secret: {}, action: warn}
  - {name: elsewhere, match: {repository: [other]}, always: {}, action: deny}
  - {name: excepted, except: {upstream: [docker.io]}, always: {}, action: deny}
  - {name: releases, match: {tag: [v*]}, always: {}, action: allow}
  - {name: eol, endOfLife: {within: 30d}, action: deny}
  - {name: lab, match: {repository: [lab]}, action: exempt, lifts: [eol], message: the lab may}
`)
	d := cases.Facts{
		Ref: "docker.io/lab@" + cases.Image.String(), State: pratique.StateScanned, OS: "debian 11",
		EOLAt: cases.Date{Time: cases.Now().AddDate(0, 0, 10)}, FirstServed: cases.Date{Time: cases.Now().AddDate(0, 0, -20)},
		Findings:   []string{"vulnerability CVE-1 HIGH a 1 2 seen=2026-10-30", "secret s LOW", "vulnerability CVE-2 HIGH a 1 seen=2026-10-30"},
		Exceptions: []cases.Exception{{ID: "ex-1", Finding: "CVE-2", Repository: "docker.io/lab", Reason: "r", Expires: cases.Date{Time: cases.Now().AddDate(0, 1, 0)}}},
	}
	f := facts(t, d)
	got := set.Explain(f)
	want := []policy.Evaluation{
		{Policy: "p", Rule: "high", Condition: "vulnerability", Action: "deny", Selected: "yes", Met: "yes", Effect: "warns",
			Facts:   "1 vulnerability, 1 fixable, without 1 that exceptions or VEX lift",
			Message: "1 vulnerability of severity HIGH or above; it was served here before, and is refused from 2026-11-13 00:00 UTC on"},
		{Policy: "p", Rule: "secrets", Condition: "secret", Action: "warn", Selected: "yes", Met: "yes", Effect: "warns",
			Facts: "1 secret, 0 fixable, without 1 that exceptions or VEX lift", Message: "1 secret"},
		{Policy: "p", Rule: "elsewhere", Condition: "always", Action: "deny", Selected: "no", Met: "yes", Message: "not about this: repository does not fit"},
		{Policy: "p", Rule: "excepted", Condition: "always", Action: "deny", Selected: "no", Met: "yes", Message: "not about this: excepted"},
		{Policy: "p", Rule: "releases", Condition: "always", Action: "allow", Selected: "unknown", Met: "yes",
			Message: "it lets through only where it surely applies; not known: the tag, because the pull is by digest"},
		{Policy: "p", Rule: "eol", Condition: "endOfLife", Action: "deny", Selected: "yes", Met: "yes", Effect: "lifted", Facts: "the end of life is 2026-11-11",
			Message: "lifted by rule p/lab: the lab may"},
		{Policy: "p", Rule: "lab", Condition: "always", Action: "exempt", Selected: "yes", Met: "yes", Effect: "lifts", Message: "lifts p/eol: the lab may"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestVerdictIDTellsSubstance: what changes the reasons changes the id, what only
// changes their texts does not.
func TestVerdictIDTellsSubstance(t *testing.T) {
	set := load(t, `
name: p
default: allow
rules:
  - {name: high, vulnerability: {severity: HIGH}, action: deny, grace: 14d}
  - {name: kev, vulnerability: {kev: true}, action: deny}
  - {name: old, imageAge: {olderThan: 1d}, action: warn}`)
	base := cases.Facts{
		Ref: "docker.io/a:1", State: pratique.StateScanned, FirstServed: cases.Date{Time: cases.Now().AddDate(0, 0, -9)}, FirstSeen: cases.Date{Time: cases.Now().AddDate(0, 0, -9)},
		Findings: []string{"vulnerability CVE-1 HIGH a 1 seen=2026-10-30", "vulnerability CVE-2 HIGH b 1 seen=2026-10-30"},
		KEV:      map[string]string{"CVE-1": "2026-10-30"},
	}
	id := set.Decide(facts(t, base)).ID
	seen := map[string]string{id: "base"}
	for name, change := range map[string]func(*cases.Facts){
		"another one is exploited": func(d *cases.Facts) { d.KEV = map[string]string{"CVE-2": "2026-10-30"} },
		"both are":                 func(d *cases.Facts) { d.KEV = map[string]string{"CVE-2": "2026-10-30", "CVE-1": "2026-10-30"} },
		"never served":             func(d *cases.Facts) { d.FirstServed = cases.Date{} },
		"grace ends another day":   func(d *cases.Facts) { d.Findings[0] = "vulnerability CVE-1 HIGH a 1 seen=2026-10-29" },
		"exception": func(d *cases.Facts) {
			d.Exceptions = []cases.Exception{{ID: "ex-1", Finding: "CVE-1", Repository: "docker.io/a", Reason: "r", Expires: cases.Date{Time: cases.Now().AddDate(1, 0, 0)}}}
		},
		"exception for the other one": func(d *cases.Facts) {
			d.Exceptions = []cases.Exception{{ID: "ex-1", Finding: "CVE-2", Repository: "docker.io/a", Reason: "r", Expires: cases.Date{Time: cases.Now().AddDate(1, 0, 0)}}}
		},
		"exception of another id": func(d *cases.Facts) {
			d.Exceptions = []cases.Exception{{ID: "ex-2", Finding: "CVE-2", Repository: "docker.io/a", Reason: "r", Expires: cases.Date{Time: cases.Now().AddDate(1, 0, 0)}}}
		},
	} {
		d := base
		d.Findings = append([]string(nil), base.Findings...)
		change(&d)
		got := set.Decide(facts(t, d)).ID
		if twin, ok := seen[got]; ok {
			t.Errorf("%s and %s have the same id", name, twin)
		}
		seen[got] = name
	}
	for name, change := range map[string]func(*cases.Facts){
		"a day later":          func(d *cases.Facts) { d.Now = cases.Date{Time: cases.Now().AddDate(0, 0, 1)} },
		"asked by another tag": func(d *cases.Facts) { d.Ref = "docker.io/a:2" },
		"an exception for something else": func(d *cases.Facts) {
			d.Exceptions = []cases.Exception{{ID: "ex-1", Finding: "CVE-3", Repository: "docker.io/a", Reason: "r", Expires: cases.Date{Time: cases.Now().AddDate(1, 0, 0)}}}
		},
		"more is exploited, and not here":  func(d *cases.Facts) { d.KEV = map[string]string{"CVE-1": "2026-10-30", "CVE-9": "2026-10-30"} },
		"served again":                     func(d *cases.Facts) { d.LastServed = cases.Date{Time: cases.Now()} },
		"a statement about something else": func(d *cases.Facts) { d.Statements = []cases.Statement{{ID: []string{"CVE-3"}, Status: "fixed"}} },
	} {
		d := base
		change(&d)
		if got := set.Decide(facts(t, d)).ID; got != id {
			t.Errorf("%s: the id changed", name)
		}
	}
}
