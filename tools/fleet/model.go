package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// plan is what a fleet is to be.
type plan struct {
	Images     int    `json:"images"`
	Layers     int    `json:"layers"`
	Components int    `json:"components"` // at least
	Seed       uint64 `json:"seed"`
	// Marked is how many images hold the reserved packages, which no other does.
	Marked int `json:"marked"`
	// Redis is the URL of the state. If empty, it is a file.
	Redis string `json:"redis,omitempty"`
}

// reservedKeys is how many packages only the marked images hold; fewer where the
// database knows few.
const reservedKeys = 20

// model is a fleet that is worked out layer by layer when asked: the same plan,
// samples and database make the same fleet.
type model struct {
	plan
	samples  []sample
	db       names
	bases    []base
	middles  []int // of each middle layer its base
	pools    []*pool
	firstApp []int // of each pool its first application layer
	reserved []string
	byDigest map[digest.Digest]int // layers
	start    time.Time
}

// Layers are numbered: bases, middle layers, application layers, one for each
// real image, and the marked one.

func newModel(p plan, samples []sample, db names) (*model, error) {
	m := &model{plan: p, samples: samples, db: db, byDigest: map[digest.Digest]int{}, start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	known, _ := db.of("pip::")
	held := map[string]bool{}
	n := min(reservedKeys, len(known)/4)
	for i := range n {
		name := known[(2*i+1)*len(known)/(2*n)]
		m.reserved = append(m.reserved, name)
		held[name] = true
	}
	random := m.random("bases", 0)
	var err error
	if m.bases, err = bases(samples, db, max(7, p.Layers/50), random); err != nil {
		return nil, err
	}
	for range p.Layers * 13 / 100 {
		m.middles = append(m.middles, int(rand.NewZipf(random, 1.2, 5, uint64(len(m.bases)-1)).Uint64()))
	}
	apps := p.Layers - len(m.bases) - len(m.middles)
	first := len(m.bases) + len(m.middles)
	all := ecosystems()
	for i, e := range all {
		n := max(1, int(e.share*float64(apps)))
		if i == len(all)-1 {
			n = max(1, len(m.bases)+len(m.middles)+apps-first)
		}
		m.firstApp = append(m.firstApp, first)
		m.pools = append(m.pools, newPool(e, samples, db, held, int(e.share*float64(p.Components)), m.random("pool", i)))
		first += n
	}
	m.firstApp = append(m.firstApp, first)
	for i := range m.layerCount() {
		m.byDigest[m.layerDigest(i)] = i
	}
	return m, nil
}

func (m *model) random(what string, i int) *rand.Rand {
	sum := digest.FromString(fmt.Sprint(what, " ", m.Seed, " ", i)).Encoded()
	var a, b uint64
	_, _ = fmt.Sscanf(sum[:32], "%16x%16x", &a, &b) // hexadecimal digits
	return rand.New(rand.NewPCG(a, b))
}

func (m *model) layerCount() int       { return m.firstApp[len(m.pools)] + len(m.samples) + 1 }
func (m *model) sampleLayer(i int) int { return m.firstApp[len(m.pools)] + i }
func (m *model) markedLayer() int      { return m.layerCount() - 1 }

func (m *model) layerDigest(i int) digest.Digest {
	return digest.FromString(fmt.Sprint("fleet layer ", m.Seed, " ", i))
}

func (m *model) diffID(i int) digest.Digest {
	return digest.FromString(fmt.Sprint("fleet layer unpacked ", m.Seed, " ", i))
}

// inventory is what is in a layer.
func (m *model) inventory(i int) pratique.Inventory {
	inv := pratique.Inventory{Layer: m.layerDigest(i), DiffID: m.diffID(i), Size: 1 << 20, Analyzer: "fleet"}
	random := m.random("layer", i)
	switch {
	case i < len(m.bases):
		b := m.bases[i]
		inv.OS, inv.Repository, inv.PackageSets = b.os, b.repo, b.sets
	case i < m.firstApp[0]:
		b := m.bases[m.middles[i-len(m.bases)]]
		if inv.PackageSets = b.middle(m.samples, m.db, random); inv.PackageSets == nil {
			p := m.pools[random.IntN(2)] // a runtime with its own packages
			inv.Applications = application(p, p.packages(len(p.entries), 1, random))
		}
	case i < m.firstApp[len(m.pools)]:
		k := m.poolOf(i)
		inv.Applications = application(m.pools[k], m.pools[k].packages(i-m.firstApp[k], m.firstApp[k+1]-m.firstApp[k], random))
	case i < m.markedLayer():
		inv = m.real(i, inv)
	default:
		p := m.pools[1]
		var pkgs []pratique.Package
		for _, name := range m.reserved {
			e := entry{name, "0.0.1"}
			pkgs = append(pkgs, pratique.Package{ID: name + "@0.0.1", Name: name, Version: e.version, PURL: p.purl(e), Path: p.path(name, e.version), AnalyzedBy: p.kind})
		}
		inv.Applications = application(p, pkgs)
	}
	return inv
}

// real is a real image as one layer.
func (m *model) real(i int, inv pratique.Inventory) pratique.Inventory {
	s := m.samples[i-m.sampleLayer(0)].Inventory
	inv.OS, inv.Repository = s.OS, s.Repository
	for _, set := range s.PackageSets {
		set.Packages = slices.Clone(set.Packages)
		for j := range set.Packages {
			set.Packages[j].Layer = ""
		}
		inv.PackageSets = append(inv.PackageSets, set)
	}
	for _, a := range s.Applications {
		a.Packages = slices.Clone(a.Packages)
		for j := range a.Packages {
			a.Packages[j].Layer = ""
		}
		inv.Applications = append(inv.Applications, a)
	}
	return inv
}

func (m *model) poolOf(layer int) int {
	k := 0
	for layer >= m.firstApp[k+1] {
		k++
	}
	return k
}

// application wraps packages as their analyzer would: one application for each
// file, or one for a lock file or binary.
func application(p *pool, pkgs []pratique.Package) []pratique.Application {
	if p.path == nil {
		path := map[string]string{"gobinary": "app/server", "composer-vendor": "srv/vendor/composer/installed.json"}[p.kind]
		return []pratique.Application{{Type: p.kind, Path: path, Packages: pkgs}}
	}
	out := make([]pratique.Application, len(pkgs))
	for i, pkg := range pkgs {
		out[i] = pratique.Application{Type: p.kind, Path: pkg.Path, Packages: []pratique.Package{pkg}}
	}
	return out
}

// image is the i-th image with the reference that it was pulled by and its config.
func (m *model) image(i int) (pratique.Ref, pratique.Image, []byte) {
	layers := m.layersOf(i)
	var config struct {
		Created      time.Time `json:"created"`
		Architecture string    `json:"architecture"`
		OS           string    `json:"os"`
		Config       struct {
			User   string            `json:"User"`
			Labels map[string]string `json:"Labels"`
		} `json:"config"`
		RootFS struct {
			Type    string          `json:"type"`
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	config.Created, config.Architecture, config.OS, config.RootFS.Type = m.start.Add(time.Duration(i)*time.Minute), "amd64", "linux", "layers"
	config.Config.User = "1000"
	config.Config.Labels = map[string]string{"org.opencontainers.image.revision": fmt.Sprintf("%08x", i)}
	img := pratique.Image{MediaType: pratique.MediaTypeImageManifest, Size: 1234, Kind: pratique.KindImage}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, m.diffID(l))
		img.Layers = append(img.Layers, pratique.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Digest: m.layerDigest(l), Size: 4096})
	}
	raw, err := json.Marshal(config)
	if err != nil {
		panic(err) // it always marshals
	}
	img.Config = pratique.Descriptor{MediaType: pratique.MediaTypeImageConfig, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	img.Digest = digest.FromString("fleet manifest " + img.Config.Digest.String())
	ref := pratique.Ref{Registry: "docker.io", Repo: fmt.Sprintf("fleet/app-%d", i/10), Tag: fmt.Sprintf("1.%d", i%10), Digest: img.Digest}
	return ref, img, raw
}

// layersOf are the numbers of an image's layers, base first.
func (m *model) layersOf(i int) []int {
	if i < len(m.samples) {
		return []int{m.sampleLayer(i)}
	}
	random := m.random("image", i)
	var out []int
	if len(m.middles) > 0 && random.IntN(100) < 85 {
		k := int(rand.NewZipf(random, 1.1, 20, uint64(len(m.middles)-1)).Uint64())
		if i-len(m.samples) < len(m.middles) { // each is somewhere
			k = i - len(m.samples)
		}
		out = append(out, m.middles[k], len(m.bases)+k)
	} else {
		out = append(out, int(rand.NewZipf(random, 1.2, 5, uint64(len(m.bases)-1)).Uint64()))
	}
	first, n := m.firstApp[0], m.firstApp[len(m.pools)]-m.firstApp[0]
	app := i * 7919 % n // every one is used, by images that have nothing else in common
	out = append(out, first+app)
	if random.IntN(100) < 40 {
		if other := int(rand.NewZipf(random, 1.2, 50, uint64(n-1)).Uint64()); other != app {
			out = append(out, first+other)
		}
	}
	if i < len(m.samples)+m.Marked {
		out = append(out, m.markedLayer())
	}
	return out
}
