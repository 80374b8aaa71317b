package policy

import (
	"strconv"
	"strings"

	"pratique"
)

// Evaluation is one rule's part in a decision, for a person who asks why.
// Policies' guards and defaults have one as well, after their rules.
type Evaluation struct {
	Policy string `json:"policy"`
	Rule   string `json:"rule"`
	// Condition is the key of the rule's condition; empty for guards and defaults.
	Condition string `json:"condition,omitempty"`
	// Action of the rule: deny, warn, allow or exempt, after the policy's mode.
	Action string `json:"action"`
	// Selected tells whether the rule is about this reference, image and client,
	// Met whether its condition is: yes, no, or unknown where a fact is missing.
	Selected string `json:"selected"`
	Met      string `json:"met"`
	// Effect is what the rule did: "denies", "warns", "allows", "lifts", "lifted",
	// or "" when it had no part.
	Effect string `json:"effect,omitempty"`
	// Facts are what the rule read of the image, in words.
	Facts string `json:"facts,omitempty"`
	// Message is what the verdict says of it, or why it had no part.
	Message string `json:"message,omitempty"`
}

// Explain judges like Decide and tells the part of every rule, policy by policy,
// in the order of the files.
func (s *Set) Explain(f Facts) []Evaluation {
	if s == nil || len(s.policies) == 0 {
		return []Evaluation{{Rule: ruleDefault, Action: "deny", Selected: "yes", Met: "yes", Effect: "denies", Message: noPolicies}}
	}
	f = s.mildest(f)
	e := newEvaluation(&f)
	s.exempt(e)
	e.facts.Exceptions.exempt(e)
	var out []Evaluation
	for _, p := range s.policies {
		reasons := p.judge(e, nil)
		for i := range p.rules {
			out = append(out, p.rules[i].explain(e, reasons))
		}
		for _, builtin := range []string{string(kindUnscanned), string(kindIncomplete), string(kindScanFailed), ruleDefault} {
			out = p.explainBuiltin(e, builtin, reasons, out)
		}
	}
	return out
}

// explain tells the rule's part, the policy's reasons being known.
func (r *rule) explain(e *evaluation, reasons []pratique.Reason) Evaluation {
	x := Evaluation{Policy: r.policy, Rule: r.name, Condition: string(r.kind), Action: r.action.String(), Facts: oneLine(r.condition.facts(e))}
	if r.exempts {
		x.Action = string(actionExempt)
	}
	selected, why := r.selects(e)
	m := r.condition.meets(e)
	x.Selected, x.Met = selected.String(), m.met.String()
	if n := len(e.lifted); n > 0 && r.readsFindings() {
		x.Facts += ", without " + strconv.Itoa(n) + " that exceptions or VEX lift"
	}
	switch {
	case selected == no:
		x.Message = "not about this: " + why
	case m.met == no:
	case r.lenient() && selected.and(m.met) == unknown:
		x.Message = "it lets through only where it surely applies; not known: " + strings.TrimPrefix(m.missing+", "+why, ", ")
	case r.exempts:
		x.Effect, x.Message = "lifts", "lifts "+list(r.lifts)+": "+r.message
	default:
		x.Effect, x.Message = effect(e, r.policy, r.name, reasons)
	}
	return x
}

// effect is what a name among the reasons, or among what was lifted, did.
func effect(e *evaluation, policy, name string, reasons []pratique.Reason) (verb, message string) {
	for i := range e.lifts {
		if l := &e.lifts[i]; l.Policy == policy && l.Rule == name {
			return "lifted", "lifted by " + l.By + ": " + l.Why
		}
	}
	var verbs, messages []string
	for i := range reasons {
		if reasons[i].Rule != name {
			continue
		}
		switch reasons[i].Action {
		case pratique.OutcomeAllow:
			verbs = append(verbs, "allows")
		case pratique.OutcomeWarn:
			verbs = append(verbs, "warns")
		default:
			verbs = append(verbs, "denies")
		}
		messages = append(messages, reasons[i].Message)
	}
	if len(verbs) == 0 {
		return "", ""
	}
	return verbs[0], strings.Join(messages, "; ")
}

// explainBuiltin appends a guard or the default, if it had a part and no rule is
// called the same.
func (p *policy) explainBuiltin(e *evaluation, name string, reasons []pratique.Reason, out []Evaluation) []Evaluation {
	for i := range p.rules {
		if p.rules[i].name == name {
			return out
		}
	}
	x := Evaluation{Policy: p.name, Rule: name, Action: "deny", Selected: "yes", Met: "yes"}
	if name == ruleDefault {
		x.Action = p.fallBackAction().String()
	}
	if x.Effect, x.Message = effect(e, p.name, name, reasons); x.Effect == "" {
		return out
	}
	return append(out, x)
}

// RuleInfo is what is known of a rule without facts.
type RuleInfo struct {
	Policy    string `json:"policy"`
	Name      string `json:"name"`
	Condition string `json:"condition"`
	Action    string `json:"action"` // deny, warn, allow or exempt, after the policy's mode
	// Grace is whether the rule only warns for a time about images served before.
	Grace bool `json:"grace,omitempty"`
}

// String is POLICY/RULE, as exceptions name it.
func (r RuleInfo) String() string { return r.Policy + "/" + r.Name }

// Rules are all rules of the set, in the order of the files.
func (s *Set) Rules() []RuleInfo {
	if s == nil {
		return nil
	}
	var out []RuleInfo
	for _, p := range s.policies {
		for i := range p.rules {
			r := &p.rules[i]
			info := RuleInfo{Policy: p.name, Name: r.name, Condition: string(r.kind), Action: r.action.String(), Grace: r.grace != nil}
			if r.exempts {
				info.Action = string(actionExempt)
			}
			out = append(out, info)
		}
	}
	return out
}

// Names are the names of the set's policies, in the order of the files.
func (s *Set) Names() []string {
	if s == nil {
		return nil
	}
	out := make([]string, len(s.policies))
	for i, p := range s.policies {
		out[i] = p.name
	}
	return out
}

// Liftable reports whether an exception may name the rule, as POLICY/RULE: it
// exists in this set and refuses or warns, or it is a policy's default. A set
// that another one judges beside says nothing about that one's rules.
func (s *Set) Liftable(name string) bool {
	if s == nil {
		return false
	}
	for _, p := range s.policies {
		if name == p.name+"/"+ruleDefault {
			return true
		}
		for i := range p.rules {
			if r := &p.rules[i]; name == p.name+"/"+r.name {
				return !r.exempts && r.action != pratique.OutcomeAllow && !kind(r.name).guarded()
			}
		}
	}
	return false
}
