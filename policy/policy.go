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
	policies []*policy
	exempts  []*rule // of all policies
	version  string
	needs    Needs
}

// policy is one compiled file.
type policy struct {
	name     string
	pos      strictyaml.Pos   // of the name
	standard pratique.Outcome // when no rule matches
	warnOnly bool             // mode: warn
	rules    []rule
}

// ErrNoPolicies means that Load was given nothing to enforce.
var ErrNoPolicies = errors.New("no policies")

// noPolicies is what a verdict of no policies says.
const noPolicies = "no policy is loaded, so nothing is served"

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
		p, err := compile(f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if first, ok := names[p.name]; ok {
			errs = append(errs, &strictyaml.Error{Pos: p.pos, Message: fmt.Sprintf("policy %q is already defined at %s", p.name, first)})
			continue
		}
		names[p.name] = p.pos
		set.add(p)
	}
	if len(errs) == 0 {
		errs = set.resolve()
	}
	if len(errs) > 0 {
		return nil, &loadError{errors.Join(errs...)}
	}
	return set, nil
}

func (s *Set) add(p *policy) {
	s.policies = append(s.policies, p)
	for i := range p.rules {
		r := &p.rules[i]
		s.needs |= r.needs()
		if r.exempts {
			s.exempts = append(s.exempts, r)
		}
	}
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

// ReadsClient reports whether a verdict may depend on Facts.Client. Who remembers
// verdicts has to tell clients apart when it does.
func (s *Set) ReadsClient() bool { return s.Needs().Has(NeedClient) }

// Needs are the facts that a verdict of this set may depend on.
func (s *Set) Needs() Needs {
	if s == nil {
		return 0
	}
	return s.needs
}

// NeedsFor are those of Needs that a verdict on an image of ref's repository may
// depend on: what only rules about other repositories read is not worth asking an
// upstream for, and its failure is no reason to refuse.
func (s *Set) NeedsFor(ref pratique.Ref) Needs {
	if s == nil {
		return 0
	}
	var out Needs
	for _, p := range s.policies {
		for i := range p.rules {
			if r := &p.rules[i]; out&s.needs != s.needs && !r.elsewhere(&ref) {
				out |= r.needs()
			}
		}
	}
	return out
}

// Decide judges. All rules of all policies are evaluated. Within a policy deny
// beats warn beats allow, and its default decides when no rule matched; between
// policies the strictest wins. The reasons of the verdict are every deny, then
// every warn; when there is neither, all that allowed the image. Findings in
// the reasons may share memory and are not to be changed.
func (s *Set) Decide(f Facts) pratique.Verdict {
	v := pratique.Verdict{Policy: s.Version()}
	if s == nil || len(s.policies) == 0 {
		v.Reasons = []pratique.Reason{{Rule: ruleDefault, Message: noPolicies}}
		v.ID = verdictID(&f, &v, 0)
		return v
	}
	if s.needs.Has(NeedNames) && f.Ref.Tag == "" {
		return s.decideByDigest(&f)
	}
	return s.decide(&f)
}

// decide judges under the name asked for.
func (s *Set) decide(f *Facts) pratique.Verdict {
	v := pratique.Verdict{Policy: s.version}
	e := newEvaluation(f)
	s.exempt(e)
	f.Exceptions.exempt(e)
	outcome := pratique.OutcomeAllow
	reasons := make([]pratique.Reason, 0, 4)
	for _, p := range s.policies {
		before := len(reasons)
		reasons = p.judge(e, reasons)
		outcome = strictest(outcome, reasonsOutcome(reasons[before:]))
	}
	v.Outcome, v.Reasons, v.Until = outcome, inOrder(reasons, outcome), e.until
	v.Lifted = e.liftedFrom(s)
	v.ID = verdictID(f, &v, e.mark)
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

// verdictID names a verdict: the same image, report, policies, outcome and
// substance of its reasons give the same id, in every replica and after a
// restart. Texts, which tell the time, are no part of it.
func verdictID(f *Facts, v *pratique.Verdict, mark uint64) string {
	b := make([]byte, 0, 2048)
	add := func(s string) { b = append(append(b, s...), 0) }
	add(f.Image.Digest.String())
	add(string(f.Report.State))
	add(f.Report.Engine.Version)
	add(f.Report.Engine.Analyzer)
	add(f.Report.Engine.Database.String())
	add(v.Policy)
	add(string(v.Outcome))
	if !f.Report.ScannedAt.IsZero() {
		b = binary.BigEndian.AppendUint64(b, uint64(f.Report.ScannedAt.UnixNano())) //nolint:gosec // a hash's input
	}
	b = binary.BigEndian.AppendUint64(b, mark)
	for i := range v.Reasons {
		r := &v.Reasons[i]
		add(r.Policy)
		add(r.Rule)
		add(string(r.Action))
		b = binary.BigEndian.AppendUint64(b, uint64(len(r.Findings)))
		if !r.GraceEnds.IsZero() {
			b = binary.BigEndian.AppendUint64(b, uint64(r.GraceEnds.UnixNano())) //nolint:gosec // a hash's input
		}
	}
	for i := range v.Lifted {
		l := &v.Lifted[i]
		add(l.Policy)
		add(l.Rule)
		add(l.Finding)
		add(l.Package)
		add(l.By)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}
