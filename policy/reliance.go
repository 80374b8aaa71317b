package policy

import (
	"pratique/internal/strictyaml"
)

// Reliance is what a rule counts on outside of policies: whoever puts a set in
// force can tell that it is not there, which a rule would only ever call not
// known.
type Reliance struct {
	Pos  strictyaml.Pos
	Rule string // POLICY/RULE
	// Identities are names of trusted identities.
	Identities []string
	// KEV and EPSS: the rule reads the list of exploited vulnerabilities, or scores.
	KEV, EPSS bool
}

// reliant conditions count on something outside.
type reliant interface{ relies(on *Reliance) }

func (u unsigned) relies(on *Reliance) { on.Identities = u.by }

func (u *unproven) relies(on *Reliance) { on.Identities = u.by }

func (c *ofFindings) relies(on *Reliance) { on.KEV, on.EPSS = c.kev, c.epss }

func (x *expression) relies(on *Reliance) {
	on.Identities, on.KEV, on.EPSS = x.identities, x.kev, x.epss
}

// Reliances of the rules, of those that have any, in the order of the files.
func (s *Set) Reliances() []Reliance {
	if s == nil {
		return nil
	}
	var out []Reliance
	for _, p := range s.policies {
		for i := range p.rules {
			r := &p.rules[i]
			on := Reliance{Pos: r.pos, Rule: p.name + "/" + r.name}
			if c, ok := r.condition.(reliant); ok {
				c.relies(&on)
			}
			on.KEV = on.KEV || r.grace != nil && r.grace.hasKEV
			if len(on.Identities) > 0 || on.KEV || on.EPSS {
				out = append(out, on)
			}
		}
	}
	return out
}
