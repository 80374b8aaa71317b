package policy

import "pratique"

// judge appends the policy's reasons, of which there is always at least one.
func (p *policy) judge(e *evaluation, reasons []pratique.Reason) []pratique.Reason {
	before := len(reasons)
	guard := kindOf(e.state)
	named := !guard.guarded() // a rule about this very state of the scan applies
	matched := false          // a rule refuses, or surely lets through
	for i := range p.rules {
		r := &p.rules[i]
		if r.exempts {
			continue
		}
		e.asked = r.ask(e)
		m := &e.asked
		if !r.applies(m) {
			matched = matched || r.surelyWarned(e)
			continue
		}
		if r.action != pratique.OutcomeAllow {
			if x := e.exemptionOf(p.name, r.name); x != nil {
				e.lift(p.name, r.name, x)
				// A warning that is lifted lets through without one.
				matched = matched || r.action == pratique.OutcomeWarn && m.met == yes
				named = named || r.kind == guard && r.action == pratique.OutcomeWarn
				continue
			}
		}
		named = named || r.kind == guard
		had := len(reasons)
		reasons = r.reasons(e, m, reasons)
		matched = matched || r.counts(m, reasons[had:]) || r.surelyWarned(e)
	}
	if !named {
		reasons, matched = p.guard(e, guard, reasons, matched)
	}
	switch {
	case !matched, len(reasons) == before && p.standard == pratique.OutcomeAllow:
		return p.fallBack(e, reasons)
	case len(reasons) == before: // all that matched was lifted
		return append(reasons, p.liftedReason(e))
	}
	return reasons
}

// counts reports whether the rule keeps the policy's default from deciding: it
// refuses, or it surely lets through. A warning only because a fact is not known,
// or only because of grace, does not: else it would be milder than no rule at all.
func (r *rule) counts(m *match, reasons []pratique.Reason) bool {
	if r.action != pratique.OutcomeDeny {
		return m.met == yes
	}
	return reasonsOutcome(reasons) == pratique.OutcomeDeny
}

// surelyWarned reports whether the rule would surely warn, were nothing lifted.
// Then it lets through, without the warning: an exception is never stricter than
// none.
func (r *rule) surelyWarned(e *evaluation) bool {
	if len(e.lifted) == 0 || r.action != pratique.OutcomeWarn || !r.readsFindings() {
		return false
	}
	if sure, _ := r.selects(e); sure != yes {
		return false
	}
	return r.condition.meets(e.before()).met == yes
}

// guard appends the refusal of what was not scanned whole, about which no rule
// of that name says anything.
func (p *policy) guard(e *evaluation, guard kind, reasons []pratique.Reason, matched bool) ([]pratique.Reason, bool) {
	if x := e.exemptionOf(p.name, string(guard)); x != nil {
		e.lift(p.name, string(guard), x)
		return reasons, matched
	}
	return append(reasons, pratique.Reason{
		Policy:  p.name,
		Rule:    string(guard),
		Action:  pratique.OutcomeDeny,
		Message: stateText(e.state, e.facts.Report.Problems),
		State:   e.state,
	}), true
}

// fallBack appends the policy's default, which nothing matched.
func (p *policy) fallBack(e *evaluation, reasons []pratique.Reason) []pratique.Reason {
	action := p.fallBackAction()
	if action != pratique.OutcomeAllow {
		if x := e.exemptionOf(p.name, ruleDefault); x != nil {
			e.lift(p.name, ruleDefault, x)
			return append(reasons, p.liftedReason(e))
		}
	}
	return append(reasons, pratique.Reason{
		Policy:  p.name,
		Rule:    ruleDefault,
		Action:  action,
		Message: "no rule matched; the policy's default is " + p.standard.String(),
	})
}

// fallBackAction is the default after the policy's mode.
func (p *policy) fallBackAction() pratique.Outcome {
	if p.standard == pratique.OutcomeDeny && p.warnOnly {
		return pratique.OutcomeWarn
	}
	return p.standard
}

// liftedReason says that nothing is left to refuse the image for, because of
// what was lifted last.
func (p *policy) liftedReason(e *evaluation) pratique.Reason {
	var last pratique.Lift
	if n := len(e.lifts); n > 0 {
		last = e.lifts[n-1]
	} else if n := len(e.lifted); n > 0 {
		last = e.lifted[n-1].lift
	}
	if last.Rule == "" || last.Policy != p.name {
		last.Rule = ruleDefault
	}
	return pratique.Reason{
		Policy:  p.name,
		Rule:    last.Rule,
		Action:  pratique.OutcomeAllow,
		Message: "lifted by " + last.By + ": " + last.Why,
	}
}
