package pratique

import (
	"fmt"
	"regexp"
	"strings"
)

// Pattern chooses images by name: a glob on UPSTREAM/REPOSITORY, with or without a
// glob on the tag behind a colon. `*` stands for any characters but `/`, `**` for any
// at all, `?` for one. The zero Pattern matches nothing; get one from ParsePattern.
type Pattern struct {
	text       string
	repository *regexp.Regexp
	tag        *regexp.Regexp // nil: any tag, and none
}

// ParsePattern reads docker.io/library/*, lab/**, docker.io/library/nginx:1.*. What
// is no such pattern is an error wrapping ErrInvalid.
func ParsePattern(s string) (Pattern, error) {
	repository, tag, tagged := strings.Cut(s, ":")
	if !strings.Contains(repository, "/") && repository != "**" {
		return Pattern{}, fmt.Errorf("%w pattern %q: want UPSTREAM/REPOSITORY or UPSTREAM/REPOSITORY:TAG, such as docker.io/library/nginx:1.*", ErrInvalid, s)
	}
	if tagged && tag == "" || strings.ContainsAny(s, " \t\r\n@[]{}\\") || strings.Contains(tag, "/") || strings.Contains(tag, ":") {
		return Pattern{}, fmt.Errorf("%w pattern %q: want names, `*`, `**` and `?`, with at most one tag behind a colon", ErrInvalid, s)
	}
	p := Pattern{text: s, repository: wild(repository)}
	if tagged {
		p.tag = wild(tag)
	}
	return p, nil
}

func wild(glob string) *regexp.Regexp {
	q := regexp.QuoteMeta(glob)
	q = strings.ReplaceAll(q, `\*\*`, `.*`)
	q = strings.ReplaceAll(q, `\*`, `[^/]*`)
	q = strings.ReplaceAll(q, `\?`, `[^/]`)
	return regexp.MustCompile(`\A(?s:` + q + `)\z`)
}

// Match reports whether the pattern chooses ref. One with a tag does not choose what
// is known by its digest alone.
func (p Pattern) Match(ref Ref) bool {
	if p.repository == nil || !p.repository.MatchString(ref.Repository()) {
		return false
	}
	return p.tag == nil || ref.Tag != "" && p.tag.MatchString(ref.Tag)
}

// Literal is the repository that the pattern names, when it names just one.
func (p Pattern) Literal() (ref Ref, ok bool) {
	repository, _, _ := strings.Cut(p.text, ":")
	if p.repository == nil || strings.ContainsAny(repository, "*?") {
		return Ref{}, false
	}
	registry, repo, _ := strings.Cut(repository, "/")
	return Ref{Registry: registry, Repo: repo}, true
}

// String is the pattern as it was written.
func (p Pattern) String() string { return p.text }

// Patterns are several; together they choose what any of them does.
type Patterns []Pattern

// ParsePatterns reads each.
func ParsePatterns(texts []string) (Patterns, error) {
	var out Patterns
	for _, s := range texts {
		p, err := ParsePattern(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// Match reports whether any chooses ref.
func (ps Patterns) Match(ref Ref) bool {
	for _, p := range ps {
		if p.Match(ref) {
			return true
		}
	}
	return false
}
