package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
)

// attestation puts what BuildKit stores beside an image into a repository.
func attestation(t *testing.T, w *world, name string) pratique.Descriptor {
	t.Helper()
	d := w.manifest(t, app, "", pratique.MediaTypeImageManifest, map[string]any{
		"config": w.blob(app, pratique.MediaTypeImageConfig, `{"architecture": "unknown"}`),
		"layers": []any{w.blob(app, "application/vnd.in-toto+json", `{"name": "`+name+`"}`)},
	})
	return at(d, "unknown/unknown")
}

func TestGateIndex(t *testing.T) {
	failing := func(t *testing.T, w *world, d digest.Digest, err error) {
		t.Helper()
		w.fail = func(op string, ref pratique.Ref) error {
			if op == "manifest" && ref.Digest == d {
				return err
			}
			return nil
		}
	}
	tests := []struct {
		name    string
		setup   func(t *testing.T, w *world)
		want    string
		message []string // in the refusal
		asked   int      // scans opened; -1 = any
	}{
		{"all clean", func(t *testing.T, w *world) {
			a, b := w.image(t, app, "", "a"), w.image(t, app, "", "b")
			w.clean(a)
			w.clean(b)
			w.index(t, app, "1", at(a, amd64), at(b, arm64))
		}, "", nil, 0},
		{"one clean, one refused", func(t *testing.T, w *world) {
			a, b := w.image(t, app, "", "a"), w.image(t, app, "", "b")
			w.critical(a)
			w.clean(b)
			w.index(t, app, "1", at(a, amd64), at(b, arm64))
		}, "", nil, 0},
		{"all refused", func(t *testing.T, w *world) {
			a, b := w.image(t, app, "", "a"), w.image(t, app, "", "b")
			w.critical(a)
			w.critical(b)
			w.index(t, app, "1", at(a, amd64), at(b, arm64))
		}, deniedCode, []string{"test/critical: CVE-2024-0001", "linux/amd64", "linux/arm64"}, 0},
		{"none scanned", func(t *testing.T, w *world) {
			w.index(t, app, "1", at(w.image(t, app, "", "b"), arm64), at(w.image(t, app, "", "a"), amd64))
		}, pendingCode, nil, 2},
		{"one refused, one not scanned", func(t *testing.T, w *world) {
			a := w.image(t, app, "", "a")
			w.critical(a)
			w.index(t, app, "1", at(a, amd64), at(w.image(t, app, "", "b"), arm64))
		}, pendingCode, nil, 1},
		{"one clean, one not scanned", func(t *testing.T, w *world) {
			a := w.image(t, app, "", "a")
			w.clean(a)
			w.index(t, app, "1", at(a, amd64), at(w.image(t, app, "", "b"), arm64))
		}, "", nil, 1},
		{"empty", func(t *testing.T, w *world) { w.index(t, app, "1") }, deniedCode, []string{"gate/platform", "empty"}, 0},
		{"unwanted platforms only", func(t *testing.T, w *world) {
			a := w.image(t, app, "", "a")
			w.clean(a)
			w.index(t, app, "1", at(a, "windows/amd64"))
		}, deniedCode, []string{"linux/amd64, linux/arm64"}, 0},
		{"attestations only", func(t *testing.T, w *world) { w.index(t, app, "1", attestation(t, w, "x")) }, deniedCode, []string{"gate/platform"}, 0},
		{"a refused image and its attestation", func(t *testing.T, w *world) {
			a := w.image(t, app, "", "a")
			w.critical(a)
			w.index(t, app, "1", at(a, amd64), attestation(t, w, "x"))
		}, deniedCode, []string{"CVE-2024-0001"}, 0},
		{"a refused image and an artifact without a platform", func(t *testing.T, w *world) {
			a, b := w.image(t, app, "", "a"), attestation(t, w, "x")
			b.Platform = nil
			w.critical(a)
			w.index(t, app, "1", at(a, amd64), b)
		}, deniedCode, []string{"CVE-2024-0001"}, 0},
		{"an artifact that claims a platform beside a refused image", func(t *testing.T, w *world) {
			a := w.image(t, app, "", "a")
			w.critical(a)
			w.index(t, app, "1", at(attestation(t, w, "x"), amd64), at(a, amd64))
		}, deniedCode, []string{"CVE-2024-0001"}, 0},
		{"an index of artifacts beside a refused image", func(t *testing.T, w *world) {
			a, b := w.image(t, app, "", "a"), attestation(t, w, "x")
			b.Platform = nil
			w.critical(a)
			w.index(t, app, "1", at(a, amd64), w.index(t, app, "", b))
		}, deniedCode, []string{"CVE-2024-0001"}, 0},
		{"artifacts only", func(t *testing.T, w *world) {
			b := attestation(t, w, "x")
			b.Platform = nil
			w.index(t, app, "1", b)
		}, "", nil, 0},
		{"a child without a platform", func(t *testing.T, w *world) {
			a := w.image(t, app, "", "a")
			w.clean(a)
			w.index(t, app, "1", a)
		}, "", nil, 0},
		{"a child that the upstream does not have", func(t *testing.T, w *world) {
			a := w.image(t, app, "", "a")
			w.index(t, app, "1", at(a, amd64))
			delete(w.repo(app).manifests, a.Digest)
		}, deniedCode, []string{"gate/child", "linux/amd64", "cannot be had"}, 0},
		{"a missing child and an artifact", func(t *testing.T, w *world) {
			a, b := w.image(t, app, "", "a"), attestation(t, w, "x")
			b.Platform = nil
			w.index(t, app, "1", at(a, amd64), b)
			delete(w.repo(app).manifests, a.Digest)
		}, deniedCode, []string{"gate/child"}, 0},
		{"a missing child and a clean one", func(t *testing.T, w *world) {
			a, b := w.image(t, app, "", "a"), w.image(t, app, "", "b")
			w.clean(b)
			w.index(t, app, "1", at(a, amd64), at(b, arm64))
			delete(w.repo(app).manifests, a.Digest)
		}, "", nil, 0},
		{"a child in schema 1", func(t *testing.T, w *world) {
			raw := []byte(`{"schemaVersion":1}`)
			d := pratique.Descriptor{MediaType: pratique.MediaTypeDockerManifest, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
			w.repo(app).manifests[d.Digest] = content{d.MediaType, raw}
			w.index(t, app, "1", at(d, amd64))
		}, deniedCode, []string{"schema 1"}, 0},
		{"the upstream fails for a child", func(t *testing.T, w *world) {
			a := w.image(t, app, "", "a")
			w.index(t, app, "1", at(a, amd64))
			failing(t, w, a.Digest, &Error{Code: CodeTooManyRequests, HTTPStatus: 502})
		}, "502 TOOMANYREQUESTS", nil, 0},
		{"the upstream fails for one child, the other is clean", func(t *testing.T, w *world) {
			a, b := w.image(t, app, "", "a"), w.image(t, app, "", "b")
			w.clean(b)
			w.index(t, app, "1", at(a, amd64), at(b, arm64))
			failing(t, w, a.Digest, &Error{Code: CodeTooManyRequests, HTTPStatus: 502})
		}, "", nil, 0},
		{"the upstream fails for one child, the other is refused", func(t *testing.T, w *world) {
			a, b := w.image(t, app, "", "a"), w.image(t, app, "", "b")
			w.critical(b)
			w.index(t, app, "1", at(a, amd64), at(b, arm64))
			failing(t, w, a.Digest, errors.New("disk"))
		}, "503 INTERNAL", nil, 0},
		{"nested four deep", func(t *testing.T, w *world) {
			a := w.image(t, app, "", "a")
			w.clean(a)
			w.index(t, app, "1", w.index(t, app, "", w.index(t, app, "", w.index(t, app, "", at(a, amd64)))))
		}, "", nil, 0},
		{"nested five deep", func(t *testing.T, w *world) {
			a := w.image(t, app, "", "a")
			w.clean(a)
			w.index(t, app, "1", w.index(t, app, "", w.index(t, app, "", w.index(t, app, "", w.index(t, app, "", at(a, amd64))))))
		}, deniedCode, []string{"nest more than 4 deep"}, 0},
		{"ten thousand children", func(t *testing.T, w *world) {
			var children []pratique.Descriptor
			for i := range 10_000 {
				children = append(children, at(pratique.Descriptor{MediaType: pratique.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1}, amd64))
			}
			w.index(t, app, "1", children...)
		}, deniedCode, []string{"gate/index-size", "more than 64"}, 0},
		{"ten thousand unwanted children", func(t *testing.T, w *world) {
			a := w.image(t, app, "", "a")
			w.clean(a)
			children := []pratique.Descriptor{at(a, amd64)}
			for i := range 10_000 {
				children = append(children, at(pratique.Descriptor{MediaType: pratique.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1}, "linux/s390x"))
			}
			w.index(t, app, "1", children...)
		}, "", nil, 0},
		{"many children in nested indexes", func(t *testing.T, w *world) {
			var outer []pratique.Descriptor
			for i := range 10 {
				var inner []pratique.Descriptor
				for j := range 10 {
					inner = append(inner, w.image(t, app, "", fmt.Sprint("i", i, j)))
				}
				outer = append(outer, w.index(t, app, "", inner...))
			}
			w.index(t, app, "1", outer...)
		}, pendingCode, nil, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				tt.setup(t, w)
				g := w.gate(GateConfig{})
				start := time.Now()
				_, err := g.Manifest(t.Context(), get(app, "1"))
				if code(err) != tt.want {
					t.Errorf("GET: %v, want %q", err, tt.want)
				}
				if tt.want != pendingCode && time.Since(start) > 0 {
					t.Errorf("answered after %v", time.Since(start))
				}
				for _, part := range tt.message {
					if err == nil || !strings.Contains(err.Error(), part) {
						t.Errorf("%q is not in %v", part, err)
					}
				}
				if got := len(w.scans.askedFor()); tt.asked >= 0 && got != tt.asked || got > defaultMaxChildren {
					t.Errorf("%d scans opened, want %d", got, tt.asked)
				}
				start = time.Now()
				_, err = g.Manifest(t.Context(), head(app, "1"))
				if time.Since(start) > 0 || tt.want == "" && err != nil || tt.want != "" && err == nil {
					t.Errorf("HEAD: %v after %v", err, time.Since(start))
				}
				if g.held.Load() != 0 {
					t.Errorf("%d held", g.held.Load())
				}
			})
		})
	}
}

