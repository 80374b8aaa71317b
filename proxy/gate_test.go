package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
)

const app = "docker.io/library/app"

func TestGateManifest(t *testing.T) {
	unknown := errors.New("disk full")
	tests := []struct {
		name  string
		setup func(t *testing.T, w *world)
		get   string // code of a GET that does not wait for ever
		head  string
	}{
		{"clean", func(t *testing.T, w *world) { w.clean(w.image(t, app, "1", "a")) }, "", ""},
		{"critical", func(t *testing.T, w *world) { w.critical(w.image(t, app, "1", "a")) }, deniedCode, deniedCode},
		{"never scanned", func(t *testing.T, w *world) { w.image(t, app, "1", "a") }, pendingCode, pendingCode},
		{"unknown tag", func(t *testing.T, w *world) { w.image(t, app, "2", "a") }, "404 MANIFEST_UNKNOWN", "404 MANIFEST_UNKNOWN"},
		{"pending report", func(t *testing.T, w *world) {
			w.scans.set(report(w.image(t, app, "1", "a").Digest, pratique.StatePending))
		}, pendingCode, pendingCode},
		{"incomplete", func(t *testing.T, w *world) {
			w.scans.set(report(w.image(t, app, "1", "a").Digest, pratique.StateIncomplete))
		}, deniedCode, deniedCode},
		{"failed", func(t *testing.T, w *world) {
			w.scans.set(report(w.image(t, app, "1", "a").Digest, pratique.StateFailed))
		}, deniedCode, deniedCode},
		{"unsupported though it can be run", func(t *testing.T, w *world) {
			w.scans.set(report(w.image(t, app, "1", "a").Digest, pratique.StateUnsupported))
		}, deniedCode, deniedCode},
		{"a state nobody defined", func(t *testing.T, w *world) {
			w.scans.set(report(w.image(t, app, "1", "a").Digest, "clean"))
		}, deniedCode, deniedCode},
		{"a report about another image", func(t *testing.T, w *world) {
			d := w.image(t, app, "1", "a")
			w.scans.reports[d.Digest] = report(hexDigest, pratique.StateScanned)
		}, "503 INTERNAL", "503 INTERNAL"},
		{"reports cannot be read", func(t *testing.T, w *world) {
			w.clean(w.image(t, app, "1", "a"))
			w.scans.err = unknown
		}, "503 INTERNAL", "503 INTERNAL"},
		{"the scan cannot be opened", func(t *testing.T, w *world) {
			w.image(t, app, "1", "a")
			w.scans.awaitErr = unknown
		}, "503 INTERNAL", pendingCode},
		{"the upstream is limited while scanning", func(t *testing.T, w *world) {
			w.image(t, app, "1", "a")
			w.scans.awaitErr = fmt.Errorf("scan: %w", &Error{Code: CodeTooManyRequests, RetryAfter: time.Minute})
		}, pendingCode, pendingCode},
		{"a layer is missing upstream", func(t *testing.T, w *world) {
			w.image(t, app, "1", "a")
			w.scans.awaitErr = fmt.Errorf("scan: %w", Errorf(CodeBlobUnknown, "no"))
		}, "502 TOOMANYREQUESTS", pendingCode},
		{"a chart", func(t *testing.T, w *world) {
			w.manifest(t, app, "1", pratique.MediaTypeImageManifest, map[string]any{
				"config": w.blob(app, "application/vnd.cncf.helm.config.v1+json", "{}"),
				"layers": []any{w.blob(app, "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "chart")},
			})
		}, "", ""},
		{"an image that calls itself a chart", func(t *testing.T, w *world) {
			w.manifest(t, app, "1", pratique.MediaTypeImageManifest, map[string]any{
				"artifactType": "application/vnd.cncf.helm.config.v1+json",
				"config":       w.blob(app, "application/vnd.cncf.helm.config.v1+json", "{}"),
				"layers":       []any{w.blob(app, layerType, "layer")},
			})
		}, pendingCode, pendingCode},
		{"a foreign layer", func(t *testing.T, w *world) {
			layer := w.blob(app, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "x")
			layer.URLs = []string{"https://elsewhere.example/x"}
			w.clean(w.manifest(t, app, "1", pratique.MediaTypeImageManifest, map[string]any{
				"config": w.blob(app, pratique.MediaTypeImageConfig, "{}"), "layers": []any{layer},
			}))
		}, deniedCode, deniedCode},
		{"schema 1", func(t *testing.T, w *world) {
			raw := []byte(`{"schemaVersion":1}`)
			w.repo(app).manifests[digest.FromBytes(raw)] = content{pratique.MediaTypeSignedSchema1, raw}
			w.repo(app).tags["1"] = digest.FromBytes(raw)
		}, "400 MANIFEST_INVALID", "400 MANIFEST_INVALID"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				tt.setup(t, w)
				g := w.gate(GateConfig{})
				start := time.Now()
				_, err := g.Manifest(t.Context(), head(app, "1"))
				if code(err) != tt.head || time.Since(start) > 0 {
					t.Errorf("HEAD: %v after %v, want %q at once", err, time.Since(start), tt.head)
				}
				m, err := g.Manifest(t.Context(), get(app, "1"))
				if code(err) != tt.get || time.Since(start) > defaultHold {
					t.Errorf("GET: %v after %v, want %q", err, time.Since(start), tt.get)
				}
				if err == nil && (m.Verdict == "" || len(m.Raw) == 0) {
					t.Errorf("served %+v", m)
				}
				if err != nil && len(m.Raw) > 0 {
					t.Error("content beside an error")
				}
				var e *Error
				if errors.As(err, &e) && e.Status() != 404 && !e.Bare && w.scans.awaitErr == nil {
					t.Errorf("%v is not bare: a HEAD of it sends clients elsewhere", e)
				}
			})
		})
	}
}

func TestGateHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := w.image(t, app, "1", "a")
		g := w.gate(GateConfig{})
		start := time.Now()
		go func() {
			time.Sleep(8 * time.Second)
			w.clean(d)
		}()
		if _, err := g.Manifest(t.Context(), get(app, "1")); err != nil || time.Since(start) != 8*time.Second {
			t.Errorf("%v after %v, want the verdict after 8s", err, time.Since(start))
		}
		if got := g.held.Load(); got != 0 {
			t.Errorf("%d requests are still counted as held", got)
		}
	})
}

func TestGateHoldEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := w.image(t, app, "1", "a")
		g := w.gate(GateConfig{Hold: 10 * time.Second, RetryAfter: 3 * time.Second})
		start := time.Now()
		_, err := g.Manifest(t.Context(), get(app, "1"))
		var e *Error
		if !errors.As(err, &e) || code(err) != pendingCode || e.RetryAfter != 3*time.Second || time.Since(start) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		w.clean(d) // the scan went on
		if _, err := g.Manifest(t.Context(), get(app, "1")); err != nil {
			t.Errorf("the retry: %v", err)
		}
	})
}

// A slow upstream eats into the hold: clients count from their request.
func TestGateHoldCountsFromArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.image(t, app, "1", "a")
		w.fail = func(string, pratique.Ref) error { time.Sleep(9 * time.Second); return nil }
		start := time.Now()
		if _, err := w.gate(GateConfig{}).Manifest(t.Context(), get(app, "1")); code(err) != pendingCode || time.Since(start) != defaultHold {
			t.Errorf("%v after %v, want %v", err, time.Since(start), defaultHold)
		}
	})
}

func TestGateClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.image(t, app, "1", "a")
		g := w.gate(GateConfig{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := g.Manifest(ctx, get(app, "1"))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second || g.held.Load() != 0 {
			t.Errorf("%v after %v, %d held", err, time.Since(start), g.held.Load())
		}
	})
}

func TestGateHoldsSoManyOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.image(t, app, "1", "a"), w.image(t, app, "2", "b")
		g := w.gate(GateConfig{MaxHeld: 2})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if _, err := g.Manifest(t.Context(), get(app, "1")); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		start := time.Now()
		if _, err := g.Manifest(t.Context(), get(app, "2")); code(err) != pendingCode || time.Since(start) > 0 {
			t.Errorf("one too many: %v after %v", err, time.Since(start))
		}
		if !slices.Contains(w.scans.askedFor(), b.Digest) {
			t.Error("its scan was not opened")
		}
		w.clean(a)
		wg.Wait()
		w.clean(b)
		if _, err := g.Manifest(t.Context(), get(app, "2")); err != nil || g.held.Load() != 0 {
			t.Errorf("afterwards: %v, %d held", err, g.held.Load())
		}
	})
}

