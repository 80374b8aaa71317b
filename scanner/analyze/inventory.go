//go:build goexperiment.jsonv2

package analyze

import (
	"cmp"

	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/purl"
	"github.com/aquasecurity/trivy/pkg/types"
	"github.com/opencontainers/go-digest"

	"pratique"
)

// inventory writes Trivy's result of a layer in our words.
func inventory(b ftypes.BlobInfo) pratique.Inventory {
	inv := pratique.Inventory{
		OS:          pratique.OS{Family: string(b.OS.Family), Name: b.OS.Name, Extended: b.OS.Extended, Supplier: string(b.OS.Supplier)},
		OpaqueDirs:  b.OpaqueDirs,
		Whiteouts:   b.WhiteoutFiles,
		BuildInfo:   buildInfo(b.BuildInfo),
		PackageSets: nil,
	}
	if b.Repository != nil {
		inv.Repository = &pratique.Repository{Family: string(b.Repository.Family), Release: b.Repository.Release}
	}
	for _, s := range b.PackageInfos {
		inv.PackageSets = append(inv.PackageSets, pratique.PackageSet{Path: s.FilePath, Packages: packages("", s.Packages)})
	}
	for _, a := range b.Applications {
		inv.Applications = append(inv.Applications, pratique.Application{Type: string(a.Type), Path: a.FilePath, Packages: packages(a.Type, a.Packages)})
	}
	for _, s := range b.Secrets {
		inv.Secrets = append(inv.Secrets, secrets(s)...)
	}
	for _, m := range b.Misconfigurations {
		found := misconfigurations(m)
		if len(found) == 0 { // checked, nothing failed: replaces what a lower layer's file of the same name had
			found = []pratique.Misconfiguration{{Type: string(m.FileType), Path: m.FilePath}}
		}
		inv.Misconfigurations = append(inv.Misconfigurations, found...)
	}
	for _, l := range b.Licenses {
		for _, f := range l.Findings {
			inv.Licenses = append(inv.Licenses, pratique.License{Name: f.Name, Package: l.PkgName, Path: l.FilePath, Type: string(l.Type)})
		}
	}
	return inv
}

// packages of an application of type t; with no type, of the operating system,
// whose package URLs depend on the whole image and are made by Merge.
func packages(t ftypes.LangType, ps ftypes.Packages) []pratique.Package {
	out := make([]pratique.Package, 0, len(ps))
	for _, p := range ps {
		out = append(out, pratique.Package{
			ID: p.ID, Name: p.Name, Version: p.Version, Release: p.Release, Epoch: p.Epoch, Arch: p.Arch,
			SrcName: p.SrcName, SrcVersion: p.SrcVersion, SrcRelease: p.SrcRelease, SrcEpoch: p.SrcEpoch,
			Modularity: p.Modularitylabel, Licenses: p.Licenses,
			ThirdParty: p.Repository.Class == ftypes.RepositoryClassThirdParty,
			Dev:        p.Dev, PURL: packageURL(t, p), Path: p.FilePath, AnalyzedBy: string(p.AnalyzedBy),
			BuildInfo: buildInfo(p.BuildInfo),
			Layer:     digest.Digest(cmp.Or(p.Layer.Digest, p.Layer.DiffID)),
		})
	}
	return out
}

func packageURL(t ftypes.LangType, p ftypes.Package) string {
	if p.Identifier.PURL != nil {
		return p.Identifier.PURL.String()
	}
	if t == "" || p.Name == "" {
		return ""
	}
	u, err := purl.New(t, types.Metadata{}, p)
	if err != nil || u == nil {
		return "" // a local path in go.mod and its like have none
	}
	return u.String()
}

func buildInfo(b *ftypes.BuildInfo) *pratique.BuildInfo {
	if b == nil {
		return nil
	}
	return &pratique.BuildInfo{ContentSets: b.ContentSets, NVR: b.Nvr, Arch: b.Arch}
}

func secrets(s ftypes.Secret) []pratique.Secret {
	out := make([]pratique.Secret, 0, len(s.Findings))
	for _, f := range s.Findings {
		out = append(out, pratique.Secret{
			RuleID: f.RuleID, Category: string(f.Category), Severity: pratique.Severity(f.Severity), Title: f.Title,
			Path: s.FilePath, StartLine: f.StartLine, EndLine: f.EndLine, Match: f.Match,
		})
	}
	return out
}

// misconfigurations are the failed checks; warnings count as failures, as in
// trivy's local scan service.
func misconfigurations(m ftypes.Misconfiguration) []pratique.Misconfiguration {
	var out []pratique.Misconfiguration
	for _, results := range []ftypes.MisconfResults{m.Failures, m.Warnings} {
		for _, r := range results {
			url := ""
			if len(r.References) > 0 {
				url = r.References[0]
			}
			out = append(out, pratique.Misconfiguration{
				ID: r.ID, Type: string(m.FileType), Title: r.Title, Message: r.Message,
				Severity: pratique.Severity(r.Severity), Path: m.FilePath, URL: url,
			})
		}
	}
	return out
}
