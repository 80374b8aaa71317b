package vex

import (
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	openvex "github.com/openvex/go-vex/pkg/vex"

	"pratique"
)

// openVEXContext begins the @context of every OpenVEX document.
const openVEXContext = openvex.Context

// openVEX is one document. Source: OpenVEX specification 0.2.0.
type openVEX struct{ *openvex.VEX }

// ParseOpenVEX reads an OpenVEX document that came with an image. Source, By and
// Image of the statements are for the caller, who knows them. A statement that
// names no product has none: it is about what the document was attached to. The
// error wraps pratique.ErrInvalid.
func ParseOpenVEX(raw []byte) ([]pratique.Statement, error) {
	doc, err := decode(raw)
	if err != nil {
		return nil, fmt.Errorf("VEX: %w", err)
	}
	ov, ok := doc.(*openVEX)
	if !ok {
		return nil, fmt.Errorf("VEX: %w", invalid("not OpenVEX"))
	}
	ss, err := ov.statements(false)
	if err != nil {
		return nil, fmt.Errorf("VEX: %w", err)
	}
	return ss, nil
}

func decodeOpenVEX(raw []byte) (*openVEX, error) {
	doc, err := openvex.Parse(raw)
	if err != nil {
		return nil, invalid("OpenVEX (0.2.0 is what is read): %w", err)
	}
	return &openVEX{doc}, nil
}

// statements are those of the document; alone is set when nothing but a statement
// itself says what it is about.
func (d *openVEX) statements(alone bool) ([]pratique.Statement, error) {
	c := collector{document: d.ID, at: latest(when(d.Timestamp), when(d.LastUpdated))}
	for i := range d.Statements {
		in := &d.Statements[i]
		fail := func(format string, args ...any) error {
			return invalid("statements[%d]: "+format, append([]any{i}, args...)...)
		}
		s := pratique.Statement{
			IDs:           append([]string{string(in.Vulnerability.Name), in.Vulnerability.ID}, aliases(in)...),
			Status:        string(in.Status),
			Justification: string(in.Justification),
			Impact:        in.ImpactStatement,
			At:            latest(when(in.Timestamp), when(in.LastUpdated)),
		}
		switch {
		case !in.Status.Valid():
			return nil, fail("status %.40q: want not_affected, affected, fixed or under_investigation", s.Status)
		case len(ids(s.IDs...)) == 0:
			return nil, fail("it names no vulnerability")
		case s.Status == statusNotAffected && text(s.Justification) == "" && text(s.Impact) == "":
			return nil, fail("not_affected needs a justification or an impact_statement")
		case alone && len(in.Products) == 0:
			return nil, fail("it names no product")
		}
		for j := range in.Products {
			ps, err := openVEXProduct(&in.Products[j])
			if err != nil {
				return nil, fail("products[%d]: %w", j, err)
			}
			s.Products = append(s.Products, ps...)
		}
		if err := c.add(s); err != nil {
			return nil, err
		}
	}
	return c.out, nil
}

func aliases(s *openvex.Statement) []string {
	out := make([]string, len(s.Vulnerability.Aliases))
	for i, a := range s.Vulnerability.Aliases {
		out[i] = string(a)
	}
	return out
}

// openVEXProduct is one product, once for each of the names that it goes by. One
// that has no name would be all products, and one of whose subcomponents none has
// a name all of the product: both are errors.
func openVEXProduct(p *openvex.Product) ([]pratique.Product, error) {
	var components []string
	for i := range p.Subcomponents {
		components = append(components, namesOf(&p.Subcomponents[i].Component)...)
	}
	if len(p.Subcomponents) > 0 && len(components) == 0 {
		return nil, fmt.Errorf("its subcomponents have neither @id nor identifiers nor hashes that are read")
	}
	names := namesOf(&p.Component)
	if len(names) == 0 {
		return nil, fmt.Errorf("it has neither @id nor identifiers nor hashes that are read")
	}
	out := make([]pratique.Product, len(names))
	for i, name := range names {
		out[i] = pratique.Product{ID: name, Components: components}
	}
	return out, nil
}

// namesOf are @id, identifiers and the hashes that may be a manifest's digest,
// any of which identifies a component (OpenVEX 0.2.0, "Component").
func namesOf(c *openvex.Component) []string {
	names := []string{c.ID, c.Identifiers[openvex.PURL], c.Identifiers[openvex.CPE23], c.Identifiers[openvex.CPE22]}
	for _, h := range []struct {
		name openvex.Algorithm
		as   digest.Algorithm
	}{{openvex.SHA256, digest.SHA256}, {openvex.SHA512, digest.SHA512}} {
		sum := strings.ToLower(strings.TrimSpace(string(c.Hashes[h.name])))
		if d, err := pratique.ParseDigest(string(h.as) + ":" + strings.TrimPrefix(sum, string(h.as)+":")); err == nil {
			names = append(names, d.String())
		}
	}
	return ids(names...)
}

func when(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
