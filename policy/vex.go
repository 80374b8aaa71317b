package policy

import (
	"strings"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Status words of OpenVEX. Those that lift a finding, and those that say it
// stands; any other word lifts nothing.
const (
	vexNotAffected = "not_affected"
	vexFixed       = "fixed"
)

// Statements are VEX statements made ready to be asked. They never change; nil
// holds none. Safe for concurrent use.
type Statements struct {
	ids  ids
	byID map[string][]*compiledStatement
}

type compiledStatement struct {
	pratique.Statement
	products []compiledProduct
}

// compiledProduct is the image, by its digest or a package URL, or a package.
type compiledProduct struct {
	digest     digest.Digest
	purl       purl
	narrowed   bool // the document names components
	components []purl
}

// NewStatements indexes ss. What a document names otherwise than by package URL
// or digest is about nothing that is known here.
func NewStatements(ss []pratique.Statement) *Statements {
	s := &Statements{byID: make(map[string][]*compiledStatement)}
	for i := range ss {
		s.add(ss[i])
	}
	return s
}

func (s *Statements) add(of pratique.Statement) {
	c := &compiledStatement{Statement: of}
	for _, p := range of.Products {
		product := compiledProduct{narrowed: len(p.Components) > 0}
		if d, err := pratique.ParseDigest(p.ID); err == nil {
			product.digest = d
		} else if u, ok := parsePURL(p.ID); ok {
			product.purl = u
		}
		for _, text := range p.Components {
			if u, ok := parsePURL(text); ok {
				product.components = append(product.components, u)
			}
		}
		c.products = append(c.products, product)
	}
	for _, id := range of.IDs {
		s.ids.add(id)
		s.byID[id] = append(s.byID[id], c)
	}
}

// named are the ids that some statement is about.
func (s *Statements) named() ids {
	if s == nil {
		return ids{}
	}
	return s.ids
}

func (s *Statements) empty() bool { return s == nil || len(s.byID) == 0 }

// attested are the statements that came with the image, which speak of it alone.
func attested(f *Facts) *Statements {
	if len(f.Attestations.Statements) == 0 || f.Attestations.Image != f.Image.Digest {
		return nil
	}
	s := NewStatements(nil)
	for _, of := range f.Attestations.Statements {
		if of.Image == "" {
			of.Image = f.Attestations.Image
		}
		s.add(of)
	}
	return s
}

// liftedByStatement tells which statement lifts a vulnerability. Where documents
// contradict each other the latest counts; what does not say when it was written
// never outweighs one that says the finding stands.
func liftedByStatement(e *evaluation, f *pratique.Finding, sources []*Statements) (pratique.Lift, bool) {
	if classOf(f.Kind) != vulnerabilities {
		return pratique.Lift{}, false
	}
	var lifts, stands *compiledStatement
	of, parsed := purl{}, false
	for _, s := range sources {
		if s.empty() {
			continue
		}
		for _, c := range s.byID[f.ID] {
			if !parsed {
				of, _ = parsePURL(f.PURL)
				parsed = true
			}
			if !c.about(e, of) {
				continue
			}
			best := &stands
			if c.Status == vexNotAffected || c.Status == vexFixed {
				best = &lifts
			}
			if *best == nil || c.At.After((*best).At) {
				*best = c
			}
		}
	}
	if lifts == nil || stands != nil && (stands.At.IsZero() || !lifts.At.After(stands.At)) {
		return pratique.Lift{}, false
	}
	return pratique.Lift{Finding: f.ID, Package: f.Package, By: "vex " + lifts.Status, Why: lifts.why()}, true
}

func (c *compiledStatement) why() string {
	said := c.Justification
	if c.Impact != "" {
		said = strings.TrimPrefix(said+": "+c.Impact, ": ")
	}
	if said == "" {
		said = "no justification is given"
	}
	return oneLine(said) + " (" + oneLine(c.Document) + ", " + oneLine(c.Source) + ")"
}

// about reports whether the statement is about this package in this image.
func (c *compiledStatement) about(e *evaluation, of purl) bool {
	if c.Image != "" && c.Image != e.facts.Image.Digest {
		return false
	}
	if len(c.products) == 0 {
		return c.Image != "" // the document speaks of the manifest that it is attached to
	}
	for i := range c.products {
		if exact, ok := c.products[i].about(e, of, c.Image != ""); ok && (exact || c.Status != vexFixed) {
			return true
		}
	}
	return false
}

// about reports whether the product is this package in this image, and whether
// it is so exactly: a package of all versions has not been fixed in all of them,
// nor has whatever a tag names.
func (p *compiledProduct) about(e *evaluation, of purl, bound bool) (exact, ok bool) {
	switch {
	case p.digest != "":
		exact, ok = true, p.digest == e.facts.Image.Digest
	case p.purl.kind == kindImage:
		ok = p.purl.isImage(e) || bound && p.purl.version == ""
		exact = bound || strings.Contains(p.purl.version, ":")
	case p.narrowed:
		// A package that holds another one: reports do not say which holds which.
		return false, false
	default:
		return bound || p.purl.version != "", p.purl.covers(of)
	}
	if !ok || !p.narrowed {
		return exact, ok
	}
	ok = false
	for i := range p.components {
		if c := &p.components[i]; c.covers(of) {
			ok = true
			exact = exact || c.version != ""
		}
	}
	return exact, ok
}
