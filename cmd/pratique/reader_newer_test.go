package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/evidence"
	"pratique/evidence/lineage"
	"pratique/internal/sqlite"
	"pratique/policy"
	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/proxy/upstream"
	"pratique/store"
)

// gated is what stands between a client and a registry, but for the scanner:
// gate, policies, evidence, lineage, cache and state as serve wires them.
type gated struct {
	t       *testing.T
	up      *proxytest.Upstream
	gate    *proxy.Gate
	lineage *lineage.Lineage
	state   *sqlite.DB

	mu       sync.Mutex
	now      time.Time
	critical map[digest.Digest]bool // what the scanner finds
}

// Report implements proxy.Scans.
func (p *gated) Report(ctx context.Context, d digest.Digest) (pratique.Report, error) {
	return p.state.Report(ctx, d)
}

// Await implements proxy.Scans: a scan takes no time.
func (p *gated) Await(ctx context.Context, ref pratique.Ref) (pratique.Report, error) {
	r := pratique.Report{Image: ref.Digest, State: pratique.StateScanned, ScannedAt: p.clock()}
	p.mu.Lock()
	if p.critical[ref.Digest] {
		r.Findings = []pratique.Finding{{ID: "CVE-2026-1", Kind: pratique.KindVulnerability, Severity: pratique.SeverityCritical, Package: "x", Installed: "1"}}
	}
	p.mu.Unlock()
	return p.state.PutReport(ctx, r)
}

// Request implements proxy.Scans.
func (p *gated) Request(ctx context.Context, ref pratique.Ref) error {
	_, err := p.Await(ctx, ref)
	return err
}

func (p *gated) clock() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// manifest puts a manifest upstream.
func (p *gated) manifest(repo, tag, mediaType string, doc map[string]any) pratique.Descriptor {
	p.t.Helper()
	doc["schemaVersion"], doc["mediaType"] = 2, mediaType
	raw, err := json.Marshal(doc)
	if err != nil {
		p.t.Fatal(err)
	}
	return pratique.Descriptor{MediaType: mediaType, Digest: p.up.Manifest(repo, tag, mediaType, raw), Size: int64(len(raw))}
}

