package policy

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pratique"
)

// refusals are the rules that refuse or warn, with the action.
func refusals(v pratique.Verdict) []string {
	var out []string
	for _, r := range v.Reasons {
		if r.Action != pratique.OutcomeAllow {
			out = append(out, r.Action.String()+" "+r.Policy+"/"+r.Rule)
		}
	}
	return out
}

// isLifted reports whether the verdict says that the rule was lifted by what.
func isLifted(v pratique.Verdict, rule, by string) bool {
	return slices.ContainsFunc(v.Lifted, func(l pratique.Lift) bool {
		return l.Policy+"/"+l.Rule == rule && strings.HasPrefix(l.By, by)
	})
}

// TestExemptLiftsWhatItNames: an exempt rule never makes a verdict stricter, and
// what it takes out of one it names, in `lifts` and in the verdict.
func TestExemptLiftsWhatItNames(t *testing.T) {
	rnd := rand.New(rand.NewPCG(21, 21))
	lifted := 0
	for i := range 400 {
		text := anyPolicy(rnd, "first")
		rule := exemptRule(rnd, "extra", pick(rnd, "unscanned", "incomplete", "default"))
		if strings.Contains(text, "{name: r0,") && !strings.Contains(ruleLine(text, "r0"), "action: allow") {
			rule = exemptRule(rnd, "extra", "r0")
		}
		f := anyFacts(rnd)
		f.Exceptions = nil
		without, with := load(t, text).Decide(f), load(t, text+rule).Decide(f)
		if strictness(with.Outcome) > strictness(without.Outcome) {
			t.Fatalf("%d: an exempt rule made it stricter\n%s%s\n%+v\n%+v", i, text, rule, without, with)
		}
		for _, r := range refusals(without) {
			_, name, _ := strings.Cut(r, " ")
			if slices.Contains(refusals(with), r) {
				continue
			}
			lifted++
			if !isLifted(with, name, "rule first/extra") {
				t.Fatalf("%d: %s is gone and not lifted\n%s%s\n%+v", i, r, text, rule, with)
			}
		}
		checkReasons(t, with)
	}
	if lifted < 20 {
		t.Errorf("only %d were lifted: the test asks for nothing", lifted)
	}
}

func ruleLine(text, name string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, "{name: "+name+",") {
			return line
		}
	}
	return ""
}

// TestExceptionsLiftWhatTheyName: exceptions never make a verdict stricter, never
// touch a guard, and a rule that counts less is in Verdict.Lifted.
func TestExceptionsLiftWhatTheyName(t *testing.T) {
	rnd := rand.New(rand.NewPCG(22, 22))
	lifted := 0
	for i := range 600 {
		text := anyPolicy(rnd, "first")
		set, with := load(t, text), anyFacts(rnd)
		without := with
		without.Exceptions, without.Statements = nil, nil
		v, w := set.Decide(without), set.Decide(with)
		if strictness(w.Outcome) > strictness(v.Outcome) {
			t.Fatalf("%d: exceptions made it stricter\n%s\n%+v\n%+v", i, text, v, w)
		}
		for _, r := range v.Reasons {
			if r.Action == pratique.OutcomeAllow || slices.Contains(refusals(w), r.Action.String()+" "+r.Policy+"/"+r.Rule) {
				continue
			}
			lifted++
			if kind(r.Rule).guarded() {
				t.Fatalf("%d: a guard is gone: %s\n%s", i, r.Rule, text)
			}
			if !isLifted(w, r.Policy+"/"+r.Rule, "") && !liftsFinding(w, r.Findings) {
				t.Fatalf("%d: %s is gone and nothing is lifted from it\n%s\n%+v\n%+v", i, r.Rule, text, v, w)
			}
		}
		checkReasons(t, w)
	}
	if lifted < 20 {
		t.Errorf("only %d were lifted: the test asks for nothing", lifted)
	}
}

// liftsFinding reports whether one of the findings was lifted.
func liftsFinding(v pratique.Verdict, fs []pratique.Finding) bool {
	return slices.ContainsFunc(v.Lifted, func(l pratique.Lift) bool {
		return slices.ContainsFunc(fs, func(f pratique.Finding) bool { return f.ID == l.Finding })
	})
}

// TestWhatIsNotKnownNeverHelps: a fact that is taken away never makes a verdict
// milder.
func TestWhatIsNotKnownNeverHelps(t *testing.T) {
	forget := map[string]func(*Facts){
		"client":       func(f *Facts) { f.Client = netip.Addr{} },
		"tag":          func(f *Facts) { f.Ref.Tag, f.Lineage.Current, f.Lineage.Moved = "", nil, nil },
		"platform":     func(f *Facts) { f.Report.Config.Platform = pratique.Platform{} },
		"artifact":     func(f *Facts) { f.Image.ArtifactType = "" },
		"exploits":     func(f *Facts) { f.Exploits = nil },
		"attestations": func(f *Facts) { f.Attestations = pratique.Attestations{} },
		"grace":        func(f *Facts) { f.FirstServed = f.LastServed },
		"exceptions":   func(f *Facts) { f.Exceptions = nil },
		"scores": func(f *Facts) {
			f.Report.Findings = slices.Clone(f.Report.Findings)
			for i := range f.Report.Findings {
				f.Report.Findings[i].Status = ""
			}
		},
	}
	rnd := rand.New(rand.NewPCG(23, 23))
	changed := 0
	for i := range 800 {
		text := anyPolicy(rnd, "first")
		set, f := load(t, text), anyFacts(rnd)
		if strings.Contains(text, "tagMoved") || strings.Contains(text, "outdated") {
			continue // what a pull by digest means to these is another question
		}
		known := set.Decide(f)
		for what, forget := range forget {
			g := f
			forget(&g)
			v := set.Decide(g)
			if strictness(v.Outcome) < strictness(known.Outcome) {
				t.Fatalf("%d: without %s it is %s, with it %s\n%s\n%+v\n%+v\n%+v", i, what, v.Outcome, known.Outcome, text, f, known, v)
			}
			if strictness(v.Outcome) > strictness(known.Outcome) {
				changed++
			}
		}
	}
	if changed < 15 {
		t.Errorf("only %d verdicts changed: the test asks for nothing", changed)
	}
}

// TestMoreRulesToDeny: a rule that denies, with or without grace, never makes a
// verdict milder; nor does another policy.
func TestMoreRulesToDeny(t *testing.T) {
	rnd := rand.New(rand.NewPCG(24, 24))
	for i := range 400 {
		text := anyPolicy(rnd, "first")
		rule, _ := anyRule(rnd, 99, "deny")
		f := anyFacts(rnd)
		alone := load(t, text).Decide(f)
		switch more := load(t, text+rule).Decide(f); {
		case strings.Contains(text, "mode: warn"): // there it warns, and may name a guard
		case strictness(more.Outcome) < strictness(alone.Outcome):
			t.Fatalf("%d: milder with\n%s%s\n%+v\n%+v", i, text, rule, alone, more)
		}
		both := load(t, text, anyPolicy(rnd, "second")).Decide(f)
		if strictness(both.Outcome) < strictness(alone.Outcome) {
			t.Fatalf("%d: milder with another policy\n%s", i, text)
		}
	}
}
