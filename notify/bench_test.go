package notify_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"sync/atomic"
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

const (
	benchImages   = 5000
	benchFindings = 100
)

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
				Gate: gate, Catalog: db, Pulls: db, Exceptions: db, Tags: db, Marks: db, Stamps: db,
				Database: func() (pratique.Engine, error) { return benchEngine, nil }, Version: func() string { return "" },
			}, notify.WatcherConfig{})
			w.Look(ctx) // begins
			b.ResetTimer()
			i := 0
			for b.Loop() {
				i++
				inForce.Store(sets[i%2])
				w.ChangedAll(images)
				w.Look(ctx)
			}
			per := b.Elapsed() / time.Duration(i*len(images))
			b.ReportMetric(float64(per.Nanoseconds())/1000, "µs/image")
			b.ReportMetric(float64(per.Nanoseconds())/1000*float64(runtime.GOMAXPROCS(0)), "µs/image×core")
		})
	}
}

var benchEngine = pratique.Engine{Version: "v1", Database: digest.FromString("db"), DatabaseAt: start}

// fill makes images of 12 layers with 100 findings each, and returns their digests.
func fill(tb testing.TB, db *sqlite.DB) []digest.Digest {
	tb.Helper()
	out := make([]digest.Digest, benchImages)
	for i := range out {
		img := pratique.Image{Digest: digest.FromString(fmt.Sprint("image", i)), MediaType: pratique.MediaTypeImageManifest, Kind: pratique.KindImage, Size: 2000}
		img.Config = pratique.Descriptor{MediaType: pratique.MediaTypeImageConfig, Digest: digest.FromString(fmt.Sprint("config", i)), Size: 5000}
		for l := range 12 {
			img.Layers = append(img.Layers, pratique.Descriptor{
				MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Digest: digest.FromString(fmt.Sprint("layer", i*3/(l+1), l)), Size: 1 << 20,
			})
		}
		ref := pratique.Ref{Registry: "docker.io", Repo: fmt.Sprintf("team/app-%d", i/10), Digest: img.Digest}
		if err := db.Link(tb.Context(), ref, img, start); err != nil {
			tb.Fatal(err)
		}
		report(tb, db, i, img.Digest)
		out[i] = img.Digest
	}
	return out
}

// report puts one of 100 findings.
func report(tb testing.TB, db *sqlite.DB, i int, image digest.Digest) {
	tb.Helper()
	r := pratique.Report{Image: image, State: pratique.StateScanned, Engine: benchEngine, ScannedAt: start, FirstSeen: start}
	r.OS = pratique.OS{Family: "debian", Name: "12.5"}
	severities := []pratique.Severity{pratique.SeverityLow, pratique.SeverityMedium, pratique.SeverityHigh, pratique.SeverityUnknown}
	for f := range benchFindings {
		n := (i*7 + f*13) % 20_000
		r.Findings = append(r.Findings, pratique.Finding{
			ID: fmt.Sprintf("CVE-2026-%05d", n), Kind: pratique.KindVulnerability, Package: fmt.Sprintf("package-%d", n%3000), Ecosystem: "debian",
			Installed: fmt.Sprintf("1.%d-1+deb12u1", n%50), Status: "affected", Severity: severities[n%4], Title: "package: a title of usual length for a finding",
			URL: fmt.Sprintf("https://avd.aquasec.com/nvd/cve-2026-%05d", n), CVSS: 7.5, Source: "debian",
			PURL: fmt.Sprintf("pkg:deb/debian/package-%d@1.%d-1+deb12u1?arch=amd64&distro=debian-12.5", n%3000, n%50),
		})
	}
	if _, err := db.PutReport(tb.Context(), r); err != nil {
		tb.Fatal(err)
	}
}

// never sends.
type never struct{}

func (*never) RoundTrip(*http.Request) (*http.Response, error) { return nil, errBroken }
