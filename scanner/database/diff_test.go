package database_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scanner/database"
	"pratique/scanner/match"
)

func TestDiffFiles(t *testing.T) {
	full := func() content {
		return base().redHatCPEs().
			put("pip::x", "Foo_Bar", "CVE-2030-1", inRange).put("pip::x", "b", "CVE-2030-2", inRange).
			put("Red Hat", "nodejs:12::npm", "RHSA-1", redHat).
			put("vulnerability", direct, "TEMP-0", `{"Title":"t"}`).put("vulnerability", direct, "OSV-1", `{"Title":"t","References":["https://a"]}`)
	}
	redHatKeys := []string{"type centos", "type redhat"}
	for _, c := range []struct {
		name   string
		change func(content)
		want   database.Difference
	}{
		{"nothing", func(content) {}, database.Difference{}},
		{"an advisory appears", func(c content) { c.put("pip::x", "b", "CVE-2030-3", inRange) }, database.Difference{Keys: []string{"b"}}},
		{"an advisory goes", func(c content) { delete(c["pip::x"]["b"], "CVE-2030-2") }, database.Difference{Keys: []string{"b"}}},
		{"a package goes", func(c content) { delete(c["pip::x"], "Foo_Bar") }, database.Difference{Keys: []string{"foo-bar"}}},
		{"a package appears", func(c content) { c.put("pip::x", "C", "CVE-2030-3", inRange) }, database.Difference{Keys: []string{"c"}}},
		{"a source appears", func(c content) { c.put("pip::y", "B", "CVE-2030-3", inRange) }, database.Difference{Keys: []string{"b"}}},
		{"a source goes", func(c content) { delete(c, "pip::x") }, database.Difference{Keys: []string{"b", "foo-bar"}}},
		{"a fixed version", func(c content) { c.put("pip::x", "b", "CVE-2030-2", `{"VulnerableVersions":["<8.0.0"]}`) }, database.Difference{Keys: []string{"b"}}},
		{"a module's package", func(c content) {
			c.put("Red Hat", "nodejs:12::npm", "RHSA-1", strings.Replace(redHat, "9.0", "8.0", 1))
		}, database.Difference{Keys: []string{"npm"}}},
		{"a severity", func(c content) { c.put("vulnerability", direct, "CVE-2030-1", `{"Severity":"LOW"}`) }, database.Difference{Vulnerabilities: []string{"CVE-2030-1"}}},
		{"a record goes", func(c content) { delete(c["vulnerability"][direct], "CVE-2030-1") }, database.Difference{Vulnerabilities: []string{"CVE-2030-1"}}},
		{"a record appears", func(c content) { c.put("vulnerability", direct, "CVE-2030-9", `{}`) }, database.Difference{Vulnerabilities: []string{"CVE-2030-9"}}},
		{"what no finding tells of a record", func(c content) {
			c.put("vulnerability", direct, "CVE-2030-1", `{"Title":"wanted","Description":"long, \"quoted\" {","Severity":"HIGH","CweIDs":["CWE-1"],"VendorSeverity":{"nvd":3},"References":["https://b"],"PublishedDate":"2030-01-01T00:00:00Z","LastModifiedDate":"2030-01-01T00:00:00Z"}`)
		}, database.Difference{}},
		{"a URL that is a reference", func(c content) {
			c.put("vulnerability", direct, "OSV-1", `{"Title":"t","References":["https://b"]}`)
		}, database.Difference{Vulnerabilities: []string{"OSV-1"}}},
		{"a field nobody knows", func(c content) { c.put("vulnerability", direct, "TEMP-0", `{"Title":"t","New":1}`) }, database.Difference{Vulnerabilities: []string{"TEMP-0"}}},
		{"a record that is none", func(c content) { c.put("vulnerability", direct, "TEMP-0", `[1`) }, database.Difference{Vulnerabilities: []string{"TEMP-0"}}},
		{"a data source", func(c content) { c.put("data-source", direct, "pip::x", `{"ID":"ghsa"}`) }, database.Difference{Keys: []string{"b", "foo-bar"}}},
		{"a data source goes", func(c content) { delete(c["data-source"][direct], "debian 1") }, database.Difference{Keys: []string{"other"}}},
		{"all data sources go", func(c content) { delete(c, "data-source") }, database.Difference{Keys: []string{"other"}}},
		{"a CPE before the others", func(c content) {
			c.put("Red Hat CPE", "cpe", "0", `"cpe:/a"`).put("Red Hat CPE", "cpe", "1", `"cpe:/o:redhat:enterprise_linux:9"`).
				put("Red Hat CPE", "repository", "rhel-9-for-x86_64-baseos-rpms", `[1]`).
				put("Red Hat", "nodejs:12::npm", "RHSA-1", strings.Replace(redHat, `"Affected":[0]`, `"Affected":[1]`, 1))
		}, database.Difference{}},
		{"CPEs that trade places", func(c content) {
			c.put("Red Hat CPE", "cpe", "0", `"cpe:/z"`)
		}, database.Difference{Keys: []string{"npm", "type centos", "type redhat"}}},
		{"a repository appears", func(c content) { c.put("Red Hat CPE", "repository", "other", `[0]`) }, database.Difference{Keys: redHatKeys}},
		{"a build appears", func(c content) { c.put("Red Hat CPE", "nvr", "ubi-9-1", `[0]`) }, database.Difference{Keys: redHatKeys}},
		{"another CPE of the same name", func(c content) {
			c.put("Red Hat CPE", "cpe", "1", `"cpe:/o:redhat:enterprise_linux:9"`).put("Red Hat CPE", "repository", "rhel-9-for-x86_64-baseos-rpms", `[1]`)
		}, database.Difference{Keys: redHatKeys}},
		{"a CPE without a name", func(c content) {
			c.put("Red Hat", "nodejs:12::npm", "RHSA-1", strings.Replace(redHat, `"Affected":[0]`, `"Affected":[7]`, 1))
		}, database.Difference{Keys: []string{"npm"}}},
		{"a value beside the packages", func(c content) { c.put("pip::x", direct, "version", "2") }, database.Difference{All: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			after := full()
			c.change(after)
			from, to := full().write(t), after.write(t)
			for _, way := range [][2]string{{from, to}, {to, from}} { // what goes one way appears the other
				got, err := database.DiffFiles(t.Context(), way[0], way[1])
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(database.Difference{}, "Packages")); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestDiffFilesCounts(t *testing.T) {
	from := base().put("pip::x", "a", "1", inRange).put("pip::x", "b", "1", inRange).write(t)
	to := base().put("pip::x", "b", "2", inRange).put("pip::x", "c", "1", inRange).put("npm::x", "c", "1", inRange).write(t)
	got, err := database.DiffFiles(t.Context(), from, to)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]database.Moved{"pip::x": {Added: 1, Removed: 1, Changed: 1}, "npm::x": {Added: 1}}
	if diff := cmp.Diff(want, got.Packages); diff != "" {
		t.Error(diff)
	}
}

// TestDiffDamaged: a database that cannot be read is an error, not an empty
// difference.
func TestDiffDamaged(t *testing.T) {
	good := base().write(t)
	for name, damage := range map[string]func(raw []byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"truncated": func(raw []byte) []byte { return raw[:len(raw)/2] },
		"nonsense":  func(raw []byte) []byte { return bytes.Repeat([]byte{0xff}, len(raw)) },
		"pages": func(raw []byte) []byte {
			for i := 3 * 4096; i < len(raw); i++ {
				raw[i] ^= 0x5a
			}
			return raw
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad := base().write(t)
			path := filepath.Join(bad, "trivy.db")
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(raw), 0o600); err != nil {
				t.Fatal(err)
			}
			if d, err := database.DiffFiles(t.Context(), good, bad); err == nil {
				t.Errorf("no error, and %+v", d)
			}
			if d, err := database.DiffFiles(t.Context(), bad, good); err == nil {
				t.Errorf("no error, and %+v", d)
			}
		})
	}
	if _, err := database.DiffFiles(t.Context(), good, t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// TestDiff follows databases of which two are kept, and what remains of the others.
func TestDiff(t *testing.T) {
	s := newSetup(t, database.Config{})
	old := s.mustImport(t, archive(t, "old")).Digest
	ctx := t.Context()
	if d, err := s.Diff(ctx, "", old); err != nil || !d.All {
		t.Errorf("from nothing: %+v, %v", d, err)
	}
	next := s.mustImport(t, archive(t, "new")).Digest
	d, err := s.Diff(ctx, old, next)
	if err != nil || d.All || !slices.Contains(d.Keys, "openssl") || len(d.Vulnerabilities) == 0 {
		t.Fatalf("%+v, %v", d, err)
	}
	unchanged, err := s.Diff(ctx, next, next)
	if diff := cmp.Diff(database.Difference{}, unchanged); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	for range 3 { // until the first is deleted
		s.mustImport(t, edit(t, "new", now, func(path string) { touch(t, path) }))
	}
	standing := s.Status().Digest
	again, err := s.Diff(ctx, old, standing)
	if err != nil || again.All {
		t.Fatalf("from a deleted database: %+v, %v", again, err)
	}
	if diff := cmp.Diff(d.Vulnerabilities, again.Vulnerabilities); diff != "" {
		t.Error(diff)
	}
	if d, err := s.Diff(ctx, digest.FromString("never seen"), standing); err != nil || !d.All {
		t.Errorf("from one that never was: %+v, %v", d, err)
	}
	if d, err := s.Diff(ctx, "sha256:../../x", standing); err != nil || !d.All {
		t.Errorf("from what is no digest: %+v, %v", d, err)
	}
	if d, err := s.Diff(ctx, standing, digest.FromString("never seen")); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("to one that never was: %+v, %v", d, err)
	}
	// A damaged fingerprint is made again while its database is there, and is no
	// fingerprint otherwise.
	kept, err := filepath.Glob(filepath.Join(s.dir, "fingerprints", "*"))
	if err != nil || len(kept) < 3 {
		t.Fatalf("%v, %v", kept, err)
	}
	for _, name := range kept {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		raw[len(raw)/2] ^= 1
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if d, err := s.Diff(ctx, old, standing); err != nil || !d.All {
		t.Errorf("from a damaged fingerprint: %+v, %v", d, err)
	}
}

var touches byte

// touch makes the file another one, which says the same.
func touch(t *testing.T, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	touches++
	raw = append(raw, bytes.Repeat([]byte{touches}, 4096)...)
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDiffKeeps: so many fingerprints are kept, those used last.
func TestDiffKeeps(t *testing.T) {
	s := newSetup(t, database.Config{})
	first := s.mustImport(t, archive(t, "new")).Digest
	var all []digest.Digest
	for range 7 {
		st := s.mustImport(t, edit(t, "new", now, func(path string) { touch(t, path) }))
		all = append(all, st.Digest)
		if _, err := s.Diff(t.Context(), first, st.Digest); err != nil { // first stays, as it is used
			t.Fatal(err)
		}
	}
	kept, err := filepath.Glob(filepath.Join(s.dir, "fingerprints", "*"))
	if err != nil || len(kept) > 5 {
		t.Errorf("%v, %v", kept, err)
	}
	if d, err := s.Diff(t.Context(), all[5], all[6]); err != nil || d.All || len(d.Keys) > 0 {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestFingerprintURL holds which records' references decide a finding's URL against
// the detector: of ids that a fingerprint takes the references of, and others.
func TestFingerprintURL(t *testing.T) {
	m := match.New(match.Config{})
	defer m.Close()
	for _, id := range []string{"CVE-2030-1", "GHSA-1", "RUSTSEC-1", "TEMP-1", "DSA-1", "GO-2030-1", "OSV-1", "RHSA-1", "NSWG-ECO-1", "ELSA-1", "ALAS-1", "PYSEC-1"} {
		c := osComponent("debian", "12.5", "bash")
		made := func(reference string) (string, string) {
			dir := base().put("debian 12", "bash", id, fixedLater).put("data-source", direct, "debian 12", `{"ID":"debian"}`).
				put("vulnerability", direct, id, `{"Title":"t","References":["`+reference+`"]}`).write(t)
			if err := m.Adopt(t.Context(), dir, digest.FromString(dir)); err != nil {
				t.Fatal(err)
			}
			found, _, err := m.Match(t.Context(), []pratique.Component{c})
			if err != nil || len(found[0]) != 1 {
				t.Fatalf("%v, %v", found, err)
			}
			return dir, found[0][0].URL
		}
		from, before := made("http://www.debian.org/security/1")
		to, after := made("http://www.debian.org/security/2")
		d, err := database.DiffFiles(t.Context(), from, to)
		if err != nil {
			t.Fatal(err)
		}
		if id == "DSA-1" && before == after {
			t.Errorf("%s: the URL is %q whatever the references: this test tests nothing", id, after)
		}
		if before != after && len(d.Vulnerabilities) == 0 {
			t.Errorf("%s: the URL moved from %q to %q, and no difference is told", id, before, after)
		}
	}
}