// A cold HEAD asks the upstream for nothing but the index itself.
func TestGateIndexColdHead(t *testing.T) {
	w := newWorld(t)
	w.index(t, app, "1", at(w.image(t, app, "", "a"), amd64))
	if _, err := w.gate(GateConfig{}).Manifest(t.Context(), head(app, "1")); code(err) != pendingCode {
		t.Errorf("HEAD: %v", err)
	}
	if n := w.count("manifest"); n != 1 {
		t.Errorf("%d manifests fetched: %q", n, w.calls)
	}
}

// A warm index costs no fetch of its children, and the first platform's scan
// is the first to be opened.
func TestGateIndexOrderAndCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.image(t, app, "", "a"), w.image(t, app, "", "b")
		other := w.image(t, app, "", "c")
		w.index(t, app, "1", at(other, "linux/s390x"), at(b, arm64), at(a, amd64))
		g := w.gate(GateConfig{})
		go func() {
			time.Sleep(3 * time.Second)
			w.clean(b)
		}()
		start := time.Now()
		m, err := g.Manifest(t.Context(), get(app, "1"))
		if err != nil || time.Since(start) != 3*time.Second || m.Verdict == "" {
			t.Fatalf("%v after %v: want to be served with the first verdict that allows", err, time.Since(start))
		}
		if diff := cmp.Diff([]digest.Digest{a.Digest, b.Digest}, w.scans.askedFor()); diff != "" {
			t.Errorf("scans (-want +got):\n%s", diff)
		}
		before := w.count("manifest")
		if _, err := g.Manifest(t.Context(), get(app, "1")); err != nil || w.count("manifest") != before+1 {
			t.Errorf("warm: %v, %d manifests fetched", err, w.count("manifest")-before)
		}
		// A platform that nobody configured is scanned when it is asked for.
		w.clean(other)
		if _, err := g.Manifest(t.Context(), get(app, other.Digest.String())); err != nil {
			t.Error(err)
		}
	})
}

