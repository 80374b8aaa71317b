package policy

import (
	"fmt"
	"strings"
	"time"

	"pratique"
	"pratique/internal/strictyaml"
)

// ruleDefault is how a policy's default is called where a rule is named.
const ruleDefault = "default"

// exemption is what an exempt rule, or an exception, lifts from this image.
type exemption struct {
	target  string // POLICY/RULE
	rule    *rule  // if nil, by an exception
	by, why string
	until   time.Time
}

// exemption compiles what only exempt rules have.
func (c *compiler) exemption(r *rule, at place, d *ruleDocument) {
	if !r.exempts {
		if c.has(at, "lifts") {
			c.failAt(at, "lifts", "lifts: only a rule with the action exempt lifts others")
		}
		return
	}
	if d.Match == nil {
		c.fail(d.Pos, "rule %q lifts others and has no match: say for what", d.Name)
	}
	if strings.TrimSpace(d.Message) == "" {
		c.fail(d.Pos, "rule %q lifts others and has no message: say why", d.Name)
	}
	if len(d.Lifts) == 0 {
		c.failAt(at, "lifts", "rule %q lifts nothing: name rules under `lifts`", d.Name)
	}
	for i, target := range d.Lifts {
		r.liftsAt = append(r.liftsAt, c.at(fmt.Sprintf("%s.lifts[%d]", at.path, i), d.Pos))
		if !strings.Contains(target, "/") {
			target = c.doc.Name + "/" + target
		}
		r.lifts = append(r.lifts, target)
	}
}

// resolve checks what exempt rules of a set lift.
func (s *Set) resolve() (errs []error) {
	known := make(map[string]*rule)
	var names []string
	for i := range s.policies {
		p := s.policies[i]
		for _, builtin := range []string{string(kindUnscanned), string(kindIncomplete), string(kindScanFailed), ruleDefault} {
			known[p.name+"/"+builtin] = nil
			names = append(names, p.name+"/"+builtin)
		}
		for j := range p.rules {
			known[p.name+"/"+p.rules[j].name] = &p.rules[j]
			names = append(names, p.name+"/"+p.rules[j].name)
		}
	}
	for _, p := range s.policies {
		for i := range p.rules {
			r := &p.rules[i]
			for j, target := range r.lifts {
				t, ok := known[target]
				var text string
				switch {
				case !ok:
					text = fmt.Sprintf("lifts: there is no rule %q%s", target, didYouMean(target, names...))
				case t == nil:
				case t.exempts:
					text = fmt.Sprintf("lifts: rule %q lifts others itself and cannot be lifted", target)
				case t.action == pratique.OutcomeAllow:
					text = fmt.Sprintf("lifts: rule %q allows: there is nothing to lift", target)
				}
				if text != "" {
					errs = append(errs, &strictyaml.Error{Pos: r.liftsAt[j], Message: text})
				}
			}
		}
	}
	return errs
}

// exempt asks the exempt rules, and the exceptions that name rules.
func (s *Set) exempt(e *evaluation) {
	for _, r := range s.exempts {
		m := r.ask(e)
		if !r.applies(&m) {
			continue
		}
		for _, target := range r.lifts {
			e.exempted = append(e.exempted, exemption{
				target: target, rule: r, by: "rule " + r.policy + "/" + r.name, why: r.message, until: m.changes,
			})
		}
	}
}

// exemptionOf is what lifts a rule; nil when it counts.
func (e *evaluation) exemptionOf(policy, name string) *exemption {
	for i := range e.exempted {
		x := &e.exempted[i]
		if len(x.target) == len(policy)+1+len(name) && strings.HasPrefix(x.target, policy) && strings.HasSuffix(x.target, name) && x.target[len(policy)] == '/' {
			return x
		}
	}
	return nil
}
