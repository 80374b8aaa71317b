package policy

import (
	"strings"
	"unicode"

	"pratique"
	"pratique/internal/strictyaml"
)

// rule is one compiled rule.
type rule struct {
	policy, name string
	pos          strictyaml.Pos
	doc          *ruleDocument    // for Lint
	action       pratique.Outcome // after the policy's mode
	exempts      bool             // lifts others; action does not count
	lifts        []string         // of an exempt rule, as POLICY/RULE
	liftsAt      []strictyaml.Pos
	message      string
	kind         kind
	condition    condition
	match        *selector
	except       *selector
	grace        *grace
}

// lenient rules let through what would otherwise be refused: they need to be
// sure that they are meant, where the others need to be sure that they are not.
func (r *rule) lenient() bool {
	return r.exempts || r.action == pratique.OutcomeAllow || r.action == pratique.OutcomeWarn && r.kind.guarded()
}

// selects tells whether the rule is about this reference, image and client at
// all, and if not, why; or which fact is missing to know. What the client did not
// say (its tag) never helps it: where the answer is unknown a lenient rule does
// not apply, a strict one does.
func (r *rule) selects(e *evaluation) (truth, string) {
	sure, missing := yes, ""
	if r.match != nil {
		if sure, missing = r.match.selects(e); sure == no {
			return no, missing + " does not fit"
		}
	}
	if r.except == nil {
		return sure, missing
	}
	switch t, m := r.except.selects(e); t {
	case yes:
		return no, "excepted"
	case unknown:
		return unknown, m
	default:
		return sure, missing
	}
}

// ask tells whether the rule is met, the reference and the condition together. A
// rule that lets through is asked about findings that were lifted as well, if it
// is not met without them: to lift one never takes a permission away.
func (r *rule) ask(e *evaluation) match {
	sure, missing := r.selects(e)
	if sure == no {
		return match{met: no}
	}
	m := r.condition.meets(e)
	e.next(m.changes)
	if m.met != yes && len(e.lifted) > 0 && r.lenient() && r.readsFindings() {
		if whole := r.condition.meets(e.before()); whole.met == yes {
			m = whole
			e.next(m.changes)
		}
	}
	m.met = m.met.and(sure)
	if m.met == yes && e.facts.former && (r.exempts || r.kind.guarded() && r.lenient()) && r.needs().Has(NeedNames) {
		m.met, missing = unknown, missingTag
	}
	if m.missing == "" {
		m.missing = missing
	}
	return m
}

// applies reports whether the rule has a part in the verdict.
func (r *rule) applies(m *match) bool { return m.met == yes || m.met == unknown && !r.lenient() }

// reasons appends the rule's part in a verdict, which it applies to. Within its
// grace that is a warning, beside the refusal for what has none.
func (r *rule) reasons(e *evaluation, m *match, out []pratique.Reason) []pratique.Reason {
	if r.grace == nil || r.action != pratique.OutcomeDeny {
		return append(out, r.reason(e, m, r.action))
	}
	refused, warned, ends := r.grace.split(e, r, m)
	if warned.met == no {
		return append(out, r.reason(e, m, r.action))
	}
	e.next(ends)
	if refused.met != no {
		out = append(out, r.reason(e, &refused, r.action))
	}
	reason := r.reason(e, &warned, pratique.OutcomeWarn)
	reason.GraceEnds = ends
	reason.Message += "; it was served here before, and is refused from " + moment(ends) + " on"
	return append(out, reason)
}

func (r *rule) reason(e *evaluation, m *match, action pratique.Outcome) pratique.Reason {
	out := pratique.Reason{Policy: r.policy, Rule: r.name, Action: action, Message: r.message, Findings: m.findings}
	if _, ok := r.condition.(ofState); ok {
		out.State = e.state
	}
	if out.Message == "" {
		out.Message = r.condition.text(e, m)
	}
	if m.missing != "" {
		out.Message += " (not known: " + m.missing + ")"
	}
	e.mark = scatter(e.mark ^ m.mark)
	return out
}

// maxQuoted bounds what a reason quotes from an image, in bytes.
const maxQuoted = 200

// oneLine makes text that an image may have written fit for a line of a
// refusal: no control characters, no invalid UTF-8, not long.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxQuoted {
		s = strings.ToValidUTF8(s[:maxQuoted], "") + "…"
	}
	return s
}

// readsFindings reports whether findings that are lifted may keep the rule from
// being met.
func (r *rule) readsFindings() bool {
	switch c := r.condition.(type) {
	case *ofFindings:
		return true
	case interface{ readsFindings() bool }:
		return c.readsFindings()
	}
	return false
}

// needs are the facts that the rule reads.
func (r *rule) needs() Needs {
	out := r.condition.needs()
	if r.grace != nil {
		out |= r.grace.needs()
	}
	for _, s := range []*selector{r.match, r.except} {
		if s != nil && s.client != nil {
			out |= NeedClient
		}
		if s != nil && s.tag != nil {
			out |= NeedNames
		}
	}
	return out
}
