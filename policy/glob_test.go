package policy

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern string
		fits    []string
		not     []string
	}{
		{"a", []string{"a"}, []string{"", "aa", "a/a", "A"}},
		{"a*", []string{"a", "ab"}, []string{"a/b", "ba"}},
		{"*a", []string{"a", "ba"}, []string{"b/a", "ab", ""}},
		{"a*a", []string{"aa", "aba"}, []string{"a", "a/a"}},
		{"a/**", []string{"a/", "a/b", "a/b/c"}, []string{"a", "ab"}},
		{"**/a", []string{"/a", "b/a", "c/b/a"}, []string{"a", "b/ab"}},
		{"**", []string{"", "a/b"}, nil},
		{"*", []string{"", "a"}, []string{"a/b"}},
		{"***", []string{"", "a/b"}, nil},
		{"a?", []string{"ab"}, []string{"a", "a/", "abc"}},
		{"*/*", []string{"a/b", "/"}, []string{"a", "a/b/c"}},
		{"a.b", []string{"a.b"}, []string{"axb"}},
		{"*.gcr.io", []string{"eu.gcr.io", ".gcr.io"}, []string{"gcr.io", "a/.gcr.io"}},
	} {
		g, err := glob(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range c.fits {
			if !g.match(s) {
				t.Errorf("%q does not fit %q", c.pattern, s)
			}
		}
		for _, s := range c.not {
			if g.match(s) {
				t.Errorf("%q fits %q", c.pattern, s)
			}
		}
	}
}

// TestGlobIsItsExpression holds the short ways against the plain meaning.
func TestGlobIsItsExpression(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 2))
	word := func(letters string) string {
		var b strings.Builder
		for range rnd.IntN(6) {
			b.WriteByte(letters[rnd.IntN(len(letters))])
		}
		return b.String()
	}
	plain := strings.NewReplacer("**", ".*", "*", "[^/]*", "?", "[^/]")
	fits := 0
	for range 20000 {
		pattern, s := word("ab/**?"), word("ab/")
		g, err := glob(pattern)
		if err != nil {
			continue
		}
		want := regexp.MustCompile(`\A(?s:` + plain.Replace(pattern) + `)\z`).MatchString(s)
		if g.match(s) != want {
			t.Fatalf("%q on %q: %v", pattern, s, !want)
		}
		if want {
			fits++
		}
	}
	if fits < 500 {
		t.Errorf("only %d pairs fit", fits)
	}
}
