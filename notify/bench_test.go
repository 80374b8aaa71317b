package notify_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/configs"
	"pratique/evidence"
	"pratique/evidence/exception"
	"pratique/internal/sqlite"
	"pratique/notify"
	"pratique/policy"
	"pratique/proxy"
)

// reportsOf are scans that are all made.
type reportsOf struct{ *sqlite.DB }

func (r reportsOf) Await(ctx context.Context, ref pratique.Ref) (pratique.Report, error) {
	return r.Report(ctx, ref.Digest)
}

func (reportsOf) Request(context.Context, pratique.Ref) error { return nil }

// swapped are policies that a benchmark replaces.
type swapped struct{ atomic.Pointer[policy.Set] }

func (s *swapped) Decide(f policy.Facts) pratique.Verdict { return s.Load().Decide(f) }
func (s *swapped) Version() string                        { return s.Load().Version() }
func (s *swapped) ReadsClient() bool                      { return s.Load().ReadsClient() }
func (s *swapped) Needs() policy.Needs                    { return s.Load().Needs() }

const benchImages = 5000

// BenchmarkWatcher is what looking at changed images costs, with the real state and
// the real gate: images whose verdicts were made by other policies, and images that
// all are refused that were served, or served that were refused.
func BenchmarkWatcher(b *testing.B) {
	for _, bb := range []struct {
		name  string
		rules [2]string
	}{
		{"none flips", [2]string{"", "rules: [{name: none, vulnerability: {severity: CRITICAL}, action: warn}]\n"}},
		{"all flip", [2]string{"", "rules: [{name: all, vulnerability: {severity: HIGH}, action: deny}]\n"}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			ctx := b.Context()
			db, err := sqlite.Open(ctx, filepath.Join(b.TempDir(), "state.db"))
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			images := fill(b, db)
			var sets [2]*policy.Set
			for i := range sets {
				files := []policy.File{{Name: "default.yaml", Data: configs.DefaultPolicy}}
				if bb.rules[i] != "" {
					files = append(files, policy.File{Name: "more.yaml", Data: []byte("name: more\ndefault: allow\n" + bb.rules[i])})
				}
				if sets[i], err = policy.Load(files...); err != nil {
					b.Fatal(err)
				}
			}
			var inForce swapped
			inForce.Store(sets[0])
			exceptions := exception.New(db, exception.Config{})
			if err := exceptions.Reload(ctx); err != nil {
				b.Fatal(err)
			}
			facts := evidence.New(evidence.Config{Exceptions: exceptions, History: db})
			gate := proxy.NewGate(nil, reportsOf{db}, db, &inForce, proxy.GateConfig{Evidence: facts, Stamps: db})
			n, err := notify.New(db, map[string]notify.Sink{"a": {URL: "http://127.0.0.1:1", Types: []string{"verdict.*"}, Transport: &never{}}}, notify.Config{})
			if err != nil {
				b.Fatal(err)
			}
			w := notify.NewWatcher(n, notify.Sources{
				Gate: gate, Catalog: db, Pulls: db, Exceptions: db, Tags: db, Marks: db, Stamps: db, Near: db,
				Database: func() (pratique.Engine, error) { return benchEngine, nil }, Version: func() string { return "" },
			}, notify.WatcherConfig{})
			w.Look(ctx) // begins
			b.ResetTimer()
			busy := processor()
			i := 0
			for b.Loop() {
				i++
				inForce.Store(sets[i%2])
				w.ChangedAll(images)
				w.Look(ctx)
			}
			looked := float64(i * len(images))
			b.ReportMetric(float64(b.Elapsed().Microseconds())/looked, "µs/image")
			b.ReportMetric(float64((processor()-busy).Microseconds())/looked, "cpu-µs/image")
		})
	}
}

var benchEngine = pratique.Engine{Version: "v1", Database: digest.FromString("db"), DatabaseAt: start}

// fill makes images of 12 layers, most of them shared, with 300 packages and about
// 100 findings each, and returns their digests.
func fill(tb testing.TB, db *sqlite.DB) []digest.Digest {
	tb.Helper()
	ctx := tb.Context()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	out := make([]digest.Digest, benchImages)
	all := map[pratique.ComponentID][]pratique.Vulnerability{}
	for i := range out {
		img := pratique.Image{Digest: digest.FromString(fmt.Sprint("image", i)), MediaType: pratique.MediaTypeImageManifest, Kind: pratique.KindImage, Size: 2000}
		img.Config = pratique.Descriptor{MediaType: pratique.MediaTypeImageConfig, Digest: digest.FromString(fmt.Sprint("config", i)), Size: 5000}
		var cs []pratique.Component
		var os []pratique.Occurrence
		for l := range 12 {
			number := i/50*12 + l // of the layer: what is below is shared by 50 images
			if l >= 8 {
				number = 1_000_000 + i*12 + l
			}
			d := digest.FromString(fmt.Sprint("layer", number))
			img.Layers = append(img.Layers, pratique.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Digest: d, Size: 1 << 20})
			for k := range 25 {
				n := (number*31 + k*97) % 20_000
				c := pratique.Component{
					Context: pratique.Context{Class: pratique.ClassOS, Type: "debian", Name: "12.5"}, Name: fmt.Sprint("package-", n%3000),
					Version: fmt.Sprintf("1.%d", n), Release: "1+deb12u1", Arch: "amd64", SrcName: fmt.Sprint("package-", n%3000), SrcVersion: fmt.Sprintf("1.%d", n),
				}
				id := c.ID()
				all[id] = vulnerabilities(n)
				cs = append(cs, c)
				os = append(os, pratique.Occurrence{
					Component: id, Installed: c.Version + "-" + c.Release, Layer: d, PURL: "pkg:deb/debian/" + c.Name + "@" + c.Version + "?arch=amd64&distro=debian-12.5",
				})
			}
		}
		must(db.Link(ctx, pratique.Ref{Registry: "docker.io", Repo: fmt.Sprintf("team/app-%d", i/10), Digest: img.Digest}, img, start))
		must(db.PutImage(ctx, img.Digest, cs, os))
		out[i] = img.Digest
	}
	_, err := db.PutMatches(ctx, benchEngine, start, all)
	must(err)
	for _, d := range out {
		r := pratique.Report{Image: d, State: pratique.StateScanned, Engine: benchEngine, ScannedAt: start, FirstSeen: start, OS: pratique.OS{Family: "debian", Name: "12.5"}}
		_, err := db.PutReport(ctx, r)
		must(err)
	}
	return out
}

// vulnerabilities are what the database says of every third component.
func vulnerabilities(n int) []pratique.Vulnerability {
	if n%3 != 0 {
		return []pratique.Vulnerability{}
	}
	return []pratique.Vulnerability{{
		ID: fmt.Sprintf("CVE-2026-%05d", n), Status: "affected", Title: "package: a title of usual length for a finding", CVSS: 7.5, Source: "debian",
		Severity: []pratique.Severity{pratique.SeverityLow, pratique.SeverityMedium, pratique.SeverityHigh, pratique.SeverityUnknown}[n%4],
		URL:      fmt.Sprintf("https://avd.aquasec.com/nvd/cve-2026-%05d", n),
	}}
}

// processor is the time that the process has had of all cores.
func processor() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // does not fail for oneself
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// never sends.
type never struct{}

func (*never) RoundTrip(*http.Request) (*http.Response, error) { return nil, errBroken }