// A child known through another repository is fetched through this one, or
// its blobs would be unknown here.
func TestGateIndexLinksChildren(t *testing.T) {
	w := newWorld(t)
	const other = "ghcr.io/team/app"
	a := w.image(t, app, "x", "a")
	w.image(t, other, "x", "a")
	w.index(t, other, "1", at(a, amd64))
	w.clean(a)
	if _, err := w.Manifest(t.Context(), get(app, "x")); err != nil {
		t.Fatal(err)
	}
	g := w.gate(GateConfig{})
	if _, err := g.Manifest(t.Context(), get(other, "1")); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Blob(t.Context(), get(other, layerOf("a").String())); err != nil {
		t.Errorf("its layer: %v", err)
	}
}

// A digest of another algorithm is another name for the same manifest.
func TestGateOtherAlgorithm(t *testing.T) {
	w := newWorld(t)
	bad, good := w.image(t, app, "", "bad"), w.image(t, app, "", "good")
	w.critical(bad)
	w.clean(good)
	r := w.repo(app)
	alias := func(d pratique.Descriptor) pratique.Descriptor {
		c := r.manifests[d.Digest]
		d.Digest = digest.SHA512.FromBytes(c.raw)
		r.manifests[d.Digest] = c
		return d
	}
	bad512, good512 := alias(bad), alias(good)
	w.index(t, app, "1", at(bad512, amd64))
	w.index(t, app, "2", at(bad512, amd64), at(good512, arm64))
	g := w.gate(GateConfig{})
	for reference, want := range map[string]string{"1": deniedCode, "2": "", bad512.Digest.String(): deniedCode, good512.Digest.String(): ""} {
		if _, err := g.Manifest(t.Context(), get(app, reference)); code(err) != want {
			t.Errorf("%.20s: %v, want %q", reference, err, want)
		}
	}
}