// Only a rule that names the unscanned lets one through; then nobody waits.
func TestGateUnscannedByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		set, err := policy.Load(policy.File{Name: "p", Data: []byte("name: p\ndefault: allow\nrules:\n  - {name: trial, unscanned: {}, action: warn, match: {repository: [library/app]}}\n")})
		if err != nil {
			t.Fatal(err)
		}
		w.policies = set
		d := w.image(t, app, "1", "a")
		w.image(t, "docker.io/library/other", "1", "b")
		g := w.gate(GateConfig{})
		start := time.Now()
		m, err := g.Manifest(t.Context(), get(app, "1"))
		if err != nil || len(m.Warnings) != 1 || time.Since(start) > 0 {
			t.Errorf("%v %q after %v", err, m.Warnings, time.Since(start))
		}
		if !slices.Contains(w.scans.askedFor(), d.Digest) {
			t.Error("it is not being scanned")
		}
		if _, err := g.Manifest(t.Context(), get("docker.io/library/other", "1")); code(err) != pendingCode {
			t.Errorf("another repository: %v", err)
		}
	})
}

func TestGateFacts(t *testing.T) {
	w := newWorld(t)
	d := w.image(t, app, "1", "a")
	w.clean(d)
	var got policy.Facts
	w.policies = policiesFunc(func(f policy.Facts) pratique.Verdict {
		got = f
		return pratique.Verdict{ID: "v", Outcome: pratique.OutcomeWarn, Reasons: []pratique.Reason{{Policy: "p", Rule: "r", Action: pratique.OutcomeWarn, Message: "careful"}}}
	})
	now := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	g := w.gate(GateConfig{Now: func() time.Time { return now }, Evidence: historyOf{d.Digest}})
	r := get(app, "1")
	r.Client.Addr = netip.MustParseAddr("192.0.2.7")
	m, err := g.Manifest(t.Context(), r)
	if err != nil || m.Verdict != "v" || !slices.Equal(m.Warnings, []string{"rule p/r: careful"}) {
		t.Errorf("%+v, %v", m, err)
	}
	if got.Ref.Tag != "1" || got.Ref.Digest != d.Digest || got.Image.Digest != d.Digest || got.Report.State != pratique.StateScanned ||
		got.Client != r.Client.Addr || got.FirstServed.IsZero() || !got.Now.Equal(now) {
		t.Errorf("facts = %+v", got)
	}
	// An outcome that is no word of ours denies.
	w.policies = policiesFunc(func(policy.Facts) pratique.Verdict { return pratique.Verdict{Outcome: "allowed"} })
	if _, err := w.gate(GateConfig{}).Manifest(t.Context(), r); code(err) != deniedCode {
		t.Errorf("an unknown outcome: %v", err)
	}
}

type policiesFunc func(policy.Facts) pratique.Verdict

func (f policiesFunc) Decide(facts policy.Facts) pratique.Verdict { return f(facts) }

// historyOf is Evidence of what was served.
type historyOf []digest.Digest

func (h historyOf) Complete(_ context.Context, needs policy.Needs, f *policy.Facts, _ bool) error {
	if needs.Has(policy.NeedServed) && slices.Contains(h, f.Image.Digest) {
		f.FirstServed, f.LastServed = time.Unix(1, 0), time.Unix(2, 0)
	}
	return nil
}

func (historyOf) Stamp() uint64 { return 0 }

// A registry that grows a method which nobody gates refuses it.
func TestRefusingServesNothing(t *testing.T) {
	var r Registry = refusing{}
	ctx := t.Context()
	_, e1 := r.Manifest(ctx, Request{})
	_, e2 := r.Blob(ctx, Request{})
	_, e3 := r.Tags(ctx, Request{})
	_, e4 := r.Referrers(ctx, Request{})
	for i, err := range []error{e1, e2, e3, e4} {
		if code(err) != deniedCode {
			t.Errorf("method %d: %v", i, err)
		}
	}
}

