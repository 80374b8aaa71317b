package pratique

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Versions that a third party's rebuilt packages carry. Source: trivy's
// pkg/detector/ospkg/rootio/supplier.go and ospkg/seal/supplier.go, seal.go.
var (
	rootIODebian = regexp.MustCompile(`\.root\.io`)
	rootIOAlpine = regexp.MustCompile(`-r\d007\d`)
	sealFamilies = []string{"alpine", "cbl-mariner", "centos", "redhat", "debian", "oracle", "ubuntu"}
)

// Suppliers that have advisories of their own.
const (
	supplierRapidFort = "rapidfort"
	supplierRootIO    = "root.io"
	supplierSeal      = "seal"
)

// FullVersion is the version as people write it: [epoch:]version[-release].
func (p Package) FullVersion() string {
	v := p.Version
	if p.Release != "" {
		v += "-" + p.Release
	}
	if p.Epoch != 0 {
		v = strconv.Itoa(p.Epoch) + ":" + v
	}
	return v
}

// Components splits a merged inventory into the distinct packages to be
// matched, each in its context, and the places where the image has them. What
// depends on the whole image (release, supplier, repository) is in the context,
// so that a component's findings are the same in every image. Development
// dependencies are left out, as Trivy does by default.
func (i Inventory) Components() ([]Component, []Occurrence) {
	var (
		components  []Component
		occurrences []Occurrence
	)
	known := make(map[Component]ComponentID) // of components without pointers
	seen := make(map[ComponentID]bool)
	places := make(map[Occurrence]bool)
	add := func(c Component, o Occurrence) {
		var id ComponentID
		if plain := c.Context.Repository == nil && c.Context.BuildInfo == nil; plain {
			if id = known[c]; id == "" {
				id = c.ID()
				known[c] = id
			}
		} else {
			id = c.ID()
		}
		if !seen[id] {
			seen[id] = true
			components = append(components, c)
		}
		o.Component = id
		if !places[o] {
			places[o] = true
			occurrences = append(occurrences, o)
		}
	}
	if context := i.osContext(); hasOSPackages(context.Type) {
		for _, s := range i.PackageSets {
			for _, p := range s.Packages {
				c := context
				c.BuildInfo = p.BuildInfo.clone()
				add(osComponent(c, p), Occurrence{Installed: p.FullVersion(), Path: p.Path, Target: s.Path, Layer: p.Layer, PURL: p.PURL})
			}
		}
	}
	for _, a := range i.Applications {
		for _, p := range a.Packages {
			if p.Dev || p.Name == "" {
				continue
			}
			c := Component{Context: Context{Class: ClassLanguage, Type: a.Type}, Name: p.Name, Version: p.Version}
			o := Occurrence{Installed: p.Version, Path: p.Path, Layer: p.Layer, PURL: p.PURL}
			if a.Path != p.Path {
				o.Target = a.Path
			}
			add(c, o)
		}
	}
	return components, occurrences
}

func osComponent(c Context, p Package) Component {
	return Component{
		Context: c, Name: p.Name, Version: p.Version, Release: p.Release, Epoch: p.Epoch, Arch: p.Arch,
		SrcName: p.SrcName, SrcVersion: p.SrcVersion, SrcRelease: p.SrcRelease, SrcEpoch: p.SrcEpoch,
		Modularity: p.Modularity, ThirdParty: p.ThirdParty,
	}
}

// osContext is the context of the image's operating system packages. Packages
// without an operating system are in the family "none", which nobody matches;
// Merge made a problem of it.
func (i Inventory) osContext() Context {
	c := Context{Class: ClassOS, Type: i.OS.Family, Name: i.OS.Name, Extended: i.OS.Extended, Supplier: i.supplier()}
	if !i.OS.Detected() {
		c.Type = familyNone
	}
	if i.Repository != nil {
		c.Repository = clone(i.Repository)
	}
	return c
}

// supplier is the third party whose advisories apply to the whole image, in the
// order in which Trivy asks: RapidFort by the mark it leaves in the image,
// Root.io and Seal when any package is theirs.
func (i Inventory) supplier() string {
	if i.OS.Supplier == supplierRapidFort && slices.Contains([]string{"ubuntu", "alpine", "redhat"}, i.OS.Family) {
		return supplierRapidFort
	}
	anyPackage := func(match func(Package) bool) bool {
		return slices.ContainsFunc(i.PackageSets, func(s PackageSet) bool { return slices.ContainsFunc(s.Packages, match) })
	}
	pattern := rootIODebian
	switch i.OS.Family {
	case "alpine":
		pattern = rootIOAlpine
		fallthrough
	case "debian", "ubuntu":
		if anyPackage(func(p Package) bool { return pattern.MatchString(p.FullVersion()) }) {
			return supplierRootIO
		}
	}
	if slices.Contains(sealFamilies, i.OS.Family) && anyPackage(sealed) {
		return supplierSeal
	}
	return ""
}

func sealed(p Package) bool {
	return strings.HasPrefix(strings.ToLower(p.Name), "seal-") || strings.HasPrefix(strings.ToLower(p.SrcName), "seal-")
}
