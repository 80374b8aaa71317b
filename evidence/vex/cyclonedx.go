package vex

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"pratique"
)

// bom is a CycloneDX document: VEX, or a BOM that VEX refers to, or both.
// Source: CycloneDX 1.6 JSON reference; BOM-Link.
type bom struct {
	*cdx.BOM
	// product is the purl of what the BOM describes; described is set when it
	// describes anything.
	product   string
	described bool
	root      string            // bom-ref of that
	purls     map[string]string // bom-ref → purl, of every component
}

// boms are the documents by serial number and version.
type boms map[string]*namedBOM

type namedBOM struct {
	*bom
	file string
}

func (b boms) add(file string, doc *bom) error {
	if doc.SerialNumber == "" {
		return nil
	}
	key := linkKey(doc.SerialNumber, doc.Version)
	if other, ok := b[key]; ok {
		return invalid("it has the serial number and version of %s", other.file)
	}
	b[key] = &namedBOM{doc, file}
	return nil
}

func linkKey(serial string, version int) string {
	return fmt.Sprintf("%s/%d", strings.ToLower(serial), max(version, 1))
}

func decodeCycloneDX(raw []byte) (*bom, error) {
	doc := new(cdx.BOM)
	if err := cdx.NewBOMDecoder(bytes.NewReader(raw), cdx.BOMFileFormatJSON).Decode(doc); err != nil {
		return nil, invalid("CycloneDX: %w", err)
	}
	b := &bom{BOM: doc, purls: make(map[string]string)}
	if doc.Metadata != nil && doc.Metadata.Component != nil {
		c := doc.Metadata.Component
		b.described, b.root, b.product = true, c.BOMRef, versioned(c.PackageURL, c.Version)
		b.index(list(c.Components))
	}
	b.index(list(doc.Components))
	return b, nil
}

// index notes the purls of components and of those within them. A reference that
// stands for two is none: bom-refs are unique.
func (b *bom) index(cs []cdx.Component) {
	for i := range cs {
		c := &cs[i]
		purl := versioned(c.PackageURL, c.Version)
		if other, ok := b.purls[c.BOMRef]; ok && other != purl {
			purl = ""
		}
		b.purls[c.BOMRef] = purl
		b.index(list(c.Components))
	}
}

func list[T any](p *[]T) []T {
	if p == nil {
		return nil
	}
	return *p
}

// statements are those of the document.
func (b *bom) statements(all boms) ([]pratique.Statement, error) {
	c := collector{document: b.SerialNumber}
	if b.Metadata != nil {
		c.at = instant(b.Metadata.Timestamp)
	}
	for i := range list(b.Vulnerabilities) {
		v := &(*b.Vulnerabilities)[i]
		if v.Analysis == nil || v.Analysis.State == "" {
			continue // a vulnerability that is listed, and nothing said of it
		}
		s, err := b.statement(v, all)
		if err != nil {
			return nil, invalid("vulnerabilities[%d]: %w", i, err)
		}
		if len(s.Products) == 0 {
			continue
		}
		if err := c.add(s); err != nil {
			return nil, err
		}
	}
	return c.out, nil
}

func (b *bom) statement(v *cdx.Vulnerability, all boms) (pratique.Statement, error) {
	s := pratique.Statement{
		IDs:           []string{v.ID},
		Justification: string(v.Analysis.Justification),
		Impact:        v.Analysis.Detail,
		At:            latest(instant(v.Analysis.LastUpdated), instant(v.Analysis.FirstIssued)),
	}
	if s.At.IsZero() {
		s.At = latest(instant(v.Updated), instant(v.Published))
	}
	for _, r := range list(v.References) {
		s.IDs = append(s.IDs, r.ID) // the same vulnerability elsewhere
	}
	switch v.Analysis.State {
	case cdx.IASNotAffected, cdx.IASFalsePositive:
		s.Status = statusNotAffected
	case cdx.IASResolved, cdx.IASResolvedWithPedigree:
		s.Status = statusFixed
	case cdx.IASExploitable:
		s.Status = statusAffected
	case cdx.IASInTriage:
		s.Status = statusUnderInvestigation
	default:
		return s, fmt.Errorf("analysis.state %.40q: want not_affected, false_positive, resolved, resolved_with_pedigree, exploitable or in_triage", string(v.Analysis.State))
	}
	if len(ids(s.IDs...)) == 0 {
		return s, fmt.Errorf("it has no id")
	}
	for i, a := range list(v.Affects) {
		p, err := b.productOf(a.Ref, all)
		if err != nil {
			return s, fmt.Errorf("affects[%d]: %w", i, err)
		}
		if ranged(a, p) {
			continue
		}
		s.Products = append(s.Products, p)
	}
	return s, nil
}

// productOf is what a reference stands for: a component as part of what its BOM
// describes.
func (b *bom) productOf(ref string, all boms) (pratique.Product, error) {
	in, id := b, ref
	if strings.HasPrefix(ref, "urn:cdx:") {
		link, err := cdx.ParseBOMLink(ref)
		if err != nil {
			return pratique.Product{}, fmt.Errorf("%.200q: %w", ref, err)
		}
		found, ok := all[linkKey(link.SerialNumber(), link.Version())]
		if !ok {
			return pratique.Product{}, fmt.Errorf("%.200q: that BOM is not among the files; nothing else says which image is meant", ref)
		}
		in, id = found.bom, link.Reference()
	}
	if id == "" || (in.described && id == in.root) {
		if in.product == "" {
			return pratique.Product{}, fmt.Errorf("%.200q: what that BOM describes (metadata.component) has no purl", ref)
		}
		return pratique.Product{ID: in.product}, nil
	}
	purl, ok := in.purls[id]
	if !ok {
		purl = versioned(id, "") // many name components by their purl and leave them out
	}
	switch {
	case purl == "":
		return pratique.Product{}, fmt.Errorf("%.200q: no component with that bom-ref and a purl", ref)
	case in.described && in.product == "":
		return pratique.Product{}, fmt.Errorf("%.200q: what that BOM describes (metadata.component) has no purl, so nothing says which image is meant", ref)
	case in.described:
		return pratique.Product{ID: in.product, Components: []string{purl}}, nil
	}
	return pratique.Product{ID: purl}, nil
}

// ranged reports whether versions are given of which the component's own is not
// plainly one. Ranges are not evaluated: the scanner knows them better.
func ranged(a cdx.Affects, p pratique.Product) bool {
	vs := list(a.Range)
	if len(vs) == 0 {
		return false
	}
	purl := p.ID
	if len(p.Components) > 0 {
		purl = p.Components[0]
	}
	version := purlVersion(purl)
	for _, v := range vs {
		if version != "" && v.Version == version && v.Status != cdx.VulnerabilityStatusUnknown {
			return false
		}
	}
	return true
}

// instant reads a time; CycloneDX writes RFC 3339, and what is none is no time.
func instant(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}
	}
	return t
}
