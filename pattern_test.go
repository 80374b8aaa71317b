package pratique_test

import (
	"errors"
	"testing"

	"pratique"
)

func TestPattern(t *testing.T) {
	for _, test := range []struct {
		pattern, registry, repo, tag string
		want                         bool
	}{
		{"docker.io/library/*", "docker.io", "library/nginx", "", true},
		{"docker.io/library/*", "docker.io", "library/nginx", "1.27", true},
		{"docker.io/library/*", "docker.io", "library/a/b", "", false},
		{"docker.io/**", "docker.io", "library/a/b", "", true},
		{"**", "docker.io", "library/a/b", "", true},
		{"docker.io/library/nginx:1.*", "docker.io", "library/nginx", "1.27", true},
		{"docker.io/library/nginx:1.*", "docker.io", "library/nginx", "2.0", false},
		{"docker.io/library/nginx:1.*", "docker.io", "library/nginx", "", false},
		{"docker.io/library/nginx:1.*", "dockerXio", "library/nginx", "1.2", false},
		{"lab/app-?", "lab", "app-1", "", true},
		{"lab/app-?", "lab", "app-", "", false},
		{"lab/app", "lab", "app\nx", "", false},
	} {
		p, err := pratique.ParsePattern(test.pattern)
		if err != nil {
			t.Fatal(err)
		}
		ref := pratique.Ref{Registry: test.registry, Repo: test.repo, Tag: test.tag}
		if got := p.Match(ref); got != test.want {
			t.Errorf("%s on %q: %t, want %t", p, ref, got, test.want)
		}
	}
	for _, bad := range []string{"", "nginx", "a/b:", "a/b c", "a/b@sha256:x", "a/b:c:d", "a/b:c/d", "a/[b]", `a/\*`} {
		if _, err := pratique.ParsePattern(bad); !errors.Is(err, pratique.ErrInvalid) {
			t.Errorf("%q: %v, want ErrInvalid", bad, err)
		}
	}
	if (pratique.Pattern{}).Match(pratique.Ref{Registry: "a", Repo: "b"}) {
		t.Error("the zero Pattern matches")
	}
	p, _ := pratique.ParsePattern("docker.io/library/nginx:1.*")
	if ref, ok := p.Literal(); !ok || ref.Registry != "docker.io" || ref.Repo != "library/nginx" {
		t.Errorf("Literal: %v %t", ref, ok)
	}
	if _, ok := (pratique.Pattern{}).Literal(); ok {
		t.Error("the zero Pattern names a repository")
	}
}

func TestVulnerabilityChanges(t *testing.T) {
	v := func(id, fixed, status string, s pratique.Severity) pratique.Vulnerability {
		return pratique.Vulnerability{ID: id, Fixed: fixed, Status: status, Severity: s}
	}
	before := []pratique.Vulnerability{v("A", "", "affected", "HIGH"), v("B", "1", "fixed", "LOW"), v("C", "", "affected", "LOW")}
	after := []pratique.Vulnerability{v("A", "2", "fixed", "CRITICAL"), v("C", "", "affected", "LOW"), v("D", "", "affected", "MEDIUM")}
	var got []string
	for _, c := range pratique.VulnerabilityChanges(before, after) {
		got = append(got, c.ID+" "+string(c.Kind)+" "+c.Before+">"+c.After+" "+string(c.Severity))
	}
	want := []string{"A fixed >2 CRITICAL", "A severity HIGH>CRITICAL CRITICAL", "A status affected>fixed CRITICAL", "B gone > LOW", "D appeared > MEDIUM"}
	if len(got) != len(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %q, want %q", got[i], want[i])
		}
	}
	if cs := pratique.VulnerabilityChanges(before, before); len(cs) != 0 {
		t.Errorf("the same twice: %v", cs)
	}
}

func TestPackageKey(t *testing.T) {
	for _, same := range [][]string{
		{"Django", "django"}, {"typing_extensions", "typing-extensions"}, {"https://github.com/a/b.git", "github.com/a/b"}, {"nodejs:12::npm", "npm"},
	} {
		if a, b := pratique.PackageKey(same[0]), pratique.PackageKey(same[1]); a != b {
			t.Errorf("%q and %q: %q, %q", same[0], same[1], a, b)
		}
	}
	c := pratique.Component{Name: "libssl3", SrcName: "openssl", Context: pratique.Context{Type: "debian"}}
	if got := c.Keys(); len(got) != 3 || got[0] != pratique.TypeKey("debian") || got[1] != "libssl3" || got[2] != "openssl" {
		t.Errorf("keys %q", got)
	}
}