// release puts a version upstream, an index of one image, and returns the digests
// of both.
func (p *gated) release(repo, tag string, critical bool, layers ...string) (index, image digest.Digest) {
	p.t.Helper()
	var ls []pratique.Descriptor
	for _, l := range append(layers, tag) {
		ls = append(ls, p.up.Blob(repo, "application/vnd.oci.image.layer.v1.tar+gzip", []byte(l)))
	}
	child := p.manifest(repo, "", pratique.MediaTypeImageManifest, map[string]any{
		"config": p.up.Blob(repo, pratique.MediaTypeImageConfig, fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","made":%q}`, repo+tag)), "layers": ls,
	})
	child.Platform = &pratique.Platform{OS: "linux", Architecture: "amd64"}
	p.mu.Lock()
	p.critical[child.Digest] = critical
	p.mu.Unlock()
	return p.manifest(repo, tag, pratique.MediaTypeImageIndex, map[string]any{"manifests": []pratique.Descriptor{child}}).Digest, child.Digest
}

func newGated(t *testing.T, rules string) *gated {
	t.Helper()
	p := &gated{t: t, up: proxytest.New(t), now: scannedAt, critical: map[digest.Digest]bool{}}
	quiet := slog.New(slog.DiscardHandler)
	client, err := upstream.New("lab", upstream.Config{URL: p.up.URL, Private: true, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	blobs, err := store.OpenBlobs(t.Context(), store.BlobsConfig{Parameters: map[string]any{"rootdirectory": t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	if p.state, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.state.Close() })
	cache := proxy.NewCache(map[string]proxy.Upstream{"lab": client}, blobs, p.state, p.state, proxy.CacheConfig{Now: p.clock, Log: quiet})
	t.Cleanup(func() { _ = cache.Close(context.Background()) })
	set, err := policy.Load(policy.File{Name: "test.yaml", Data: []byte(rules)})
	if err != nil {
		t.Fatal(err)
	}
	platforms := []pratique.Platform{{OS: "linux", Architecture: "amd64"}}
	newer := newerVersions{manifests: p.state, platforms: func() []pratique.Platform { return platforms }}
	p.lineage = lineage.New(reader{cache}, p.state, lineage.Config{
		Compliant: func(ctx context.Context, ref pratique.Ref) (bool, error) { return newer.compliant(ctx, ref) }, //nolint:gocritic // newer has its gate later
		Request:   func(ctx context.Context, ref pratique.Ref) error { return newer.request(ctx, ref) },           //nolint:gocritic // as above
		Refresh:   600 * time.Millisecond, Log: quiet, Now: p.clock,
	})
	p.gate = proxy.NewGate(cache, p, p.state, set, proxy.GateConfig{
		Platforms: platforms, Stamps: p.state, Now: p.clock, Evidence: evidence.New(evidence.Config{Lineages: p.lineage, History: p.state}),
	})
	newer.gate = p.gate // before Run starts
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.lineage.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

// pull says how a reference is answered: "" or the refusal.
func (p *gated) pull(name string) string {
	p.t.Helper()
	ref, err := pratique.ParseRef("lab/" + name)
	if err != nil {
		p.t.Fatal(err)
	}
	_, err = p.gate.Manifest(p.t.Context(), proxy.Request{Ref: ref, N: -1})
	var e *proxy.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e) && e.Status() == http.StatusForbidden:
		return e.Message
	}
	p.t.Fatalf("%s: %v", name, err)
	return ""
}

// eventually waits for the background.
func (p *gated) eventually(what string, ok func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: not within a minute", what)
		}
	}
}

func (p *gated) later(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = p.now.Add(d)
}

// TestOutdatedImageIsRefused: from a list of tags to a refusal, through every door,
// and back when the newer version turns out to be bad.
func TestOutdatedImageIsRefused(t *testing.T) {
	p := newGated(t, `
name: test
default: allow
rules:
  - {name: critical, vulnerability: {severity: CRITICAL}, action: deny}
  - {name: outdated, outdated: {within: patch, longerThan: 14d}, action: deny}
`)
	index, image := p.release("app", "1.0.0", false)
	_, next := p.release("app", "1.0.1", false)
	p.release("app", "1.0.2", true) // newer, and refused itself
	doors := []string{"app:1.0.0", "app@" + index.String(), "app@" + image.String()}
	for _, door := range doors {
		if msg := p.pull(door); msg != "" {
			t.Fatalf("%s at first: %s", door, msg)
		}
	}
	compliant := func(want bool) func() bool {
		return func() bool {
			img, err := p.state.Image(t.Context(), image)
			if err != nil {
				t.Fatal(err)
			}
			l, err := p.lineage.Lineage(t.Context(), pratique.Ref{Registry: "lab", Repo: "app", Digest: image}, img, policy.NeedNewer, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range l.Newer {
				if n.Tag == "1.0.2" && n.Compliant {
					t.Fatal("a version with a critical finding is compliant")
				}
				if n.Tag == "1.0.1" {
					return n.Compliant == want
				}
			}
			return false
		}
	}
	p.eventually("1.0.1 is fetched, scanned and compliant", compliant(true))
	for _, door := range doors {
		if msg := p.pull(door); msg != "" {
			t.Errorf("%s within 14 days: %s", door, msg)
		}
	}
	p.later(15 * 24 * time.Hour)
	for _, door := range doors {
		if msg := p.pull(door); !strings.Contains(msg, "outdated") || !strings.Contains(msg, "1.0.1") {
			t.Errorf("%s after 15 days: %q, want a refusal that names 1.0.1", door, msg)
		}
	}
	if msg := p.pull("app:1.0.1"); msg != "" {
		t.Errorf("the version to use instead: %s", msg)
	}

	// Tonight's database finds something in 1.0.1: nobody is sent to it, and the old
	// one is what there is.
	p.mu.Lock()
	p.critical[next] = true
	p.mu.Unlock()
	if _, err := p.Await(t.Context(), pratique.Ref{Registry: "lab", Repo: "app", Digest: next}); err != nil {
		t.Fatal(err)
	}
	p.eventually("1.0.1 is compliant no more", compliant(false))
	for _, door := range doors {
		if msg := p.pull(door); msg != "" {
			t.Errorf("%s without a version to use instead: %s", door, msg)
		}
	}
}
