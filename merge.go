package pratique

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/package-url/packageurl-go"
)

// Families and sources whose names decide how layers are merged. They are
// Trivy's words (pkg/fanal/types/const.go).
const (
	familyNone         = "none" // packages without an operating system
	familyActiveState  = "activestate"
	analyzedBySBOM     = "sbom"
	licenseTypeDpkg    = "dpkg"
	familySLES         = "sles"
	familySLEMicro     = "slem"
	familyLeap         = "opensuse-leap"
	familyTumbleweed   = "opensuse-tumbleweed"
	familyBottlerocket = "bottlerocket"
)

// aggregated are the ecosystems whose packages lie one by one in the file
// system: their applications become one per image, and a package's own path
// tells where it is. Source: trivy's ftypes.AggregatingTypes.
var aggregated = []string{"python-pkg", "conda-pkg", "gemspec", "node-pkg", "jar"}

// Merge joins the layers of an image, base first, and what was found in its
// config into one inventory, as a runtime would see the file system: whiteouts
// and opaque directories hide what lies below, a file replaces the file of the
// same path, but secrets stay, because the lower layer can still be read.
//
// It follows trivy's applier.ApplyLayers field by field and shares no memory
// with its arguments. Problems of all parts are kept. Zero layers merge to the
// unknown inventory, and so does a layer that was not analysed; parts analysed
// by different analyzers, a config that was not analysed (nil), and an
// operating system without a package database are problems.
func Merge(layers []Inventory, config *Inventory) Inventory {
	if len(layers) == 0 {
		return Inventory{}
	}
	merged := Inventory{Analyzer: layers[0].Analyzer}
	for _, l := range layers {
		if l.Analyzer == "" {
			return Inventory{}
		}
		merged.Size += l.Size
		merged.OS = mergeOS(merged.OS, l.OS)
		merged.OSRelease = cmp.Or(l.OSRelease, merged.OSRelease)
		if l.Repository != nil {
			merged.Repository = clone(l.Repository)
		}
	}
	merged.Problems = mergeProblems(layers, config)

	view := newView()
	for _, l := range layers {
		view.apply(l)
	}
	merged.Secrets = mergeSecrets(layers)
	merged.Misconfigurations = view.allMisconfigurations()
	var dpkg map[string][]string
	merged.Licenses, dpkg = view.allLicenses()
	merged.PackageSets = mergePackages(view, layers, merged.OS, dpkg)
	merged.Applications = mergeApplications(view, layers)
	if config != nil {
		merged.Secrets = append(merged.Secrets, config.Secrets...)
		merged.Misconfigurations = append(merged.Misconfigurations, config.Misconfigurations...)
	}
	merged.assumeOS()
	return merged
}

// DiffIDProblems compares the measured diffIDs of an image's layers with those
// that its config claims. A runtime checks them; an image for which they differ
// is not the one that was analysed.
func DiffIDProblems(layers []Inventory, claimed []digest.Digest) []Problem {
	if len(layers) != len(claimed) {
		return []Problem{{Source: "diffid", Fatal: true, Message: fmt.Sprintf("the manifest has %d layers, the config names %d", len(layers), len(claimed))}}
	}
	var out []Problem
	for i, l := range layers {
		if l.DiffID != "" && l.DiffID != claimed[i] {
			out = append(out, Problem{Layer: l.Layer, Source: "diffid", Fatal: true,
				Message: fmt.Sprintf("uncompressed bytes are %s, the config says %s", l.DiffID, claimed[i])})
		}
	}
	return out
}

// assumeOS does what trivy's local scan service does when no operating system
// was found, and adds the problems that only the whole image shows.
func (i *Inventory) assumeOS() {
	packages := 0
	for _, s := range i.PackageSets {
		packages += len(s.Packages)
	}
	switch {
	case !i.OS.Detected() && i.Repository != nil:
		i.OS = OS{Family: i.Repository.Family, Name: i.Repository.Release}
	case !i.OS.Detected() && packages > 0:
		i.Problems = append(i.Problems, Problem{Source: "os",
			Message: fmt.Sprintf("%d packages but no operating system found: they cannot be matched", packages)})
		return
	case !i.OS.Detected() && i.OSRelease != "":
		i.Problems = append(i.Problems, Problem{Source: "os",
			Message: fmt.Sprintf("os-release names %q, which no analyzer recognised: its packages cannot be found", i.OSRelease)})
		return
	}
	if i.OS.Detected() {
		i.OSRelease = ""
	}
	if i.OS.Detected() && hasOSPackages(i.OS.Family) && packages == 0 {
		i.Problems = append(i.Problems, Problem{Source: "os",
			Message: fmt.Sprintf("operating system %s %s found but no package database", i.OS.Family, i.OS.Name)})
	}
}