func TestGateBlob(t *testing.T) {
	tests := []struct {
		name  string
		setup func(t *testing.T, w *world) digest.Digest // the blob asked for
		want  string
	}{
		{"of a clean image", func(t *testing.T, w *world) digest.Digest {
			w.clean(w.image(t, app, "1", "a"))
			return layerOf("a")
		}, ""},
		{"of a refused image", func(t *testing.T, w *world) digest.Digest {
			w.critical(w.image(t, app, "1", "a"))
			return layerOf("a")
		}, deniedCode},
		{"config of a refused image", func(t *testing.T, w *world) digest.Digest {
			w.critical(w.image(t, app, "1", "a"))
			return configOf("a")
		}, deniedCode},
		{"of an image not scanned", func(t *testing.T, w *world) digest.Digest {
			w.image(t, app, "1", "a")
			return layerOf("a")
		}, pendingCode},
		{"shared by a refused and a clean image", func(t *testing.T, w *world) digest.Digest {
			w.critical(w.image(t, app, "1", "a"))
			w.clean(w.manifest(t, app, "1b", pratique.MediaTypeImageManifest, map[string]any{
				"config": w.blob(app, pratique.MediaTypeImageConfig, "{}"), "layers": []any{w.blob(app, layerType, "layer "+secretOf("a"))},
			}))
			return layerOf("a")
		}, ""},
		{"of a refused image, named by an artifact too", func(t *testing.T, w *world) digest.Digest {
			w.critical(w.image(t, app, "1", "a"))
			w.manifest(t, app, "1b", pratique.MediaTypeImageManifest, map[string]any{
				"artifactType": "application/x", "config": w.blob(app, pratique.MediaTypeEmptyJSON, "{}"),
				"layers": []any{w.blob(app, "application/octet-stream", "layer "+secretOf("a"))},
			})
			return layerOf("a")
		}, deniedCode},
		{"the empty config of an artifact beside a refused image that has it too", func(t *testing.T, w *world) digest.Digest {
			w.critical(w.manifest(t, app, "1", pratique.MediaTypeImageManifest, map[string]any{
				"config": w.blob(app, pratique.MediaTypeImageConfig, "{}"), "layers": []any{w.blob(app, layerType, "x")},
			}))
			w.manifest(t, app, "1b", pratique.MediaTypeImageManifest, map[string]any{
				"artifactType": "application/x", "config": w.blob(app, pratique.MediaTypeEmptyJSON, "{}"), "layers": []any{w.blob(app, "application/x", "y")},
			})
			return emptyJSON
		}, ""},
		{"a signature", func(t *testing.T, w *world) digest.Digest {
			return cosign(t, w, ` {"critical": {}}`)
		}, ""},
		{"a file system that calls itself a signature", func(t *testing.T, w *world) digest.Digest {
			return cosign(t, w, "\x1f\x8b\x08"+secretOf("a"))
		}, deniedCode},
		{"a tar whose first file is called {", func(t *testing.T, w *world) digest.Digest {
			return cosign(t, w, "{name"+strings.Repeat("\x00", 600)+secretOf("a"))
		}, deniedCode},
		{"a zstd skippable frame that begins like JSON", func(t *testing.T, w *world) digest.Digest {
			return cosign(t, w, "[*M\x18"+secretOf("a"))
		}, deniedCode},
		{"unknown", func(t *testing.T, w *world) digest.Digest {
			w.clean(w.image(t, app, "1", "a"))
			return w.blob(app, "x", "of no manifest").Digest
		}, "404 BLOB_UNKNOWN"},
		{"a clean manifest as a blob", func(t *testing.T, w *world) digest.Digest {
			d := w.image(t, app, "1", "a")
			w.clean(d)
			return d.Digest
		}, ""},
		{"a refused manifest as a blob", func(t *testing.T, w *world) digest.Digest {
			d := w.image(t, app, "1", "a")
			w.critical(d)
			return d.Digest
		}, deniedCode},
		{"a refused manifest named as an artifact's layer", func(t *testing.T, w *world) digest.Digest {
			d := w.image(t, app, "1", "a")
			w.critical(d)
			raw := w.repo(app).manifests[d.Digest].raw
			w.manifest(t, app, "1b", pratique.MediaTypeImageManifest, map[string]any{
				"artifactType": "application/x", "config": w.blob(app, pratique.MediaTypeEmptyJSON, "{}"),
				"layers": []any{w.blob(app, "application/octet-stream", string(raw))},
			})
			return d.Digest
		}, deniedCode},
		{"the catalog cannot be read", func(t *testing.T, w *world) digest.Digest {
			w.clean(w.image(t, app, "1", "a"))
			return layerOf("a")
		}, "500 INTERNAL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				blob := tt.setup(t, w)
				for tag := range w.repo(app).tags { // everything there has been asked for once
					if _, err := w.Manifest(t.Context(), get(app, tag)); err != nil {
						t.Fatal(err)
					}
				}
				if tt.want == "500 INTERNAL" {
					w.catalog.err = errors.New("disk")
				}
				g := w.gate(GateConfig{})
				b, err := g.Blob(t.Context(), get(app, blob.String()))
				if code(err) != tt.want {
					t.Errorf("GET: %v, want %q", err, tt.want)
				}
				if err == nil && (b.Digest != blob || b.Verdict == "") {
					t.Errorf("blob = %+v", b)
				}
				start := time.Now()
				_, err = g.Blob(t.Context(), head(app, blob.String()))
				// The bytes of what lies about its type are looked at when they are asked for.
				if lies := tt.want == deniedCode && blob == w.payload; !lies && code(err) != tt.want || time.Since(start) > 0 {
					t.Errorf("HEAD: %v after %v, want %q", err, time.Since(start), tt.want)
				}
			})
		})
	}
}

