//go:build goexperiment.jsonv2

package analyze

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
	"github.com/package-url/packageurl-go"
	"golang.org/x/sync/errgroup"

	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	"github.com/aquasecurity/trivy/pkg/fanal/applier"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/fanal/walker"
	"github.com/aquasecurity/trivy/pkg/semaphore"

	"pratique"
)

// inspectLayer is trivy's own (pkg/fanal/artifact/image/image.go), with its
// walker, as far as it is not about caches.
func (a *Analyzer) inspectLayer(t *testing.T, r io.Reader) ftypes.BlobInfo {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	eg, egCtx := errgroup.WithContext(t.Context())
	opts := analyzer.AnalysisOptions{Offline: true}
	result := analyzer.NewAnalysisResult()
	limit := semaphore.New(parallel)
	composite, err := a.group.PostAnalyzerFS()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = composite.Cleanup() }()
	opaque, whiteouts, err := walker.NewLayerTar(a.options.WalkerOption).Walk(r, func(path string, info os.FileInfo, open analyzer.Opener) error {
		if err := a.group.AnalyzeFile(egCtx, eg, limit, result, "", path, info, open, nil, opts); err != nil {
			return err
		}
		types := a.group.RequiredPostAnalyzers(path, info)
		if len(types) == 0 {
			return nil
		}
		tmp, err := composite.CopyFileToTemp(open, info)
		if err != nil {
			return err
		}
		return composite.CreateLink(types, "", path, tmp)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := eg.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := a.group.PostAnalyze(t.Context(), composite, result, opts); err != nil {
		t.Fatal(err)
	}
	result.Sort()
	blob := ftypes.BlobInfo{
		SchemaVersion: ftypes.BlobJSONSchemaVersion, OpaqueDirs: opaque, WhiteoutFiles: whiteouts,
		OS: result.OS, Repository: result.Repository, PackageInfos: result.PackageInfos, Applications: result.Applications,
		Misconfigurations: result.Misconfigurations, Secrets: result.Secrets, Licenses: result.Licenses,
		CustomResources: result.CustomResources, BuildInfo: result.BuildInfo,
	}
	if err := a.handlers.PostHandle(t.Context(), result, &blob); err != nil {
		t.Fatal(err)
	}
	return blob
}

// comparable brings a merged image into a form in which the order of things
// that Trivy leaves to chance does not matter.
type comparable struct {
	OS                pratique.OS
	Repository        *pratique.Repository
	Packages          []pratique.Package
	Applications      []pratique.Application
	Secrets           []pratique.Secret
	Misconfigurations []pratique.Misconfiguration
	Licenses          []pratique.License
}

func ours(i pratique.Inventory) comparable {
	c := comparable{OS: i.OS, Repository: i.Repository, Applications: i.Applications, Secrets: i.Secrets,
		Misconfigurations: i.Misconfigurations, Licenses: i.Licenses}
	for _, s := range i.PackageSets {
		c.Packages = append(c.Packages, s.Packages...)
	}
	return c
}

// theirs is Trivy's merged image in our words.
func theirs(d ftypes.ArtifactDetail) comparable {
	i := inventory(ftypes.BlobInfo{OS: d.OS, Repository: d.Repository, Applications: d.Applications,
		Secrets: d.Secrets, Misconfigurations: d.Misconfigurations, Licenses: d.Licenses,
		PackageInfos: []ftypes.PackageInfo{{Packages: d.Packages}}})
	// What the conversion of a layer leaves to Merge.
	n := 0
	for _, s := range d.Secrets {
		for _, f := range s.Findings {
			i.Secrets[n].Layer = digest.Digest(f.Layer.Digest)
			n++
		}
	}
	layers := make(map[string]digest.Digest)
	for _, m := range d.Misconfigurations {
		layers[m.FilePath] = digest.Digest(m.Layer.Digest)
	}
	i.Misconfigurations = slices.DeleteFunc(i.Misconfigurations, func(m pratique.Misconfiguration) bool { return m.ID == "" })
	for n := range i.Misconfigurations {
		i.Misconfigurations[n].Layer = layers[i.Misconfigurations[n].Path]
	}
	clear(layers)
	for _, l := range d.Licenses {
		layers[l.FilePath+string(l.Type)] = digest.Digest(l.Layer.Digest)
	}
	for n, l := range i.Licenses {
		i.Licenses[n].Layer = layers[l.Path+l.Type]
	}
	// The local scan service's part, which Merge includes.
	if i.OS.Family == "" && i.Repository != nil {
		i.OS = pratique.OS{Family: i.Repository.Family, Name: i.Repository.Release}
	}
	return ours(i)
}

func text(v any) string { return fmt.Sprintf("%+v", v) }

func same(t *testing.T, name string, want, got comparable) {
	t.Helper()
	byText := func(a, b any) bool { return text(a) < text(b) }
	diff := gocmp.Diff(want, got, cmpopts.EquateEmpty(),
		cmpopts.SortSlices(func(a, b pratique.Package) bool { return byText(a, b) }),
		cmpopts.SortSlices(func(a, b pratique.Application) bool {
			return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Path, b.Path)) < 0
		}),
		cmpopts.SortSlices(func(a, b pratique.Secret) bool { return byText(a, b) }),
		cmpopts.SortSlices(func(a, b pratique.License) bool { return byText(a, b) }),
		cmpopts.SortSlices(func(a, b pratique.Misconfiguration) bool { return byText(a, b) }),
	)
	if diff != "" {
		t.Errorf("%s: merged image differs (-trivy +ours):\n%s", name, diff)
	}
}

