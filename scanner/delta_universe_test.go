package scanner_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pratique"
)

// universe makes random databases and fleets. It speaks the language of every
// detector, in few words, so that much of what it makes meets.
type universe struct {
	*rand.Rand
	real    boltContent // the newer test database
	samples []pratique.Component
	rules   []rule
}

func newUniverse(t *testing.T) *universe {
	return &universe{
		real: readDatabase(t, filepath.Join(unpackDatabase(t, "new"), "trivy.db")), samples: sampleComponents(t), rules: deltaRules(),
	}
}

// rule is how one detector reads a database: components of a type in a context, and
// the bucket in which their advisories are.
type rule struct {
	kind, release string // Context.Type and Name; no release: a language
	bucket        string
	advisory      func(u *universe, id string) string
	change        func(u *universe, c *pratique.Component) // what else such components have
	suffix        string                                   // of versions
}

func deltaRules() []rule {
	supplied := func(by string) func(*universe, *pratique.Component) {
		return func(_ *universe, c *pratique.Component) { c.Context.Supplier = by }
	}
	modular := func(u *universe, c *pratique.Component) {
		if u.chance(50) {
			c.Modularity = pick(u, []string{"nodejs:18:809:abc", "nodejs:18:900:abc", "odd"})
		}
	}
	redHat := func(u *universe, c *pratique.Component) {
		modular(u, c)
		if u.chance(60) {
			c.Context.BuildInfo = &pratique.BuildInfo{ContentSets: []string{pick(u, redHatRepositories)}, NVR: pick(u, redHatBuilds), Arch: "x86_64"}
		}
	}
	elSuffix := func(_ *universe, c *pratique.Component) {
		c.Context.Supplier, c.Release, c.SrcRelease = "seal", "1.el9", "1.el9"
	}
	return []rule{
		{"alma", "9.2", "alma 9", fixedAdvisory, modular, ""},
		{"alpine", "3.18.2", "alpine 3.18", fixedAdvisory, nil, ""},
		{"alpine", "3.18.2", "root.io alpine 3.18", rangeAdvisory, supplied("root.io"), ""},
		{"amazon", "2 (Karoo)", "amazon linux 2", fixedAdvisory, nil, ""},
		{"azurelinux", "3.0", "Azure Linux 3.0", fixedAdvisory, nil, ""},
		{"bottlerocket", "1.2", "bottlerocket", fixedAdvisory, nil, ""},
		{"chainguard", "1", "chainguard", fixedAdvisory, nil, ""},
		{"debian", "12.5", "debian 12", debianAdvisory, nil, ""},
		{"debian", "12.5", "root.io debian 12", rangeAdvisory, supplied("root.io"), ""},
		{"debian", "12.5", "seal debian", rangeAdvisory, supplied("seal"), ""},
		{"echo", "1", "echo", debianAdvisory, nil, ""},
		{"minimos", "1", "minimos", fixedAdvisory, nil, ""},
		{"oracle", "8.9", "Oracle Linux 8", archAdvisory, nil, ""},
		{"photon", "4.0", "Photon OS 4.0", fixedAdvisory, nil, ""},
		{"redhat", "9.2", "Red Hat", redHatAdvisory, redHat, ""},
		{"centos", "8.2", "Red Hat", redHatAdvisory, redHat, ""},
		{"redhat", "9.2", "seal Red Hat 9", rangeAdvisory, elSuffix, ""},
		{"redhat", "9.2", "rapidfort Red Hat 9", rangeAdvisory, supplied("rapidfort"), ""},
		{"rocky", "9.2", "rocky 9", archAdvisory, modular, ""},
		{"sles", "15.5", "SUSE Linux Enterprise 15.5", fixedAdvisory, nil, ""},
		{"ubuntu", "22.04", "ubuntu 22.04", fixedAdvisory, func(u *universe, c *pratique.Component) { c.Context.Extended = u.chance(50) }, ""},
		{"ubuntu", "20.04", "ubuntu 20.04-ESM", fixedAdvisory, func(_ *universe, c *pratique.Component) { c.Context.Extended = true }, ""},
		{"ubuntu", "22.04", "rapidfort ubuntu 22.04", rangeAdvisory, supplied("rapidfort"), ""},
		{"wolfi", "1", "wolfi", fixedAdvisory, nil, ""},
		{"gemspec", "", "rubygems::x", rangeAdvisory, nil, ""},
		{"gemspec", "", "seal rubygems::x", rangeAdvisory, nil, ".0.1.sp1"},
		{"cargo", "", "cargo::x", rangeAdvisory, nil, ""},
		{"composer", "", "composer::x", rangeAdvisory, nil, ""},
		{"gobinary", "", "go::x", rangeAdvisory, nil, ""},
		{"gobinary", "", "seal go::x", rangeAdvisory, nil, "-sp1"},
		{"jar", "", "maven::x", rangeAdvisory, nil, ""},
		{"jar", "", "seal maven::x", rangeAdvisory, nil, "+sp1"},
		{"node-pkg", "", "npm::x", rangeAdvisory, nil, ""},
		{"node-pkg", "", "npm::y", rangeAdvisory, nil, ""}, // the same ids: the last wins
		{"node-pkg", "", "seal npm::x", rangeAdvisory, nil, "-sp1"},
		{"nuget", "", "nuget::x", rangeAdvisory, nil, ""},
		{"python-pkg", "", "pip::x", rangeAdvisory, nil, ""},
		{"python-pkg", "", "pip::y", rangeAdvisory, nil, ""},
		{"python-pkg", "", "seal pip::x", rangeAdvisory, nil, "+sp1"},
		{"pub", "", "pub::x", rangeAdvisory, nil, ""},
		{"hex", "", "erlang::x", rangeAdvisory, nil, ""},
		{"conan", "", "conan::x", rangeAdvisory, nil, ""},
		{"swift", "", "swift::x", rangeAdvisory, nil, ""},
		{"cocoapods", "", "cocoapods::x", rangeAdvisory, nil, ""},
		{"bitnami", "", "bitnami::x", rangeAdvisory, nil, ""},
		{"kubernetes", "", "k8s::x", rangeAdvisory, nil, ""},
		{"julia", "", "julia::x", rangeAdvisory, nil, ""},
	}
}