// Children that stall do not outlast the hold, nor the client.
func TestGateIndexStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.image(t, app, "", "a")
		w.index(t, app, "1", at(a, amd64))
		g := w.gate(GateConfig{})
		g.next = stalling{w, a.Digest}
		start := time.Now()
		if _, err := g.Manifest(t.Context(), get(app, "1")); code(err) != pendingCode || time.Since(start) != defaultHold {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if _, err := g.Manifest(ctx, get(app, "1")); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// stalling is a registry whose upstream never answers for one manifest.
type stalling struct {
	*world
	d digest.Digest
}

func (s stalling) Manifest(ctx context.Context, r Request) (Manifest, error) {
	if r.Ref.Digest == s.d {
		<-ctx.Done()
		return Manifest{}, ctx.Err()
	}
	return s.world.Manifest(ctx, r)
}

func TestCombine(t *testing.T) {
	soon, later := time.Unix(100, 0), time.Unix(200, 0)
	child := func(o pratique.Outcome, id string, until time.Time) pratique.Decision {
		return pratique.Decision{
			Image:   pratique.Image{Kind: pratique.KindImage},
			Verdict: pratique.Verdict{ID: id, Outcome: o, Until: until, Policy: "p", Reasons: []pratique.Reason{{Rule: id, Action: o}}},
		}
	}
	tests := []struct {
		name     string
		children []pratique.Decision
		want     pratique.Outcome
		until    time.Time
		reasons  int
	}{
		{"nothing is nothing", nil, pratique.OutcomeDeny, time.Time{}, 0},
		{"allow and warn", []pratique.Decision{child("warn", "a", time.Time{}), child("allow", "b", later)}, pratique.OutcomeAllow, later, 1},
		{"warn and warn", []pratique.Decision{child("warn", "a", later), child("warn", "b", soon)}, pratique.OutcomeWarn, soon, 2},
		{"warn and deny", []pratique.Decision{child("", "a", soon), child("warn", "b", time.Time{})}, pratique.OutcomeWarn, soon, 1},
		{"deny and deny", []pratique.Decision{child("", "a", time.Time{}), child("", "b", soon)}, pratique.OutcomeDeny, soon, 2},
		{"a word of nobody's", []pratique.Decision{child("allowed", "a", time.Time{})}, pratique.OutcomeDeny, time.Time{}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &panel{errs: make([]error, len(tt.children)), wanted: make([]pratique.Descriptor, len(tt.children))}
			p.d.Children = tt.children
			d, err := p.decision()
			v := d.Verdict
			if err != nil || v.Outcome != tt.want || !v.Until.Equal(tt.until) || len(v.Reasons) != tt.reasons {
				t.Errorf("%+v, %v", v, err)
			}
		})
	}
}
