package sqlite_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
)

func benchDB(b *testing.B) *sqlite.DB {
	db, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "state.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	return db
}

// BenchmarkHolders asks for a base layer that 500 manifests in 50 repositories
// name: the question of every blob request.
func BenchmarkHolders(b *testing.B) {
	db, ctx := benchDB(b), b.Context()
	base := pratique.Descriptor{Digest: digest.FromString("base")}
	for i := range 500 {
		own := pratique.Descriptor{Digest: digest.FromString(fmt.Sprint("own", i))}
		img := pratique.Image{Digest: digest.FromString(fmt.Sprint("image", i)), Kind: pratique.KindImage, Config: own, Layers: []pratique.Descriptor{base, own}}
		if err := db.Link(ctx, pratique.Ref{Registry: "docker.io", Repo: fmt.Sprint("repo", i%50)}, img, now); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for i := 0; p.Next(); i++ {
			hs, err := db.Holders(ctx, pratique.Ref{Registry: "docker.io", Repo: fmt.Sprint("repo", i%50)}, base.Digest)
			if err != nil || len(hs) != 10 {
				b.Errorf("%d holders, %v", len(hs), err)
				return
			}
		}
	})
}

// BenchmarkReport reads a report by its number of findings.
func BenchmarkReport(b *testing.B) {
	for _, findings := range []int{0, 100, 1000} {
		b.Run(fmt.Sprint(findings), func(b *testing.B) {
			db, ctx := benchDB(b), b.Context()
			r := pratique.Report{Image: digest.FromString("x"), State: pratique.StateScanned, ScannedAt: now}
			for i := range findings {
				r.Findings = append(r.Findings, pratique.Finding{
					ID: fmt.Sprint("CVE-2026-", i), Kind: pratique.KindVulnerability, Package: fmt.Sprint("package", i), Ecosystem: "debian",
					Installed: "1.2.3-4", Fixed: "1.2.3-5", Status: "fixed", Severity: pratique.SeverityHigh, Title: "a title of some length, as they have",
					URL: fmt.Sprint("https://avd.aquasec.com/nvd/cve-2026-", i), Layer: digest.FromString("layer"),
				})
			}
			if _, err := db.PutReport(ctx, r); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := db.Report(ctx, r.Image); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPutReport shows what a durable write costs.
func BenchmarkPutReport(b *testing.B) {
	db, ctx := benchDB(b), b.Context()
	for b.Loop() {
		if _, err := db.PutReport(ctx, pratique.Report{Image: digest.FromString("x"), State: pratique.StateScanned, ScannedAt: now}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLink links manifests that are new to the file.
func BenchmarkLink(b *testing.B) {
	db, ctx := benchDB(b), b.Context()
	for i := 0; b.Loop(); i++ {
		img := pratique.Image{Digest: digest.FromString(fmt.Sprint("image", i)), Kind: pratique.KindImage}
		for l := range 8 {
			img.Layers = append(img.Layers, pratique.Descriptor{Digest: digest.FromString(fmt.Sprint("layer", i*l))})
		}
		if err := db.Link(ctx, pratique.Ref{Registry: "docker.io", Repo: fmt.Sprint("repo", i%50)}, img, now); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPutImage stores images of 200 components, 20 of them new.
func BenchmarkPutImage(b *testing.B) {
	db, ctx := benchDB(b), b.Context()
	for i := 0; b.Loop(); i++ {
		var cs []pratique.Component
		var os []pratique.Occurrence
		for n := range 200 {
			name := fmt.Sprint("shared", n)
			if n < 20 {
				name = fmt.Sprint("own", i, n)
			}
			c := pratique.Component{Context: pratique.Context{Class: pratique.ClassOS, Type: "debian", Name: "12"}, Name: name, Version: "1.2.3-4", SrcName: name, SrcVersion: "1.2.3-4"}
			cs = append(cs, c)
			os = append(os, pratique.Occurrence{Component: c.ID(), Installed: "1.2.3-4", Target: "var/lib/dpkg/status", Layer: digest.FromString("layer")})
		}
		if err := db.PutImage(ctx, digest.FromString(fmt.Sprint("image", i)), cs, os); err != nil {
			b.Fatal(err)
		}
	}
}
