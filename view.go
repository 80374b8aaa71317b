package pratique

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// view is the file system of an image, as far as inventories know it.
type view struct {
	sets              map[string]PackageSet     // by path
	applications      map[[2]string]Application // by path and type
	misconfigurations map[string][]Misconfiguration
	licenses          map[[2]string][]License // by path and type
}

func newView() *view {
	return &view{
		sets:              make(map[string]PackageSet),
		applications:      make(map[[2]string]Application),
		misconfigurations: make(map[string][]Misconfiguration),
		licenses:          make(map[[2]string][]License),
	}
}

func (v *view) apply(l Inventory) {
	v.hide(l)
	for _, s := range l.PackageSets {
		v.sets[rooted(s.Path)] = s
	}
	for _, a := range l.Applications {
		v.applications[[2]string{rooted(a.Path), a.Type}] = a
	}
	fresh := make(map[string]bool)
	for _, m := range l.Misconfigurations {
		p := rooted(m.Path)
		if !fresh[p] {
			fresh[p] = true
			v.misconfigurations[p] = nil
		}
		if m.ID != "" { // without an id: the file was checked and nothing failed
			m.Layer = l.Layer
			v.misconfigurations[p] = append(v.misconfigurations[p], m)
		}
	}
	clear(fresh)
	for _, x := range l.Licenses {
		k := [2]string{rooted(x.Path), x.Type}
		if !fresh[k[0]+"\x00"+k[1]] {
			fresh[k[0]+"\x00"+k[1]] = true
			v.licenses[k] = nil
		}
		x.Layer = l.Layer
		v.licenses[k] = append(v.licenses[k], x)
	}
}

// hide removes what the layer's whiteouts and opaque directories cover.
func (v *view) hide(l Inventory) {
	gone := make(map[string]bool, len(l.Whiteouts)+len(l.OpaqueDirs))
	for _, d := range l.OpaqueDirs {
		gone[rooted(strings.TrimSuffix(d, "/"))] = true
	}
	for _, w := range l.Whiteouts {
		gone[rooted(w)] = true
	}
	delete(gone, "") // an opaque root hides nothing in trivy: more findings, not fewer
	if len(gone) == 0 {
		return
	}
	covered := func(p string) bool {
		for {
			if gone[p] {
				return true
			}
			i := strings.LastIndexByte(p, '/')
			if i < 0 {
				return false
			}
			p = p[:i]
		}
	}
	maps.DeleteFunc(v.sets, func(p string, _ PackageSet) bool { return covered(p) })
	maps.DeleteFunc(v.applications, func(k [2]string, _ Application) bool { return covered(k[0]) })
	maps.DeleteFunc(v.misconfigurations, func(p string, _ []Misconfiguration) bool { return covered(p) })
	maps.DeleteFunc(v.licenses, func(k [2]string, _ []License) bool { return covered(k[0]) })
}

func rooted(p string) string { return strings.TrimPrefix(p, "/") }

func (v *view) allMisconfigurations() []Misconfiguration {
	var out []Misconfiguration
	for _, p := range slices.Sorted(maps.Keys(v.misconfigurations)) {
		out = append(out, v.misconfigurations[p]...)
	}
	return out
}

// allLicenses returns the licences found in files and, apart, those of dpkg's
// copyright files by package: they belong to the packages.
func (v *view) allLicenses() ([]License, map[string][]string) {
	var out []License
	dpkg := make(map[string][]string)
	for _, k := range slices.SortedFunc(maps.Keys(v.licenses), comparePair) {
		for i, l := range v.licenses[k] {
			if l.Type != licenseTypeDpkg {
				out = append(out, l)
				continue
			}
			if i == 0 {
				dpkg[l.Package] = nil
			}
			dpkg[l.Package] = append(dpkg[l.Package], l.Name)
		}
	}
	return out, dpkg
}

func comparePair(a, b [2]string) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) }
