package match_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/aquasecurity/trivy-db/pkg/db"
	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"
	ospkgdetect "github.com/aquasecurity/trivy/pkg/detector/ospkg"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/scan/langpkg"
	"github.com/aquasecurity/trivy/pkg/scan/ospkg"
	"github.com/aquasecurity/trivy/pkg/types"
	"github.com/aquasecurity/trivy/pkg/vulnerability"
	gocmp "github.com/google/go-cmp/cmp"

	"pratique"
)

// row is a vulnerability at its place, with every field that Pratique keeps.
type row struct {
	Type, Package, Installed, Path string
	pratique.Vulnerability
}

func (r row) key() string {
	return fmt.Sprintf("%s|%s|%s|%s|%s|%s", r.Type, r.Package, r.Installed, r.Path, r.ID, r.Fixed)
}

func ordered(rows []row) []row {
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(a.key(), b.key()) })
	return slices.CompactFunc(rows, func(a, b row) bool { return a.key() == b.key() })
}

// whole asks Trivy's scanners about the whole image at once, as its program
// does, on the handle that the Matcher opened.
func whole(t *testing.T, inv pratique.Inventory) []row {
	t.Helper()
	opts := types.ScanOptions{
		PkgTypes: types.PkgTypes, PkgRelationships: ftypes.Relationships,
		Scanners: types.Scanners{types.VulnerabilityScanner}, VulnSeveritySources: []dbtypes.SourceID{"auto"},
	}
	target := types.ScanTarget{OS: ftypes.OS{Family: ftypes.OSType(inv.OS.Family), Name: inv.OS.Name, Extended: inv.OS.Extended, Supplier: ftypes.Supplier(inv.OS.Supplier)}}
	if inv.Repository != nil {
		target.Repository = &ftypes.Repository{Family: ftypes.OSType(inv.Repository.Family), Release: inv.Repository.Release}
	}
	for _, s := range inv.PackageSets {
		for _, p := range s.Packages {
			target.Packages = append(target.Packages, trivyPackage(p))
		}
	}
	for _, a := range inv.Applications {
		app := ftypes.Application{Type: ftypes.LangType(a.Type), FilePath: a.Path}
		for _, p := range a.Packages {
			if !p.Dev {
				app.Packages = append(app.Packages, trivyPackage(p))
			}
		}
		target.Applications = append(target.Applications, app)
	}
	var results types.Results
	r, _, err := ospkg.NewScanner().Scan(t.Context(), target, opts)
	if err != nil && !errors.Is(err, ospkgdetect.ErrUnsupportedOS) {
		t.Fatal(err)
	}
	results = append(results, r)
	rs, err := langpkg.NewScanner().Scan(t.Context(), target, opts)
	if err != nil {
		t.Fatal(err)
	}
	results = append(results, rs...)
	var rows []row
	for _, r := range results {
		vulnerability.NewClient(db.Config{}).FillInfo(r.Vulnerabilities, opts.VulnSeveritySources)
		for _, v := range r.Vulnerabilities {
			rows = append(rows, row{string(r.Type), v.PkgName, v.InstalledVersion, v.PkgPath, kept(v)})
		}
	}
	return ordered(rows)
}

func trivyPackage(p pratique.Package) ftypes.Package {
	out := ftypes.Package{
		ID: p.ID, Name: p.Name, Version: p.Version, Release: p.Release, Epoch: p.Epoch, Arch: p.Arch,
		SrcName: p.SrcName, SrcVersion: p.SrcVersion, SrcRelease: p.SrcRelease, SrcEpoch: p.SrcEpoch,
		Modularitylabel: p.Modularity, FilePath: p.Path,
	}
	if p.ThirdParty {
		out.Repository.Class = ftypes.RepositoryClassThirdParty
	}
	if b := p.BuildInfo; b != nil {
		out.BuildInfo = &ftypes.BuildInfo{ContentSets: b.ContentSets, Nvr: b.NVR, Arch: b.Arch}
	}
	return out
}

