package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"pratique"
)

// family is one line of base images: the packages of a real image, released again
// and again.
type family struct {
	sample   string  // name of the real image
	bucket   string  // of its advisories
	share    float64 // of all base layers
	language bool    // its middle layers hold no OS packages
}

func families() []family {
	return []family{
		{"debian-bookworm-skeleton", "debian 12", .25, false},
		{"debian-bookworm-patched-skeleton", "debian 12", .15, false},
		{"debian-trixie-skeleton", "debian 13", .20, false},
		{"debian-bullseye-skeleton", "debian 11", .10, false},
		{"alpine39-apkdb", "alpine 3.9", .15, true},
		{"alma9-rpmdb", "alma 9", .10, true},
		{"distroless-amd64-skeleton", "debian 12", .05, true},
	}
}

// base is one release of a family.
type base struct {
	family
	os       pratique.OS
	repo     *pratique.Repository
	sets     []pratique.PackageSet
	language bool
}

// bases makes n base layers. From one release of a family to the next about one
// package in eight has another version.
func bases(samples []sample, db names, n int, random *rand.Rand) ([]base, error) {
	var out []base
	for _, f := range families() {
		i := slices.IndexFunc(samples, func(s sample) bool { return s.Name == f.sample })
		if i < 0 {
			return nil, fmt.Errorf("no image %q among the inventories", f.sample)
		}
		inv := samples[i].Inventory
		age := map[string]int{} // by source package: how many versions ago
		for range max(1, int(f.share*float64(n)+.5)) {
			b := base{family: f, os: inv.OS, repo: inv.Repository, language: f.language}
			for _, s := range inv.PackageSets {
				set := pratique.PackageSet{Path: s.Path}
				for _, p := range s.Packages {
					set.Packages = append(set.Packages, older(p, db[f.bucket], age[source(p)]))
				}
				b.sets = append(b.sets, set)
			}
			out = append(out, b)
			for _, s := range inv.PackageSets {
				for _, p := range s.Packages {
					if random.IntN(8) == 0 {
						age[source(p)]++
					}
				}
			}
		}
	}
	return out, nil
}

func source(p pratique.Package) string {
	if p.SrcName != "" {
		return p.SrcName
	}
	return p.Name
}

// maxAge is how many of the versions that fixed something are in use besides the
// last one: nobody runs what is older for long.
const maxAge = 3

// older is the package as it was some versions ago: one that an advisory names as
// the one that fixed something, else a build of the same version.
func older(p pratique.Package, released map[string][]string, age int) pratique.Package {
	p.Layer = ""
	if age == 0 {
		return p
	}
	known := released[source(p)]
	known = known[max(0, len(known)-maxAge):]
	if age <= len(known) {
		return at(p, known[len(known)-age])
	}
	suffix := "~" + strconv.Itoa(age-len(known))
	if p.AnalyzedBy == "apk" {
		suffix = "_p" + strconv.Itoa(age-len(known))
	}
	if p.Release != "" {
		p.Release, p.SrcRelease = p.Release+suffix, p.SrcRelease+suffix
	} else {
		p.Version, p.SrcVersion = p.Version+suffix, p.SrcVersion+suffix
	}
	return renamed(p)
}

// at is the package in another version, [epoch:]version[-release].
func at(p pratique.Package, version string) pratique.Package {
	epoch, release := 0, ""
	if e, rest, ok := strings.Cut(version, ":"); ok {
		epoch, _ = strconv.Atoi(e) // versions of databases have digits there
		version = rest
	}
	if i := strings.LastIndexByte(version, '-'); i > 0 && p.AnalyzedBy != "apk" {
		version, release = version[:i], version[i+1:]
	}
	p.Version, p.Release, p.Epoch = version, release, epoch
	p.SrcVersion, p.SrcRelease, p.SrcEpoch = version, release, epoch
	return renamed(p)
}

// renamed has id and purl say the version.
func renamed(p pratique.Package) pratique.Package {
	v := p.FullVersion()
	p.ID = p.Name + "@" + v
	if head, query, ok := strings.Cut(p.PURL, "?"); ok {
		p.PURL = head[:strings.LastIndexByte(head, '@')+1] + v + "?" + query
	}
	return p
}

// middle are the package sets of a layer that installs more on top of a base: the
// package database is written anew and lists everything.
func (b base) middle(samples []sample, db names, random *rand.Rand) []pratique.PackageSet {
	if b.language || len(b.sets) != 1 {
		return nil
	}
	set := pratique.PackageSet{Path: b.sets[0].Path, Packages: slices.Clone(b.sets[0].Packages)}
	have := map[string]bool{}
	for _, p := range set.Packages {
		have[p.Name] = true
	}
	put := func(p pratique.Package) {
		if !have[p.Name] {
			have[p.Name] = true
			set.Packages = append(set.Packages, p)
		}
	}
	if b.bucket == "debian 12" { // what a real image has on top of this base
		i := slices.IndexFunc(samples, func(s sample) bool { return s.Name == "app-skeleton" })
		for _, p := range samples[i].Inventory.PackageSets[0].Packages {
			if random.IntN(2) == 0 {
				put(older(p, db[b.bucket], random.IntN(4)))
			}
		}
	}
	sources := make([]string, 0, len(db[b.bucket]))
	for name := range db[b.bucket] {
		sources = append(sources, name)
	}
	slices.Sort(sources)
	like := set.Packages[0]
	for range min(15, len(sources)) {
		name := sources[random.IntN(len(sources))]
		vs := db[b.bucket][name]
		if len(vs) == 0 {
			continue
		}
		p := pratique.Package{Name: name, SrcName: name, Arch: "amd64", AnalyzedBy: like.AnalyzedBy,
			PURL: "pkg:deb/debian/" + name + "@0?arch=amd64&distro=debian-" + b.os.Name}
		put(at(p, vs[len(vs)-1-random.IntN(min(4, len(vs)))]))
	}
	return []pratique.PackageSet{set}
}
