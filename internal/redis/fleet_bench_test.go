package redis

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/internal/redis/redistest"
	"pratique/store/storetest"
)

// benchInventories are those of real images.
func benchInventories(b *testing.B) (out []pratique.Inventory) {
	b.Helper()
	f, err := os.Open("../../testdata/database/inventories.jsonl.zst")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		b.Fatal(err)
	}
	defer z.Close()
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 256<<20)
	for lines.Scan() {
		var doc struct {
			Inventory pratique.Inventory `json:"inventory"`
		}
		if err := json.Unmarshal(lines.Bytes(), &doc); err != nil {
			b.Fatal(err)
		}
		inv := doc.Inventory
		if len(inv.PackageSets)+len(inv.Applications) == 0 {
			if err := json.Unmarshal(lines.Bytes(), &inv); err != nil {
				b.Fatal(err)
			}
		}
		if cs, _ := inv.Components(); len(cs) > 0 && len(cs) < 1500 {
			out = append(out, inv)
		}
	}
	if lines.Err() != nil || len(out) == 0 {
		b.Fatalf("%d inventories: %v", len(out), lines.Err())
	}
	return out
}

// benchFleet makes images of real packages: on a base that others have, layers of
// their own with packages that are others' in other versions. Of every third component
// two vulnerabilities are known.
type benchFleet struct {
	db    *DB
	bases [][]pratique.Component
	seen  map[pratique.ComponentID]bool
	ms    map[pratique.ComponentID][]pratique.Vulnerability

	images, components, chunks, findings, occurrences int
}

func (f *benchFleet) image(b *testing.B, n int) digest.Digest {
	b.Helper()
	base := n % len(f.bases)
	var cs []pratique.Component
	var os []pratique.Occurrence
	add := func(c pratique.Component, layer string) {
		id := c.ID()
		cs = append(cs, c)
		os = append(os, pratique.Occurrence{Component: id, Installed: c.Version + "-" + c.Release, Target: "var/lib/dpkg/status", Layer: digest.FromString(layer),
			PURL: "pkg:deb/debian/" + c.Name + "@" + c.Version + "?arch=amd64&distro=debian-12.5"})
		f.occurrences++
		if f.seen[id] {
			return
		}
		f.seen[id] = true
		f.components++
		f.ms[id] = nil
		if f.components%3 == 0 {
			for v := range 2 {
				cve := fmt.Sprint("CVE-2026-", 1000+f.components/7*2+v)
				f.ms[id] = append(f.ms[id], pratique.Vulnerability{
					ID: cve, Fixed: c.Version + "-5", Status: "fixed", Severity: []pratique.Severity{"LOW", "HIGH", "MEDIUM"}[(f.components+v)%3], Source: "debian", CVSS: 7.5,
					Title: "a title of some length, as they have: out of bounds read in " + c.Name, URL: "https://avd.aquasec.com/nvd/" + strings.ToLower(cve),
				})
				f.findings++
			}
		}
	}
	for i, c := range f.bases[base] {
		add(c, fmt.Sprint("base ", base, " ", i*3/len(f.bases[base])))
	}
	for layer := range 6 { // one image in five shares its upper layers
		own := n / 5
		for i := range 12 {
			c := f.bases[(base+layer+1)%len(f.bases)][i%len(f.bases[(base+layer+1)%len(f.bases)])]
			c.Version += fmt.Sprint(".", (own+layer*i)%(40+own/8))
			add(c, fmt.Sprint("app ", own, " ", base, " ", layer))
		}
	}
	image := digest.FromString(fmt.Sprint("image ", n))
	if err := f.db.PutImage(b.Context(), image, cs, os); err != nil {
		b.Fatal(err)
	}
	f.images++
	return image
}

func (f *benchFleet) report(b *testing.B, image digest.Digest) {
	b.Helper()
	_, err := f.db.PutReport(b.Context(), pratique.Report{Image: image, State: pratique.StateScanned, ScannedAt: hourly(0), Engine: engineOf(0), OS: pratique.OS{Family: "debian", Name: "12.5"},
		Config: pratique.ConfigFacts{User: "root", Labels: map[string]string{"org.opencontainers.image.version": "1.2.3", "org.opencontainers.image.source": "https://example.org/source"}}})
	if err != nil {
		b.Fatal(err)
	}
}

