package policy

import (
	"cmp"
	"fmt"
	"slices"

	"pratique"
	"pratique/internal/strictyaml"
)

// Warning is something in policy files that loads and is probably not meant.
type Warning struct {
	Pos     strictyaml.Pos
	Message string
	// Suggestion is what to write instead.
	Suggestion string
}

func (w Warning) String() string {
	return w.Pos.String() + ": " + w.Message + "; " + w.Suggestion
}

// Lint reads policy files as Load does, all together as they will be in force,
// and looks for rules that never change a verdict, that contradict each other or
// that cannot do what they seem to. The error is Load's.
func Lint(files ...File) ([]Warning, error) {
	s, err := Load(files...)
	if err != nil {
		return nil, err
	}
	l := linter{set: s, lifted: make(map[string]bool)}
	for _, r := range s.exempts {
		for _, target := range r.lifts {
			l.lifted[target] = true
		}
	}
	for _, p := range s.policies {
		l.standard(p)
		for i := range p.rules {
			r := &p.rules[i]
			switch {
			case r.never():
				l.warn(r, "correct `match` or `except`, or delete the rule", "rule %q is about nothing: `except` takes out all that `match` lets in", r.name)
			case r.exempts:
				l.exempt(r)
			default:
				l.shadow(r)
				l.byTag(p, r)
			}
		}
	}
	order := make(map[string]int, len(files))
	for i, f := range files {
		order[f.Name] = i
	}
	slices.SortStableFunc(l.out, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(order[a.Pos.File], order[b.Pos.File]), cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Column, b.Pos.Column))
	})
	return l.out, nil
}

type linter struct {
	set    *Set
	lifted map[string]bool // POLICY/RULE that an exempt rule names
	out    []Warning
}

func (l *linter) warn(r *rule, suggestion, format string, args ...any) {
	l.out = append(l.out, Warning{r.pos, fmt.Sprintf(format, args...), suggestion})
}

// standard looks at what a policy's default and its rules make together.
func (l *linter) standard(p *policy) {
	serves := false
	for i := range p.rules {
		r := &p.rules[i]
		serves = serves || r.exempts || r.action != pratique.OutcomeDeny
		if r.action == pratique.OutcomeAllow && !r.exempts && p.standard == pratique.OutcomeAllow && !r.kind.guarded() {
			l.warn(r, "to lift rules write `action: exempt` with `lifts`, else delete the rule or write `default: deny`",
				"rule %q allows what the policy's default allows: it changes nothing, because allow lifts no other rule", r.name)
		}
	}
	if !serves && p.standard == pratique.OutcomeDeny && !p.warnOnly {
		l.out = append(l.out, Warning{p.pos, fmt.Sprintf("policy %q refuses every image: its default is deny and no rule lets anything through", p.name),
			"write `default: allow`, or a rule with the action allow"})
	}
}

// shadow looks for a rule that applies wherever r does and decides alone.
func (l *linter) shadow(r *rule) {
	for _, p := range l.set.policies {
		for i := range p.rules {
			by := &p.rules[i]
			if !l.shadows(by, r) {
				continue
			}
			name := by.policy + "/" + by.name
			switch {
			case r.action == pratique.OutcomeAllow:
				l.warn(r, "narrow that rule with `except`, or lift it with `action: exempt`",
					"rule %q contradicts %s (%s), which %s all that it allows: the stricter one wins", r.name, name, by.pos, verb(by.action))
			case by.action == r.action:
				l.warn(r, "delete one of both", "rule %q is never needed: %s (%s) %s all of it already", r.name, name, by.pos, verb(by.action))
			default:
				l.warn(r, "delete one of both, or narrow that rule with `except`",
					"rule %q never changes a verdict: %s (%s) %s all of it", r.name, name, by.pos, verb(by.action))
			}
			return
		}
	}
}

// shadows reports whether r changes nothing because of by.
func (l *linter) shadows(by, r *rule) bool {
	switch {
	case by == r, by.exempts, by.grace != nil, l.lifted[by.policy+"/"+by.name], !by.covers(r):
		return false
	case strictness(by.action) < strictness(r.action), by.action == pratique.OutcomeAllow:
		return false
	case by.policy != r.policy && by.action != pratique.OutcomeDeny:
		return false // it may keep its own policy's default from deciding
	case by.action == r.action && r.covers(by):
		return by.before(r, l.set) // of twins the later one is told
	}
	return true
}

func verb(o pratique.Outcome) string {
	if o == pratique.OutcomeWarn {
		return "warns about"
	}
	return "denies"
}

// before reports whether r stands before other in the set.
func (r *rule) before(other *rule, s *Set) bool {
	for _, p := range s.policies {
		for i := range p.rules {
			switch &p.rules[i] {
			case r:
				return true
			case other:
				return false
			}
		}
	}
	return false
}

// byTag looks for rules that let through by tag alone: no pull by digest does.
func (l *linter) byTag(p *policy, r *rule) {
	tags := r.doc.Match != nil && len(r.doc.Match.Tag) > 0 || r.doc.Except != nil && len(r.doc.Except.Tag) > 0
	if tags && (r.lenient() || r.action == pratique.OutcomeWarn && p.standard == pratique.OutcomeDeny) {
		l.warn(r, "name repositories instead of tags", "rule %q lets through by tag: it does not apply to pulls by digest, and container runtimes pull by digest once they know it", r.name)
	}
}

// exempt looks for rules that lift nothing, or not enough.
func (l *linter) exempt(r *rule) {
	for _, p := range l.set.policies {
		for i := range p.rules {
			t := &p.rules[i]
			lifts := slices.Contains(r.lifts, p.name+"/"+t.name)
			switch guard := p.name + "/" + string(t.kind); {
			case lifts && !overlap(r.doc.Match, t.doc.Match):
				l.warn(r, "compare the `match` of both", "rule %q lifts nothing from %s/%s (%s): nothing fits both", r.name, p.name, t.name, t.pos)
			case !t.kind.guarded() || t.exempts || t.action == pratique.OutcomeAllow:
			case lifts && !slices.Contains(r.lifts, guard) && t.action == pratique.OutcomeDeny:
				l.warn(r, fmt.Sprintf("add %q to `lifts`", guard), "rule %q lifts %s/%s, and what it is about is refused all the same: without such a rule the guard %q refuses", r.name, p.name, t.name, t.kind)
			case !lifts && slices.Contains(r.lifts, guard) && overlap(r.doc.Match, t.doc.Match):
				l.warn(r, fmt.Sprintf("add %q to `lifts`", p.name+"/"+t.name), "rule %q lifts the guard %q and not %s/%s (%s), which is about the same state", r.name, t.kind, p.name, t.name, t.pos)
			}
		}
	}
}
