package policy

import (
	"time"

	"pratique"
)

// maxNames bounds the tags under which one pull by digest is judged. Further ones
// could only be milder.
const maxNames = 16

// names are the tags through which what is asked for by digest may be had: those
// that name it now; if none does, those that did, the latest first.
func (f *Facts) names() []string {
	if f.Ref.Tag != "" {
		return nil
	}
	if n := len(f.Lineage.Current); n > 0 {
		return f.Lineage.Current[:min(n, maxNames)]
	}
	var out []string
	for i := len(f.Lineage.Moved) - 1; i >= 0 && len(out) < maxNames; i-- {
		out = append(out, f.Lineage.Moved[i].Tag)
	}
	return out
}

// decideByDigest judges a pull by digest: as the mildest of the pulls by a tag
// that names the digest, because that one would be had by its tag as well. Rules
// about tags mean the same through both doors then, and a digest whose every tag
// is refused is refused. A digest of which no tag is known is judged as it is: a
// rule that refuses by tag applies, one that lets through does not.
//
// It ends when the verdict under any of the names may change.
func (s *Set) decideByDigest(f *Facts) pratique.Verdict {
	names := f.names()
	if len(names) == 0 {
		return s.decide(f)
	}
	var out pratique.Verdict
	var until time.Time
	for i, name := range names {
		named := *f
		named.Ref.Tag, named.former = name, len(f.Lineage.Current) == 0
		v := s.decide(&named)
		until = soonest(until, v.Until)
		if i == 0 || strictness(v.Outcome) < strictness(out.Outcome) {
			out = v
		}
	}
	out.Until = until
	return out
}

// mildest are the facts under the name that decideByDigest chooses.
func (s *Set) mildest(f Facts) Facts {
	if !s.needs.Has(NeedNames) {
		return f
	}
	best, level := f, -1
	for _, name := range f.names() {
		named := f
		named.Ref.Tag, named.former = name, len(f.Lineage.Current) == 0
		if n := strictness(s.decide(&named).Outcome); level < 0 || n < level {
			best, level = named, n
		}
	}
	return best
}

// soonest is the earlier of two moments of which a zero one never comes.
func soonest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Tags are the tags that rules name in full, each once, in the order of the
// rules: for a pull by digest it is worth knowing what they name (see
// pratique.Lineage.Elsewhere).
func (s *Set) Tags() []string {
	if s == nil {
		return nil
	}
	seen := make(map[string]bool)
	var out []string
	for _, p := range s.policies {
		for i := range p.rules {
			for _, sel := range []*selector{p.rules[i].match, p.rules[i].except} {
				if sel == nil {
					continue
				}
				for _, g := range sel.tag {
					if tag, ok := g.literal(); ok && !seen[tag] {
						seen[tag] = true
						out = append(out, tag)
					}
				}
			}
		}
	}
	return out
}

// elsewhere reports whether every tag that is meant is known to name another
// image, or none, so that the digest asked for is surely not had by one of them.
func (e *evaluation) elsewhere(tags globs) bool {
	for i := range tags {
		tag, ok := tags[i].literal()
		if !ok || !contains(e.facts.Lineage.Elsewhere, tag) {
			return false
		}
	}
	return true
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
