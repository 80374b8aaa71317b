package sqlite_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"pratique"
	"pratique/internal/sqlite"
)

// benchImage is an image of layers; of each layer's components every third has two
// vulnerabilities.
func benchImage(b *testing.B, db *sqlite.DB, name string, layers, components int) digest.Digest {
	b.Helper()
	ctx, image := b.Context(), digest.FromString(name)
	e := pratique.Engine{Version: "v1", Database: digest.FromString("db"), DatabaseAt: now}
	var cs []pratique.Component
	var os []pratique.Occurrence
	ms := make(map[pratique.ComponentID][]pratique.Vulnerability)
	for i := range components {
		pkg := fmt.Sprint("package-", i)
		c := pratique.Component{Context: pratique.Context{Class: pratique.ClassOS, Type: "debian", Name: "12"}, Name: pkg, Version: "1.2.3-4", SrcName: pkg, SrcVersion: "1.2.3-4", Arch: "amd64"}
		cs = append(cs, c)
		os = append(os, pratique.Occurrence{Component: c.ID(), Installed: "1.2.3-4", Target: "var/lib/dpkg/status",
			Layer: digest.FromString(fmt.Sprint("layer", i%layers)), PURL: "pkg:deb/debian/" + pkg + "@1.2.3-4?arch=amd64&distro=debian-12.5"})
		ms[c.ID()] = nil
		if i%3 == 0 {
			for n := range 2 {
				id := fmt.Sprint("CVE-2026-", i*10+n)
				ms[c.ID()] = append(ms[c.ID()], pratique.Vulnerability{ID: id, Fixed: "1.2.3-5", Status: "fixed", Severity: []pratique.Severity{"LOW", "HIGH", "MEDIUM"}[(i+n)%3], Source: "debian",
					Title: "a title of some length, as they have: out of bounds read in " + pkg, URL: "https://avd.aquasec.com/nvd/" + strings.ToLower(id), CVSS: 7.5})
			}
		}
	}
	if err := db.PutImage(ctx, image, cs, os); err != nil {
		b.Fatal(err)
	}
	if _, err := db.PutMatches(ctx, e, now, ms); err != nil {
		b.Fatal(err)
	}
	_, err := db.PutReport(ctx, pratique.Report{Image: image, State: pratique.StateScanned, ScannedAt: now, Engine: e, OS: pratique.OS{Family: "debian", Name: "12.5"},
		Config: pratique.ConfigFacts{User: "root", Labels: map[string]string{"org.opencontainers.image.version": "1.2.3", "org.opencontainers.image.source": "https://example.org/source"}}})
	if err != nil {
		b.Fatal(err)
	}
	return image
}

// cpuTime reports, when what it returns is called, the processor's time for each
// operation: what a loaded machine does not change much.
func cpuTime(b *testing.B) func() {
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64((used()-before).Microseconds())/float64(b.N), "cpu-µs/op") }
}

// BenchmarkJoin reads the report of an image of 300 components: cold, with nothing in
// memory, and warm, with its layers there.
func BenchmarkJoin(b *testing.B) {
	for _, findings := range []int{100, 200} {
		b.Run(fmt.Sprint(findings), func(b *testing.B) {
			db := benchDB(b)
			image := benchImage(b, db, "x", 5, findings*3/2+findings%2)
			if r, err := db.Report(b.Context(), image); err != nil || len(r.Findings) != findings {
				b.Fatal(len(r.Findings), err)
			}
			read := func(b *testing.B, before func()) {
				b.ReportAllocs()
				defer cpuTime(b)()
				for b.Loop() {
					before()
					if _, err := db.Report(b.Context(), image); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.Run("cold", func(b *testing.B) { read(b, func() { sqlite.ForgetJoins(db) }) })
			b.Run("warm", func(b *testing.B) { read(b, func() {}) })
		})
	}
}

// BenchmarkPutSharedImage stores an image whose layers are known, and its report.
func BenchmarkPutSharedImage(b *testing.B) {
	db := benchDB(b)
	defer cpuTime(b)()
	for i := 0; b.Loop(); i++ {
		benchImage(b, db, fmt.Sprint("image", i), 8, 300)
	}
}

// BenchmarkPutMatches stores what a database says of 10,000 components: the first
// time, the same again under another engine, and one more vulnerability of each.
func BenchmarkPutMatches(b *testing.B) {
	const n = 10_000
	ctx := context.Background()
	for _, kind := range []string{"new", "same", "changed"} {
		b.Run(kind, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				db := benchDB(b)
				cs := make([]pratique.Component, n)
				os := make([]pratique.Occurrence, n)
				one, two := make(map[pratique.ComponentID][]pratique.Vulnerability), make(map[pratique.ComponentID][]pratique.Vulnerability)
				for i := range cs {
					cs[i] = pratique.Component{Name: fmt.Sprint("package", i), Version: "1"}
					id := cs[i].ID()
					os[i] = pratique.Occurrence{Component: id, Installed: "1", Layer: digest.FromString(fmt.Sprint(i % 50))}
					one[id] = []pratique.Vulnerability{{ID: "CVE-1", Severity: "HIGH", Status: "fixed", Fixed: "2", Title: "a title of some length, as they have", URL: "https://avd.aquasec.com/nvd/cve-1"}}
					two[id] = append(one[id][:1:1], pratique.Vulnerability{ID: "CVE-2", Severity: "HIGH", Status: "fixed", Fixed: "3", Title: "a title of some length, as they have", URL: "https://avd.aquasec.com/nvd/cve-2"})
				}
				if err := db.PutImage(ctx, digest.FromString("a"), cs, os); err != nil {
					b.Fatal(err)
				}
				e := pratique.Engine{Version: "v1", Database: digest.FromString("db"), DatabaseAt: now}
				put, at := one, now
				if kind != "new" {
					if _, err := db.PutMatches(ctx, e, now, one); err != nil {
						b.Fatal(err)
					}
					e.DatabaseAt, at = now.Add(time.Hour), now.Add(time.Hour)
				}
				if kind == "changed" {
					put = two
				}
				b.StartTimer()
				if _, err := db.PutMatches(ctx, e, at, put); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/component")
		})
	}
}
