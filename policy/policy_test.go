package policy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/tools/txtar"

	"pratique"
	"pratique/configs"
)

func load(t testing.TB, policies ...string) *Set {
	t.Helper()
	var files []File
	for i, p := range policies {
		files = append(files, File{Name: fmt.Sprintf("%d.yaml", i), Data: []byte(p)})
	}
	s, err := Load(files...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const allowAll = "name: open\ndefault: allow\nrules: [{name: a, endOfLife: {}, action: allow}]"

func scanned(findings ...pratique.Finding) Facts {
	return Facts{
		Image:  pratique.Image{Digest: imageDigest},
		Report: pratique.Report{Image: imageDigest, State: pratique.StateScanned, Findings: findings},
	}
}

func TestNoPoliciesDeny(t *testing.T) {
	var null *Set
	for name, set := range map[string]*Set{"nil": null, "zero": new(Set)} {
		v := set.Decide(scanned())
		if v.Outcome != pratique.OutcomeDeny || len(v.Reasons) != 1 || v.ID == "" || set.Version() != "" {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if s, err := Load(); !errors.Is(err, ErrNoPolicies) || s != nil {
		t.Errorf("Load() = %v, %v", s, err)
	}
}

func TestLoadIsWholeOrNothing(t *testing.T) {
	s, err := Load(File{Name: "good.yaml", Data: []byte(allowAll)}, File{Name: "bad.yaml", Data: []byte("name: x")})
	if s != nil || !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("got %v, %v", s, err)
	}
}

func TestZeroFactsAreRefused(t *testing.T) {
	for _, set := range []*Set{load(t, allowAll), load(t, string(configs.DefaultPolicy))} {
		if v := set.Decide(Facts{}); v.Outcome != pratique.OutcomeDeny {
			t.Errorf("%s: %v", set.Version(), v.Outcome)
		}
	}
}

func TestUndefinedStateIsUnscanned(t *testing.T) {
	f := scanned()
	f.Report.State = "clean"
	if v := load(t, allowAll).Decide(f); v.Outcome != pratique.OutcomeDeny || v.Reasons[0].Rule != "unscanned" {
		t.Errorf("%+v", v)
	}
}

func TestVersion(t *testing.T) {
	a, b := load(t, allowAll), load(t, allowAll+"\n")
	if a.Version() == b.Version() {
		t.Error("different sources, same version")
	}
	c, err := Load(File{Name: "/another/path.yaml", Data: []byte(allowAll)})
	if err != nil || c.Version() != a.Version() {
		t.Errorf("same source from another path: %q, want %q (%v)", c.Version(), a.Version(), err)
	}
}

func TestVerdictID(t *testing.T) {
	set, other := load(t, allowAll), load(t, allowAll+"\n")
	base := scanned()
	id := set.Decide(base).ID
	if len(id) != 12 || strings.Trim(id, "0123456789abcdef") != "" {
		t.Errorf("id %q", id)
	}
	later := base
	later.Now, later.Ref.Tag = time.Now(), "x"
	if got := set.Decide(later).ID; got != id {
		t.Errorf("the clock or the name changed the id: %q, want %q", got, id)
	}
	changed := map[string]func(*Facts){
		"image":      func(f *Facts) { f.Image.Digest, f.Report.Image = digest.FromString("x"), digest.FromString("x") },
		"state":      func(f *Facts) { f.Report.State = pratique.StateFailed },
		"database":   func(f *Facts) { f.Report.Engine.Database = digest.FromString("x") },
		"engine":     func(f *Facts) { f.Report.Engine.Version = "x" },
		"scanned at": func(f *Facts) { f.Report.ScannedAt = time.Unix(1, 0) },
	}
	seen := map[string]string{id: "base", other.Decide(base).ID: "policy"}
	if len(seen) != 2 {
		t.Error("policy: same id")
	}
	for name, change := range changed {
		f := base
		change(&f)
		got := set.Decide(f).ID
		if twin, ok := seen[got]; ok {
			t.Errorf("%s and %s have the same id", name, twin)
		}
		seen[got] = name
	}
}

func TestDecideDoesNotTouchFacts(t *testing.T) {
	f := scanned(randomFindings(rand.New(rand.NewPCG(1, 1)), 50)...)
	before := slices.Clone(f.Report.Findings)
	load(t, string(configs.DefaultPolicy)).Decide(f)
	if diff := cmp.Diff(before, f.Report.Findings); diff != "" {
		t.Error(diff)
	}
}

func TestWhatAnImageWroteStaysOneLine(t *testing.T) {
	f := scanned()
	f.Report.State = pratique.StateIncomplete
	f.Report.EOL = true
	f.Report.OS = pratique.OS{Family: "debian\r\nX-Evil: 1", Name: "\x1b[2J" + strings.Repeat("é", 4000)}
	f.Report.Problems = []pratique.Problem{{Source: "dpkg", Message: "bad\n\u202efile \xff" + strings.Repeat("x", 4000)}}
	for _, r := range load(t, string(configs.DefaultPolicy)).Decide(f).Reasons {
		if len(r.Message) > 2*maxQuoted || !utf8.ValidString(r.Message) || strings.ContainsAny(r.Message, "\r\n\x1b\u202e") {
			t.Errorf("%q", r.Message)
		}
	}
}

// TestStrictness holds what must be true of any policies and any facts.
func TestStrictness(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	for i := range 500 {
		first, second := randomPolicy(rnd, "first"), randomPolicy(rnd, "second")
		f := randomFacts(rnd)
		alone := load(t, first).Decide(f)
		both := load(t, first, second).Decide(f)
		if strictness(both.Outcome) < strictness(alone.Outcome) {
			t.Fatalf("%d: another policy made it milder\n%s\n%s\n%+v", i, first, second, f)
		}
		met := kindOf(f.state())
		if met.guarded() && !strings.Contains(first, string(met)+": {}") && alone.Outcome != pratique.OutcomeDeny {
			t.Fatalf("%d: %s was served\n%s", i, met, first)
		}
		denied := load(t, first+"\n  - {name: more, vulnerability: {severity: LOW}, except: {tag: [never]}, action: deny}").Decide(f)
		if alone.Outcome == pratique.OutcomeDeny && denied.Outcome != pratique.OutcomeDeny && alone.Reasons[0].Rule != "default" {
			t.Fatalf("%d: a deny rule more made it milder\n%s", i, first)
		}
		checkReasons(t, alone)
	}
}

func checkReasons(t *testing.T, v pratique.Verdict) {
	t.Helper()
	if len(v.Reasons) == 0 || v.Reasons[0].Action != v.Outcome {
		t.Fatalf("outcome %v, reasons %+v", v.Outcome, v.Reasons)
	}
	for i, r := range v.Reasons {
		if r.Policy == "" || r.Rule == "" || r.Message == "" {
			t.Fatalf("reason %d is not explained: %+v", i, r)
		}
		if !slices.IsSortedFunc(r.Findings, func(a, b pratique.Finding) int { return rank(b.Severity) - rank(a.Severity) }) {
			t.Fatalf("findings of %s are not worst first", r.Rule)
		}
	}
}

func pick[T any](rnd *rand.Rand, xs ...T) T { return xs[rnd.IntN(len(xs))] }

func randomPolicy(rnd *rand.Rand, name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "name: %s\ndefault: %s\nrules:", name, pick(rnd, "allow", "deny"))
	for i := range 1 + rnd.IntN(5) {
		condition := pick(rnd, "unscanned: {}", "incomplete: {}", "scanFailed: {}", "unsupported: {}", "endOfLife: {}",
			"secret: {severity: HIGH}", "vulnerability: {severity: HIGH}", "vulnerability: {fixable: true}")
		// A tag that no image has makes equal conditions distinct rules.
		fmt.Fprintf(&b, "\n  - {name: r%d, %s, action: %s, except: {tag: [never%d]}}", i, condition, pick(rnd, "deny", "warn", "allow"), i)
	}
	return b.String()
}

func randomFacts(rnd *rand.Rand) Facts {
	f := scanned(randomFindings(rnd, rnd.IntN(4))...)
	f.Ref = pratique.Ref{Registry: "docker.io", Repo: "library/x", Tag: pick(rnd, "", "1")}
	f.Report.State = pick(rnd, pratique.StateUnknown, pratique.StatePending, pratique.StateScanned,
		pratique.StateIncomplete, pratique.StateFailed, pratique.StateUnsupported, "nonsense")
	f.Report.EOL = rnd.IntN(2) == 0
	return f
}

func randomFindings(rnd *rand.Rand, n int) []pratique.Finding {
	var out []pratique.Finding
	for range n {
		out = append(out, pratique.Finding{
			ID:       fmt.Sprintf("CVE-2024-%05d", rnd.IntN(100000)),
			Kind:     pick(rnd, pratique.KindVulnerability, pratique.KindVulnerability, pratique.KindSecret),
			Package:  fmt.Sprintf("package-%d", rnd.IntN(100)),
			Fixed:    pick(rnd, "", "1.2"),
			Severity: pick(rnd, severities...),
			CVSS:     float64(rnd.IntN(100)) / 10,
		})
	}
	return out
}

func FuzzLoad(f *testing.F) {
	f.Add(configs.DefaultPolicy)
	f.Add([]byte(allowAll))
	f.Add([]byte("name: [a\n"))
	f.Add([]byte("name: &a {x: *a}\nrules: [{name: a, match: {tag: ['**?']}, unscanned: {}, action: warn}]"))
	rnd := rand.New(rand.NewPCG(3, 3))
	for range 20 {
		f.Add([]byte(anyPolicy(rnd, "p")))
	}
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		f.Fatal("no cases", err)
	}
	for _, path := range archives {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if strings.HasSuffix(file.Name, ".yaml") {
				f.Add(file.Data)
			}
		}
	}
	facts := anyFacts(rnd)
	facts.Report.Findings = randomFindings(rnd, 5)
	f.Fuzz(func(t *testing.T, data []byte) {
		file := File{Name: "f.yaml", Data: data}
		s, err := Load(file)
		if err != nil {
			if s != nil || !errors.Is(err, pratique.ErrInvalid) {
				t.Fatalf("%v, %v", s, err)
			}
			return
		}
		v := s.Decide(facts)
		checkReasons(t, v)
		if !v.Until.IsZero() && !v.Until.After(facts.Now) {
			t.Fatalf("until %s, now %s", v.Until, facts.Now)
		}
		if len(s.Explain(facts)) < len(s.Rules()) {
			t.Fatal("a rule is not explained")
		}
		if _, err := Lint(file); err != nil {
			t.Fatalf("Load took it, Lint does not: %v", err)
		}
		// Law 2 for whatever was loaded: without a rule of that very name, refused.
		if !strings.Contains(string(data), "unscanned") && s.Decide(Facts{}).Outcome != pratique.OutcomeDeny {
			t.Fatal("an image never scanned is served")
		}
	})
}
