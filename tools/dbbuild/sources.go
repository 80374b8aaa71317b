package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy-db/pkg/ecosystem"
	"github.com/aquasecurity/trivy-db/pkg/types"
	"github.com/aquasecurity/trivy-db/pkg/vulnsrc/alpine"
	"github.com/aquasecurity/trivy-db/pkg/vulnsrc/bitnami"
	"github.com/aquasecurity/trivy-db/pkg/vulnsrc/bucket"
	"github.com/aquasecurity/trivy-db/pkg/vulnsrc/bundler"
	"github.com/aquasecurity/trivy-db/pkg/vulnsrc/composer"
	"github.com/aquasecurity/trivy-db/pkg/vulnsrc/node"
	"github.com/aquasecurity/trivy-db/pkg/vulnsrc/osv"
	"github.com/aquasecurity/trivy-db/pkg/vulnsrc/vulnerability"
)

// source is one file of advisories and the way it gets into the database.
type source struct {
	name string
	load func(*builder) error
}

// sources are those that stand on their own; sourceNames adds Debian's.
func sources() []source {
	return []source{
		osvSource("go-vulndb", byID, vulnerability.GoVulnDB, ecosystem.Go, "The Go Vulnerability Database", "https://pkg.go.dev/vuln/"),
		osvSource("pypa", byID, vulnerability.OSV, ecosystem.Pip, "Python Packaging Advisory Database", "https://github.com/pypa/advisory-database"),
		copied("npm-nodejs-wg", "nodejs-security-wg/vuln/npm", byID, numbered(".json"), node.NewVulnSrc().Update),
		osvSource("npm-retirejs", byIDAndPackage, vulnerability.OSV, ecosystem.Npm, "Retire.js Repository", "https://github.com/RetireJS/retire.js"),
		osvSource("npm-ghsa-selected", byID, vulnerability.GHSA, ecosystem.Npm, "GitHub Security Advisory npm", "https://github.com/advisories?query=type%3Areviewed+ecosystem%3Anpm"),
		osvSource("maven-ghsa-selected", byID, vulnerability.GHSA, ecosystem.Maven, "GitHub Security Advisory Maven", "https://github.com/advisories?query=type%3Areviewed+ecosystem%3Amaven"),
		copied("ruby", "ruby-advisory-db/gems", byPath, numbered(".yml"), bundler.NewVulnSrc().Update),
		copied("php", "php-security-advisories", byPath, func(_ int, r record) string { return str(r, "path") }, composer.NewVulnSrc().Update),
		copied("bitnami", "bitnami-vulndb/data", byID, numbered(".json"), func(dir string) error { s := bitnami.NewVulnSrc(); return s.Update(dir) }),
		{"alma", (*builder).alma},
		{"alpine-secdb", (*builder).alpine},
	}
}

func sourceNames() []string {
	names := []string{debianChangelog, debianDSA, debianDLA}
	for _, s := range sources() {
		names = append(names, s.name)
	}
	return names
}

func numbered(ext string) func(int, record) string {
	return func(i int, _ record) string { return fmt.Sprintf("%06d%s", i, ext) }
}

// copied is a source that trivy-db has an updater for.
func copied(name, dir string, key func(record) string, file func(int, record) string, update func(string) error) source {
	return source{name, func(b *builder) error {
		rs, err := b.records(name, key)
		if err != nil {
			return err
		}
		for i, r := range rs {
			if err := b.put(dir, file(i, r), r); err != nil {
				return err
			}
		}
		return update(b.tmp)
	}}
}

// osvSource is a source in OSV's format.
func osvSource(name string, key func(record) string, id types.SourceID, eco ecosystem.Type, title, url string) source {
	ds := map[ecosystem.Type]types.DataSource{eco: {ID: id, Name: title, URL: url}}
	return copied(name, name, key, numbered(".json"), func(dir string) error {
		return osv.New(name, id, ds, osv.WithTransformer(transform{})).Update(dir)
	})
}

// transform carries goos and goarch of Go advisories and the severity words of
// GitHub's.
type transform struct{}

