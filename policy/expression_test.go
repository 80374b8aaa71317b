package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique"
)

// loaded loads one policy with an expression.
func loaded(t testing.TB, action, source string) *Set {
	t.Helper()
	set, err := Load(File{Name: "p.yaml", Data: fmt.Appendf(nil, "name: p\ndefault: %s\nrules:\n  - name: x\n    action: %s\n    expression: |\n      %s\n",
		map[string]string{"deny": "allow", "allow": "deny"}[action], action, source)})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// manyFindings is a scanned image with n findings.
func manyFindings(n int) Facts {
	f := Facts{Image: pratique.Image{Digest: imageDigest, Kind: pratique.KindImage}, Now: testNow}
	f.Report = pratique.Report{Image: imageDigest, State: pratique.StateScanned, Findings: make([]pratique.Finding, n)}
	for i := range f.Report.Findings {
		f.Report.Findings[i] = pratique.Finding{
			Kind: pratique.KindVulnerability, ID: fmt.Sprintf("CVE-2024-%05d", i), Severity: severities[i%ranks],
			Package: fmt.Sprint("package-", i%97), Installed: "1.0", Fixed: []string{"", "1.1"}[i%2], CVSS: float64(i % 10),
		}
	}
	return f
}

func TestAnExpressionThatCostsTooMuchHelpsNobody(t *testing.T) {
	const costly = `findings.exists(a, findings.exists(b, findings.exists(c, a.id + b.id + c.id == "x")))`
	for action, want := range map[string]pratique.Outcome{"deny": pratique.OutcomeDeny, "allow": pratique.OutcomeDeny} {
		v := loaded(t, action, costly).Decide(manyFindings(2000))
		if v.Outcome != want {
			t.Errorf("%s: %s, want %s", action, v.Outcome, want)
		}
		if action == "deny" && !strings.Contains(v.Reasons[0].Message, "too costly") {
			t.Errorf("the refusal does not say why: %s", v.Reasons[0].Message)
		}
	}
	// The same over few findings is cheap enough, and false.
	if v := loaded(t, "deny", costly).Decide(manyFindings(5)); v.Outcome != pratique.OutcomeAllow {
		t.Errorf("few findings: %s", v.Outcome)
	}
	// What doubles is stopped before it is large.
	for _, bomb := range []string{
		`["aaaaaaaaaaaaaaaa"]` + strings.Repeat(`.map(s, s`+strings.Repeat(" + s", 40)+`)`, 6) + `[0] == ref.tag`,
		`[findings]` + strings.Repeat(`.map(s, s`+strings.Repeat(" + s", 40)+`)`, 6) + `[0].size() == 1`,
	} {
		if v := loaded(t, "deny", bomb).Decide(manyFindings(100)); v.Outcome != pratique.OutcomeDeny || !strings.Contains(v.Reasons[0].Message, "of more than") {
			t.Errorf("%s: %s", v.Outcome, v.Reasons[0].Message)
		}
	}
	// A usual question is far from the limit, however many findings there are.
	usual := loaded(t, "deny", `findings.exists(f, f.severity == "CRITICAL" && f.fixable && f.cvss >= 11)`)
	if v := usual.Decide(manyFindings(20_000)); v.Outcome != pratique.OutcomeAllow {
		t.Errorf("many findings: %s, %s", v.Outcome, v.Reasons[0].Message)
	}
}

func TestNeedsOfAnExpression(t *testing.T) {
	for source, want := range map[string]Needs{
		`report.eol`:                                          0,
		`client == "x"`:                                       NeedClient,
		`has(served.first)`:                                   NeedServed,
		`"a" in lineage.current`:                              NeedTags,
		`lineage.moved.exists(m, m.tag == "a")`:               NeedTags,
		`lineage.newer.size() > 0`:                            NeedNewer,
		`has(lineage.base)`:                                   NeedBase,
		`attestations.problems == []`:                         NeedAttestations,
		`findings.exists(f, f.epss > 0.5)`:                    NeedExploits,
		`findings.map(f, f.kev).exists(k, k)`:                 NeedExploits,
		`findings.exists(f, f.kev) && client == ref.upstream`: NeedExploits | NeedClient,
	} {
		if got := loaded(t, "deny", source).Needs(); got != want {
			t.Errorf("%s: needs %b, want %b", source, got, want)
		}
	}
}

// TestFindingsOfAnExpression: what the refusal lists are the findings that the
// expression asks for, worst first.
func TestFindingsOfAnExpression(t *testing.T) {
	for source, want := range map[string][]string{
		`findings.exists(f, f.rank >= HIGH && f.fixable)`:                                          {"CVE-2024-00009", "CVE-2024-00003"},
		`findings.exists(f, f.id.endsWith("4")) || findings.exists(g, g.cvss > 8)`:                 {"CVE-2024-00009", "CVE-2024-00004", "CVE-2024-00000"},
		`ref.repository == "" && (report.state == "scanned" && findings.exists(f, f.cvss == 5.0))`: {"CVE-2024-00005"},
		`!findings.exists(f, f.cvss > 100)`:                                                        nil,
		`findings.all(f, f.cvss < 100)`:                                                            nil,
		`findings.exists_one(f, f.cvss == 5.0)`:                                                    nil,
		`findings.filter(f, f.rank > 0).exists(f, true)`:                                           nil,
	} {
		v := loaded(t, "deny", source).Decide(manyFindings(10))
		if v.Outcome != pratique.OutcomeDeny {
			t.Errorf("%s: %s", source, v.Outcome)
			continue
		}
		var got []string
		for _, f := range v.Reasons[0].Findings {
			got = append(got, f.ID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", source, diff)
		}
	}
}

// staleFacts know some things and not others, with times around now.
func staleFacts(r *rand.Rand) Facts {
	at := func() time.Time {
		if r.IntN(4) == 0 {
			return time.Time{}
		}
		return testNow.Add(time.Duration(r.Int64N(int64(200*time.Hour))) - 150*time.Hour)
	}
	f := manyFindings(r.IntN(6))
	f.Now = testNow.Add(time.Duration(r.Int64N(int64(time.Hour))))
	f.Ref = pratique.Ref{Registry: "r.example", Repo: "a", Tag: []string{"", "1"}[r.IntN(2)]}
	f.Image.FirstSeen, f.Report.Config.Created, f.Report.EOLAt = at(), at(), at()
	f.Report.ScannedAt, f.Report.Engine.DatabaseAt = at(), at()
	f.FirstServed, f.LastServed = at(), at()
	f.Report.State = []pratique.State{pratique.StateScanned, pratique.StateScanned, pratique.StateUnsupported, pratique.StateFailed}[r.IntN(4)]
	for _, tag := range []string{"1", "2"} {
		switch r.IntN(3) {
		case 0:
			f.Lineage.Current = append(f.Lineage.Current, tag)
		case 1:
			f.Lineage.Moved = append(f.Lineage.Moved, pratique.TagMove{Tag: tag, At: at()})
		}
	}
	for _, level := range []pratique.Level{pratique.LevelPatch, pratique.LevelMinor, pratique.LevelMajor} {
		f.Lineage.Newer = append(f.Lineage.Newer, pratique.Newer{Tag: string(level), Level: level, Since: at(), Compliant: r.IntN(2) == 0})
	}
	if r.IntN(2) == 0 {
		f.Lineage.Base = &pratique.Base{Ref: f.Ref, MovedAt: at()}
	}
	return f
}

// TestNothingChangesBeforeUntil: for random facts the outcome, and what refuses,
// stay the same until Until, at which they may change.
func TestNothingChangesBeforeUntil(t *testing.T) {
	conditions := []string{
		"imageAge: {olderThan: 72h}", "imageAge: {olderThan: 72h, by: created}", "imageAge: {olderThan: 72h, by: either}",
		"cooldown: {youngerThan: 72h}", "cooldown: {youngerThan: 72h, by: created}", "cooldown: {youngerThan: 72h, by: either}",
		"tagMoved: {longerThan: 24h}", "outdated: {within: patch, longerThan: 48h}", "outdated: {longerThan: 48h}", "baseOutdated: {longerThan: 24h}",
		"scanAge: {olderThan: 36h}", "databaseAge: {olderThan: 36h}", "unusedFor: {longerThan: 96h}",
		"expression: report.eol", `expression: now - image.created > duration("72h")`, `expression: now - image.firstSeen > duration("72h")`,
		`expression: now.getMinutes() % 2 == 0`, `expression: has(served.last) && served.last + duration("3h") < now || now > report.eolAt`,
	}
	r := rand.New(rand.NewPCG(1, 2))
	changed := 0
	for _, c := range conditions {
		for _, action := range []string{"deny", "allow"} {
			data := fmt.Appendf(nil, "name: p\ndefault: %s\nrules:\n  - name: x\n    action: %s\n    %s\n", map[string]string{"deny": "allow", "allow": "deny"}[action], action, c)
			set, err := Load(File{Name: "p.yaml", Data: data})
			if err != nil {
				t.Fatal(err)
			}
			for range 300 {
				f := staleFacts(r)
				v := set.Decide(f)
				end := v.Until
				if end.IsZero() {
					end = f.Now.Add(1000 * time.Hour)
				} else if !end.After(f.Now) {
					t.Fatalf("%s: Until %s is not after %s", c, v.Until, f.Now)
				}
				later := f
				for range 4 {
					later.Now = f.Now.Add(time.Duration(r.Int64N(int64(end.Sub(f.Now)))))
					if w := set.Decide(later); w.Outcome != v.Outcome || len(w.Reasons) != len(v.Reasons) || w.Reasons[0].Rule != v.Reasons[0].Rule {
						t.Fatalf("%s %s: %s at %s, but %s at %s, before %s\nfacts %+v", action, c, v.Outcome, f.Now, w.Outcome, later.Now, v.Until, f)
					}
				}
				if later.Now = end; set.Decide(later).Outcome != v.Outcome {
					changed++
				}
			}
		}
	}
	if changed < 500 {
		t.Errorf("only %d verdicts changed at all: the test proves little", changed)
	}
}

func TestExpressionSchemaNamesEverything(t *testing.T) {
	doc, s := ExpressionSchema(), newSchema()
	for _, k := range s.shapes {
		if strings.Count(doc, "**"+k.name+"**") != 1 {
			t.Errorf("%s is not there once", k.name)
		}
		for _, f := range k.fields {
			if !strings.Contains(doc, "| `"+f.name+"` | ") {
				t.Errorf("%s.%s is not there", k.name, f.name)
			}
		}
	}
}

// TestEveryFieldCanBeRead: each is what its type says, also when it is not known.
func TestEveryFieldCanBeRead(t *testing.T) {
	s := newSchema()
	full := staleFacts(rand.New(rand.NewPCG(3, 4)))
	full.Report.State = pratique.StateScanned
	full.Exploits = &pratique.Exploits{KEVAt: testNow, EPSSAt: testNow}
	full.Lineage.Moved = []pratique.TagMove{{Tag: "a"}}
	full.Lineage.Base = &pratique.Base{}
	full.Attestations = pratique.Attestations{Image: imageDigest, CheckedAt: testNow, Signatures: make([]pratique.Signature, 1), Provenance: make([]pratique.Provenance, 1)}
	full.Report.Findings = manyFindings(1).Report.Findings
	lists := map[string]string{
		"Finding": "findings", "TagMove": "lineage.moved", "Newer": "lineage.newer", "Signature": "attestations.signatures", "Provenance": "attestations.provenance",
	}
	single := map[string]string{"Base": "lineage.base"}
	for _, v := range s.variables {
		single[v.typ.TypeName()] = v.name
	}
	for _, k := range s.shapes {
		for _, f := range k.fields {
			place := single[k.name] + "." + f.name
			if list, ok := lists[k.name]; ok {
				place = list + ".all(x, x." + f.name + " == x." + f.name + ")"
			} else {
				place += " == " + place
			}
			x, mistakes := newExpression(place + " || " + place)
			if len(mistakes) > 0 {
				t.Errorf("%s: %v", place, mistakes)
				continue
			}
			for _, facts := range []Facts{full, {}} {
				e := &evaluation{facts: &facts, now: facts.Now, state: facts.state(), tally: newTally(facts.Report.Findings, nil)}
				if m := x.meets(e); m.met == no || strings.Contains(m.missing, "what the expression says") {
					t.Errorf("%s: %v %s", place, m.met, m.missing)
				}
			}
		}
	}
}

func FuzzExpression(f *testing.F) {
	for _, seed := range []string{
		`findings.exists(f, f.severity == "CRITICAL" && f.fixed != "" && f.cvss >= 9.0)`, `now - image.created > duration("1h")`,
		`client.within("10.0.0.0/8")`, `[1, 2].map(x, x * 2).exists(y, y == 4) || report.eol`, `lineage.base.name.matches("^a+$")`,
		`{"a": image}["a"].digest == dyn(ref).tag`, `1/0 == 1 || report.eol`, `findings[99].id == ""`, "\"\\u0000\" == ref.tag", `type(image) == Image`,
		`findings.exists(f, f == f) ? true : has(served.last)`, `image.labels.map(k, image.labels[k]).size() > 0`, "a\nb", "'", "|", ">",
	} {
		f.Add(seed)
	}
	facts := []Facts{{}, staleFacts(rand.New(rand.NewPCG(5, 6))), manyFindings(20)}
	f.Fuzz(func(t *testing.T, source string) {
		x, mistakes := newExpression(source)
		for _, m := range mistakes {
			if m.text == "" || strings.ContainsAny(m.text, "\n\r") {
				t.Errorf("mistake %q", m.text)
			}
		}
		if len(mistakes) > 0 {
			return
		}
		for _, facts := range facts {
			e := &evaluation{facts: &facts, now: facts.Now, state: facts.state(), tally: newTally(facts.findings(), nil)}
			first := x.meets(e)
			if again := x.meets(e); first.met != again.met || first.mark != again.mark || first.missing != again.missing {
				t.Errorf("not pure: %+v, then %+v", first, again)
			}
			if text := x.text(e, &first); strings.ContainsAny(text, "\n\r") {
				t.Errorf("text %q", text)
			}
			if !first.changes.IsZero() {
				e.now = first.changes.Add(-1)
				if again := x.meets(e); first.met != again.met {
					t.Errorf("%v at %s, %v before %s", first.met, facts.Now, again.met, first.changes)
				}
			}
		}
	})
}

func BenchmarkExpression(b *testing.B) {
	set := loaded(b, "deny", `findings.exists(f, f.severity == "CRITICAL" && f.fixed != "" && f.cvss >= 11.0)`)
	f := manyFindings(500)
	b.ReportAllocs()
	for b.Loop() {
		if set.Decide(f).Outcome != pratique.OutcomeAllow {
			b.Fatal("refused")
		}
	}
}

// BenchmarkCostlyExpression is the longest that one can take, about.
func BenchmarkCostlyExpression(b *testing.B) {
	set := loaded(b, "deny", `findings.exists(a, findings.exists(b, a.id + b.id == "x" || a.package + b.package == "y"))`)
	f := manyFindings(2000)
	for b.Loop() {
		if set.Decide(f).Outcome != pratique.OutcomeDeny {
			b.Fatal("not stopped")
		}
	}
}

func BenchmarkLoadExpression(b *testing.B) {
	for b.Loop() {
		if _, mistakes := newExpression(`findings.exists(f, f.severity == "CRITICAL" && f.kev)`); mistakes != nil {
			b.Fatal(mistakes)
		}
	}
}
