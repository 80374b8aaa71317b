package vex_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/evidence/vex"
	"pratique/policy"
)

func date(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

// load writes documents into a directory and reads it.
func load(t *testing.T, docs ...string) ([]pratique.Statement, error) {
	t.Helper()
	dir := t.TempDir()
	for i, doc := range docs {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.json", i)), []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ss, err := vex.Load([]string{dir})
	for i := range ss {
		ss[i].Source = strings.ReplaceAll(ss[i].Source, dir+"/", "")
	}
	return ss, err
}

const openVEX = `{"@context": "https://openvex.dev/ns/v0.2.0", "@id": "https://acme.example/vex/1", "author": "a", "version": 1,
 "timestamp": "2026-01-01T10:00:00Z", "last_updated": "2026-01-05T10:00:00Z", "statements": [%s]}`

func TestOpenVEX(t *testing.T) {
	got, err := load(t, fmt.Sprintf(openVEX, `
{"vulnerability": {"@id": "https://nvd.example/CVE-2026-0001", "name": "CVE-2026-0001", "aliases": ["GHSA-aaaa", " CVE-2026-0001 "]},
 "products": [
  {"@id": "pkg:oci/app@sha256:0f?repository_url=ghcr.io/acme/app", "subcomponents": [{"@id": "pkg:deb/debian/bash@5.2"}, {"identifiers": {"purl": "pkg:npm/x"}}]},
  {"identifiers": {"purl": "pkg:npm/lodash@4.17.20", "cpe23": "cpe:2.3:a:lodash:lodash:4.17.20"}, "hashes": {"sha-256": "`+strings.ToUpper(digest.FromString("x").Encoded())+`", "md5": "00"}}],
 "status": "not_affected", "justification": "vulnerable_code_not_present", "impact_statement": "not\nbuilt\u202e in"},
{"timestamp": "2026-01-02T10:00:00+01:00", "vulnerability": {"name": "CVE-2026-0002"}, "products": [{"@id": "pkg:npm/x@1"}], "status": "affected", "action_statement": "update"},
{"timestamp": "2026-01-02T10:00:00Z", "last_updated": "2026-01-03T10:00:00Z", "vulnerability": {"name": "CVE-2026-0002"}, "products": [{"@id": "pkg:npm/x@1"}], "status": "fixed"},
{"vulnerability": {"name": "CVE-2026-0003"}, "products": [{"@id": "https://acme.example/app"}], "status": "under_investigation"}`))
	if err != nil {
		t.Fatal(err)
	}
	components := []string{"pkg:deb/debian/bash@5.2", "pkg:npm/x"}
	want := []pratique.Statement{
		{IDs: []string{"CVE-2026-0001", "https://nvd.example/CVE-2026-0001", "GHSA-aaaa"}, Status: "not_affected", Justification: "vulnerable_code_not_present",
			Impact: "not built in", At: date("2026-01-05T10:00:00Z"), Products: []pratique.Product{
				{ID: "pkg:oci/app@sha256:0f?repository_url=ghcr.io/acme/app", Components: components},
				{ID: "pkg:npm/lodash@4.17.20"}, {ID: "cpe:2.3:a:lodash:lodash:4.17.20"}, {ID: digest.FromString("x").String()}}},
		{IDs: []string{"CVE-2026-0002"}, Status: "affected", At: date("2026-01-02T09:00:00Z"), Products: []pratique.Product{{ID: "pkg:npm/x@1"}}},
		{IDs: []string{"CVE-2026-0002"}, Status: "fixed", At: date("2026-01-03T10:00:00Z"), Products: []pratique.Product{{ID: "pkg:npm/x@1"}}},
		{IDs: []string{"CVE-2026-0003"}, Status: "under_investigation", At: date("2026-01-05T10:00:00Z"), Products: []pratique.Product{{ID: "https://acme.example/app"}}},
	}
	for i := range want {
		want[i].Document, want[i].Source = "https://acme.example/vex/1", "file:0.json"
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestParseOpenVEX: what came with an image need not name it again.
func TestParseOpenVEX(t *testing.T) {
	doc := fmt.Sprintf(openVEX, `{"vulnerability": {"name": "CVE-2026-0001"}, "status": "not_affected", "justification": "component_not_present"}`)
	got, err := vex.ParseOpenVEX([]byte(doc))
	want := []pratique.Statement{{Document: "https://acme.example/vex/1", IDs: []string{"CVE-2026-0001"}, Status: "not_affected", Justification: "component_not_present", At: date("2026-01-05T10:00:00Z")}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
	if _, err := load(t, doc); err == nil || !strings.Contains(err.Error(), "it names no product") {
		t.Errorf("as a file: %v", err)
	}
	if _, err := vex.ParseOpenVEX([]byte(`{"bomFormat": "CycloneDX", "specVersion": "1.5"}`)); !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("CycloneDX: %v", err)
	}
}

const (
	serial = "urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79"
	link   = "urn:cdx:3e671687-395b-41f5-a30f-a58921a69b79"
	sbom   = `{"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": "` + serial + `", "version": 2,
 "metadata": {"timestamp": "2026-01-01T10:00:00Z", "component": {"type": "container", "bom-ref": "root", "name": "app", "purl": "pkg:oci/app@sha256:0f?repository_url=ghcr.io/acme/app"}},
 "components": [{"type": "library", "bom-ref": "a", "name": "a", "version": "1", "purl": "pkg:npm/a", "components": [{"type": "library", "bom-ref": "b", "name": "b", "purl": "pkg:npm/b@2"}]},
  {"type": "library", "bom-ref": "nameless", "name": "n"}, {"type": "library", "bom-ref": "two", "name": "x", "purl": "pkg:npm/x@1"}, {"type": "library", "bom-ref": "two", "name": "x", "purl": "pkg:npm/x@2"}]`
)

// cdxVEX is a document of its own with vulnerabilities.
func cdxVEX(vulnerabilities string) string {
	return `{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "vulnerabilities": [` + vulnerabilities + `]}`
}

func TestCycloneDX(t *testing.T) {
	got, err := load(t, sbom+`, "vulnerabilities": [
{"id": "CVE-2026-0001", "references": [{"id": "GHSA-aaaa", "source": {"name": "g"}}], "analysis": {"state": "not_affected", "justification": "code_not_reachable", "detail": "d", "lastUpdated": "2026-02-01T00:00:00Z"},
 "affects": [{"ref": "a"}, {"ref": "b"}, {"ref": "root"}, {"ref": "pkg:npm/unlisted@3"}]},
{"id": "CVE-2026-0002", "analysis": {"state": "resolved"}, "affects": [{"ref": "a", "versions": [{"version": "1", "status": "unaffected"}]}, {"ref": "b", "versions": [{"range": "vers:npm/<2"}]}]},
{"id": "CVE-2026-0003", "analysis": {"state": "exploitable"}, "updated": "2026-03-01T00:00:00Z", "affects": [{"ref": "a"}]},
{"id": "CVE-2026-0004", "affects": [{"ref": "a"}]},
{"id": "CVE-2026-0005", "analysis": {"state": "in_triage"}, "affects": [{"ref": "b", "versions": [{"range": "vers:npm/<2"}]}]}]}`,
		cdxVEX(`{"id": "CVE-2026-0006", "analysis": {"state": "false_positive"}, "affects": [{"ref": "`+link+`/2#a"}, {"ref": "`+link+`/2"}]},
{"id": "CVE-2026-0007", "analysis": {"state": "resolved_with_pedigree"}, "affects": [{"ref": "pkg:npm/a@1"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	const app = "pkg:oci/app@sha256:0f?repository_url=ghcr.io/acme/app"
	of := func(component string) pratique.Product {
		return pratique.Product{ID: app, Components: []string{component}}
	}
	made := date("2026-01-01T10:00:00Z")
	want := []pratique.Statement{
		{IDs: []string{"CVE-2026-0001", "GHSA-aaaa"}, Status: "not_affected", Justification: "code_not_reachable", Impact: "d", At: date("2026-02-01T00:00:00Z"),
			Products: []pratique.Product{of("pkg:npm/a@1"), of("pkg:npm/b@2"), {ID: app}, of("pkg:npm/unlisted@3")}},
		{IDs: []string{"CVE-2026-0002"}, Status: "fixed", At: made, Products: []pratique.Product{of("pkg:npm/a@1")}},
		{IDs: []string{"CVE-2026-0003"}, Status: "affected", At: date("2026-03-01T00:00:00Z"), Products: []pratique.Product{of("pkg:npm/a@1")}},
		{IDs: []string{"CVE-2026-0006"}, Status: "not_affected", Products: []pratique.Product{of("pkg:npm/a@1"), {ID: app}}},
		{IDs: []string{"CVE-2026-0007"}, Status: "fixed", Products: []pratique.Product{{ID: "pkg:npm/a@1"}}},
	}
	for i := range want {
		want[i].Document, want[i].Source = serial, "file:0.json"
		if i > 2 {
			want[i].Document, want[i].Source = "1.json", "file:1.json"
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

const csafHead = `{"document": {"category": "csaf_vex", "csaf_version": "2.0", "tracking": {"id": "ACME-1", "current_release_date": "2026-01-01T10:00:00Z"}}, `

func TestCSAF(t *testing.T) {
	got, err := load(t, csafHead+`"product_tree": {
 "branches": [{"category": "vendor", "name": "ACME", "branches": [
   {"category": "product_name", "name": "lib", "branches": [
     {"category": "product_version", "name": "1.0", "product": {"product_id": "lib-1", "name": "lib 1.0", "product_identification_helper": {"purl": "pkg:npm/lib"}}},
     {"category": "product_version", "name": "2.0", "product": {"product_id": "lib-2", "name": "lib 2.0", "product_identification_helper": {"purl": "pkg:npm/lib@2.0"}}},
     {"category": "product_version_range", "name": "vers:npm/<3", "product": {"product_id": "lib-range", "name": "lib before 3", "product_identification_helper": {"purl": "pkg:npm/lib"}}}]},
   {"category": "product_name", "name": "image", "product": {"product_id": "image", "name": "image", "product_identification_helper": {"purl": "pkg:oci/app@sha256:0f"}}},
   {"category": "product_name", "name": "Linux 9", "product": {"product_id": "linux", "name": "Linux 9", "product_identification_helper": {"cpe": "cpe:/o:acme:linux:9"}}}]}],
 "full_product_names": [{"product_id": "all", "name": "other, all versions", "product_identification_helper": {"purl": "pkg:npm/other"}}],
 "relationships": [
   {"category": "default_component_of", "product_reference": "lib-2", "relates_to_product_reference": "image", "full_product_name": {"product_id": "image:lib-2", "name": "x"}},
   {"category": "default_component_of", "product_reference": "lib-2", "relates_to_product_reference": "linux", "full_product_name": {"product_id": "linux:lib-2", "name": "x"}},
   {"category": "default_component_of", "product_reference": "linux", "relates_to_product_reference": "image", "full_product_name": {"product_id": "image:linux", "name": "x"}},
   {"category": "external_component_of", "product_reference": "lib-2", "relates_to_product_reference": "image", "full_product_name": {"product_id": "image:external", "name": "x"}}],
 "product_groups": [{"group_id": "g", "product_ids": ["lib-1", "all"]}]},
"vulnerabilities": [
 {"cve": "CVE-2026-0001", "ids": [{"system_name": "s", "text": "ACME-77"}],
  "product_status": {"known_not_affected": ["lib-1", "lib-2", "all", "lib-range", "linux:lib-2", "image:linux", "image:external", "image:lib-2", "nowhere", "lib-1"]},
  "flags": [{"label": "component_not_present", "group_ids": ["g"]}, {"label": "vulnerable_code_not_present", "product_ids": ["image:lib-2"]}],
  "threats": [{"category": "impact", "details": "none"}, {"category": "impact", "details": "own", "product_ids": ["all"]}, {"category": "exploit_status", "details": "x"}]},
 {"cve": "CVE-2026-0002", "product_status": {"fixed": ["lib-2", "lib-1"], "first_fixed": ["all"], "known_affected": ["lib-1"], "under_investigation": ["all"], "recommended": ["image"]}},
 {"cve": "CVE-2026-0003", "product_status": {"first_affected": ["lib-1"], "last_affected": ["lib-2"]}}]}`)
	if err != nil {
		t.Fatal(err)
	}
	say := func(id, status, justification, impact string, ps ...pratique.Product) pratique.Statement {
		s := pratique.Statement{Document: "ACME-1", Source: "file:0.json", IDs: []string{id}, Status: status, Justification: justification, Impact: impact,
			At: date("2026-01-01T10:00:00Z"), Products: ps}
		if id == "CVE-2026-0001" {
			s.IDs = append(s.IDs, "ACME-77")
		}
		return s
	}
	lib1, lib2, other := pratique.Product{ID: "pkg:npm/lib@1.0"}, pratique.Product{ID: "pkg:npm/lib@2.0"}, pratique.Product{ID: "pkg:npm/other"}
	want := []pratique.Statement{
		say("CVE-2026-0001", "not_affected", "component_not_present", "none", lib1),
		say("CVE-2026-0001", "not_affected", "", "none", lib2),
		say("CVE-2026-0001", "not_affected", "component_not_present", "own", other),
		say("CVE-2026-0001", "not_affected", "vulnerable_code_not_present", "none", pratique.Product{ID: "pkg:oci/app@sha256:0f", Components: []string{"pkg:npm/lib@2.0"}}),
		say("CVE-2026-0002", "affected", "", "", lib1),
		say("CVE-2026-0002", "under_investigation", "", "", other),
		say("CVE-2026-0002", "fixed", "", "", lib2),
		say("CVE-2026-0003", "affected", "", "", lib1, lib2),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestLoadRefuses whole what is wrong in part: no statement of any file is then in
// force.
func TestLoadRefuses(t *testing.T) {
	good := fmt.Sprintf(openVEX, `{"vulnerability": {"name": "CVE-2026-0001"}, "products": [{"@id": "pkg:npm/x@1"}], "status": "fixed"}`)
	statement := func(text string) string { return fmt.Sprintf(openVEX, text) }
	for _, tc := range []struct{ name, doc, want string }{
		{"nothing", "", "not a JSON object"},
		{"a list", "[]", "not a JSON object"},
		{"text", "<bom/>", "not a JSON object"},
		{"two documents", good + good, "not a JSON object"},
		{"cut", good[:len(good)-9], "not a JSON object"},
		{"another object", "{}", "neither OpenVEX, nor CycloneDX, nor CSAF"},
		{"context of another kind", `{"@context": 1}`, "neither OpenVEX"},
		{"deep", strings.Repeat("[", 20000), "not a JSON object"},
		{"OpenVEX 0.0.1", `{"@context": "https://openvex.dev/ns", "statements": [{"vulnerability": "CVE-2026-0001", "products": ["pkg:npm/x"], "status": "fixed"}]}`, "OpenVEX (0.2.0 is what is read)"},
		{"OpenVEX, status", statement(`{"vulnerability": {"name": "C"}, "products": [{"@id": "pkg:npm/x"}], "status": "not-affected"}`), `statements[0]: status "not-affected": want`},
		{"OpenVEX, no vulnerability", statement(`{"products": [{"@id": "pkg:npm/x"}], "status": "fixed"}`), "it names no vulnerability"},
		{"OpenVEX, no justification", statement(`{"vulnerability": {"name": "C"}, "products": [{"@id": "pkg:npm/x"}], "status": "not_affected", "justification": " "}`), "needs a justification"},
		{"OpenVEX, product without a name", statement(`{"vulnerability": {"name": "C"}, "products": [{"supplier": "a"}], "status": "fixed"}`), "products[0]: it has neither @id nor"},
		{"OpenVEX, subcomponents without a name", statement(`{"vulnerability": {"name": "C"}, "products": [{"@id": "pkg:oci/x", "subcomponents": [{}]}], "status": "fixed"}`), "its subcomponents have neither"},
		{"OpenVEX, time", statement(`{"timestamp": "yesterday", "vulnerability": {"name": "C"}, "products": [{"@id": "pkg:npm/x"}], "status": "fixed"}`), "OpenVEX"},
		{"CycloneDX, state", cdxVEX(`{"id": "C", "analysis": {"state": "fine"}, "affects": [{"ref": "pkg:npm/x@1"}]}`), `vulnerabilities[0]: analysis.state "fine"`},
		{"CycloneDX, BOM that is not there", cdxVEX(`{"id": "C", "analysis": {"state": "not_affected"}, "affects": [{"ref": "` + link + `/1#pkg:npm/x@1"}]}`), "that BOM is not among the files"},
		{"CycloneDX, no link", cdxVEX(`{"id": "C", "analysis": {"state": "not_affected"}, "affects": [{"ref": "urn:cdx:x"}]}`), "invalid bom link"},
		{"CycloneDX, no component", sbom + `, "vulnerabilities": [{"id": "C", "analysis": {"state": "not_affected"}, "affects": [{"ref": "c"}]}]}`, `affects[0]: "c": no component with that bom-ref and a purl`},
		{"CycloneDX, component without purl", sbom + `, "vulnerabilities": [{"id": "C", "analysis": {"state": "not_affected"}, "affects": [{"ref": "nameless"}]}]}`, "no component with that bom-ref and a purl"},
		{"CycloneDX, reference of two", sbom + `, "vulnerabilities": [{"id": "C", "analysis": {"state": "not_affected"}, "affects": [{"ref": "two"}]}]}`, "no component with that bom-ref and a purl"},
		{"CycloneDX, product without purl", `{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": {"component": {"type": "container", "bom-ref": "r", "name": "app"}},
"vulnerabilities": [{"id": "C", "analysis": {"state": "not_affected"}, "affects": [{"ref": "pkg:npm/x@1"}]}]}`, "so nothing says which image is meant"},
		{"CycloneDX, no id", cdxVEX(`{"analysis": {"state": "not_affected"}, "affects": [{"ref": "pkg:npm/x@1"}]}`), "it has no id"},
		{"CSAF, no id", csafHead + `"vulnerabilities": [{"product_status": {}}]}`, "neither cve nor ids"},
		{"CSAF, a date", `{"document": {"csaf_version": "2.0", "tracking": {"current_release_date": "soon"}}}`, "CSAF:"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := load(t, good, tc.doc)
			if got != nil || !errors.Is(err, pratique.ErrInvalid) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "1.json") {
				t.Errorf("%v, error %v, want one wrapping ErrInvalid with the file and %q", got, err, tc.want)
			}
		})
	}
	if _, err := load(t, sbom+"}", sbom+"}"); err == nil || !strings.Contains(err.Error(), "serial number and version of") {
		t.Errorf("one BOM twice: %v", err)
	}
	if _, err := vex.Load([]string{"/does/not/exist.json"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if got, err := vex.Load(nil); len(got) != 0 || err != nil {
		t.Errorf("no paths: %v, %v", got, err)
	}
}

// TestLoadDirectory reads what ends in .json, through links, and nothing hidden.
func TestLoadDirectory(t *testing.T) {
	dir := t.TempDir()
	doc := fmt.Sprintf(openVEX, `{"vulnerability": {"name": "CVE-2026-0001"}, "products": [{"@id": "pkg:npm/x@1"}], "status": "fixed"}`)
	for name, text := range map[string]string{"..data/a.json": doc, "notes.txt": "x", ".b.json": "x", "sub.json/c.json": "x"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("..data/a.json", filepath.Join(dir, "a.json")); err != nil {
		t.Fatal(err)
	}
	got, err := vex.Load([]string{dir, filepath.Join(dir, "a.json")})
	if err != nil || len(got) != 1 || got[0].Source != "file:"+filepath.Join(dir, "a.json") {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestBounds: a document that makes much of little is refused in little time.
func TestBounds(t *testing.T) {
	many := func(n int, format string) string {
		parts := make([]string, n)
		for i := range parts {
			parts[i] = fmt.Sprintf(format, i)
		}
		return strings.Join(parts, ",")
	}
	for name, tc := range map[string]struct{ doc, want string }{
		"OpenVEX, components of every product": {fmt.Sprintf(openVEX, `{"vulnerability": {"name": "C"}, "status": "fixed", "products": [`+
			many(52, `{"@id": "pkg:oci/p%d", "identifiers": {"purl": "pkg:oci/x", "cpe22": "a", "cpe23": "b"}, "subcomponents": [`+strings.ReplaceAll(many(1000, `{"@id": "pkg:npm/c%d"}`), "%", "%%")+`]}`)+`]}`), "more than 200000"},
		"CSAF, flags of large groups": {csafHead + `"product_tree": {"product_groups": [{"group_id": "g", "product_ids": [` + many(2000, `"p%d"`) + `]}]},
"vulnerabilities": [{"cve": "C", "product_status": {"fixed": ["p"]}, "flags": [` + many(5000, `{"label": "l%d", "group_ids": ["g"]}`) + `]}]}`, "flags and threats name more than"},
		"CSAF, all products of all": {csafHead + `"product_tree": {"full_product_names": [` + many(90, `{"product_id": "a", "product_identification_helper": {"purl": "pkg:npm/a%d"}}`) + `],
"relationships": [` + many(1000, `{"category": "installed_on", "product_reference": "a", "relates_to_product_reference": "a", "full_product_name": {"product_id": "r%d"}}`) + `]}}`, "relates more than"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := load(t, tc.doc); !errors.Is(err, pratique.ErrInvalid) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%.300v", err)
			}
		})
	}
	if _, err := load(t, `{"x": "`+strings.Repeat("x", 32<<20)+`"}`); err == nil || !strings.Contains(err.Error(), "more than 33554432 bytes") {
		t.Errorf("%.300v", err)
	}
}

// decide tells whether statements lift CVE-2026-0001 in a package from an image.
func decide(t *testing.T, ss []pratique.Statement, id, purl string, attested ...pratique.Statement) bool {
	t.Helper()
	set, err := policy.Load(policy.File{Name: "p.yaml", Data: []byte("name: p\ndefault: allow\nrules: [{name: any, vulnerability: {}, action: deny}]\n")})
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("debian")
	v := set.Decide(policy.Facts{
		Ref:   pratique.Ref{Registry: "docker.io", Repo: "library/debian", Tag: "12", Digest: d},
		Image: pratique.Image{Digest: d, Kind: pratique.KindImage},
		Report: pratique.Report{Image: d, State: pratique.StateScanned, Config: pratique.ConfigFacts{Platform: pratique.Platform{OS: "linux", Architecture: "amd64"}},
			Findings: []pratique.Finding{{ID: id, Kind: pratique.KindVulnerability, Package: "p", Installed: "1", Severity: pratique.SeverityHigh, PURL: purl}}},
		Now: date("2026-11-23T12:00:00Z"), Statements: policy.NewStatements(ss),
		Attestations: pratique.Attestations{Image: d, CheckedAt: date("2026-11-23T12:00:00Z"), Statements: attested},
	})
	return v.Outcome == pratique.OutcomeAllow
}

// TestAsTrivyDoes holds what comes of Trivy's own test documents against what
// Trivy's tests (pkg/vex/vex_test.go) say. Where Pratique lifts less, the case says
// why; it never lifts more.
func TestAsTrivyDoes(t *testing.T) {
	const (
		spring     = "pkg:maven/org.springframework.boot/spring-boot@2.6.0"
		bash       = "pkg:deb/debian/bash@5.3?arch=amd64&distro=debian-12"
		transitive = "pkg:golang/github.com/aquasecurity/go-transitive@v4.0.0"
	)
	for _, tc := range []struct {
		doc, id, purl string
		trivy, ours   bool
		less          string
	}{
		{"openvex.json", "CVE-2021-44228", spring, true, true, ""},
		{"openvex.json", "CVE-2021-0001", spring, false, false, ""},
		{"openvex.json", "CVE-2021-44228", "pkg:maven/org.springframework.boot/spring-boot@2.6.1", false, false, ""},
		{"openvex-multiple.json", "CVE-2021-44228", spring, true, true, ""},
		{"openvex-multiple.json", "CVE-2021-0001", spring, false, false, ""},
		{"openvex-oci.json", "CVE-2022-3715", bash, true, false, "pkg:oci/debian is the name of anybody's image; repository_url or a digest makes it one"},
		{"openvex-oci-mismatch.json", "CVE-2022-3715", bash, false, false, ""},
		{"openvex-nested.json", "CVE-2024-0001", transitive, true, false, "no report says which package holds which"},
		{"csaf.json", "CVE-2024-0001", transitive, true, true, ""},
		{"csaf-relationships.json", "CVE-2024-0001", transitive, true, false, "no report says which package holds which"},
	} {
		ss, err := vex.Load([]string{"testdata/trivy/" + tc.doc})
		if err != nil {
			t.Fatal(err)
		}
		if got := decide(t, ss, tc.id, tc.purl); got != tc.ours || (tc.ours != tc.trivy && tc.less == "") || (tc.ours && !tc.trivy) {
			t.Errorf("%s: %s in %s: lifted %t, Trivy %t", tc.doc, tc.id, tc.purl, got, tc.trivy)
		}
	}
	// Trivy holds this one against the SBOM that it scans; alone it says nothing.
	if _, err := vex.Load([]string{"testdata/trivy/cyclonedx.json"}); err == nil || !strings.Contains(err.Error(), "that BOM is not among the files") {
		t.Error(err)
	}
	raw, err := os.ReadFile("testdata/trivy/cyclonedx.json")
	if err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string]bool{digest.FromString("debian").String(): true, digest.FromString("other").String(): false} {
		ss, err := load(t, string(raw), `{"bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": "`+serial+`", "version": 1,
"metadata": {"component": {"type": "container", "bom-ref": "root", "name": "debian:12", "purl": "pkg:oci/debian@`+strings.ReplaceAll(image, ":", "%3A")+`?arch=amd64&repository_url=index.docker.io%2Flibrary%2Fdebian"}},
"components": [{"type": "library", "bom-ref": "`+spring+`", "name": "spring-boot", "purl": "`+spring+`"}]}`)
		if err != nil {
			t.Fatal(err)
		}
		if got := decide(t, ss, "CVE-2021-44228", spring); got != want {
			t.Errorf("with the SBOM of %s: lifted %t, want %t", image, got, want)
		}
	}
}

// TestNotWiderThanWritten: what somebody could hope to get past the gate with a
// document about something else.
func TestNotWiderThanWritten(t *testing.T) {
	const finding = "pkg:npm/lodash@4.17.20"
	image := digest.FromString("debian").String()
	for _, tc := range []struct {
		name, product string
		want          bool
	}{
		{"the package", `{"@id": "pkg:npm/lodash@4.17.20"}`, true},
		{"the package, in all versions", `{"@id": "pkg:npm/lodash"}`, true},
		{"another version", `{"@id": "pkg:npm/lodash@4.17.21"}`, false},
		{"another package", `{"@id": "pkg:npm/lodash-es@4.17.20"}`, false},
		{"another ecosystem", `{"@id": "pkg:pypi/lodash@4.17.20"}`, false},
		{"other letters", `{"@id": "pkg:npm/Lodash@4.17.20"}`, false},
		{"a letter that looks the same", `{"@id": "pkg:npm/lоdash@4.17.20"}`, false},
		{"no purl", `{"@id": "lodash"}`, false},
		{"a purl that is none", `{"@id": "pkg:"}`, false},
		{"a pattern", `{"@id": "pkg:npm/*"}`, false},
		{"the image by digest", `{"@id": "pkg:oci/debian@` + image + `"}`, true},
		{"the image by hash", `{"hashes": {"sha-256": "` + strings.TrimPrefix(image, "sha256:") + `"}}`, true},
		{"another image", `{"@id": "pkg:oci/debian@` + digest.FromString("x").String() + `"}`, false},
		{"any image of that name", `{"@id": "pkg:oci/debian"}`, false},
		{"the image, another package", `{"@id": "pkg:oci/debian@` + image + `", "subcomponents": [{"@id": "pkg:npm/other"}]}`, false},
		{"the image, this package", `{"@id": "pkg:oci/debian@` + image + `", "subcomponents": [{"@id": "pkg:npm/lodash"}]}`, true},
		{"the image, a package that cannot be told", `{"@id": "pkg:oci/debian@` + image + `", "subcomponents": [{"identifiers": {"cpe23": "cpe:2.3:a:x:x"}}]}`, false},
		{"another image, this package", `{"@id": "pkg:oci/debian@` + digest.FromString("x").String() + `", "subcomponents": [{"@id": "pkg:npm/lodash"}]}`, false},
		{"a package that holds this one", `{"@id": "pkg:npm/app@1", "subcomponents": [{"@id": "pkg:npm/lodash@4.17.20"}]}`, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			doc := fmt.Sprintf(openVEX, `{"vulnerability": {"name": "CVE-2026-0001"}, "products": [`+tc.product+`], "status": "not_affected", "justification": "component_not_present"}`)
			if !json.Valid([]byte(doc)) {
				t.Fatal(doc)
			}
			ss, err := load(t, doc)
			if err != nil {
				t.Fatal(err)
			}
			if got := decide(t, ss, "CVE-2026-0001", finding); got != tc.want {
				t.Errorf("lifted %t, want %t", got, tc.want)
			}
			if decide(t, ss, "CVE-2026-0002", finding) {
				t.Error("another vulnerability is lifted")
			}
			// A document that came with another image speaks of nothing here.
			parsed, err := vex.ParseOpenVEX([]byte(doc))
			if err != nil {
				t.Fatal(err)
			}
			for i := range parsed {
				parsed[i].Image = digest.FromString("x")
			}
			if decide(t, nil, "CVE-2026-0001", finding, parsed...) {
				t.Error("lifted by what came with another image")
			}
		})
	}
}

// TestContradiction: the later document holds, and of one age the worse.
func TestContradiction(t *testing.T) {
	doc := func(at, status string) string {
		return `{"@context": "https://openvex.dev/ns/v0.2.0", "@id": "` + at + status + `", "timestamp": "` + at + `", "version": 1, "statements": [
{"vulnerability": {"name": "CVE-2026-0001"}, "products": [{"@id": "pkg:npm/lodash@4.17.20"}], "status": "` + status + `", "impact_statement": "x"}]}`
	}
	const earlier, later = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
	for _, tc := range []struct {
		docs []string
		want bool
	}{
		{[]string{doc(earlier, "affected"), doc(later, "not_affected")}, true},
		{[]string{doc(later, "not_affected"), doc(earlier, "affected")}, true},
		{[]string{doc(earlier, "not_affected"), doc(later, "affected")}, false},
		{[]string{doc(earlier, "not_affected"), doc(later, "under_investigation")}, false},
		{[]string{doc(earlier, "not_affected"), doc(earlier, "affected")}, false},
		{[]string{doc(earlier, "affected"), doc(earlier, "fixed")}, false},
	} {
		ss, err := load(t, tc.docs...)
		if err != nil {
			t.Fatal(err)
		}
		if got := decide(t, ss, "CVE-2026-0001", "pkg:npm/lodash@4.17.20"); got != tc.want {
			t.Errorf("%s: lifted %t", tc.docs, got)
		}
	}
}
