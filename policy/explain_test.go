package policy

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pratique"
)

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
	d := factsDocument{
		Ref: "docker.io/lab@" + imageDigest.String(), State: pratique.StateScanned, OS: "debian 11",
		EOLAt: date{testNow.AddDate(0, 0, 10)}, FirstServed: date{testNow.AddDate(0, 0, -20)},
		Findings:   []string{"vulnerability CVE-1 HIGH a 1 2 seen=2026-10-30", "secret s LOW", "vulnerability CVE-2 HIGH a 1 seen=2026-10-30"},
		Exceptions: []exceptionDocument{{ID: "ex-1", Finding: "CVE-2", Repository: "docker.io/lab", Reason: "r", Expires: date{testNow.AddDate(0, 1, 0)}}},
	}
	f := d.facts(t)
	got := set.Explain(f)
	want := []Evaluation{
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

func TestExplainGuardsAndDefaults(t *testing.T) {
	set := load(t, "name: p\nrules: [{name: incomplete, incomplete: {}, action: deny}, {name: s, secret: {}, action: deny}]")
	effects := func(f Facts) (out []string) {
		for _, x := range set.Explain(f) {
			out = append(out, x.Rule+" "+x.Effect)
		}
		return out
	}
	f := scanned()
	for state, want := range map[pratique.State][]string{
		pratique.StateScanned:    {"incomplete ", "s ", "default denies"},
		pratique.StateUnknown:    {"incomplete ", "s ", "unscanned denies"},
		pratique.StateIncomplete: {"incomplete denies", "s "},
		pratique.StateFailed:     {"incomplete ", "s ", "scanFailed denies"},
	} {
		f.Report.State = state
		if diff := cmp.Diff(want, effects(f)); diff != "" {
			t.Errorf("%s: %s", state, diff)
		}
	}
	var none *Set
	if x := none.Explain(f); len(x) != 1 || x[0].Effect != "denies" {
		t.Errorf("nil: %+v", x)
	}
}

// TestExplainAgreesWithDecide: whatever a verdict holds is in the explanation,
// and nothing else has an effect.
func TestExplainAgreesWithDecide(t *testing.T) {
	rnd := rand.New(rand.NewPCG(31, 31))
	verbs := map[pratique.Outcome]string{pratique.OutcomeDeny: "denies", pratique.OutcomeWarn: "warns", pratique.OutcomeAllow: "allows"}
	for i := range 300 {
		text := anyPolicy(rnd, "first")
		set, f := load(t, text), anyFacts(rnd)
		v, xs := set.Decide(f), set.Explain(f)
		for _, r := range v.Reasons {
			if !slices.ContainsFunc(xs, func(x Evaluation) bool {
				return x.Policy == r.Policy && x.Rule == r.Rule && (x.Effect == verbs[r.Action] || !r.GraceEnds.IsZero() || x.Effect == "lifted")
			}) {
				t.Fatalf("%d: %s/%s %s is not explained\n%s\n%+v\n%+v", i, r.Policy, r.Rule, r.Action, text, v, xs)
			}
		}
		for _, x := range xs {
			if (x.Effect == "denies") != slices.ContainsFunc(v.Reasons, func(r pratique.Reason) bool { return r.Rule == x.Rule && r.Action == pratique.OutcomeDeny }) {
				t.Fatalf("%d: %s %s\n%s\n%+v", i, x.Rule, x.Effect, text, v)
			}
			if strings.ContainsAny(x.Facts+x.Message, "\r\n") {
				t.Fatalf("%q", x)
			}
		}
	}
}

func TestRules(t *testing.T) {
	set := load(t, `
name: p
mode: warn
rules:
  - {name: a, secret: {}, action: deny}
  - {name: b, vulnerability: {}, action: deny, grace: 1d}
  - {name: c, always: {}, action: allow}
  - {name: unscanned, unscanned: {}, action: deny}
  - {name: x, match: {repository: [a]}, action: exempt, lifts: [a], message: m}`)
	want := []RuleInfo{
		{Policy: "p", Name: "a", Condition: "secret", Action: "warn"},
		{Policy: "p", Name: "b", Condition: "vulnerability", Action: "warn", Grace: true},
		{Policy: "p", Name: "c", Condition: "always", Action: "allow"},
		{Policy: "p", Name: "unscanned", Condition: "unscanned", Action: "warn"},
		{Policy: "p", Name: "x", Condition: "always", Action: "exempt"},
	}
	if diff := cmp.Diff(want, set.Rules()); diff != "" {
		t.Error(diff)
	}
	var liftable []string
	for _, r := range append(set.Rules(), RuleInfo{Policy: "p", Name: "default"}, RuleInfo{Policy: "p", Name: "incomplete"}, RuleInfo{Policy: "q", Name: "a"}) {
		if set.Liftable(r.String()) {
			liftable = append(liftable, r.String())
		}
	}
	if diff := cmp.Diff([]string{"p/a", "p/b", "p/default"}, liftable); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"p"}, set.Names()); diff != "" {
		t.Error(diff)
	}
}

func TestNeeds(t *testing.T) {
	for text, want := range map[string]Needs{
		"secret: {}, action: deny":                                                      0,
		"always: {}, match: {client: [10.0.0.0/8]}, action: deny":                       NeedClient,
		"always: {}, except: {client: [10.0.0.0/8]}, action: deny":                      NeedClient,
		"vulnerability: {kev: true}, action: deny":                                      NeedExploits,
		"vulnerability: {epss: 0.1}, action: deny":                                      NeedExploits,
		"vulnerability: {}, action: deny, grace: 3d":                                    NeedServed,
		"vulnerability: {}, action: deny, grace: {kev: 1d, default: 3d}":                NeedServed | NeedExploits,
		"match: {client: [10.0.0.1]}, action: exempt, lifts: [unscanned], message: why": NeedClient,
	} {
		set := load(t, "name: p\nrules: [{name: a, "+text+"}]")
		if got := set.Needs(); got != want || set.ReadsClient() != want.Has(NeedClient) {
			t.Errorf("%s: needs %b, want %b", text, got, want)
		}
	}
	var none *Set
	if none.Needs() != 0 || none.ReadsClient() {
		t.Error("a nil set needs something")
	}
}