// The words of the universe.
var (
	deltaNames = []string{
		"alpha", "Alpha", "beta_x", "beta-x", "org.e:gamma", "@delta/Eps", "github.com/a/B", "https://github.com/a/B.git", "seal-zeta", "@seal-security/eta", "sealsecurity.io/theta",
	}
	deltaIDs           = []string{"CVE-2030-1", "CVE-2030-2", "CVE-2030-3", "CVE-2030-4", "GHSA-5", "TEMP-6", "OSV-7", "DSA-8", "RUSTSEC-9"}
	redHatRepositories = []string{"rhel-9-for-x86_64-baseos-rpms", "rhel-9-for-x86_64-appstream-rpms", "rhel-8-for-x86_64-baseos-rpms", "own-rpms", "own-rpms__8"}
	redHatBuilds       = []string{"ubi9-1", "ubi9-2"}
	vendorSources      = []string{`{"ID":"debian"}`, `{"ID":"ghsa","Name":"GHSA"}`, `{"ID":"rootio","BaseID":"debian"}`, `{"ID":"seal","BaseID":"ghsa","URL":"https://x"}`}
)

const deltaCPEs = 5

func (u *universe) chance(percent int) bool { return u.IntN(100) < percent }

func pick[T any](u *universe, list []T) T { return list[u.IntN(len(list))] }

// name is one of a package: most are of one kind's alone, or every difference would
// concern every detector.
func (u *universe) name(r rule) string {
	name := pick(u, deltaNames)
	if strings.HasSuffix(name, ".git") {
		return name
	}
	return name + "." + r.kind
}

func (u *universe) fixed() string { return pick(u, []string{"0.9-1", "2.0-1", "3.0-1"}) }

