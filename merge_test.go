package pratique_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"pratique"
)

const key = "analyzer-1"

func named(name string) digest.Digest { return digest.FromString(name) }

// layerOf fills in what every analysed layer has.
func layerOf(name string, i pratique.Inventory) pratique.Inventory {
	i.Layer, i.Analyzer = named(name), key
	return i
}

var analysedConfig = &pratique.Inventory{Analyzer: key}

func dpkg(packages ...pratique.Package) []pratique.PackageSet {
	return []pratique.PackageSet{{Path: "var/lib/dpkg/status", Packages: packages}}
}

func pkg(name, version string) pratique.Package {
	return pratique.Package{ID: name + "@" + version, Name: name, Version: version}
}

func TestMergeState(t *testing.T) {
	debian := layerOf("base", pratique.Inventory{OS: pratique.OS{Family: "debian", Name: "12"}, PackageSets: dpkg(pkg("bash", "5"))})
	with := func(i pratique.Inventory, change func(*pratique.Inventory)) pratique.Inventory {
		change(&i)
		return i
	}
	problem := func(fatal bool) func(*pratique.Inventory) {
		return func(i *pratique.Inventory) {
			i.Problems = []pratique.Problem{{Source: "dpkg", Message: "m", Fatal: fatal}}
		}
	}
	tests := map[string]struct {
		layers []pratique.Inventory
		config *pratique.Inventory
		want   pratique.State
	}{
		"no layers":                {nil, analysedConfig, pratique.StateUnknown},
		"one layer":                {[]pratique.Inventory{debian}, analysedConfig, pratique.StateScanned},
		"a layer not analysed":     {[]pratique.Inventory{debian, {}}, analysedConfig, pratique.StateUnknown},
		"base not analysed":        {[]pratique.Inventory{{}, debian}, analysedConfig, pratique.StateUnknown},
		"config not analysed":      {[]pratique.Inventory{debian}, nil, pratique.StateIncomplete},
		"config unknown":           {[]pratique.Inventory{debian}, &pratique.Inventory{}, pratique.StateFailed},
		"problem in a layer":       {[]pratique.Inventory{debian, with(debian, problem(false))}, analysedConfig, pratique.StateIncomplete},
		"fatal in a layer":         {[]pratique.Inventory{with(debian, problem(true)), debian}, analysedConfig, pratique.StateFailed},
		"fatal in the config":      {[]pratique.Inventory{debian}, ptr(with(*analysedConfig, problem(true))), pratique.StateFailed},
		"other analyzer":           {[]pratique.Inventory{debian, with(debian, func(i *pratique.Inventory) { i.Analyzer = "other" })}, analysedConfig, pratique.StateFailed},
		"other analyzer of config": {[]pratique.Inventory{debian}, &pratique.Inventory{Analyzer: "other"}, pratique.StateFailed},
		"no package database":      {[]pratique.Inventory{with(debian, func(i *pratique.Inventory) { i.PackageSets = nil })}, analysedConfig, pratique.StateIncomplete},
		"empty package database":   {[]pratique.Inventory{with(debian, func(i *pratique.Inventory) { i.PackageSets = dpkg() })}, analysedConfig, pratique.StateIncomplete},
		"database deleted": {[]pratique.Inventory{debian, layerOf("rm", pratique.Inventory{Whiteouts: []string{"var/lib/dpkg"}})},
			analysedConfig, pratique.StateIncomplete},
		"packages without OS": {[]pratique.Inventory{with(debian, func(i *pratique.Inventory) { i.OS = pratique.OS{} })}, analysedConfig, pratique.StateIncomplete},
		"OS of the repository": {[]pratique.Inventory{with(debian, func(i *pratique.Inventory) {
			i.OS, i.Repository = pratique.OS{}, &pratique.Repository{Family: "alpine", Release: "3.20"}
		})}, analysedConfig, pratique.StateScanned},
		"OS without packages": {[]pratique.Inventory{layerOf("a", pratique.Inventory{OS: pratique.OS{Family: "activestate", Name: "1"}})}, analysedConfig, pratique.StateScanned},
		"OS unknown to Trivy": {[]pratique.Inventory{layerOf("a", pratique.Inventory{OSRelease: "arch"})}, analysedConfig, pratique.StateIncomplete},
		"OS known above":      {[]pratique.Inventory{layerOf("a", pratique.Inventory{OSRelease: "debian"}), debian}, analysedConfig, pratique.StateScanned},
		"scratch":             {[]pratique.Inventory{layerOf("a", pratique.Inventory{})}, analysedConfig, pratique.StateScanned},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := pratique.Merge(tt.layers, tt.config)
			if got.State() != tt.want {
				t.Errorf("state %v, want %v: %+v", got.State(), tt.want, got.Problems)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

// Every problem says which layer it is of.
func TestMergeProblems(t *testing.T) {
	a := layerOf("a", pratique.Inventory{Problems: []pratique.Problem{{Message: "one"}}})
	b := layerOf("b", pratique.Inventory{Problems: []pratique.Problem{{Message: "two", Layer: named("given")}}})
	config := layerOf("config", pratique.Inventory{Problems: []pratique.Problem{{Message: "three", Fatal: true}}})
	got := pratique.Merge([]pratique.Inventory{a, b}, &config).Problems
	want := []pratique.Problem{
		{Message: "one", Layer: named("a")}, {Message: "two", Layer: named("given")}, {Message: "three", Layer: named("config"), Fatal: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What a runtime would see, by example; Trivy's own merge is the oracle in
// scanner/analyze.
func TestMergeLayers(t *testing.T) {
	node := func(path, name, version string) pratique.Application {
		return pratique.Application{Type: "node-pkg", Path: path, Packages: []pratique.Package{{Name: name, Version: version, Path: path}}}
	}
	layers := []pratique.Inventory{
		layerOf("base", pratique.Inventory{
			Size: 10, OS: pratique.OS{Family: "redhat", Name: "9"}, PackageSets: dpkg(pkg("bash", "5")),
			Applications: []pratique.Application{node("app/a/package.json", "a", "1"), node("app/b/package.json", "b", "1"),
				{Type: "gobinary", Path: "bin/tool", Packages: []pratique.Package{{Name: "stdlib", Version: "1.20"}}}},
			Secrets: []pratique.Secret{{RuleID: "r1", Path: "/key", StartLine: 1}, {RuleID: "r2", Path: "/key", StartLine: 2}},
		}),
		layerOf("info", pratique.Inventory{Size: 5, BuildInfo: &pratique.BuildInfo{ContentSets: []string{"rhel-9"}}, OS: pratique.OS{Family: "oracle", Name: "9.1", Extended: true}}),
		layerOf("top", pratique.Inventory{
			Whiteouts: []string{"app/a", "key"}, OpaqueDirs: []string{"bin/"},
			PackageSets:  dpkg(pkg("bash", "5"), pkg("zlib", "1")),
			Applications: []pratique.Application{node("app/b/package.json", "b", "2"), node("app/c/package.json", "c", "1")},
			Secrets:      []pratique.Secret{{RuleID: "r1", Path: "/key", StartLine: 9}},
			Licenses:     []pratique.License{{Type: "dpkg", Package: "zlib", Path: "usr/share/doc/zlib/copyright", Name: "Zlib"}},
		}),
	}
	config := layerOf("config", pratique.Inventory{Secrets: []pratique.Secret{{RuleID: "r3", Path: "image config"}},
		Misconfigurations: []pratique.Misconfiguration{{ID: "DS-0002", Path: "image config"}}})
	before, err := json.Marshal(layers)
	if err != nil {
		t.Fatal(err)
	}
	got := pratique.Merge(layers, &config)
	info := &pratique.BuildInfo{ContentSets: []string{"rhel-9"}}
	want := pratique.Inventory{
		Size: 15, Analyzer: key, OS: pratique.OS{Family: "oracle", Name: "9.1", Extended: true},
		PackageSets: []pratique.PackageSet{{Path: "var/lib/dpkg/status", Packages: []pratique.Package{
			{ID: "bash@5", Name: "bash", Version: "5", Layer: named("base"), BuildInfo: info, PURL: "pkg:rpm/oracle/bash@5?distro=oracle-9.1"},
			{ID: "zlib@1", Name: "zlib", Version: "1", Layer: named("top"), BuildInfo: info, PURL: "pkg:rpm/oracle/zlib@1?distro=oracle-9.1", Licenses: []string{"Zlib"}},
		}}},
		Applications: []pratique.Application{{Type: "node-pkg", Packages: []pratique.Package{
			{Name: "b", Version: "2", Path: "app/b/package.json", Layer: named("top")},
			{Name: "c", Version: "1", Path: "app/c/package.json", Layer: named("top")},
		}}},
		Secrets: []pratique.Secret{
			{RuleID: "r1", Path: "/key", StartLine: 9, Layer: named("top")}, {RuleID: "r2", Path: "/key", StartLine: 2, Layer: named("base")},
			{RuleID: "r3", Path: "image config"},
		},
		Misconfigurations: []pratique.Misconfiguration{{ID: "DS-0002", Path: "image config"}},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// Nothing is shared: whoever writes into the result leaves the layers alone.
	for _, s := range got.PackageSets {
		for i := range s.Packages {
			s.Packages[i].Name = "overwritten"
			s.Packages[i].BuildInfo.ContentSets[0] = "overwritten"
		}
	}
	for _, a := range got.Applications {
		for i := range a.Packages {
			a.Packages[i].Name = "overwritten"
		}
	}
	if after, err := json.Marshal(layers); err != nil || string(after) != string(before) {
		t.Errorf("the layers changed:\n%s", cmp.Diff(string(before), string(after)))
	}
}

// An SBOM that lists another distribution's packages, and one that repeats the
// database's.
func TestMergeSBOM(t *testing.T) {
	sbom := func(name, purl string) pratique.Package {
		return pratique.Package{ID: name + "@1", Name: name, Version: "1", PURL: purl, AnalyzedBy: "sbom"}
	}
	l := layerOf("a", pratique.Inventory{OS: pratique.OS{Family: "sles", Name: "15"}, PackageSets: []pratique.PackageSet{
		{Path: "a.spdx.json", Packages: []pratique.Package{
			sbom("own", "pkg:rpm/suse/own@1"), sbom("other", "pkg:deb/debian/other@1"), sbom("bare", "pkg:rpm/bare@1"), sbom("both", "pkg:rpm/suse/both@1"),
		}},
		{Path: "var/lib/rpm/Packages", Packages: []pratique.Package{{ID: "both@1", Name: "both", Version: "1", SrcName: "source", AnalyzedBy: "rpm"}}},
	}})
	var got []string
	for _, s := range pratique.Merge([]pratique.Inventory{l}, analysedConfig).PackageSets {
		for _, p := range s.Packages {
			got = append(got, s.Path+" "+p.Name+" "+p.SrcName)
		}
	}
	want := []string{"a.spdx.json bare ", "a.spdx.json own ", "var/lib/rpm/Packages both source"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestComponents(t *testing.T) {
	repository := &pratique.Repository{Family: "alpine", Release: "edge"}
	merged := pratique.Inventory{
		Analyzer: key, OS: pratique.OS{Family: "alpine", Name: "3.20.1", Extended: true}, Repository: repository,
		PackageSets: []pratique.PackageSet{{Path: "lib/apk/db/installed", Packages: []pratique.Package{
			{Name: "musl", Version: "1.2", Release: "r3", Epoch: 1, Arch: "x86_64", SrcName: "musl-src", SrcVersion: "1.2-r3", Layer: named("base"), PURL: "pkg:apk/alpine/musl@1.2"},
		}}},
		Applications: []pratique.Application{
			{Type: "node-pkg", Packages: []pratique.Package{
				{Name: "a", Version: "1", Path: "x/a/package.json"}, {Name: "a", Version: "1", Path: "y/a/package.json", Arch: "ignored"},
				{Name: "a", Version: "1", Path: "y/a/package.json"}, {Name: "d", Version: "1", Dev: true}, {Version: "1"},
			}},
			{Type: "gobinary", Path: "bin/tool", Packages: []pratique.Package{{Name: "stdlib", Version: "v1.21.0"}}},
		},
	}
	os := pratique.Component{
		Context: pratique.Context{Class: pratique.ClassOS, Type: "alpine", Name: "3.20.1", Extended: true, Repository: repository},
		Name:    "musl", Version: "1.2", Release: "r3", Epoch: 1, Arch: "x86_64", SrcName: "musl-src", SrcVersion: "1.2-r3",
	}
	node := pratique.Component{Context: pratique.Context{Class: pratique.ClassLanguage, Type: "node-pkg"}, Name: "a", Version: "1"}
	golang := pratique.Component{Context: pratique.Context{Class: pratique.ClassLanguage, Type: "gobinary"}, Name: "stdlib", Version: "v1.21.0"}
	components, occurrences := merged.Components()
	if diff := cmp.Diff([]pratique.Component{os, node, golang}, components); diff != "" {
		t.Errorf("components (-want +got):\n%s", diff)
	}
	want := []pratique.Occurrence{
		{Component: os.ID(), Installed: "1:1.2-r3", Target: "lib/apk/db/installed", Layer: named("base"), PURL: "pkg:apk/alpine/musl@1.2"},
		{Component: node.ID(), Installed: "1", Path: "x/a/package.json"},
		{Component: node.ID(), Installed: "1", Path: "y/a/package.json"},
		{Component: golang.ID(), Installed: "v1.21.0", Target: "bin/tool"},
	}
	if diff := cmp.Diff(want, occurrences); diff != "" {
		t.Errorf("occurrences (-want +got):\n%s", diff)
	}
}

// One package decides by whose advisories all are matched, or the mark that the
// supplier leaves in the image.
func TestSupplier(t *testing.T) {
	tests := map[string]struct {
		os      pratique.OS
		special pratique.Package
		want    string
	}{
		"none":                         {pratique.OS{Family: "debian"}, pkg("zlib", "1"), ""},
		"Root.io on Debian":            {pratique.OS{Family: "debian"}, pratique.Package{Name: "zlib", Version: "1.2", Release: "1.root.io.3"}, "root.io"},
		"Root.io on Alpine":            {pratique.OS{Family: "alpine"}, pratique.Package{Name: "zlib", Version: "1.2-r10071"}, "root.io"},
		"Alpine's pattern on Debian":   {pratique.OS{Family: "debian"}, pratique.Package{Name: "zlib", Version: "1.2-r10071"}, ""},
		"Debian's pattern on Red Hat":  {pratique.OS{Family: "redhat"}, pratique.Package{Name: "zlib", Version: "1.2", Release: "1.root.io.3"}, ""},
		"Seal":                         {pratique.OS{Family: "redhat"}, pkg("seal-zlib", "1"), "seal"},
		"Seal by source, any case":     {pratique.OS{Family: "debian"}, pratique.Package{Name: "zlib1g", SrcName: "Seal-zlib", Version: "1"}, "seal"},
		"Seal on SLES":                 {pratique.OS{Family: "sles"}, pkg("seal-zlib", "1"), ""},
		"Root.io before Seal":          {pratique.OS{Family: "debian"}, pratique.Package{Name: "seal-zlib", Version: "1", Release: "1.root.io.3"}, "root.io"},
		"RapidFort":                    {pratique.OS{Family: "ubuntu", Supplier: "rapidfort"}, pkg("seal-zlib", "1"), "rapidfort"},
		"RapidFort where it has none":  {pratique.OS{Family: "debian", Supplier: "rapidfort"}, pkg("seal-zlib", "1"), "seal"},
		"RapidFort, nothing else said": {pratique.OS{Family: "debian", Supplier: "rapidfort"}, pkg("zlib", "1"), ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			i := pratique.Inventory{Analyzer: key, OS: tt.os, PackageSets: dpkg(pkg("bash", "5"), tt.special)}
			components, _ := i.Components()
			if len(components) != 2 {
				t.Fatalf("%d components", len(components))
			}
			for _, c := range components {
				if c.Context.Supplier != tt.want {
					t.Errorf("supplier %q of %s, want %q", c.Context.Supplier, c.Name, tt.want)
				}
			}
		})
	}
}

func TestComponentsWithoutOS(t *testing.T) {
	for _, tt := range []struct {
		os   pratique.OS
		want []string
	}{
		{pratique.OS{}, []string{"none"}},
		{pratique.OS{Family: "activestate"}, nil}, // has no packages of its own: Trivy does not match what is there
	} {
		i := pratique.Inventory{Analyzer: key, OS: tt.os, PackageSets: dpkg(pkg("bash", "5"))}
		var got []string
		components, _ := i.Components()
		for _, c := range components {
			got = append(got, c.Context.Type)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.os.Family, diff)
		}
	}
}
