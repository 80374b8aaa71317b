package policy

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pratique"
)

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