// encode writes JSON, which encodes what it is given here always.
func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func fixedAdvisory(u *universe, _ string) string {
	if u.chance(20) {
		return `{"VendorIDs":["V-1"]}` // no fix yet
	}
	return encode(map[string]any{"FixedVersion": u.fixed()})
}

func debianAdvisory(u *universe, id string) string {
	if u.chance(50) {
		return encode(map[string]any{"Status": 1 + u.IntN(6), "Severity": u.IntN(5)})
	}
	return fixedAdvisory(u, id)
}

func archAdvisory(u *universe, _ string) string {
	return encode(map[string]any{"Entries": []any{map[string]any{"FixedVersion": u.fixed(), "Arches": []string{pick(u, []string{"x86_64", "aarch64"})}}}})
}

func rangeAdvisory(u *universe, _ string) string {
	v := pick(u, []string{"0.9.0", "2.0.0", "3.0.0"})
	a := map[string]any{"VulnerableVersions": []string{"<" + v}, "PatchedVersions": []string{v}}
	if u.chance(30) {
		a["Severity"] = u.IntN(5)
	}
	return encode(a)
}

// redHatAdvisory has one entry: of two entries that fix the same in the same version
// a detector shows either.
func redHatAdvisory(u *universe, id string) string {
	e := map[string]any{"Cves": []any{map[string]any{"ID": id, "Severity": 1 + u.IntN(4)}}, "Affected": u.positions()}
	if u.chance(30) {
		e["Status"] = 1 + u.IntN(6)
	} else {
		e["FixedVersion"] = u.fixed()
	}
	if u.chance(20) {
		e["Arches"] = []string{"aarch64"}
	}
	return encode(map[string]any{"Entries": []any{e}})
}

func (u *universe) positions() []int {
	return slices.Sorted(slices.Values(u.Perm(deltaCPEs)[:1+u.IntN(3)]))
}

func (u *universe) record() string {
	v := map[string]any{"Title": fmt.Sprint("title ", u.IntN(3)), "Description": fmt.Sprint("some \"{words\\", u.IntN(100)), "LastModifiedDate": fmt.Sprintf("2030-01-%02dT00:00:00Z", 1+u.IntN(28))}
	if u.chance(70) {
		v["Severity"] = pick(u, []string{"LOW", "MEDIUM", "HIGH", "CRITICAL"})
	}
	if u.chance(70) {
		v["VendorSeverity"] = map[string]int{pick(u, []string{"nvd", "debian", "ghsa", "ubuntu"}): 1 + u.IntN(4)}
	}
	if u.chance(30) {
		v["CVSS"] = map[string]any{"nvd": map[string]any{"V3Score": float64(u.IntN(100)) / 10, "V3Vector": "x"}}
	}
	if u.chance(50) {
		v["References"] = []string{fmt.Sprint("http://www.debian.org/security/", u.IntN(3)), "https://github.com/advisories/1"}
	}
	return encode(v)
}

// lookup is the name under which a database has a package.
func (u *universe) lookup(r rule, name string) string {
	if r.release == "" {
		switch r.bucket {
		case "go::x", "cocoapods::x", "julia::x", "seal go::x":
			return name
		case "swift::x":
			return strings.TrimSuffix(strings.TrimPrefix(name, "https://"), ".git")
		case "pip::x", "pip::y", "seal pip::x":
			return strings.ReplaceAll(strings.ToLower(name), "_", "-")
		}
		return strings.ToLower(name)
	}
	if (r.kind == "alma" || r.kind == "rocky" || r.bucket == "Red Hat") && u.chance(40) {
		return pick(u, []string{"nodejs:18::", "nodejs:18::", "nodejs:20::"}) + name
	}
	return name
}

