package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/aquasecurity/trivy-db/pkg/vulnsrc/debian"
)

// Parts of Debian's advisories.
const (
	debianChangelog = "debian-changelog" // CVE ids that changelogs name, with the version
	debianDSA       = "debian-dsa"
	debianDLA       = "debian-dla"
)

const tracker = "vuln-list-debian/tracker"

// annotation and bug are Debian's security tracker as trivy-db's updater reads
// it.
type annotation struct {
	Type    string
	Release string   `json:",omitempty"`
	Package string   `json:",omitempty"`
	Kind    string   `json:",omitempty"`
	Version string   `json:",omitempty"`
	Bugs    []string `json:",omitempty"`
}

type bug struct {
	Header      struct{ ID, Description string }
	Annotations []annotation
}

// debian writes the wanted parts as one tracker and has it read.
func (b *builder) debian(parts []string) error {
	releases := make(map[string]map[string]string)
	for code, major := range map[string]string{"stretch": "9", "buster": "10", "bullseye": "11", "bookworm": "12", "trixie": "13"} {
		releases[code] = map[string]string{"major-version": major}
	}
	if err := b.put(tracker, "distributions.json", releases); err != nil {
		return err
	}
	for _, d := range []string{"source", "updates-source", "CVE", "DSA", "DLA"} {
		if err := os.MkdirAll(filepath.Join(b.tmp, tracker, d), 0o755); err != nil {
			return err
		}
	}
	if slices.Contains(parts, debianChangelog) {
		if err := b.debianChangelogs(); err != nil {
			return err
		}
	}
	for _, part := range []string{debianDSA, debianDLA} {
		if slices.Contains(parts, part) {
			if err := b.debianAdvisories(part); err != nil {
				return err
			}
		}
	}
	return debian.NewVulnSrc().Update(b.tmp)
}

func (b *builder) debianChangelogs() error {
	year := 9999
	if b.asof != "" {
		year, _ = strconv.Atoi(b.asof[:4])
	}
	bugs := make(map[string]*bug)
	err := b.lines(debianChangelog, func(r record) {
		late := b.asof != "" && str(r, "added") > b.asof
		for _, cve := range strs(r["cves"]) {
			a := annotation{Type: "package", Release: str(r, "release"), Package: str(r, "source"), Kind: "fixed", Version: str(r, "version")}
			if late {
				if cveYear(cve) >= year {
					continue
				}
				a.Kind, a.Version = "unfixed", ""
			}
			if bugs[cve] == nil {
				bugs[cve] = &bug{}
				bugs[cve].Header.ID = cve
			}
			bugs[cve].Annotations = append(bugs[cve].Annotations, a)
			b.counts[debianChangelog]++
		}
	})
	if err != nil {
		return err
	}
	for cve, x := range bugs {
		if err := b.put(tracker+"/CVE", cve+".json", x); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) debianAdvisories(part string) error {
	rs, err := b.records(part, byID)
	if err != nil {
		return err
	}
	dir := tracker + "/" + strings.ToUpper(strings.TrimPrefix(part, "debian-"))
	for _, r := range rs {
		var x bug
		x.Header.ID, x.Header.Description = str(r, "id"), str(r, "summary")
		if cves := strs(r["cves"]); len(cves) > 0 {
			x.Annotations = append(x.Annotations, annotation{Type: "xref", Bugs: cves})
		}
		fixes, _ := r["fixes"].([]any)
		for _, f := range fixes {
			f, _ := f.(record)
			x.Annotations = append(x.Annotations, annotation{
				Type: "package", Release: str(f, "release"), Package: str(f, "package"), Kind: str(f, "kind"), Version: str(f, "version"),
			})
		}
		if err := b.put(dir, x.Header.ID+".json", x); err != nil {
			return err
		}
	}
	return nil
}

func cveYear(id string) int {
	p := strings.Split(id, "-")
	if len(p) < 3 {
		return 9999
	}
	n, err := strconv.Atoi(p[1])
	if err != nil {
		return 9999
	}
	return n
}
