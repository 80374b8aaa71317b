package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// pattern is a compiled glob. Its literal beginning is tried first, which
// settles most comparisons.
type pattern struct {
	prefix string
	rest   *regexp.Regexp // nil when the pattern is all literal
}

func (p pattern) match(s string) bool {
	if p.rest == nil {
		return s == p.prefix
	}
	rest, ok := strings.CutPrefix(s, p.prefix)
	return ok && p.rest.MatchString(rest)
}

type globs []pattern

func (gs globs) match(s string) bool {
	for _, g := range gs {
		if g.match(s) {
			return true
		}
	}
	return false
}

// glob compiles a pattern: * is any run of characters but "/", ** any run, ? any
// one character but "/". Everything else is itself.
func glob(text string) (pattern, error) {
	if text == "" {
		return pattern{}, errors.New("an empty pattern fits nothing")
	}
	if len(text) > 512 {
		return pattern{}, errors.New("a pattern is at most 512 characters long")
	}
	i := strings.IndexAny(text, "*?")
	if i < 0 {
		return pattern{prefix: text}, nil
	}
	p := pattern{prefix: text[:i]}
	var b strings.Builder
	b.WriteString(`\A(?s:`)
	for ; i < len(text); i++ {
		switch c := text[i]; {
		case strings.HasPrefix(text[i:], "**"):
			b.WriteString(`.*`)
			i++
		case c == '*':
			b.WriteString(`[^/]*`)
		case c == '?':
			b.WriteString(`[^/]`)
		default:
			b.WriteString(regexp.QuoteMeta(text[i : i+1]))
		}
	}
	b.WriteString(`)\z`)
	var err error
	p.rest, err = regexp.Compile(b.String())
	return p, err
}

// Characters of which the things that globs are held against are made. A
// pattern with any other can never fit, so it is a mistake.
const (
	lower     = "abcdefghijklmnopqrstuvwxyz0123456789"
	repoChars = lower + "._-/"
	keyChars  = lower + "._-"
	upper     = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	tagChars  = lower + upper + "._-"
	typeChars = lower + upper + "!#$&-^_.+/"
)

// reachable refuses a pattern that can fit nothing, with a hint.
func reachable(pattern, chars string) error {
	i := strings.IndexFunc(pattern, func(r rune) bool { return !strings.ContainsRune(chars+"*?", r) })
	if i < 0 {
		return nil
	}
	r := []rune(pattern[i:])[0]
	switch {
	case r == '[' || r == '{':
		return fmt.Errorf("%q fits nothing: classes and alternatives are not supported; write a list of patterns", pattern)
	case r == ':' && chars == repoChars:
		return fmt.Errorf("%q fits nothing: a repository has no tag; write the tag under `tag`", pattern)
	case r == '/' && chars == keyChars:
		return fmt.Errorf("%q fits nothing: an upstream's key has no %q; write the rest under `repository`", pattern, r)
	}
	return fmt.Errorf("%q fits nothing: %q never occurs there", pattern, r)
}
