package policy

import (
	"slices"

	"pratique"
)

// maxLifted bounds Verdict.Lifted.
const maxLifted = 100

// liftedFinding is a finding that counts in no rule, and what lifted it.
type liftedFinding struct {
	finding pratique.Finding
	lift    pratique.Lift // without policy and rule
}

// ids tells quickly that an id is not among those that were added: most findings
// are never lifted. The zero value holds none.
type ids [64]uint64

func (s *ids) place(id string) (word, bit uint64) {
	h := uint64(len(id))
	for i := max(0, len(id)-6); i < len(id); i++ {
		h = h*31 + uint64(id[i])
	}
	h = scatter(h)
	return h % 64, h / 64 % 64
}

func (s *ids) add(id string) {
	word, bit := s.place(id)
	s[word] |= 1 << bit
}

func (s *ids) join(other ids) {
	for i := range s {
		s[i] |= other[i]
	}
}

func (s *ids) mayHold(id string) bool {
	word, bit := s.place(id)
	return s[word]>>bit&1 == 1
}

// lift notes that a rule would have applied.
func (e *evaluation) lift(policy, rule string, x *exemption) {
	for i := range e.lifts {
		if l := &e.lifts[i]; l.Policy == policy && l.Rule == rule && l.By == x.by {
			return // the rule is called like the guard
		}
	}
	e.lifts = append(e.lifts, pratique.Lift{Policy: policy, Rule: rule, By: x.by, Why: x.why, Until: x.until})
}

// liftFindings tells which findings an exception or a statement lifts, by their
// place and one by one; nil when none is.
func (e *evaluation) liftFindings(all []pratique.Finding) (skip []bool, lifted []liftedFinding) {
	f := e.facts
	if f.Exceptions.empty() && f.Statements.empty() && len(f.Attestations.Statements) == 0 {
		return nil, nil
	}
	statements := []*Statements{f.Statements, attested(f)}
	named := f.Exceptions.named()
	for _, s := range statements {
		named.join(s.named())
	}
	for i := range all {
		x := &all[i]
		if !named.mayHold(x.ID) {
			continue
		}
		lift, ok := f.Exceptions.lifts(e, x)
		if !ok {
			if lift, ok = liftedByStatement(e, x, statements); !ok {
				continue
			}
		}
		if skip == nil {
			skip = make([]bool, len(all))
		}
		skip[i] = true
		lifted = append(lifted, liftedFinding{*x, lift})
	}
	return skip, lifted
}

// counted are the findings that count, in the report's order.
func (e *evaluation) counted() []pratique.Finding {
	all, skip := e.tally.findings, e.tally.skip
	if skip == nil {
		return all
	}
	if e.counting == nil {
		e.counting = make([]pratique.Finding, 0, len(all)-1)
		for i := range all {
			if !skip[i] {
				e.counting = append(e.counting, all[i])
			}
		}
	}
	return e.counting
}

// liftedFrom completes what was lifted with the findings that some rule would
// have counted, each once, with the first such rule.
func (e *evaluation) liftedFrom(s *Set) []pratique.Lift {
	if len(e.lifted) == 0 {
		return e.lifts[:min(len(e.lifts), maxLifted)]
	}
	would := *e
	lifted := make([]pratique.Finding, len(e.lifted))
	for i := range e.lifted {
		lifted[i] = e.lifted[i].finding
	}
	would.tally, would.counting = newTally(lifted, nil), nil
	found := make([]bool, len(e.lifted))
	for _, p := range s.policies {
		for i := range p.rules {
			r := &p.rules[i]
			if r.exempts || r.action == pratique.OutcomeAllow || !r.readsFindings() {
				continue
			}
			m := r.ask(&would)
			if !r.applies(&m) {
				continue
			}
			for j := range e.lifted {
				if !found[j] && holds(&m, &e.lifted[j].finding) {
					found[j] = true
					lift := e.lifted[j].lift
					lift.Policy, lift.Rule = p.name, r.name
					e.lifts = append(e.lifts, lift)
				}
			}
		}
	}
	return e.lifts[:min(len(e.lifts), maxLifted)]
}

// holds reports whether the match is about the finding; one that lists none is
// about all.
func holds(m *match, f *pratique.Finding) bool {
	return len(m.findings) == 0 || slices.ContainsFunc(m.findings, func(g pratique.Finding) bool {
		return g.ID == f.ID && g.Kind == f.Kind && g.Package == f.Package && g.Installed == f.Installed && g.Path == f.Path
	})
}