// advisory puts one that somebody may have.
func (u *universe) advisory(c boltContent, r rule) string {
	id := pick(u, deltaIDs)
	key := id
	if r.bucket == "Red Hat" { // one key for each, or a detector may show either
		if id = pick(u, deltaIDs[:4]); id == "CVE-2030-1" || id == "CVE-2030-2" {
			key = id
		} else {
			key = "RHSA-" + id
		}
	}
	name := u.lookup(r, u.name(r))
	c.put(r.bucket, name, key, r.advisory(u, id))
	return fmt.Sprintf("%s/%s/%s", r.bucket, name, key)
}

// database makes one: of every rule something, and some of the real one.
func (u *universe) database() boltContent {
	c := make(boltContent)
	for _, root := range u.real.roots() {
		if u.chance(85) {
			continue
		}
		for pkg, values := range u.real[root] {
			for id, v := range values {
				c.put(root, pkg, id, v)
				if record, ok := u.real["vulnerability"][""][id]; ok {
					c.put("vulnerability", "", id, record)
				}
			}
		}
		c.put("data-source", "", root, u.real["data-source"][""][root])
	}
	for i := range deltaCPEs {
		c.put("Red Hat CPE", "cpe", strconv.Itoa(i), fmt.Sprintf(`"cpe:/o:redhat:%d"`, 10*i))
	}
	for _, repository := range redHatRepositories[:4] {
		c.put("Red Hat CPE", "repository", repository, encode(u.positions()))
	}
	for _, build := range redHatBuilds {
		c.put("Red Hat CPE", "nvr", build+"-x86_64", encode(u.positions()))
	}
	for _, id := range deltaIDs {
		if u.chance(80) {
			c.put("vulnerability", "", id, u.record())
		}
	}
	for _, r := range u.rules {
		// Seal's and others' detectors take a data source for granted.
		c.put("data-source", "", r.bucket, pick(u, vendorSources))
		for range 1 + u.IntN(8) {
			u.advisory(c, r)
		}
	}
	return c
}

// fleet makes components: some real ones, and of each rule.
func (u *universe) fleet() []pratique.Component {
	var out []pratique.Component
	seen := make(map[pratique.ComponentID]bool)
	add := func(c pratique.Component) {
		if id := c.ID(); !seen[id] {
			seen[id] = true
			out = append(out, c)
		}
	}
	for range 40 {
		add(pick(u, u.samples))
	}
	for range 160 {
		r := pick(u, u.rules)
		if u.chance(20) {
			r = pick(u, u.rules[7:16])
		}
		c := pratique.Component{Context: pratique.Context{Class: pratique.ClassLanguage, Type: r.kind}, Name: u.name(r), Version: pick(u, []string{"1.0.0", "2.5.0"}) + r.suffix}
		if r.release != "" {
			c = pratique.Component{
				Context: pratique.Context{Class: pratique.ClassOS, Type: r.kind, Name: r.release},
				Name:    u.name(r), Version: pick(u, []string{"1.0", "2.5"}), Release: "1", Arch: "x86_64",
			}
			c.SrcName, c.SrcVersion, c.SrcRelease = u.name(r), c.Version, c.Release
			if u.chance(30) {
				c.SrcName, c.SrcVersion, c.SrcRelease = "", "", ""
			}
			c.ThirdParty = u.chance(5)
			if r.change != nil {
				r.change(u, &c)
			}
		}
		add(c)
	}
	return out
}

// mutate makes the next database of one, and says what it did.
func (u *universe) mutate(c boltContent) []string {
	var did []string
	for range 1 + u.IntN(20) {
		did = append(did, u.mutation(c))
	}
	return did
}