// cosign stores a signature as cosign does, with an image's config, and returns
// the digest of its only layer.
func cosign(t *testing.T, w *world, payload string) digest.Digest {
	t.Helper()
	layer := w.blob(app, "application/vnd.dev.cosign.simplesigning.v1+json", payload)
	w.payload = layer.Digest
	w.manifest(t, app, "sig", pratique.MediaTypeImageManifest, map[string]any{
		"config": w.blob(app, pratique.MediaTypeImageConfig, `{"rootfs": {}}`), "layers": []any{layer},
	})
	return layer.Digest
}

// A blob is waited for through every manifest that may vouch for it.
func TestGateBlobWaitsForAnyHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.image(t, app, "1", "a")
		b := w.manifest(t, app, "2", pratique.MediaTypeImageManifest, map[string]any{
			"config": w.blob(app, pratique.MediaTypeImageConfig, "{}"), "layers": []any{w.blob(app, layerType, "layer "+secretOf("a"))},
		})
		for _, tag := range []string{"1", "2"} {
			if _, err := w.Manifest(t.Context(), get(app, tag)); err != nil {
				t.Fatal(err)
			}
		}
		go func() {
			time.Sleep(time.Second)
			w.critical(a)
			time.Sleep(time.Second)
			w.clean(b)
		}()
		start := time.Now()
		if _, err := w.gate(GateConfig{}).Blob(t.Context(), get(app, layerOf("a").String())); err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestGateReferrers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		good, bad, fresh := w.image(t, app, "1", "a"), w.image(t, app, "2", "b"), w.image(t, app, "3", "c")
		w.clean(good)
		w.critical(bad)
		g := w.gate(GateConfig{})
		for d, want := range map[digest.Digest]string{good.Digest: "", bad.Digest: deniedCode, fresh.Digest: pendingCode, hexDigest: ""} {
			if _, err := g.Referrers(t.Context(), get(app, d.String())); code(err) != want {
				t.Errorf("%s: %v, want %q", d, err, want)
			}
		}
		w.fail = func(op string, _ pratique.Ref) error {
			if op == "manifest" {
				return &Error{Code: CodeTooManyRequests, HTTPStatus: 502}
			}
			return nil
		}
		if _, err := g.Referrers(t.Context(), get(app, hexDigest)); code(err) != "502 TOOMANYREQUESTS" {
			t.Errorf("with the upstream down: %v", err)
		}
	})
}

func TestGateCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		bad, fresh := w.image(t, app, "2", "b"), w.image(t, app, "3", "c")
		w.critical(bad)
		w.index(t, app, "all", at(bad, amd64), at(fresh, arm64))
		g := w.gate(GateConfig{Upstreams: testIndex(t)})
		check := func(tag string, wait time.Duration) (pratique.Decision, error) {
			return g.Check(t.Context(), pratique.Ref{Registry: "index.docker.io", Repo: "app", Tag: tag}, netip.Addr{}, wait)
		}
		d, err := check("2", 0)
		if err != nil || d.Verdict.Outcome != pratique.OutcomeDeny || d.Ref.String() != app+":2@"+bad.Digest.String() || len(d.Report.Findings) != 1 {
			t.Errorf("refused: %+v, %v", d, err)
		}
		d, err = check("all", 0)
		if !errors.Is(err, pratique.ErrPending) || len(d.Children) != 2 || !slices.Contains(w.scans.askedFor(), fresh.Digest) {
			t.Errorf("undecided: %+v, %v", d, err)
		}
		go func() {
			time.Sleep(time.Second)
			w.clean(fresh)
		}()
		d, err = check("all", time.Minute)
		if err != nil || d.Verdict.Outcome != pratique.OutcomeAllow || d.Children[0].Verdict.Outcome != pratique.OutcomeDeny || d.Children[1].Verdict.Outcome != pratique.OutcomeAllow {
			t.Errorf("decided: %+v, %v", d.Verdict, err)
		}
		if _, err := check("none", 0); code(err) != "404 MANIFEST_UNKNOWN" {
			t.Errorf("unknown: %v", err)
		}
		if _, err := g.Check(t.Context(), pratique.Ref{Registry: "quay.io", Repo: "app", Tag: "1"}, netip.Addr{}, 0); code(err) != deniedCode {
			t.Errorf("unknown upstream: %v", err)
		}
	})
}

func TestGateTags(t *testing.T) {
	w := newWorld(t)
	w.image(t, app, "1", "a")
	l, err := w.gate(GateConfig{}).Tags(t.Context(), get(app, "x"))
	if diff := cmp.Diff(TagList{Tags: []string{"1"}}, l); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}
