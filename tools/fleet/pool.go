package main

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"

	"pratique"
)

// ecosystem is a language whose packages lie in application layers.
type ecosystem struct {
	kind   string  // trivy's language type
	bucket string  // prefix of its buckets in the database
	share  float64 // of all application layers
	path   func(name, version string) string
}

func ecosystems() []ecosystem {
	plain := strings.NewReplacer("/", "-", ":", "-")
	return []ecosystem{
		{"node-pkg", "npm::", .30, func(n, _ string) string { return "srv/app/node_modules/" + n + "/package.json" }},
		{"python-pkg", "pip::", .25, func(n, v string) string {
			return "opt/venv/lib/python3.11/site-packages/" + plain.Replace(n) + "-" + v + ".dist-info/METADATA"
		}},
		{"gobinary", "go::", .20, nil},
		{"gemspec", "rubygems::", .10, func(n, v string) string {
			return "usr/local/lib/ruby/gems/3.1.0/specifications/" + n + "-" + v + ".gemspec"
		}},
		{"jar", "maven::", .10, func(n, v string) string { return "app/lib/" + plain.Replace(n) + "-" + v + ".jar" }},
		{"composer-vendor", "composer::", .05, nil},
	}
}

// entry is one package at one version.
type entry struct{ name, version string }

// pool holds the packages of one ecosystem that application layers are made of:
// as many different ones as the fleet is to have.
type pool struct {
	ecosystem
	entries []entry // the most popular names first
	popular []int   // entries in the order of their popularity
}

// invented is how many names there are for each that the database or a real
// image knows: of most packages in use, no database says anything.
const invented = 3

// words end invented names.
var words = []string{"core", "utils", "client", "plugin", "types", "cli", "server", "adapter", "config", "common", "auth", "test", "ui", "api", "cache", "log"}

// newPool makes n entries. What is reserved is left out.
func newPool(e ecosystem, samples []sample, db names, reserved map[string]bool, n int, random *rand.Rand) *pool {
	known, released := db.of(e.bucket)
	for _, vs := range released {
		slices.SortFunc(vs, func(a, b string) int { return compareVersions(b, a) }) // most have a late one
	}
	for _, s := range samples {
		for _, a := range s.Inventory.Applications {
			for _, p := range a.Packages {
				if a.Type == e.kind && p.Name != "" && p.Version != "" {
					known = append(known, p.Name)
					released[p.Name] = append(released[p.Name], p.Version)
				}
			}
		}
	}
	slices.Sort(known)
	known = slices.DeleteFunc(slices.Compact(known), func(name string) bool { return reserved[name] })
	list := slices.Clone(known)
	for i := range max(len(known)*invented, 500) {
		name := fmt.Sprintf("module%d", i%97)
		if len(known) > 0 {
			name = known[i%len(known)]
		}
		name = fmt.Sprintf("%s-%s%d", name, words[i%len(words)], i/len(words))
		if e.kind == "jar" && !strings.Contains(name, ":") {
			name = "org." + words[i%7] + ":" + name
		}
		list = append(list, name)
	}
	random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })

	p := &pool{ecosystem: e}
	weight := func(rank int) float64 { return math.Pow(float64(rank+10), -0.7) }
	total := 0.0
	for i := range list {
		total += weight(i)
	}
	type ranked struct {
		entry int
		rank  float64
	}
	var order []ranked
	for i, name := range list {
		count := 1 + int(weight(i)/total*float64(max(0, n-len(list))))
		if i == len(list)-1 {
			count = max(count, n-len(p.entries))
		}
		for v := range count {
			if len(p.entries) == n {
				break
			}
			order = append(order, ranked{len(p.entries), float64(i+1) * float64(v+1)})
			p.entries = append(p.entries, entry{name, version(released[name], v)})
		}
	}
	slices.SortStableFunc(order, func(a, b ranked) int { return cmp.Compare(a.rank, b.rank) })
	for _, o := range order {
		p.popular = append(p.popular, o.entry)
	}
	return p
}

// compareVersions orders versions by their numbers, roughly: it is no ecosystem's
// own order, which nothing here depends on.
func compareVersions(a, b string) int {
	x, y := numbers.FindAllString(a, -1), numbers.FindAllString(b, -1)
	for i := range min(len(x), len(y)) {
		if c := cmp.Or(cmp.Compare(len(x[i]), len(y[i])), cmp.Compare(x[i], y[i])); c != 0 {
			return c
		}
	}
	return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(a, b))
}

var numbers = regexp.MustCompile(`[0-9]+`)

// version is the i-th of a package: those that were released, as far as they are
// known, then others that look like it.
func version(released []string, i int) string {
	if i < len(released) {
		return released[i]
	}
	i -= len(released)
	return fmt.Sprintf("%d.%d.%d", 1+i/36, i/6%6, i%6)
}

// packages are those of the j-th of n application layers: its share of all
// entries, which no other layer need have, and popular ones.
func (p *pool) packages(j, n int, random *rand.Rand) []pratique.Package {
	var out []pratique.Package
	seen := map[string]bool{}
	add := func(e entry) {
		if seen[e.name] && p.kind != "node-pkg" || seen[e.name+" "+e.version] {
			return
		}
		seen[e.name], seen[e.name+" "+e.version] = true, true
		pkg := pratique.Package{ID: e.name + "@" + e.version, Name: e.name, Version: e.version, PURL: p.purl(e), AnalyzedBy: p.kind}
		if p.path != nil {
			pkg.Path = p.path(e.name, e.version)
		}
		out = append(out, pkg)
	}
	for i := j; i < len(p.entries); i += n { // a stride: one layer does not get all versions of a name
		add(p.entries[i])
	}
	zipf := rand.NewZipf(random, 1.3, 20, uint64(len(p.popular)-1))
	for range 25 + random.IntN(40) {
		add(p.entries[p.popular[zipf.Uint64()]])
	}
	return out
}

func (p *pool) purl(e entry) string {
	return "pkg:" + map[string]string{"node-pkg": "npm", "python-pkg": "pypi", "gobinary": "golang", "gemspec": "gem", "jar": "maven", "composer-vendor": "composer"}[p.kind] +
		"/" + strings.ReplaceAll(e.name, ":", "/") + "@" + e.version
}