// carried is what Redis says that it holds, and how many commands it has carried out.
func carried(b *testing.B, c *redis.Client) (bytes, commands int) {
	b.Helper()
	number := func(section, field string) int {
		info, err := c.Info(b.Context(), section).Result()
		if err != nil {
			b.Fatal(err)
		}
		_, rest, _ := strings.Cut(info, field+":")
		text, _, _ := strings.Cut(rest, "\r\n")
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	return number("memory", "used_memory"), number("stats", "total_commands_processed")
}

// BenchmarkFleet measures what docs/scale.md computes with: bytes in Redis for each
// kind of thing, and what a report costs. PRATIQUE_FLEET is how many images.
func BenchmarkFleet(b *testing.B) {
	redistest.Need(b, "redis-server")
	n := 2000
	if images, err := strconv.Atoi(os.Getenv("PRATIQUE_FLEET")); err == nil {
		n = images
	}
	server := redistest.Start(b, "--appendonly", "no")
	db, err := Open(b.Context(), Config{URL: server.URL(), Documents: new(storetest.Documents), Poll: time.Hour, Timeout: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	client := server.Client()
	f := &benchFleet{db: db, seen: make(map[pratique.ComponentID]bool), ms: make(map[pratique.ComponentID][]pratique.Vulnerability)}
	for _, inv := range benchInventories(b) {
		cs, _ := inv.Components()
		f.bases = append(f.bases, cs)
	}
	if err := db.Begin(b.Context(), engineOf(0)); err != nil {
		b.Fatal(err)
	}
	sizes := map[string]float64{}
	empty, _ := carried(b, client)
	images := make([]digest.Digest, n)
	for i := range images {
		images[i] = f.image(b, i)
	}
	stored, _ := carried(b, client)
	if _, err := db.PutMatches(b.Context(), engineOf(0), hourly(0), f.ms); err != nil {
		b.Fatal(err)
	}
	matched, _ := carried(b, client)
	for _, image := range images {
		f.report(b, image)
	}
	reported, _ := carried(b, client)
	for name := range strings.FieldsSeq("components keys chunks components.chunks scanned reports matches vulnerabilities untold strays.1 chunk.images") {
		sizes[name] = float64(f.bytes(b, client, name))
	}
	for p := range partitions {
		f.chunks += int(client.HLen(b.Context(), db.key(partNumber(p), "chunks")).Val())
	}
	b.Run("Sizes", func(b *testing.B) {
		for b.Loop() {
		}
		b.ReportMetric(0, "ns/op")
		b.Logf("%d images, %d components, %d chunks, %d findings, %d occurrences; bytes: empty %d, +images %d, +matches %d, +reports %d", f.images, f.components, f.chunks, f.findings, f.occurrences,
			empty, stored-empty, matched-stored, reported-matched)
		b.Logf("by kind: %v", sizes)
	})
	b.Run("Bytes", func(b *testing.B) {
		for b.Loop() {
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric((sizes["scanned"]+sizes["reports"]+sizes["chunk.images"])/float64(f.images), "B/image")
		b.ReportMetric((sizes["chunks"]+sizes["components.chunks"])/float64(f.chunks), "B/chunk")
		b.ReportMetric((sizes["components"]+sizes["keys"])/float64(f.components), "B/component")
		b.ReportMetric((sizes["matches"]+sizes["vulnerabilities"]+sizes["strays.1"])/float64(f.components), "B/matched")
		b.ReportMetric((sizes["matches"]+sizes["vulnerabilities"])/float64(max(f.findings, 1)), "B/finding")
	})
	read := func(b *testing.B, of int, before func()) {
		_, commands := carried(b, client)
		i := 0
		for b.Loop() {
			before()
			if _, err := db.Report(b.Context(), images[i%of]); err != nil {
				b.Fatal(err)
			}
			i++
		}
		_, after := carried(b, client)
		b.ReportMetric(float64(after-commands)/float64(i), "commands/op")
	}
	b.Run("Report/cold", func(b *testing.B) { read(b, n, db.joins.forget) })
	b.Run("Report/warm", func(b *testing.B) { read(b, 20, func() {}) })
	b.Run("PutMatches/changed", func(b *testing.B) {
		round := 0
		for b.Loop() {
			round++
			ms := make(map[pratique.ComponentID][]pratique.Vulnerability)
			for id, vs := range f.ms {
				if len(ms) < 1000 && len(vs) > 0 {
					vs = append(vs[:1:1], vs[1])
					vs[1].Fixed = fmt.Sprint(round)
					ms[id] = vs
				}
			}
			_, commands := carried(b, client)
			if _, err := db.PutMatches(b.Context(), engineOf(0), hourly(round), ms); err != nil {
				b.Fatal(err)
			}
			_, after := carried(b, client)
			b.ReportMetric(float64(after-commands)/float64(len(ms)), "commands/component")
		}
	})
}

// bytes is what the keys of a name take.
func (f *benchFleet) bytes(b *testing.B, client *redis.Client, name string) (n int64) {
	b.Helper()
	for p := range partitions {
		keys := []string{f.db.key(partNumber(p), name)}
		if name == "chunk.images" {
			chunks, err := client.HKeys(b.Context(), f.db.key(partNumber(p), "chunks")).Result()
			if err != nil {
				b.Fatal(err)
			}
			keys = nil
			for _, c := range chunks {
				keys = append(keys, f.db.imagesKey(c))
			}
		}
		for _, k := range keys {
			size, err := client.MemoryUsage(b.Context(), k, 0).Result()
			if err != nil && err != redis.Nil { //nolint:errorlint // the library's own word
				b.Fatal(err)
			}
			n += size
		}
	}
	return n
}
