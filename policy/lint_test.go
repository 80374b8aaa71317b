package policy

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pratique"
	"pratique/configs"
)

func TestLint(t *testing.T) {
	const head = "name: p\ndefault: allow\nrules:\n"
	for _, c := range []struct {
		name  string
		files []string
		want  []string
	}{
		{name: "nothing", files: []string{head + `
  - {name: a, vulnerability: {severity: HIGH, fixable: true}, action: deny}
  - {name: b, vulnerability: {severity: CRITICAL}, action: warn}
  - {name: c, match: {repository: [team/**]}, vulnerability: {severity: LOW}, action: warn}
  - {name: d, endOfLife: {within: 30d}, action: warn}
  - {name: e, endOfLife: {}, action: deny}`}},
		{name: "weaker beside stronger", files: []string{head + `
  - {name: a, vulnerability: {severity: HIGH}, action: deny}
  - {name: b, vulnerability: {severity: CRITICAL}, action: warn}
  - {name: c, vulnerability: {severity: CRITICAL, fixable: true}, action: deny}
  - {name: d, match: {repository: [team/*]}, vulnerability: {severity: CRITICAL, ids: [CVE-1]}, action: deny}`},
			want: []string{"never changes a verdict: p/a", "never needed: p/a", "never needed: p/a"}},
		{name: "unknown severities are not among the high ones", files: []string{head + `
  - {name: a, vulnerability: {severity: HIGH}, action: deny}
  - {name: b, vulnerability: {severity: HIGH, unknownSeverity: true}, action: warn}`}},
		{name: "grace does not cover", files: []string{head + `
  - {name: a, vulnerability: {severity: HIGH}, action: deny, grace: 14d}
  - {name: b, vulnerability: {severity: CRITICAL}, action: warn}`}},
		{name: "what an exempt rule lifts does not cover", files: []string{head + `
  - {name: a, vulnerability: {severity: HIGH}, action: deny}
  - {name: b, vulnerability: {severity: CRITICAL}, action: warn}
  - {name: x, match: {repository: [lab]}, action: exempt, lifts: [a], message: lab}`}},
		{name: "always covers all", files: []string{head + `
  - {name: a, match: {upstream: [docker.io]}, always: {}, action: deny}
  - {name: b, match: {upstream: [docker.io], repository: [library/*]}, secret: {}, action: warn}`},
			want: []string{"never changes a verdict: p/a"}},
		{name: "contradiction of policies", files: []string{
			"name: strict\ndefault: allow\nrules: [{name: a, match: {repository: [team/**]}, endOfLife: {within: 90d}, action: deny}]",
			"name: mild\nrules: [{name: b, match: {repository: [team/app, team/web-*]}, endOfLife: {}, action: allow}]"},
			want: []string{"contradicts strict/a"}},
		{name: "excepted from the stricter one", files: []string{
			"name: strict\ndefault: allow\nrules: [{name: a, except: {repository: [team/app]}, endOfLife: {}, action: deny}]",
			"name: mild\nrules: [{name: b, match: {repository: [team/app]}, endOfLife: {}, action: allow}]"}},
		{name: "same rule in two policies", files: []string{
			"name: one\ndefault: allow\nrules: [{name: a, secret: {}, action: deny}]",
			"name: two\ndefault: allow\nrules: [{name: a, secret: {}, action: deny}]"},
			want: []string{"never needed: one/a"}},
		{name: "allow without effect", files: []string{head + `
  - {name: a, vulnerability: {severity: HIGH}, action: deny}
  - {name: mine, match: {repository: [team/**]}, always: {}, action: allow}`},
			want: []string{"allow lifts no other rule"}},
		{name: "allow of what is guarded has one", files: []string{head + `
  - {name: a, match: {repository: [team/**]}, unscanned: {}, action: allow}`}},
		{name: "never", files: []string{head + `
  - {name: a, match: {repository: [team/app]}, except: {repository: [team/*]}, secret: {}, action: deny}
  - {name: b, except: {repository: ["**"]}, secret: {}, action: deny}`},
			want: []string{"is about nothing", "is about nothing"}},
		{name: "refuses everything", files: []string{"name: p\nrules: [{name: a, secret: {}, action: deny}]"},
			want: []string{"refuses every image"}},
		{name: "refuses everything in theory", files: []string{"name: p\nmode: warn\nrules: [{name: a, secret: {}, action: deny}]"}},
		{name: "by tag", files: []string{"name: p\nrules: [{name: a, match: {tag: [v*]}, always: {}, action: warn}]"},
			want: []string{"does not apply to pulls by digest"}},
		{name: "exempt of another place", files: []string{head + `
  - {name: a, match: {repository: [team/**]}, secret: {}, action: deny}
  - {name: x, match: {repository: [lab/**]}, action: exempt, lifts: [a], message: lab}`},
			want: []string{"lifts nothing from p/a"}},
		{name: "exempt of half a guard", files: []string{head + `
  - {name: a, unscanned: {}, action: deny}
  - {name: x, match: {repository: [lab/**]}, action: exempt, lifts: [a], message: lab}
  - {name: y, match: {repository: [lab/**]}, action: exempt, lifts: [unscanned], message: lab}
  - {name: z, match: {repository: [lab/**]}, action: exempt, lifts: [unscanned, a], message: lab}`},
			want: []string{`without such a rule the guard "unscanned" refuses`, "and not p/a"}},
		{name: "shipped", files: []string{string(configs.DefaultPolicy)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var files []File
			for i, f := range c.files {
				files = append(files, File{Name: string(rune('a'+i)) + ".yaml", Data: []byte(f)})
			}
			got, err := Lint(files...)
			if err != nil {
				t.Fatal(err)
			}
			var texts []string
			for _, w := range got {
				texts = append(texts, w.String())
				if w.Pos.File == "" || w.Pos.Line == 0 || w.Suggestion == "" {
					t.Errorf("%+v", w)
				}
			}
			if len(texts) != len(c.want) {
				t.Fatalf("got %d warnings, want %d:\n%s", len(texts), len(c.want), strings.Join(texts, "\n"))
			}
			for i, want := range c.want {
				if !strings.Contains(texts[i], want) {
					t.Errorf("got %q, want %q in it", texts[i], want)
				}
			}
		})
	}
}

func TestLintOfWhatDoesNotLoad(t *testing.T) {
	if w, err := Lint(File{Name: "x", Data: []byte("name: [")}); w != nil || !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("%v, %v", w, err)
	}
}

func TestCoversGlob(t *testing.T) {
	got := map[string]bool{}
	want := map[string]bool{
		"a a": true, "** a/b": true, "* a/b": false, "a/** a/b/c": true, "a/** a/b*": true, "a/** ab/*": false,
		"a/* a/b": true, "a/* a/b/c": false, "a/* a/?": false, "a a*": false, "a* a*": true, "*a** b": false,
	}
	for pair := range want {
		a, b, _ := strings.Cut(pair, " ")
		got[pair] = coversGlob(a, b)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