// kept writes Trivy's finding in Pratique's words, independently of the Matcher.
func kept(v types.DetectedVulnerability) pratique.Vulnerability {
	out := pratique.Vulnerability{
		ID: v.VulnerabilityID, Fixed: v.FixedVersion, Status: v.Status.String(), Severity: pratique.Severity(v.Severity), //nolint:staticcheck // as FillInfo set it
		Source: string(v.SeveritySource), Title: v.Title, URL: v.PrimaryURL, VendorIDs: v.VendorIDs,
	}
	if v.DataSource != nil {
		out.Source = string(v.DataSource.ID)
	}
	for _, s := range v.CVSS {
		out.CVSS = max(out.CVSS, s.V3Score)
	}
	return out
}

// TestWholeImage: the join of the components' findings equals Trivy's own
// result for the image, in every field that is kept.
func TestWholeImage(t *testing.T) {
	rapidfort := pratique.Inventory{OS: pratique.OS{Family: "alpine", Name: "3.9.2", Supplier: "rapidfort"}}
	mixed := func(inv pratique.Inventory, extra ...pratique.Package) pratique.Inventory {
		inv.PackageSets = append(slices.Clone(inv.PackageSets), pratique.PackageSet{Path: "extra", Packages: extra})
		return inv
	}
	for _, generation := range []string{"old", "new"} {
		t.Run(generation, func(t *testing.T) {
			m := matcher(t, unpack(t, generation))
			cases := images(t)
			for _, img := range cases {
				switch img.Name {
				case "debian-bookworm-skeleton":
					// One package of a supplier turns the driver for all of them.
					cases = append(cases,
						image{"with a root.io package", mixed(img.Inventory, pratique.Package{Name: "less", Version: "643-1.root.io.1", SrcName: "less", SrcVersion: "643-1.root.io.1"})},
						image{"with a Seal package", mixed(img.Inventory, pratique.Package{Name: "seal-openssl", Version: "3.0.1", SrcName: "seal-openssl", SrcVersion: "3.0.1"})},
						image{"with a third party's package", mixed(img.Inventory, pratique.Package{Name: "libssl3", Version: "1.0", SrcName: "openssl", SrcVersion: "1.0", ThirdParty: true})},
						image{"with a version that is none", mixed(img.Inventory, pratique.Package{Name: "libssl3", Version: "x y", SrcName: "openssl", SrcVersion: "x y"})})
				case "alpine39-apkdb":
					rapidfort.PackageSets = img.Inventory.PackageSets
					cases = append(cases, image{"rapidfort", rapidfort})
					edge := img.Inventory
					edge.Repository = &pratique.Repository{Family: "alpine", Release: "3.8"}
					cases = append(cases, image{"another repository", edge})
				case "alma9-rpmdb":
					unknown := img.Inventory
					unknown.OS = pratique.OS{Family: "plan9", Name: "4"}
					cases = append(cases, image{"a family that is unknown", unknown})
				}
			}
			total := 0
			for _, img := range cases {
				cs, occurrences := img.Inventory.Components()
				found, _, err := m.Match(t.Context(), cs)
				if err != nil {
					t.Fatalf("%s: %v", img.Name, err)
				}
				at := make(map[pratique.ComponentID]int)
				for i, c := range cs {
					at[c.ID()] = i
				}
				var got []row
				for _, o := range occurrences {
					i := at[o.Component]
					for _, v := range found[i] {
						got = append(got, row{cs[i].Context.Type, cs[i].Name, o.Installed, o.Path, v})
					}
				}
				want := whole(t, img.Inventory)
				if diff := gocmp.Diff(want, ordered(got)); diff != "" {
					t.Errorf("%s (-trivy +pratique):\n%s", img.Name, diff)
				}
				total += len(want)
			}
			if total < 400 {
				t.Errorf("%d findings compared", total)
			}
		})
	}
}
