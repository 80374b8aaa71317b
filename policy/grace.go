package policy

import (
	"slices"
	"time"

	"pratique"
	"pratique/internal/strictyaml"
)

// grace is how long an image that was served before a rule met it is still
// served, by the severity of the finding.
type grace struct {
	byRank [ranks]time.Duration
	kev    time.Duration // at most, for what is known to be exploited
	hasKEV bool
}

// longest grace; more is an exception.
const maxGrace = 366 * 24 * time.Hour

// dated conditions know since when a finding met them: only their rules may
// have a grace.
type dated interface {
	since(*evaluation, *pratique.Finding) time.Time
}

// grace compiles a rule's grace: one duration, or durations by severity.
func (c *compiler) grace(r *rule, at place, d *ruleDocument) {
	if d.Grace == nil {
		return
	}
	fail := func(format string, args ...any) { c.failAt(at, "grace", "grace: "+format, args...) }
	if d.Action != "deny" && d.Action != "" {
		fail("only a rule that denies has one: it warns until then")
	}
	_, findings := r.condition.(dated)
	if _, eol := r.condition.(endOfLife); !findings && !eol && r.condition != nil {
		fail("only a rule about findings or endOfLife has one")
	}
	g := &grace{}
	duration := func(v any) time.Duration {
		text, ok := v.(string)
		if !ok {
			fail("want a duration such as 14d, not %v", v)
			return 0
		}
		out, err := strictyaml.ParseDuration(text)
		switch {
		case err != nil:
			fail("%s", err)
		case out <= 0 || out > maxGrace:
			fail("%s: want more than 0 and at most 366d", text)
		}
		return out
	}
	switch v := d.Grace.(type) {
	case map[string]any:
		if !findings {
			fail("want one duration; severities are about findings")
		}
		g.bySeverity(v, duration, fail)
	default:
		one := duration(v)
		for i := range g.byRank {
			g.byRank[i] = one
		}
	}
	r.grace = g
}

func (g *grace) bySeverity(in map[string]any, duration func(any) time.Duration, fail func(string, ...any)) {
	known := []string{"unknown", "low", "medium", "high", "critical", "default", "kev"}
	if len(in) == 0 {
		fail("want a duration, or durations by %s", strictyaml.List(known, "and"))
	}
	if v, ok := in["default"]; ok {
		one := duration(v)
		for i := range g.byRank {
			g.byRank[i] = one
		}
	}
	words := make([]string, 0, len(in))
	for word := range in {
		words = append(words, word)
	}
	slices.Sort(words)
	for _, word := range words {
		switch i := slices.Index(known, word); {
		case i < 0:
			fail("unknown key %q%s", word, strictyaml.Suggest(word, known))
		case word == "kev":
			g.kev, g.hasKEV = duration(in[word]), true
		case word != "default":
			g.byRank[i] = duration(in[word])
		}
	}
}

// ends is when the grace of a finding that met the rule since then ends; zero
// when it has none.
func (g *grace) ends(e *evaluation, f *pratique.Finding, since time.Time) time.Time {
	served := e.facts.FirstServed
	if served.IsZero() || since.IsZero() || !served.Before(since) {
		return time.Time{}
	}
	length := g.byRank[ranks-1]
	if f != nil {
		if first := e.report().FirstScanned; !first.IsZero() && !since.After(first) {
			return time.Time{} // it was served before its first scan, not before the finding
		}
		length = g.byRank[rank(f.Severity)]
		if g.hasKEV && g.kev < length && exploited(e.facts.Exploits, f.ID) != no {
			length = g.kev
		}
	}
	if length == 0 {
		return time.Time{}
	}
	return since.Add(length)
}

// split tells apart what is refused now and what only warns, and when the first
// of that is refused.
func (g *grace) split(e *evaluation, r *rule, m *match) (refused, warned match, ends time.Time) {
	refused, warned = *m, *m
	by, ok := r.condition.(dated)
	if !ok {
		if ends = g.ends(e, nil, m.since); e.now.Before(ends) {
			refused.met = no
			return refused, warned, ends
		}
		warned.met = no
		return refused, warned, time.Time{}
	}
	var in []bool // findings in grace
	n := 0
	for i := range m.findings {
		f := &m.findings[i]
		end := g.ends(e, f, by.since(e, f))
		if !e.now.Before(end) {
			continue
		}
		if in == nil {
			in = make([]bool, len(m.findings))
		}
		in[i] = true
		n++
		warned.mark += scatter(uint64(i)) //nolint:gosec // a position is not negative
		ends = earliest(ends, end)
	}
	switch n {
	case 0:
		warned.met = no
		return refused, warned, ends
	case len(m.findings):
		refused.met = no
		return refused, warned, ends
	}
	refused.findings, warned.findings = make([]pratique.Finding, 0, len(m.findings)-n), make([]pratique.Finding, 0, n)
	for i := range m.findings {
		if in[i] {
			warned.findings = append(warned.findings, m.findings[i])
		} else {
			refused.findings = append(refused.findings, m.findings[i])
		}
	}
	return refused, warned, ends
}

// needs are the facts that a grace reads.
func (g *grace) needs() Needs {
	out := NeedServed
	if g.hasKEV {
		out |= NeedExploits
	}
	return out
}
