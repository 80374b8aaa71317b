package policy

import (
	"slices"
	"strings"
)

// This file compares what rules are about, for Lint. Every answer errs on the
// side of silence.

// covers reports whether r surely applies wherever other does.
func (r *rule) covers(other *rule) bool {
	if !coversMatch(r.doc.Match, other.doc.Match) {
		return false
	}
	if r.doc.Except != nil && (other.doc.Except == nil || !coversMatch(other.doc.Except, r.doc.Except)) {
		return false
	}
	return r.coversCondition(other)
}

func (r *rule) coversCondition(other *rule) bool {
	if r.kind == kindAlways {
		return true
	}
	if r.kind != other.kind {
		return false
	}
	switch c := r.condition.(type) {
	case *ofFindings:
		d, ok := other.condition.(*ofFindings)
		return ok && (c.covers(d) || sameCondition(r, other))
	case endOfLife:
		d, ok := other.condition.(endOfLife)
		return ok && c.within >= d.within
	}
	return sameCondition(r, other)
}

// covers reports whether every finding that other asks for is asked for by c.
func (c *ofFindings) covers(other *ofFindings) bool {
	if len(c.demands) > 0 || c.class != other.class || c.minRank > other.minRank || c.fixable && !other.fixable {
		return false
	}
	return c.minRank == 0 || c.withUnknown || !other.withUnknown
}

// sameCondition reports whether both rules have the same words there.
func sameCondition(a, b *rule) bool {
	x, y := *a.doc, *b.doc
	x.Match, x.Except, y.Match, y.Except = nil, nil, nil, nil
	return subject(x) == subject(y)
}

// lists are the lists of a match, by key.
func (d *matchDocument) lists() [6][]string {
	if d == nil {
		return [6][]string{}
	}
	return [6][]string{d.Upstream, d.Repository, d.Tag, d.Platform, d.ArtifactType, d.Client}
}

// coversMatch reports whether a surely lets in all that b lets in.
func coversMatch(a, b *matchDocument) bool {
	x, y := a.lists(), b.lists()
	for i := range x {
		if x[i] == nil {
			continue
		}
		if y[i] == nil && !slices.Contains(x[i], "**") || !coversAll(x[i], y[i]) {
			return false
		}
	}
	return true
}

func coversAll(a, b []string) bool {
	for _, text := range b {
		if !slices.ContainsFunc(a, func(over string) bool { return coversGlob(over, text) }) {
			return false
		}
	}
	return true
}

// coversGlob reports whether one pattern surely fits all that the other fits.
func coversGlob(a, b string) bool {
	if a == b || a == "**" {
		return true
	}
	if !strings.ContainsAny(b, "*?") {
		g, err := glob(a)
		return err == nil && g.match(b)
	}
	prefix, ok := strings.CutSuffix(a, "**")
	return ok && !strings.ContainsAny(prefix, "*?") && strings.HasPrefix(literal(b), prefix)
}

// literal is what a pattern begins with.
func literal(pattern string) string {
	if i := strings.IndexAny(pattern, "*?"); i >= 0 {
		return pattern[:i]
	}
	return pattern
}

// never reports whether `except` takes out all that `match` lets in.
func (r *rule) never() bool {
	return r.doc.Except != nil && coversMatch(r.doc.Except, r.doc.Match)
}

// overlap reports whether something may fit both.
func overlap(a, b *matchDocument) bool {
	x, y := a.lists(), b.lists()
	for i := range x {
		if i > 2 || x[i] == nil || y[i] == nil {
			continue // platforms, types and networks have several names
		}
		if !slices.ContainsFunc(x[i], func(p string) bool {
			return slices.ContainsFunc(y[i], func(q string) bool { return mayMeet(p, q) })
		}) {
			return false
		}
	}
	return true
}

// mayMeet reports whether something may fit both patterns.
func mayMeet(p, q string) bool {
	if coversGlob(p, q) || coversGlob(q, p) {
		return true
	}
	a, b := literal(p), literal(q)
	if len(a) == len(p) || len(b) == len(q) {
		return false // a literal is covered by whatever it meets
	}
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}
