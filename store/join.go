package store

import (
	"cmp"
	"fmt"

	"pratique"
)

// Join makes the vulnerability findings of an image: what is known of each
// component, at each place where the image has it, in order of occurrence. An
// occurrence of a component that is not known or was not matched is an error,
// never one without vulnerabilities.
func Join(components map[pratique.ComponentID]pratique.Component, occurrences []pratique.Occurrence, found map[pratique.ComponentID][]pratique.Vulnerability) ([]pratique.Finding, error) {
	seen := make(map[Place]bool)
	var out []pratique.Finding
	for _, o := range occurrences {
		c, known := components[o.Component]
		vs, matched := found[o.Component]
		if !known || !matched { // never read as "no vulnerabilities"
			return nil, fmt.Errorf("component %s at %q was not matched", o.Component, o.Path)
		}
		for i := range vs {
			k := PlaceOf(&o, c.Name, vs[i].ID)
			if seen[k] {
				continue
			}
			seen[k] = true
			out = append(out, FindingOf(&o, c.Name, c.Context.Type, &vs[i]))
		}
	}
	return out, nil
}

// Place is where a person sees a vulnerability: as in trivy's result.Filter,
// packages that differ in what a person does not see (architecture) are one, and
// the first of them in the image is shown.
type Place struct{ target, id, pkg, installed, path string }

// PlaceOf is the place of a vulnerability of a package at an occurrence.
func PlaceOf(o *pratique.Occurrence, pkg, id string) Place {
	return Place{o.Target, id, pkg, o.Installed, o.Path}
}

// FindingOf is a vulnerability of a package at an occurrence, without its clock.
func FindingOf(o *pratique.Occurrence, pkg, ecosystem string, v *pratique.Vulnerability) pratique.Finding {
	return pratique.Finding{
		ID: v.ID, Kind: pratique.KindVulnerability, Component: o.Component,
		Package: pkg, Ecosystem: ecosystem, Installed: o.Installed,
		Fixed: v.Fixed, Status: v.Status, Severity: v.Severity,
		Path: o.Path, Target: o.Target, Layer: o.Layer, PURL: o.PURL,
		Title: v.Title, URL: v.URL, CVSS: v.CVSS, Source: v.Source, VendorIDs: v.VendorIDs,
	}
}

// WorseFirst orders findings: severity, then id, package and place, so that
// equal facts make equal reports.
func WorseFirst(a, b *pratique.Finding) int {
	if c := cmp.Compare(b.Severity.Rank(), a.Severity.Rank()); c != 0 {
		return c
	}
	if c := cmp.Compare(a.ID, b.ID); c != 0 {
		return c
	}
	return cmp.Or(
		cmp.Compare(a.Package, b.Package),
		cmp.Compare(a.Path, b.Path),
		cmp.Compare(a.Target, b.Target),
		cmp.Compare(a.Installed, b.Installed),
		cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(a.Layer, b.Layer),
		cmp.Compare(a.Component, b.Component),
	)
}
