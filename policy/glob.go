package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// pattern is a compiled glob. Most have one star, or none, and need no more than
// their literal beginning and end compared.
type pattern struct {
	prefix string
	stars  int // 0: all literal; 1: anything but "/" up to suffix; 2: anything up to it
	suffix string
	rest   *regexp.Regexp // of what follows prefix, for all other patterns
}

func (p *pattern) match(s string) bool {
	rest, ok := strings.CutPrefix(s, p.prefix)
	if !ok {
		return false
	}
	if p.rest != nil {
		return p.rest.MatchString(rest)
	}
	middle, ok := strings.CutSuffix(rest, p.suffix)
	switch {
	case !ok:
		return false
	case p.stars == 0:
		return rest == ""
	case p.stars == 1:
		return strings.IndexByte(middle, '/') < 0
	}
	return true
}

// literal is the one text that the pattern fits, if there is but one.
func (p *pattern) literal() (string, bool) {
	return p.prefix, p.stars == 0 && p.rest == nil && p.suffix == ""
}

type globs []pattern

func (gs globs) match(s string) bool {
	for i := range gs {
		if gs[i].match(s) {
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
	if after := strings.TrimLeft(text[i:], "*"); !strings.ContainsAny(after, "*?") && len(text)-i-len(after) <= 2 && text[i] == '*' {
		p.stars, p.suffix = len(text)-i-len(after), after
		return p, nil
	}
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
