package scanner

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"pratique"
)

// licenseFindings are the licenses of the image's packages, and those found in
// files, classified.
//
// A license that asks something of whoever ships it (forbidden, restricted,
// reciprocal), and one that nobody knows, is a finding for each package that has
// it: exceptions are made package by package. One that asks for no more than to
// be named (notice, permissive, unencumbered) is one finding for the whole
// image, without a package: thousands of packages have it, and all that a rule
// can ask is whether it is there.
func (s *Scanner) licenseFindings(inv pratique.Inventory) []pratique.Finding {
	l := licenses{classify: s.matcher.License, known: make(map[licenseKey]*pratique.Finding), packages: make(map[string]map[string]bool)}
	for _, set := range inv.PackageSets {
		for _, p := range set.Packages {
			l.add(p, pratique.Finding{Ecosystem: inv.OS.Family, Installed: p.FullVersion(), Path: p.Path, Layer: p.Layer, PURL: p.PURL})
		}
	}
	for _, a := range inv.Applications {
		for _, p := range a.Packages {
			if p.Dev {
				continue
			}
			l.add(p, pratique.Finding{Ecosystem: a.Type, Installed: p.Version, Path: cmp.Or(p.Path, a.Path), Layer: p.Layer, PURL: p.PURL})
		}
	}
	out := l.findings()
	for _, x := range inv.Licenses {
		name, category, severity := s.matcher.License(x.Name)
		out = append(out, pratique.Finding{ID: name, Kind: pratique.KindLicense, Ecosystem: x.Type, Severity: severity, Category: category, Package: x.Package, Path: x.Path, Layer: x.Layer})
	}
	return out
}

// licenseKey is what one finding is made of; pkg is empty for lenient licenses.
type licenseKey struct{ license, pkg string }

type licenses struct {
	classify func(string) (string, string, pratique.Severity)
	known    map[licenseKey]*pratique.Finding
	packages map[string]map[string]bool // by lenient license
}

// add adds the licenses of a package that was found as f says.
func (l *licenses) add(p pratique.Package, f pratique.Finding) {
	for _, name := range p.Licenses {
		f := f // each license has its own
		f.Kind, f.Package = pratique.KindLicense, p.Name
		f.ID, f.Category, f.Severity = l.classify(name)
		key := licenseKey{f.ID, f.Package}
		if lenient(f.Category) {
			if l.packages[f.ID] == nil {
				l.packages[f.ID] = make(map[string]bool)
			}
			l.packages[f.ID][p.Name] = true
			key.pkg = ""
			l.known[key] = &pratique.Finding{Kind: f.Kind, ID: f.ID, Category: f.Category, Severity: f.Severity}
			continue
		}
		// Of a package that is there more than once, the first by its place.
		if was := l.known[key]; was == nil || place(f, *was) < 0 {
			l.known[key] = &f
		}
	}
}

// lenient reports whether a category asks for no more than to be named.
func lenient(category string) bool {
	return category == "notice" || category == "permissive" || category == "unencumbered"
}

func place(a, b pratique.Finding) int {
	return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Installed, b.Installed), cmp.Compare(a.Ecosystem, b.Ecosystem), cmp.Compare(a.PURL, b.PURL), cmp.Compare(a.Layer, b.Layer))
}

// shownPackages is how many packages the title of a lenient license names.
const shownPackages = 3

func (l *licenses) findings() []pratique.Finding {
	var out []pratique.Finding
	for key, f := range l.known {
		if key.pkg == "" && lenient(f.Category) {
			var names []string
			for n := range l.packages[key.license] {
				names = append(names, n)
			}
			slices.Sort(names)
			f.Title = strings.Join(names[:min(len(names), shownPackages)], ", ")
			if more := len(names) - shownPackages; more > 0 {
				f.Title += fmt.Sprintf(" and %d more", more)
			}
		}
		out = append(out, *f)
	}
	return out // the caller sorts
}
