package database_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/aquasecurity/trivy-db/pkg/ecosystem"
	"github.com/aquasecurity/trivy-db/pkg/vulnsrc/vulnerability"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"pratique"
	"pratique/scanner/database"
	"pratique/scanner/match"
)

// content of a small database: root bucket, package or other bucket, key.
type content map[string]map[string]map[string]string

// direct is the inner bucket of values that lie in a root bucket itself.
const direct = ""

// base is what every database needs to be adopted.
func base() content {
	return content{
		"vulnerability": {direct: {"CVE-2030-0": `{"Title":"other","Severity":"LOW"}`, "CVE-2030-1": `{"Title":"wanted","Severity":"HIGH","VendorSeverity":{"nvd":3}}`}},
		"data-source":   {direct: {"debian 1": `{"ID":"debian"}`}},
		"debian 1":      {"other": {"CVE-2030-0": `{"FixedVersion":"1"}`}},
	}
}

func (c content) put(root, inner, key, value string) content {
	if c[root] == nil {
		c[root] = make(map[string]map[string]string)
	}
	if c[root][inner] == nil {
		c[root][inner] = make(map[string]string)
	}
	c[root][inner][key] = value
	return c
}

// write makes the database in a new directory.
func (c content) write(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	b, err := bolt.Open(filepath.Join(dir, "trivy.db"), 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	err = b.Update(func(tx *bolt.Tx) error {
		for root, inner := range c {
			r, err := tx.CreateBucketIfNotExists([]byte(root))
			if err != nil {
				return err
			}
			for name, values := range inner {
				in := r
				if name != direct {
					if in, err = r.CreateBucketIfNotExists([]byte(name)); err != nil {
						return err
					}
				}
				for k, v := range values {
					if err := in.Put([]byte(k), []byte(v)); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "metadata.json"), metadata(t, 2, now).body, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func osComponent(family, release, name string, change ...func(*pratique.Component)) pratique.Component {
	c := pratique.Component{
		Context: pratique.Context{Class: pratique.ClassOS, Type: family, Name: release},
		Name:    name, Version: "1.0", Release: "1", Arch: "x86_64", SrcName: name, SrcVersion: "1.0", SrcRelease: "1",
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

func src(name string) func(*pratique.Component) {
	return func(c *pratique.Component) { c.SrcName = name }
}

func module(label string) func(*pratique.Component) {
	return func(c *pratique.Component) { c.Modularity = label }
}

func supplier(name string) func(*pratique.Component) {
	return func(c *pratique.Component) { c.Context.Supplier = name }
}

func library(kind, name string) pratique.Component {
	return pratique.Component{Context: pratique.Context{Class: pratique.ClassLanguage, Type: kind}, Name: name, Version: "1.0.0"}
}

func version(c pratique.Component, v string) pratique.Component {
	c.Version = v
	return c
}

const (
	fixedLater = `{"FixedVersion":"9.0-1"}`
	inRange    = `{"VulnerableVersions":["<9.0.0"],"PatchedVersions":["9.0.0"]}`
	redHat     = `{"Entries":[{"FixedVersion":"9.0-1","Cves":[{"ID":"CVE-2030-1","Severity":3}],"Affected":[0]}]}`
	nodeModule = "nodejs:18:8090020231106123:abcdef"
)

// keyed is one rule by which a detector looks a component up. Source: trivy
// v0.74.0, pkg/detector/ospkg and pkg/detector/library.
var keyed = []struct {
	component      pratique.Component
	bucket, pkg    string
	advisory, also string // value; and a type that shares the driver
}{
	{osComponent("alma", "9.2", "bash"), "alma 9", "bash", fixedLater, ""},
	{osComponent("alma", "8.9", "npm", module(nodeModule)), "alma 8", "nodejs:18::npm", fixedLater, ""},
	{osComponent("alpine", "3.18.2", "libssl3", src("openssl")), "alpine 3.18", "openssl", fixedLater, ""},
	{osComponent("alpine", "3.18.2", "busybox", src("")), "alpine 3.18", "busybox", fixedLater, ""},
	{osComponent("amazon", "2 (Karoo)", "curl", src("other")), "amazon linux 2", "curl", fixedLater, ""},
	{osComponent("azurelinux", "3.0", "libcurl", src("curl")), "Azure Linux 3.0", "curl", fixedLater, ""},
	{osComponent("cbl-mariner", "2.0.2023", "libcurl", src("curl")), "CBL-Mariner 2.0", "curl", fixedLater, ""},
	{osComponent("bottlerocket", "1.2", "kernel-6.1"), "bottlerocket", "kernel-6.1", fixedLater, ""},
	{osComponent("chainguard", "1", "libssl3", src("openssl")), "chainguard", "openssl", fixedLater, ""},
	{osComponent("chainguard", "1", "bash", src("")), "chainguard", "bash", fixedLater, ""},
	{osComponent("debian", "12.5", "libssl3", src("openssl")), "debian 12", "openssl", fixedLater, ""},
	{osComponent("echo", "1", "libssl3", src("openssl")), "echo", "openssl", fixedLater, ""},
	{osComponent("minimos", "1", "libssl3", src("openssl")), "minimos", "openssl", fixedLater, ""},
	{osComponent("oracle", "8.9", "bash", src("other")), "Oracle Linux 8", "bash", `{"Entries":[{"FixedVersion":"9.0-1","Arches":["x86_64"]}]}`, ""},
	{osComponent("photon", "4.0", "curl-libs", src("curl")), "Photon OS 4.0", "curl", fixedLater, ""},
	{osComponent("redhat", "9.2", "bash"), "Red Hat", "bash", redHat, "centos"},
	{osComponent("redhat", "9.2", "npm", module(nodeModule)), "Red Hat", "nodejs:18::npm", redHat, "centos"},
	{osComponent("rocky", "9.2", "bash"), "rocky 9", "bash", `{"Entries":[{"FixedVersion":"9.0-1","Arches":["x86_64"]}]}`, ""},
	{osComponent("rocky", "8.9", "npm", module(nodeModule)), "rocky 8", "nodejs:18::npm", `{"Entries":[{"FixedVersion":"9.0-1","Arches":["x86_64"]}]}`, ""},
	{osComponent("opensuse-leap", "15.5", "bash"), "openSUSE Leap 15.5", "bash", fixedLater, ""},
	{osComponent("opensuse-tumbleweed", "", "bash"), "openSUSE Tumbleweed", "bash", fixedLater, ""},
	{osComponent("sles", "15.5", "bash"), "SUSE Linux Enterprise 15.5", "bash", fixedLater, ""},
	{osComponent("slem", "5.4", "bash"), "SUSE Linux Enterprise Micro 5.4", "bash", fixedLater, ""},
	{osComponent("ubuntu", "22.04", "libssl3", src("openssl")), "ubuntu 22.04", "openssl", fixedLater, ""},
	{osComponent("wolfi", "1", "libssl3", src("openssl")), "wolfi", "openssl", fixedLater, ""},
	{osComponent("debian", "12.5", "libssl3", src("openssl"), supplier("root.io")), "root.io debian 12", "openssl", inRange, ""},
	{osComponent("alpine", "3.18.1", "busybox", src(""), func(c *pratique.Component) { c.SrcVersion, c.SrcRelease = "1.0", "" }, supplier("root.io")), "root.io alpine 3.18", "busybox", inRange, ""},
	{osComponent("debian", "12.5", "seal-libssl3", src("seal-openssl"), supplier("seal")), "seal debian", "seal-openssl", inRange, ""},
	{osComponent("debian", "12.5", "libssl3", src("openssl"), supplier("seal")), "debian 12", "openssl", fixedLater, ""},
	{osComponent("redhat", "9.2", "seal-bash", supplier("seal"), func(c *pratique.Component) { c.Release, c.SrcRelease = "1.el9", "1.el9" }), "seal Red Hat 9", "seal-bash", inRange, ""},
	{osComponent("ubuntu", "22.04", "libssl3", src("openssl"), supplier("rapidfort")), "rapidfort ubuntu 22.04", "openssl", inRange, ""},
	{osComponent("ubuntu", "22.04", "libssl3", src("openssl"), supplier("rapidfort")), "rapidfort ubuntu 22.04", "libssl3", inRange, ""},
	{osComponent("redhat", "9.2", "bash", src(""), supplier("rapidfort"), func(c *pratique.Component) { c.SrcVersion, c.SrcRelease = "", "" }), "rapidfort Red Hat 9", "bash", inRange, ""},
	{library("bundler", "Rails"), "rubygems::x", "rails", inRange, "gemspec"},
	{library("cargo", "Tokio"), "cargo::x", "tokio", inRange, "rustbinary"},
	{library("composer", "Symfony/Symfony"), "composer::x", "symfony/symfony", inRange, "composer-vendor"},
	{library("gomod", "github.com/Masterminds/vcs"), "go::x", "github.com/Masterminds/vcs", inRange, "gobinary"},
	{library("jar", "Org.Apache:Log4j"), "maven::x", "org.apache:log4j", inRange, "pom"},
	{library("npm", "@Angular/Core"), "npm::x", "@angular/core", inRange, "node-pkg"},
	{library("nuget", "Newtonsoft.Json"), "nuget::x", "newtonsoft.json", inRange, "dotnet-core"},
	{library("pip", "Foo_Bar"), "pip::x", "foo-bar", inRange, "python-pkg"},
	{library("pub", "Shelf"), "pub::x", "shelf", inRange, ""},
	{library("hex", "Phoenix"), "erlang::x", "phoenix", inRange, ""},
	{library("conan", "OpenSSL"), "conan::x", "openssl", inRange, ""},
	{library("swift", "https://github.com/Vapor/Vapor.git"), "swift::x", "github.com/Vapor/Vapor", inRange, ""},
	{library("swift", "github.com/apple/swift-nio"), "swift::x", "github.com/apple/swift-nio", inRange, ""},
	{library("cocoapods", "AFNetworking/Core"), "cocoapods::x", "AFNetworking/Core", inRange, ""},
	{library("bitnami", "Apache"), "bitnami::x", "apache", inRange, ""},
	{library("kubernetes", "k8s.io/Kubelet"), "k8s::x", "k8s.io/kubelet", inRange, ""},
	{library("julia", "HTTP"), "julia::x", "HTTP", inRange, ""},
	{version(library("pip", "Django"), "1.0.0+sp1"), "seal pip::x", "django", `{"VulnerableVersions":["<9.0.0"]}`, "python-pkg"},
	{library("pip", "seal-django"), "seal pip::x", "seal-django", inRange, ""},
	{version(library("npm", "ejs"), "1.0.0-sp1"), "seal npm::x", "ejs", inRange, ""},
	{version(library("gomod", "github.com/a/B"), "v1.0.0-sp1"), "seal go::x", "github.com/a/B", inRange, ""},
	{version(library("jar", "org.X:y"), "1.0.0+sp1"), "seal maven::x", "org.x:y", inRange, ""},
	{library("bundler", "seal-Rack"), "seal rubygems::x", "seal-rack", inRange, ""},
}

// TestKeys holds both sides of every detector's rule against each other: what a
// database says of a package, and the component of which a detector finds it there,
// have a key in common, and a diff tells it.
func TestKeys(t *testing.T) {
	m := match.New(match.Config{})
	defer m.Close()
	types := make(map[string]bool)
	for _, k := range keyed {
		types[k.component.Context.Type] = true
		t.Run(k.component.Context.Type+" "+k.bucket+" "+k.pkg, func(t *testing.T) {
			without := base().redHatCPEs()
			with := base().redHatCPEs().put(k.bucket, k.pkg, "CVE-2030-1", k.advisory).
				put("data-source", direct, k.bucket, `{"ID":"vendor","BaseID":"debian"}`)
			from, to := without.write(t), with.write(t)
			delta, err := database.DiffFiles(t.Context(), from, to)
			if err != nil || delta.All {
				t.Fatalf("%+v, %v", delta, err)
			}
			cs := []pratique.Component{k.component}
			if k.also != "" {
				types[k.also] = true
				c := k.component
				c.Context.Type = k.also
				cs = append(cs, c)
			}
			for _, c := range cs {
				if ids := answer(t, m, from, c); len(ids) != 0 {
					t.Errorf("before: %v", ids)
				}
				if ids := answer(t, m, to, c); !slices.Equal(ids, []string{"CVE-2030-1"}) {
					t.Errorf("%s: found %v: the rule is not what this test says", c.Context.Type, ids)
				}
				if !slices.ContainsFunc(c.Keys(), func(key string) bool { return slices.Contains(delta.Keys, key) }) {
					t.Errorf("%s: keys of the component %q, of the difference %q", c.Context.Type, c.Keys(), delta.Keys)
				}
			}
		})
	}
	for _, family := range ftypes.OSTypes {
		switch family {
		case ftypes.ActiveState, ftypes.CentOSStream, ftypes.CoreOS, ftypes.Fedora, ftypes.OpenSUSE: // no advisories
		default:
			if !types[string(family)] {
				t.Errorf("no rule for the family %s", family)
			}
		}
	}
}

func (c content) redHatCPEs() content {
	return c.put("Red Hat CPE", "cpe", "0", `"cpe:/o:redhat:enterprise_linux:9"`).
		put("Red Hat CPE", "repository", "rhel-9-for-x86_64-baseos-rpms", `[0]`)
}

// answer adopts a database and returns the ids that it has on the component.
func answer(t *testing.T, m *match.Matcher, dir string, c pratique.Component) []string {
	t.Helper()
	if err := m.Adopt(t.Context(), dir, digest.FromString(dir)); err != nil {
		t.Fatal(err)
	}
	found, _, err := m.Match(t.Context(), []pratique.Component{c})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, v := range found[0] {
		ids = append(ids, v.ID)
	}
	return ids
}

// TestRedHatTypes asks every driver whether Red Hat's CPEs decide its matches: when
// they move, all components of those types are matched again.
func TestRedHatTypes(t *testing.T) {
	m := match.New(match.Config{})
	defer m.Close()
	with := base().redHatCPEs()
	for _, family := range ftypes.OSTypes { // so that no driver finds something in its own bucket
		with.put("Red Hat", "bash", "RHSA-1", redHat).put("data-source", direct, string(family), `{"ID":"x"}`)
	}
	dir := with.write(t)
	moved := base().redHatCPEs().put("Red Hat", "bash", "RHSA-1", redHat).
		put("Red Hat CPE", "cpe", "1", `"cpe:/o:other"`).put("Red Hat CPE", "repository", "rhel-9-for-x86_64-baseos-rpms", `[1]`).write(t)
	delta, err := database.DiffFiles(t.Context(), dir, moved)
	if err != nil || delta.All {
		t.Fatalf("%+v, %v", delta, err)
	}
	for _, family := range ftypes.OSTypes {
		for _, s := range []string{"", "seal", "root.io"} {
			c := osComponent(string(family), "9.2", "bash", supplier(s))
			ids := answer(t, m, dir, c)
			told := slices.Contains(delta.Keys, pratique.TypeKey(string(family)))
			if len(ids) > 0 && !told {
				t.Errorf("%s %s: reads Red Hat's advisories, and is not told when CPEs move", family, s)
			}
			if s == "" && len(ids) == 0 && told {
				t.Errorf("%s: is told when CPEs move, and does not read them", family)
			}
		}
	}
}

// TestPackageKey: what a detector makes of a name before it looks it up has the key
// of the name.
func TestPackageKey(t *testing.T) {
	names := []string{
		"", "a", "::", "a::b", "a::b::c", "https://::x", "https://https://x", "x.git.git", "https://x.git", "https:// x .git", " https://x",
		"HTTPS://X.GIT", "https://.git", "x::.git", "mod:1::https://y.git", "A_b-C", "İstanbul_ẞ", "\xff_X", "seal-X", "@Scope/Name", "K8s.io/API",
	}
	for r := rune(0); r <= unicode.MaxRune; r++ { // case has strange corners
		if lower := strings.ToLower(string(r)); lower != string(r) || unicode.IsSpace(r) {
			names = append(names, "x"+string(r)+"y", string(r)+"https://"+string(r))
		}
	}
	for _, eco := range []ecosystem.Type{
		ecosystem.Npm, ecosystem.Composer, ecosystem.Pip, ecosystem.RubyGems, ecosystem.Cargo, ecosystem.Julia, ecosystem.NuGet, ecosystem.Maven,
		ecosystem.Go, ecosystem.Conan, ecosystem.Erlang, ecosystem.Pub, ecosystem.Swift, ecosystem.Cocoapods, ecosystem.Bitnami, ecosystem.Kubernetes,
	} {
		for _, name := range names {
			if looked := vulnerability.NormalizePkgName(eco, name); pratique.PackageKey(looked) != pratique.PackageKey(name) {
				t.Errorf("%s: %q is looked up as %q: keys %q and %q", eco, name, looked, pratique.PackageKey(name), pratique.PackageKey(looked))
			}
		}
	}
	for _, name := range names {
		if strings.Contains(name, "::") {
			continue // no RPM has such a name
		}
		if looked := "nodejs:18::" + name; pratique.PackageKey(looked) != pratique.PackageKey(name) {
			t.Errorf("%q in a module: keys %q and %q", name, pratique.PackageKey(name), pratique.PackageKey(looked))
		}
	}
	if got, want := pratique.PackageKey("https://github.com/Vapor/Vapor.git"), "github.com/vapor/vapor"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
