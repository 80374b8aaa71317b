package match

import (
	"cmp"
	"slices"

	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/types"

	"pratique"
)

// toPackage is the component as Trivy's detectors want it: every field that any
// of them reads.
func toPackage(c pratique.Component) ftypes.Package {
	p := ftypes.Package{
		Name:            c.Name,
		Version:         c.Version,
		Release:         c.Release,
		Epoch:           c.Epoch,
		Arch:            c.Arch,
		SrcName:         c.SrcName,
		SrcVersion:      c.SrcVersion,
		SrcRelease:      c.SrcRelease,
		SrcEpoch:        c.SrcEpoch,
		Modularitylabel: c.Modularity,
	}
	if c.ThirdParty {
		p.Repository.Class = ftypes.RepositoryClassThirdParty
	}
	if b := c.Context.BuildInfo; b != nil {
		p.BuildInfo = &ftypes.BuildInfo{ContentSets: b.ContentSets, Nvr: b.NVR, Arch: b.Arch}
	}
	return p
}

// toVulnerability copies what Pratique keeps; nothing in the result is shared
// with Trivy's or the record cache's memory that is written to later.
func toVulnerability(v types.DetectedVulnerability) pratique.Vulnerability {
	out := pratique.Vulnerability{
		ID:        v.VulnerabilityID,
		Fixed:     v.FixedVersion,
		Status:    v.Status.String(),
		Severity:  pratique.Severity(v.Severity), //nolint:staticcheck // deprecated in records, set by FillInfo in findings
		Source:    string(v.SeveritySource),
		Title:     v.Title,
		URL:       v.PrimaryURL,
		VendorIDs: slices.Clone(v.VendorIDs),
	}
	if v.DataSource != nil {
		out.Source = string(v.DataSource.ID)
	}
	if out.Severity.Rank() == 0 { // also a word that no rule would know
		out.Severity = pratique.SeverityUnknown
	}
	for _, s := range v.CVSS {
		out.CVSS = max(out.CVSS, s.V3Score)
	}
	return out
}

// unique sorts by id and keeps one finding for each: of two, the one whose
// fixed version is the greater string, which is the one that the trivy program
// shows.
func unique(vs []pratique.Vulnerability) []pratique.Vulnerability {
	slices.SortFunc(vs, func(a, b pratique.Vulnerability) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(b.Fixed, a.Fixed))
	})
	return slices.CompactFunc(vs, func(a, b pratique.Vulnerability) bool { return a.ID == b.ID })
}
