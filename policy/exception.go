package policy

import (
	"errors"
	"fmt"
	"strings"

	"pratique"
)

// Exceptions are exceptions made ready to be asked. They never change; nil holds
// none. Safe for concurrent use.
type Exceptions struct {
	findings  ids
	byFinding map[string][]*compiledException
	byRule    []*compiledException
}

// compiledException is one that may lift something.
type compiledException struct {
	pratique.Exception
	where   *pattern // on UPSTREAM/REPOSITORY; if nil, anywhere
	pkg     purl     // if Package is one
	by, why string
}

// NewExceptions compiles es. The error joins every one that can lift nothing: a
// glob that is none, no place where it holds, the name of a guard. It wraps
// pratique.ErrInvalid; what is good is in the result all the same.
func NewExceptions(es []pratique.Exception) (*Exceptions, error) {
	x := &Exceptions{byFinding: make(map[string][]*compiledException)}
	var errs []error
	for i := range es {
		c, err := compileException(es[i])
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%w exception %q: %w", pratique.ErrInvalid, oneLine(es[i].ID), err))
		case c.Rule != "":
			x.byRule = append(x.byRule, c)
		default:
			x.findings.add(c.Finding)
			x.byFinding[c.Finding] = append(x.byFinding[c.Finding], c)
		}
	}
	return x, errors.Join(errs...)
}

func compileException(e pratique.Exception) (*compiledException, error) {
	c := &compiledException{Exception: e, by: "exception " + oneLine(e.ID), why: exceptionWhy(&e)}
	switch {
	case (e.Finding == "") == (e.Rule == ""):
		return nil, errors.New("want a finding or a rule, one of them")
	case e.Repository == "" && e.Digest == "":
		return nil, errors.New("want a repository or a digest")
	}
	if e.Rule != "" {
		of, rule, ok := strings.Cut(e.Rule, "/")
		if !ok || of == "" || rule == "" || strings.Contains(rule, "/") {
			return nil, fmt.Errorf("rule %q: want POLICY/RULE", oneLine(e.Rule))
		}
		if kind(rule).guarded() {
			return nil, fmt.Errorf("rule %q: no exception lifts what was not scanned whole; write a rule with the action exempt that lifts %q", oneLine(e.Rule), rule)
		}
		if e.Package != "" {
			return nil, errors.New("package narrows a finding; a rule has none")
		}
	}
	if e.Repository != "" {
		g, err := glob(e.Repository)
		if err == nil {
			err = reachable(e.Repository, repoChars)
		}
		if err != nil {
			return nil, fmt.Errorf("repository: %w", err)
		}
		c.where = &g
	}
	if strings.HasPrefix(e.Package, "pkg:") {
		p, ok := parsePURL(e.Package)
		if !ok || len(p.qualifiers) > 0 {
			return nil, fmt.Errorf("package %q: want a name, or a package URL without qualifiers", oneLine(e.Package))
		}
		c.pkg = p
	}
	return c, nil
}

func exceptionWhy(e *pratique.Exception) string {
	why := e.Reason
	if e.Ticket != "" {
		why += ", " + e.Ticket
	}
	return oneLine(why) + " (" + oneLine(e.Author) + ")"
}

func (x *Exceptions) empty() bool { return x == nil || len(x.byFinding) == 0 }

// named are the ids that some exception lifts.
func (x *Exceptions) named() ids {
	if x == nil {
		return ids{}
	}
	return x.findings
}

// lifts tells which exception lifts a finding: of those in force, the one that
// lasts longest.
func (x *Exceptions) lifts(e *evaluation, f *pratique.Finding) (pratique.Lift, bool) {
	if x == nil {
		return pratique.Lift{}, false
	}
	var best *compiledException
	for _, c := range x.byFinding[f.ID] {
		if !c.about(f) || !c.holds(e) {
			continue
		}
		if best == nil || c.Expires.After(best.Expires) || c.Expires.Equal(best.Expires) && c.ID < best.ID {
			best = c
		}
	}
	if best == nil {
		return pratique.Lift{}, false
	}
	return pratique.Lift{Finding: f.ID, Package: f.Package, By: best.by, Why: best.why, Until: best.Expires}, true
}

// exempt adds the exceptions that lift rules from this image.
func (x *Exceptions) exempt(e *evaluation) {
	if x == nil {
		return
	}
	for _, c := range x.byRule {
		if c.holds(e) {
			e.exempted = append(e.exempted, exemption{target: c.Rule, by: c.by, why: c.why, until: c.Expires})
		}
	}
}

// about reports whether the exception is about the finding's package.
func (c *compiledException) about(f *pratique.Finding) bool {
	switch {
	case c.Package == "" || c.Package == f.Package:
		return true
	case c.pkg.kind == "" || f.PURL == "":
		return false
	}
	of, ok := parsePURL(f.PURL)
	return ok && c.pkg.covers(of)
}

// holds reports whether the exception is in force for this image, and notes when
// that changes. What is not known of the image never helps it.
func (c *compiledException) holds(e *evaluation) bool {
	if !c.Revoked.IsZero() || !e.now.Before(c.Expires) || !c.Created.Before(c.Expires) {
		return false
	}
	if c.Digest != "" && c.Digest != e.facts.Image.Digest {
		return false
	}
	if c.where != nil && !c.where.match(e.facts.Ref.Repository()) {
		return false
	}
	if c.Platform != nil {
		if p, known := e.platform(); !known || !p.Matches(*c.Platform) {
			return false
		}
	}
	if e.now.Before(c.Created) {
		e.next(c.Created)
		return false
	}
	e.next(c.Expires)
	return true
}
