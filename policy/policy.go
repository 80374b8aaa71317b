package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"pratique"
	"pratique/internal/strictyaml"
)

// File is one policy as written. Name stands in error messages only.
type File struct {
	Name string
	Data []byte
}

// Set is the policies in force. Each judges on its own; the strictest outcome
// is the set's. A nil Set and the zero Set refuse everything.
type Set struct {
	policies []policy
	version  string
}

// policy is one compiled file.
type policy struct {
	name     string
	standard pratique.Outcome // when no rule matches
	rules    []rule
}

// ErrNoPolicies means that Load was given nothing to enforce.
var ErrNoPolicies = errors.New("no policies")

// Load compiles policy files. The error joins every mistake, each with file,
// line and column; it wraps pratique.ErrInvalid, or is ErrNoPolicies. A set is
// loaded whole or not at all.
func Load(files ...File) (*Set, error) {
	if len(files) == 0 {
		return nil, ErrNoPolicies
	}
	set := &Set{version: version(files)}
	var errs []error
	names := make(map[string]strictyaml.Pos)
	for _, f := range files {
		p, pos, err := compile(f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if first, ok := names[p.name]; ok {
			errs = append(errs, &strictyaml.Error{Pos: pos, Message: fmt.Sprintf("policy %q is already defined at %s", p.name, first)})
			continue
		}
		names[p.name] = pos
		set.policies = append(set.policies, p)
	}
	if len(errs) > 0 {
		return nil, &loadError{errors.Join(errs...)}
	}
	return set, nil
}

// loadError marks mistakes as pratique.ErrInvalid without adding words.
type loadError struct{ error }

func (e *loadError) Unwrap() []error { return []error{pratique.ErrInvalid, e.error} }

// version hashes the sources, in order.
func version(files []File) string {
	h := sha256.New()
	var size [8]byte
	for _, f := range files {
		binary.BigEndian.PutUint64(size[:], uint64(len(f.Data)))
		h.Write(size[:])
		h.Write(f.Data)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

// Version identifies the sources of the set: the same files give the same
// version on every machine. Empty for the zero Set.
func (s *Set) Version() string {
	if s == nil {
		return ""
	}
	return s.version
}

// ReadsClient reports whether a verdict may depend on Facts.Client: no rule does
// yet. Who remembers verdicts has to tell clients apart when it does.
func (s *Set) ReadsClient() bool { return s.Needs().Has(NeedClient) }

// Needs are the facts that a verdict of this set may depend on.
func (s *Set) Needs() Needs { return 0 }

// Decide judges. All rules of all policies are evaluated. Within a policy deny
// beats warn beats allow, and its default decides when no rule matched; between
// policies the strictest wins. The reasons of the verdict are every deny, then
// every warn; when there is neither, all that allowed the image. Findings in
// the reasons may share memory and are not to be changed.
func (s *Set) Decide(f Facts) pratique.Verdict {
	v := pratique.Verdict{Policy: s.Version()}
	if s == nil || len(s.policies) == 0 {
		v.Reasons = []pratique.Reason{{Rule: "default", Message: "no policy is loaded, so nothing is served"}}
		v.ID = verdictID(&f, &v)
		return v
	}
	t := newTally(f.findings())
	state := f.state()
	outcome := pratique.OutcomeAllow
	reasons := make([]pratique.Reason, 0, 4)
	for i := range s.policies {
		p := &s.policies[i]
		before := len(reasons)
		reasons = p.judge(&f, state, &t, reasons)
		outcome = strictest(outcome, reasonsOutcome(reasons[before:]))
	}
	v.Outcome, v.Reasons = outcome, inOrder(reasons, outcome)
	v.ID = verdictID(&f, &v)
	return v
}

// inOrder returns the denying reasons, then the warning ones; those that allow
// only when the outcome is allow.
func inOrder(reasons []pratique.Reason, outcome pratique.Outcome) []pratique.Reason {
	if outcome == pratique.OutcomeAllow || len(reasons) == 1 {
		return reasons // allow is the mildest outcome: there is no other reason then
	}
	out := make([]pratique.Reason, 0, len(reasons))
	for level := strictness(pratique.OutcomeDeny); level > strictness(pratique.OutcomeAllow); level-- {
		for i := range reasons {
			if strictness(reasons[i].Action) == level {
				out = append(out, reasons[i])
			}
		}
	}
	return out
}

// judge appends the policy's reasons, of which there is always at least one.
func (p *policy) judge(f *Facts, state pratique.State, t *tally, reasons []pratique.Reason) []pratique.Reason {
	before := len(reasons)
	named := false // a rule about this very state of the scan applies
	met := kindOf(state)
	for i := range p.rules {
		r := &p.rules[i]
		if !r.holds(f, state, t) || !r.selects(&f.Ref) {
			continue
		}
		named = named || r.kind == met
		reasons = append(reasons, r.reason(p.name, f, state, t))
	}
	if met.guarded() && !named {
		reasons = append(reasons, pratique.Reason{
			Policy:  p.name,
			Rule:    string(met),
			Action:  pratique.OutcomeDeny,
			Message: stateText(state, f.Report.Problems),
			State:   state,
		})
	}
	if len(reasons) == before {
		reasons = append(reasons, pratique.Reason{
			Policy:  p.name,
			Rule:    "default",
			Action:  p.standard,
			Message: "no rule matched; the policy's default is " + p.standard.String(),
		})
	}
	return reasons
}

// strictness orders outcomes; any word that is none of the three denies.
func strictness(o pratique.Outcome) int {
	switch o {
	case pratique.OutcomeAllow:
		return 0
	case pratique.OutcomeWarn:
		return 1
	default:
		return 2
	}
}

func strictest(a, b pratique.Outcome) pratique.Outcome {
	if strictness(b) > strictness(a) {
		return b
	}
	return a
}

// reasonsOutcome is the strictest action; of no reasons it is deny.
func reasonsOutcome(rs []pratique.Reason) pratique.Outcome {
	if len(rs) == 0 {
		return pratique.OutcomeDeny
	}
	out := pratique.OutcomeAllow
	for i := range rs {
		out = strictest(out, rs[i].Action)
	}
	return out
}

// verdictID names a verdict: the same image, report, policies and outcome give
// the same id, in every replica and after a restart.
func verdictID(f *Facts, v *pratique.Verdict) string {
	b := make([]byte, 0, 512)
	for _, s := range [...]string{
		f.Image.Digest.String(), string(f.Report.State), f.Report.Engine.Version, f.Report.Engine.Analyzer,
		f.Report.Engine.Database.String(), v.Policy, string(v.Outcome),
	} {
		b = append(b, s...)
		b = append(b, 0)
	}
	if !f.Report.ScannedAt.IsZero() {
		b = binary.BigEndian.AppendUint64(b, uint64(f.Report.ScannedAt.UnixNano()))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}