// Every layer read from a stream gives what trivy's inspectLayer gives, and
// every image merged what trivy's ApplyLayers gives.
func TestEqualsTrivy(t *testing.T) {
	a := theAnalyzer(t)
	packages := 0
	for _, img := range images(t) {
		if !img.scan || len(img.layers) == 0 {
			continue // nothing that trivy reads either
		}
		t.Run(img.name, func(t *testing.T) {
			var blobs []ftypes.BlobInfo
			layers, config := img.analyse(t, a)
			for n, d := range img.image.Layers {
				c := newContent(d, bytes.NewReader(img.layers[n]), 0)
				blob := a.inspectLayer(t, c)
				a.log.take()
				blob.Digest = d.Digest.String()
				blobs = append(blobs, blob)
				bare := layers[n]
				bare.Layer, bare.DiffID, bare.Size, bare.Analyzer, bare.Problems, bare.OSRelease = "", "", 0, "", nil, ""
				if diff := gocmp.Diff(inventory(copied(t, blob)), bare, cmpopts.EquateEmpty(), sortedPackages); diff != "" {
					t.Errorf("layer %d (-trivy +ours):\n%s", n, diff)
				}
			}
			empty := pratique.Inventory{Analyzer: a.key}
			merged := pratique.Merge(layers, &empty)
			same(t, img.name, theirs(applier.ApplyLayers(blobs)), ours(merged))
			for _, s := range merged.PackageSets {
				packages += len(s.Packages)
			}
			// Some of these images are an os-release file and nothing else.
			var want []pratique.Problem
			if o := merged.OS; o.Detected() && len(merged.PackageSets) == 0 {
				want = []pratique.Problem{{Source: "os", Message: "operating system " + o.Family + " " + o.Name + " found but no package database"}}
			}
			if diff := gocmp.Diff(want, pratique.Merge(layers, &config).Problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if problems := pratique.DiffIDProblems(layers, img.diffIDs()); problems != nil {
				t.Errorf("diffIDs: %+v", problems)
			}
		})
	}
	if packages < 500 {
		t.Errorf("only %d packages compared", packages)
	}
}

var sortedPackages = cmpopts.SortSlices(func(a, b pratique.Package) bool { return text(a) < text(b) })

// copied is a deep copy: ApplyLayers writes into its arguments.
func copied(t *testing.T, b ftypes.BlobInfo) ftypes.BlobInfo {
	t.Helper()
	raw, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	var out ftypes.BlobInfo
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// Random stacks of layers, made of few names so that they meet, merge as
// Trivy merges them.
func TestMergeRandomStacks(t *testing.T) {
	const stacks = 3000
	for seed := range uint64(stacks) {
		g := generator{rand.New(rand.NewPCG(seed, 17))}
		var blobs []ftypes.BlobInfo
		var layers []pratique.Inventory
		for n := range 1 + g.IntN(6) {
			b := g.blob(n)
			inv := inventory(copied(t, b))
			inv.Layer, inv.Analyzer = digest.Digest(b.Digest), "k"
			blobs, layers = append(blobs, b), append(layers, inv)
		}
		before, err := json.Marshal(layers)
		if err != nil {
			t.Fatal(err)
		}
		merged := pratique.Merge(layers, &pratique.Inventory{Analyzer: "k"})
		same(t, fmt.Sprintf("seed %d", seed), theirs(applier.ApplyLayers(blobs)), ours(merged))
		if after, err := json.Marshal(layers); err != nil || !bytes.Equal(before, after) {
			t.Fatalf("seed %d: Merge wrote into its arguments", seed)
		}
		if t.Failed() {
			return
		}
	}
}

// generator makes synthetic layers.
type generator struct{ *rand.Rand }

func pick[T any](g generator, s ...T) T { return s[g.IntN(len(s))] }

func (g generator) some(n int, f func()) {
	for range g.IntN(n + 1) {
		f()
	}
}

func (g generator) path() string {
	return pick(g, "a", "a/b", "a/b/c", "a/b/d", "ab", "x/y", "/lead/ing", "opt/app")
}

func (g generator) blob(n int) ftypes.BlobInfo {
	b := ftypes.BlobInfo{SchemaVersion: 2, Digest: digest.FromString(fmt.Sprint("layer", n)).String()}
	g.some(2, func() { b.OpaqueDirs = append(b.OpaqueDirs, pick(g, "a/", "a/b/", "x/", "opt/", "")) })
	g.some(3, func() {
		b.WhiteoutFiles = append(b.WhiteoutFiles, pick(g, "a", "a/b", "a/b/c", "ab", "x/y", "lead/ing", "none"))
	})
	if g.IntN(2) == 0 {
		b.OS = ftypes.OS{Family: pick(g, ftypes.Debian, ftypes.Ubuntu, ftypes.RedHat, ftypes.Oracle, ftypes.Alpine, ftypes.SLES, "opensuse.leap", ""),
			Name: pick(g, "1", "2", ""), Extended: g.IntN(4) == 0, Supplier: pick(g, "", "", ftypes.SupplierRapidFort)}
	}
	if g.IntN(5) == 0 {
		b.Repository = &ftypes.Repository{Family: ftypes.Alpine, Release: pick(g, "3.19", "edge")}
	}
	if g.IntN(3) == 0 {
		b.BuildInfo = &ftypes.BuildInfo{ContentSets: []string{pick(g, "s1", "s2")}, Nvr: pick(g, "n1", "")}
	}
	paths := make(map[string]bool) // one set per path: Trivy keeps the last
	g.some(3, func() {
		p := g.path()
		if paths[p] {
			return
		}
		paths[p] = true
		s := ftypes.PackageInfo{FilePath: p}
		// One analyzer per set and distinct packages per set and path: among sets
		// Trivy's choice of equal ones is the map's order.
		by := pick(g, analyzer.TypeDpkg, analyzer.TypeSBOM)
		g.some(4, func() { s.Packages = append(s.Packages, g.osPackage(p, by)) })
		s.Packages = slices.CompactFunc(s.Packages, func(a, b ftypes.Package) bool { return a.Name == b.Name })
		b.PackageInfos = append(b.PackageInfos, s)
	})
	apps := make(map[string]bool)
	g.some(4, func() {
		a := ftypes.Application{Type: pick(g, ftypes.NodePkg, ftypes.PythonPkg, ftypes.GoBinary, ftypes.Jar, ftypes.ComposerVendor), FilePath: g.path()}
		k := string(a.Type) + a.FilePath
		if apps[k] {
			return
		}
		apps[k] = true
		g.some(3, func() {
			a.Packages = append(a.Packages, ftypes.Package{Name: pick(g, "p", "q", "@s/r", "g:a"), Version: pick(g, "1.0", "2.0"), FilePath: pick(g, "", a.FilePath), Dev: g.IntN(5) == 0})
		})
		b.Applications = append(b.Applications, a)
	})
	clear(paths)
	g.some(3, func() {
		p := g.path()
		if paths[p] {
			return
		}
		paths[p] = true
		s := ftypes.Secret{FilePath: p}
		for range 1 + g.IntN(3) {
			s.Findings = append(s.Findings, ftypes.SecretFinding{RuleID: pick(g, "r1", "r2", "r3"), Severity: "HIGH", StartLine: g.IntN(3)})
		}
		b.Secrets = append(b.Secrets, s)
	})
	clear(paths)
	g.some(2, func() {
		p := g.path()
		if paths[p] {
			return
		}
		paths[p] = true
		m := ftypes.Misconfiguration{FileType: ftypes.Dockerfile, FilePath: p}
		g.some(2, func() {
			m.Failures = append(m.Failures, ftypes.MisconfResult{PolicyMetadata: ftypes.PolicyMetadata{ID: pick(g, "DS-1", "DS-2"), Severity: "LOW"}})
		})
		b.Misconfigurations = append(b.Misconfigurations, m)
	})
	g.some(2, func() {
		name := pick(g, "bash", "zlib")
		if p := "usr/share/doc/" + name + "/copyright"; !paths[p] {
			paths[p] = true
			b.Licenses = append(b.Licenses, ftypes.LicenseFile{Type: ftypes.LicenseTypeDpkg, FilePath: p, PkgName: name,
				Findings: ftypes.LicenseFindings{{Name: pick(g, "MIT", "GPL-2.0-only")}, {Name: "BSD"}}})
		}
	})
	return b
}

func (g generator) osPackage(set string, by analyzer.Type) ftypes.Package {
	name := pick(g, "bash", "zlib", "glibc")
	p := ftypes.Package{Name: name, Version: pick(g, "1", "2"), Release: pick(g, "", "3"), Epoch: pick(g, 0, 1), Arch: pick(g, "", "amd64"),
		AnalyzedBy: by, FilePath: set} // its path sets it apart from other sets' packages
	p.ID = p.Name + "@" + p.Version
	if by == analyzer.TypeSBOM && g.IntN(2) == 0 {
		p.Identifier.PURL = packageurl.NewPackageURL(pick(g, "deb", "rpm"), pick(g, "debian", "redhat", "suse", ""), p.Name, p.Version, nil, "")
	}
	if g.IntN(4) == 0 {
		p.Layer = ftypes.Layer{Digest: "sha256:given"}
	}
	if g.IntN(5) == 0 {
		p.Repository.Class = ftypes.RepositoryClassThirdParty
	}
	if g.IntN(5) == 0 {
		p.Modularitylabel = "m:1"
	}
	return p
}