func (transform) PostParseAffected(adv osv.Advisory, aff osv.Affected) (osv.Advisory, error) {
	for _, i := range aff.EcosystemSpecific.Imports {
		for _, o := range i.GOOS {
			if !slices.Contains(adv.OSes, o) {
				adv.OSes = append(adv.OSes, o)
			}
		}
		for _, a := range i.GOARCH {
			if !slices.Contains(adv.Arches, a) {
				adv.Arches = append(adv.Arches, a)
			}
		}
	}
	return adv, nil
}

func (transform) TransformAdvisories(advs []osv.Advisory, e osv.Entry) ([]osv.Advisory, error) {
	var s struct{ URL, Severity string }
	if len(e.DatabaseSpecific) > 0 {
		if err := json.Unmarshal(e.DatabaseSpecific, &s); err != nil {
			return nil, err
		}
	}
	severity := map[string]types.Severity{
		"LOW": types.SeverityLow, "MODERATE": types.SeverityMedium, "HIGH": types.SeverityHigh, "CRITICAL": types.SeverityCritical,
	}[s.Severity]
	for i := range advs {
		if s.URL != "" {
			advs[i].References = append(advs[i].References, s.URL)
		}
		advs[i].Severity = severity
	}
	return advs, nil
}

// alma writes AlmaLinux's errata. Modular packages are left out: their stream
// is not in the records.
func (b *builder) alma() error {
	rs, err := b.records("alma", byIDAndRelease)
	if err != nil {
		return err
	}
	sort.SliceStable(rs, func(i, j int) bool { return str(rs[i], "published") < str(rs[j], "published") })
	c := db.Config{}
	return c.BatchUpdate(func(tx *bolt.Tx) error {
		for _, r := range rs {
			for _, cve := range strs(r["cves"]) {
				if err := almaErratum(c, tx, r, cve); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func almaErratum(c db.Config, tx *bolt.Tx, r record, cve string) error {
	severity := map[string]types.Severity{
		"low": types.SeverityLow, "moderate": types.SeverityMedium, "important": types.SeverityHigh, "critical": types.SeverityCritical,
	}[strings.ToLower(str(r, "severity_text"))]
	titles, _ := r["titles"].(record)
	releases, _ := r["packages"].(record)
	title := str(titles, cve)
	if title == "" {
		title = str(r, "summary")
	}
	detail := types.VulnerabilityDetail{
		Severity: severity, Title: title,
		References: []string{"https://errata.almalinux.org/" + firstKey(releases) + "/" + strings.Replace(str(r, "id"), ":", "-", 1) + ".html"},
	}
	if err := c.PutVulnerabilityDetail(tx, cve, vulnerability.Alma, detail); err != nil {
		return err
	}
	if err := c.PutVulnerabilityID(tx, cve); err != nil {
		return err
	}
	ds := types.DataSource{ID: vulnerability.Alma, Name: "AlmaLinux Product Errata", URL: "https://errata.almalinux.org/"}
	for release, groups := range releases {
		name := bucket.NewAlma(release).Name()
		if err := c.PutDataSource(tx, name, ds); err != nil {
			return err
		}
		byVersion, _ := groups.(record)
		for version, packages := range byVersion {
			if strings.Contains(version, "module_el") {
				continue
			}
			for _, p := range strs(packages) {
				a := types.Advisory{FixedVersion: version, VendorIDs: []string{str(r, "id")}}
				if err := c.PutAdvisoryDetail(tx, cve, p, []string{name}, a); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (b *builder) alpine() error {
	rs, err := b.records("alpine-secdb", byID)
	if err != nil {
		return err
	}
	for _, r := range rs {
		release := str(r, "release")
		v := record{"name": r["name"], "secfixes": r["secfixes"], "reponame": r["repo"], "distroversion": "v" + release}
		if err := b.put("vuln-list/alpine/"+release+"/"+str(r, "repo"), str(r, "name")+".json", v); err != nil {
			return err
		}
	}
	return alpine.NewVulnSrc().Update(b.tmp)
}