func (u *universe) mutation(c boltContent) string {
	roots := c.roots()
	root := pick(u, roots)
	if often := pick(u, []string{"debian 12", "Red Hat", "echo"}); u.chance(30) && len(c[often]) > 0 { // those that tell a status
		root = often
	}
	pkg := pick(u, slices.Sorted(maps.Keys(c[root])))
	id := pick(u, slices.Sorted(maps.Keys(c[root][pkg])))
	records := slices.Sorted(maps.Keys(c["vulnerability"][""]))
	switch u.IntN(17) {
	case 0, 1, 2: // appears, or has another fixed version, status, severity
		return "put " + u.advisory(c, pick(u, u.rules))
	case 3, 4:
		return "delete " + u.drop(c, root, pkg, id)
	case 5:
		delete(c[root], pkg)
		u.tidy(c, root)
		return fmt.Sprintf("delete %s/%s", root, pkg)
	case 6:
		if len(roots) > 20 {
			delete(c, root)
		}
		return "delete " + root
	case 7, 14, 15, 16: // the same one says something else
		for _, r := range u.rules {
			if r.bucket == root {
				vulnerability := strings.TrimPrefix(id, "RHSA-")
				c.put(root, pkg, id, r.advisory(u, vulnerability))
				return fmt.Sprintf("put %s/%s/%s", root, pkg, id)
			}
		}
		c[root][pkg][id] = strings.NewReplacer(`"FixedVersion":"`, `"FixedVersion":"9`, `"\u003c`, `"\u003c9`).Replace(c[root][pkg][id])
		return fmt.Sprintf("later fix %s/%s/%s", root, pkg, id)
	case 8, 9:
		id := pick(u, deltaIDs)
		c.put("vulnerability", "", id, u.record())
		return "record " + id
	case 10:
		id := pick(u, records)
		delete(c["vulnerability"][""], id)
		return "delete record " + id
	case 11:
		if u.chance(50) {
			c.put("data-source", "", root, pick(u, vendorSources))
		} else if !strings.Contains(root, "seal") && !strings.Contains(root, "rapidfort") && !strings.Contains(root, "root.io") {
			delete(c["data-source"][""], root)
		}
		return "data source of " + root
	case 12:
		u.shift(c)
		return "a CPE before the others"
	default:
		kind, name := "repository", pick(u, redHatRepositories[:4])
		if u.chance(50) {
			kind, name = "nvr", pick(u, redHatBuilds)+"-x86_64"
		}
		if u.chance(20) {
			delete(c["Red Hat CPE"][kind], name)
		} else {
			c.put("Red Hat CPE", kind, name, encode(u.positions()))
		}
		return fmt.Sprintf("CPEs of %s %s", kind, name)
	}
}

func (u *universe) drop(c boltContent, root, pkg, id string) string {
	delete(c[root][pkg], id)
	if len(c[root][pkg]) == 0 {
		delete(c[root], pkg)
	}
	u.tidy(c, root)
	return fmt.Sprintf("%s/%s/%s", root, pkg, id)
}

// tidy removes a bucket that holds nothing.
func (u *universe) tidy(c boltContent, root string) {
	if len(c[root]) == 0 {
		delete(c, root)
	}
}

// shift adds a CPE in front, so that all positions move and nothing else does.
func (u *universe) shift(c boltContent) {
	moved := make(map[string]string)
	for i, name := range c["Red Hat CPE"]["cpe"] {
		n, err := strconv.Atoi(i)
		if err != nil {
			panic(err)
		}
		moved[strconv.Itoa(n+1)] = name
	}
	moved["0"] = fmt.Sprintf(`"cpe:/a:new:%d"`, u.IntN(1000))
	c["Red Hat CPE"]["cpe"] = moved
	further := func(positions []any) []any {
		for i, p := range positions {
			positions[i] = p.(float64) + 1
		}
		return positions
	}
	for _, kind := range []string{"repository", "nvr"} {
		for name, v := range c["Red Hat CPE"][kind] {
			var positions []any
			if err := json.Unmarshal([]byte(v), &positions); err != nil {
				panic(err)
			}
			c["Red Hat CPE"][kind][name] = encode(further(positions))
		}
	}
	for pkg, values := range c["Red Hat"] {
		for id, v := range values {
			var a map[string][]map[string]any
			if err := json.Unmarshal([]byte(v), &a); err != nil {
				panic(err)
			}
			for _, e := range a["Entries"] {
				e["Affected"] = further(e["Affected"].([]any))
			}
			c["Red Hat"][pkg][id] = encode(a)
		}
	}
}