func hasOSPackages(family string) bool { return family != familyActiveState }

func mergeProblems(layers []Inventory, config *Inventory) []Problem {
	var out []Problem
	key := layers[0].Analyzer
	parts := layers
	if config == nil {
		out = append(out, Problem{Source: "config", Message: "the image config was not analysed"})
	} else {
		parts = append(slices.Clip(layers), *config)
	}
	for _, p := range parts {
		for _, problem := range p.Problems {
			problem.Layer = cmp.Or(problem.Layer, p.Layer)
			out = append(out, problem)
		}
		if p.Analyzer != key {
			out = append(out, Problem{Layer: p.Layer, Source: "analyzer", Fatal: true,
				Message: fmt.Sprintf("analysed by %q, other parts of the image by %q", p.Analyzer, key)})
		}
	}
	return out
}

// osAliases are old names of families. Source: trivy's ftypes.OSTypeAliases.
var osAliases = map[string]string{
	"opensuse.leap":                familyLeap,
	"opensuse.tumbleweed":          familyTumbleweed,
	"suse linux enterprise micro":  familySLEMicro,
	"suse linux enterprise server": familySLES,
	"amazon linux":                 "amazon",
	"debian gnu/linux":             "debian",
}

// mergeOS is trivy's ftypes.OS.Merge. Oracle Linux calls itself Red Hat too,
// and Ubuntu Debian, so those two give way to a later name.
func mergeOS(o, n OS) OS {
	if n == (OS{}) {
		return o
	}
	supplier := cmp.Or(o.Supplier, n.Supplier)
	if (o.Family == "redhat" || o.Family == "debian") && n.Family != "" {
		o = n
	} else {
		o.Family = cmp.Or(o.Family, n.Family)
		o.Name = cmp.Or(o.Name, n.Name)
		o.Extended = o.Extended || n.Extended
	}
	o.Supplier = supplier
	if alias, ok := osAliases[o.Family]; ok {
		o.Family = alias
	}
	return o
}

// version identifies a package when its first layer is looked for.
type version struct{ path, name, version, release string }

func mergePackages(v *view, layers []Inventory, os OS, dpkg map[string][]string) []PackageSet {
	origin := make(map[version]int)
	for i, l := range layers {
		for _, s := range l.PackageSets {
			for _, p := range s.Packages {
				k := version{name: p.Name, version: p.Version, release: p.Release}
				if _, ok := origin[k]; !ok {
					origin[k] = i
				}
			}
		}
	}
	type placed struct {
		set string
		Package
	}
	var all []placed
	for _, path := range slices.Sorted(maps.Keys(v.sets)) {
		set := v.sets[path]
		for _, p := range set.Packages {
			p = p.clone()
			if i, ok := origin[version{name: p.Name, version: p.Version, release: p.Release}]; ok && p.Layer == "" {
				p.Layer = layers[i].Layer
				if info := buildInfo(layers, i); info != nil {
					p.BuildInfo = info.clone()
				}
			}
			if os.Detected() && p.PURL == "" {
				p.PURL = osPURL(os, p)
			}
			if names, ok := dpkg[p.Name]; ok {
				p.Licenses = slices.Clone(names)
			}
			if purlFits(os, p.PURL) {
				all = append(all, placed{set.Path, p})
			}
		}
	}
	// A package that both a database and an SBOM name is taken from the database,
	// which knows its source package (trivy issue 10778).
	slices.SortStableFunc(all, func(a, b placed) int {
		return cmp.Compare(rank(a.AnalyzedBy == analyzedBySBOM), rank(b.AnalyzedBy == analyzedBySBOM))
	})
	seen := make(map[string]bool, len(all))
	sets := make(map[string][]Package)
	for _, p := range all {
		id := cmp.Or(p.ID, p.Name+"@"+p.FullVersion()) + "/" + p.Path
		if !seen[id] {
			seen[id] = true
			sets[p.set] = append(sets[p.set], p.Package)
		}
	}
	var out []PackageSet
	for _, path := range slices.Sorted(maps.Keys(sets)) {
		slices.SortStableFunc(sets[path], comparePackages)
		out = append(out, PackageSet{Path: path, Packages: sets[path]})
	}
	return out
}

