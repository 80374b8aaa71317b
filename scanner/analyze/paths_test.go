//go:build goexperiment.jsonv2

package analyze

import (
	"archive/tar"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	"github.com/aquasecurity/trivy/pkg/semaphore"
	xio "github.com/aquasecurity/trivy/pkg/x/io"
)

// A link at the place of a package database is a problem, unless it leads to
// where the database is looked for anyway.
func TestPathCheck(t *testing.T) {
	link := func(name, to string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	hard := func(name, to string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
	}
	file := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name} }
	tests := map[string]struct {
		entries []*tar.Header
		want    []string // sources
	}{
		"Debian's os-release":       {entries: []*tar.Header{file("usr/lib/os-release"), link("etc/os-release", "../usr/lib/os-release")}},
		"absolute link":             {entries: []*tar.Header{link("etc/os-release", "/usr/lib/os-release")}},
		"merged /usr":               {entries: []*tar.Header{link("bin", "usr/bin"), link("lib", "usr/lib"), link("lib64", "usr/lib64"), link("sbin", "usr/sbin")}},
		"openSUSE's rpm":            {entries: []*tar.Header{link("var/lib/rpm", "../../usr/lib/sysimage/rpm")}},
		"ostree's rpm":              {entries: []*tar.Header{link("./var/lib/rpm", "../../usr/share/rpm")}},
		"CentOS's release files":    {entries: []*tar.Header{link("etc/redhat-release", "centos-release"), link("etc/system-release", "centos-release")}},
		"Fedora's release files":    {entries: []*tar.Header{link("etc/fedora-release", "../usr/lib/fedora-release"), link("etc/redhat-release", "fedora-release")}},
		"Amazon's release files":    {entries: []*tar.Header{link("etc/system-release", "../usr/lib/system-release")}},
		"files":                     {entries: []*tar.Header{file("var/lib/dpkg/status"), file("lib/apk/db/installed"), file("var/lib/dpkg/status.d/base")}},
		"links elsewhere":           {entries: []*tar.Header{link("etc/mtab", "/proc/mounts"), hard("usr/bin/perl5", "usr/bin/perl"), hard("var/lib/dpkg/status-old", "var/lib/dpkg/status")}},
		"distroless link":           {entries: []*tar.Header{link("var/lib/dpkg/status.d/a", "b")}},
		"dpkg symbolic link":        {entries: []*tar.Header{link("var/lib/dpkg/status", "status-real")}, want: []string{"dpkg"}},
		"dpkg hard link":            {entries: []*tar.Header{file("opt/x"), hard("./var/lib/dpkg/status", "opt/x")}, want: []string{"dpkg"}},
		"dpkg's directory":          {entries: []*tar.Header{link("var/lib/dpkg", "/opt/dpkg")}, want: []string{"dpkg"}},
		"status.d":                  {entries: []*tar.Header{link("/var/lib/dpkg/status.d", "../../../opt/status.d")}, want: []string{"dpkg"}},
		"one of status.d":           {entries: []*tar.Header{link("var/lib/dpkg/status.d/bash", "/opt/bash")}, want: []string{"dpkg"}},
		"apk symbolic link":         {entries: []*tar.Header{link("lib/apk/db/installed", "/opt/installed")}, want: []string{"apk"}},
		"apk's directory":           {entries: []*tar.Header{link("lib/apk", "/opt/apk")}, want: []string{"apk"}},
		"rpm hard link":             {entries: []*tar.Header{hard("var/lib/rpm/rpmdb.sqlite", "opt/x")}, want: []string{"rpm"}},
		"rpm's directory":           {entries: []*tar.Header{link("usr/lib/sysimage/rpm", "/opt/rpm")}, want: []string{"rpm"}},
		"os-release elsewhere":      {entries: []*tar.Header{link("etc/os-release", "/opt/os-release")}, want: []string{"os"}},
		"etc elsewhere":             {entries: []*tar.Header{link("etc", "opt/etc")}, want: []string{"os"}},
		"device":                    {entries: []*tar.Header{{Typeflag: tar.TypeChar, Name: "var/lib/dpkg/status"}}, want: []string{"dpkg"}},
		"device elsewhere":          {entries: []*tar.Header{{Typeflag: tar.TypeChar, Name: "dev/null"}, {Typeflag: tar.TypeFifo, Name: "run/x"}}},
		"old sparse format":         {entries: []*tar.Header{{Typeflag: tar.TypeGNUSparse, Name: "var/lib/dpkg/status"}}, want: []string{"tar"}},
		"contiguous file":           {entries: []*tar.Header{{Typeflag: tar.TypeCont, Name: "a"}}, want: []string{"tar"}},
		"out of the root":           {entries: []*tar.Header{file("../../var/lib/dpkg/status")}, want: []string{"dpkg"}},
		"out of the root, harmless": {entries: []*tar.Header{file("../../etc/passwd")}},
		"twice":                     {entries: []*tar.Header{file("var/lib/rpm/rpmdb.sqlite"), file("./var/lib/rpm/rpmdb.sqlite")}, want: []string{"rpm"}},
		"through a link":            {entries: []*tar.Header{link("x", "var/lib"), file("x/dpkg/status")}, want: []string{"dpkg"}},
		"through a link, harmless":  {entries: []*tar.Header{link("x", "var/lib"), file("x/y/status")}},
		"link loop":                 {entries: []*tar.Header{link("x", "y"), link("y", "x"), file("x/z"), link("l", "l"), file("l/l")}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := newPathCheck()
			for _, h := range tt.entries {
				c.entry(h)
			}
			var got []string
			for _, p := range c.problems {
				got = append(got, p.Source)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s%+v", diff, c.problems)
			}
		})
	}
}

// Every path in the table is one that an analyzer of Trivy asks for: the table
// does not fall behind when Trivy moves one.
func TestDatabasesAreTrivys(t *testing.T) {
	a := theAnalyzer(t)
	for kind, paths := range databases {
		for _, p := range paths {
			if p == "var/lib/dpkg/status.d" {
				p += "/bash"
			}
			h := &tar.Header{Typeflag: tar.TypeReg, Name: p, Size: 4, Mode: 0o644}
			if len(a.group.RequiredPostAnalyzers(p, h.FileInfo())) > 0 {
				continue
			}
			opened := 0 // the secret scanner opens a text file too, unless it is tiny
			eg, ctx := errgroup.WithContext(t.Context())
			err := a.group.AnalyzeFile(ctx, eg, semaphore.New(1), analyzer.NewAnalysisResult(), "", p, h.FileInfo(),
				func() (xio.ReadSeekCloserAt, error) { opened++; return xio.NopCloser(strings.NewReader("1=2\n")), nil }, nil, analyzer.AnalysisOptions{})
			if err := errors.Join(err, eg.Wait()); err != nil {
				t.Error(err)
			}
			if opened == 0 {
				t.Errorf("%s: no analyzer of Trivy reads %s", kind, p)
			}
		}
	}
	a.log.take()
}