func rank(b bool) int {
	if b {
		return 1
	}
	return 0
}

// buildInfo finds Red Hat's content sets for a package of layer i: its own; for
// the base, which has none, the next layer's; for a customer's layer the last
// below. Source: trivy's applier.lookupBuildInfo.
func buildInfo(layers []Inventory, i int) *BuildInfo {
	if layers[i].BuildInfo != nil {
		return layers[i].BuildInfo
	}
	if i == 0 {
		if len(layers) > 1 {
			return layers[1].BuildInfo
		}
		return nil
	}
	for i--; i >= 0; i-- {
		if layers[i].BuildInfo != nil {
			return layers[i].BuildInfo
		}
	}
	return nil
}

func mergeApplications(v *view, layers []Inventory) []Application {
	origin := make(map[version]digest.Digest)
	for _, l := range layers {
		for _, a := range l.Applications {
			for _, p := range a.Packages {
				k := version{a.Path, p.Name, p.Version, p.Release}
				if _, ok := origin[k]; !ok {
					origin[k] = l.Layer
				}
			}
		}
	}
	var out []Application
	together := make(map[string][]Package)
	for _, k := range slices.SortedFunc(maps.Keys(v.applications), comparePair) {
		a := v.applications[k]
		packages := make([]Package, 0, len(a.Packages))
		for _, p := range a.Packages {
			p = p.clone()
			if p.Layer == "" {
				p.Layer = origin[version{a.Path, p.Name, p.Version, p.Release}]
			}
			packages = append(packages, p)
		}
		if slices.Contains(aggregated, a.Type) {
			together[a.Type] = append(together[a.Type], packages...)
			continue
		}
		slices.SortStableFunc(packages, comparePackages)
		out = append(out, Application{Type: a.Type, Path: a.Path, Packages: packages})
	}
	for t, packages := range together {
		if len(packages) > 0 {
			slices.SortStableFunc(packages, comparePackages)
			out = append(out, Application{Type: t, Packages: packages})
		}
	}
	slices.SortFunc(out, func(a, b Application) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Path, b.Path))
	})
	return out
}

func comparePackages(a, b Package) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Path, b.Path))
}

// mergeSecrets keeps those of all layers; in one file, a rule's findings of an
// upper layer replace the lower's.
func mergeSecrets(layers []Inventory) []Secret {
	byPath := make(map[string][]Secret)
	for _, l := range layers {
		fresh := make(map[string][]Secret)
		for _, s := range l.Secrets {
			s.Layer = l.Layer
			fresh[s.Path] = append(fresh[s.Path], s)
		}
		for path, found := range fresh {
			for _, old := range byPath[path] {
				if !slices.ContainsFunc(found, func(s Secret) bool { return s.RuleID == old.RuleID }) {
					found = append(found, old)
				}
			}
			byPath[path] = found
		}
	}
	var out []Secret
	for _, path := range slices.Sorted(maps.Keys(byPath)) {
		out = append(out, byPath[path]...)
	}
	return out
}

func (p Package) clone() Package {
	p.Licenses = slices.Clone(p.Licenses)
	p.BuildInfo = p.BuildInfo.clone()
	return p
}

func (b *BuildInfo) clone() *BuildInfo {
	if b == nil {
		return nil
	}
	c := *b
	c.ContentSets = slices.Clone(b.ContentSets)
	return &c
}

func clone[T any](p *T) *T {
	c := *p
	return &c
}

// purlFits reports whether a package belongs to the operating system found. An
// SBOM inside an image may list another distribution's packages.
func purlFits(os OS, purl string) bool {
	if purl == "" || !os.Detected() {
		return true
	}
	p, err := packageurl.FromString(purl)
	if err != nil || p.Namespace == "" {
		return true
	}
	return p.Namespace == purlNamespace(os.Family)
}
