package proxy_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
	"pratique/proxy"
)

// verdicts are Scans whose every scan has ended: an image without a critical
// finding in bad is clean, one in slow stays pending.
type verdicts struct {
	mu        sync.Mutex
	bad, slow map[digest.Digest]bool
	asked     []string
}

func (v *verdicts) Report(_ context.Context, d digest.Digest) (pratique.Report, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.slow[d]:
		return pratique.Report{}, fmt.Errorf("report on %s: %w", d, pratique.ErrNotFound)
	case v.bad[d]:
		return pratique.Report{Image: d, State: pratique.StateScanned, Findings: []pratique.Finding{{
			ID: "CVE-2024-0001", Kind: pratique.KindVulnerability, Package: "openssl", Installed: "3.0.1", Fixed: "3.0.2", Severity: pratique.SeverityCritical,
		}}}, nil
	}
	return pratique.Report{Image: d, State: pratique.StateScanned}, nil
}

func (v *verdicts) Await(ctx context.Context, ref pratique.Ref) (pratique.Report, error) {
	if err := v.Request(ctx, ref); err != nil {
		return pratique.Report{}, err
	}
	<-ctx.Done()
	return pratique.Report{}, fmt.Errorf("%w: %s", pratique.ErrPending, ref)
}

func (v *verdicts) Request(_ context.Context, ref pratique.Ref) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked = append(v.asked, ref.String())
	return nil
}

// gated is a whole pull path before a real upstream: server, gate, cache.
type gated struct {
	*pulled
	*verdicts
	url string
}

func newGated(t *testing.T) *gated {
	t.Helper()
	g := &gated{pulled: newPulled(t), verdicts: &verdicts{bad: map[digest.Digest]bool{}, slow: map[digest.Digest]bool{}}}
	set, err := policy.Load(policy.File{Name: "test", Data: []byte("name: test\ndefault: allow\nrules:\n  - {name: critical, vulnerability: {severity: CRITICAL, fixable: true}, action: deny}\n")})
	if err != nil {
		t.Fatal(err)
	}
	names, err := proxy.NewUpstreamIndex(map[string]string{"lab": g.lab.URL, "hub": g.hub.URL})
	if err != nil {
		t.Fatal(err)
	}
	gate := proxy.NewGate(g.Cache, g.verdicts, g.state, set, proxy.GateConfig{Hold: time.Second, Upstreams: names, Platforms: []pratique.Platform{{OS: "linux", Architecture: "amd64"}}})
	s := httptest.NewServer(proxy.NewServer(gate, proxy.ServerConfig{Upstreams: names, BareHead: true, Log: slog.New(slog.DiscardHandler)}))
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		s.Close()
	})
	g.url = s.URL
	return g
}

// ask sends a request and returns status and body.
func (g *gated) ask(method, path string) (int, string) {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), method, g.url+"/v2/"+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		g.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestGatedPull(t *testing.T) {
	g := newGated(t)
	layer := noise(1, 200_000)
	d, raw := g.lab.Image("app", "1", layer)
	path := "lab/app/"
	pull := func() {
		t.Helper()
		if status, _ := g.ask(http.MethodHead, path+"manifests/1"); status != 200 {
			t.Errorf("HEAD: %d", status)
		}
		if status, body := g.ask(http.MethodGet, path+"manifests/"+d.String()); status != 200 || body != string(raw) {
			t.Errorf("manifest: %d %q", status, body)
		}
		if status, body := g.ask(http.MethodGet, path+"blobs/"+digest.FromBytes(layer).String()); status != 200 || body != string(layer) {
			t.Errorf("layer: %d, %d bytes", status, len(body))
		}
	}
	pull()
	g.lab.Expect("GET /v2/app/manifests/1", "GET /v2/app/blobs/"+digest.FromBytes(layer).String())
	pull()
	g.lab.Expect()
	g.lab.Close()
	g.wait(time.Hour)
	pull()
	if status, body := g.ask(http.MethodGet, "app/manifests/1?ns="+g.lab.Host()); status != 200 || body != string(raw) {
		t.Errorf("as a mirror: %d %q", status, body)
	}
}

// A refused image costs the upstream a manifest and no blob, whoever asks how.
func TestGatedRefusal(t *testing.T) {
	g := newGated(t)
	layer := noise(1, 5000)
	d, raw := g.lab.Image("app", "1", layer)
	g.bad[d] = true
	blob := digest.FromBytes(layer).String()
	for _, path := range []string{"lab/app/manifests/1", "lab/app/manifests/" + d.String(), "lab/app/blobs/" + blob, "lab/app/blobs/" + d.String(), "app/manifests/1?ns=" + g.lab.Host()} {
		status, body := g.ask(http.MethodGet, path)
		if status != 403 || !strings.Contains(body, "CVE-2024-0001 openssl 3.0.1 -> 3.0.2") || strings.Contains(body, string(raw)) {
			t.Errorf("%s: %d %q", path, status, body)
		}
		if status, body := g.ask(http.MethodHead, path); status != 200 || body != "" {
			t.Errorf("HEAD %s: %d %q", path, status, body)
		}
	}
	g.lab.Expect("GET /v2/app/manifests/1")
}

// What is not decided is held, told to come again, and not fetched.
func TestGatedPending(t *testing.T) {
	g := newGated(t)
	d, _ := g.lab.Image("app", "1", noise(1, 5000))
	g.slow[d] = true
	for _, path := range []string{"lab/app/manifests/1", "lab/app/blobs/" + digest.FromBytes(noise(1, 5000)).String()} {
		if status, body := g.ask(http.MethodGet, path); status != 429 || !strings.Contains(body, "scan pending") {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	g.lab.Expect("GET /v2/app/manifests/1")
	if len(g.asked) == 0 || g.asked[0] != "lab/app:1@"+d.String() {
		t.Errorf("scans asked for: %q", g.asked)
	}
}

func TestGatedIndex(t *testing.T) {
	g := newGated(t)
	amd, amdRaw := g.lab.Image("app", "", noise(1, 5000))
	arm, armRaw := g.lab.Image("app", "", noise(2, 5000))
	g.bad[arm] = true
	child := func(d digest.Digest, raw []byte, arch string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":%q}}`, pratique.MediaTypeImageManifest, d, len(raw), arch)
	}
	raw := fmt.Sprintf(`{ "schemaVersion":2, "mediaType":%q, "manifests":[%s,%s] }`, pratique.MediaTypeImageIndex, child(arm, armRaw, "arm64"), child(amd, amdRaw, "amd64"))
	index := g.lab.Manifest("app", "1", pratique.MediaTypeImageIndex, []byte(raw))
	// Bare, at once, and without a word to the upstream about the children.
	if status, _ := g.ask(http.MethodHead, "lab/app/manifests/1"); status != 200 {
		t.Errorf("HEAD: %d", status)
	}
	g.lab.Expect("GET /v2/app/manifests/1")
	if status, body := g.ask(http.MethodGet, "lab/app/manifests/"+index.String()); status != 200 || body != raw {
		t.Errorf("index: %d %q", status, body)
	}
	g.lab.Expect("GET /v2/app/manifests/" + amd.String())
	if status, body := g.ask(http.MethodGet, "lab/app/manifests/"+amd.String()); status != 200 || body != string(amdRaw) {
		t.Errorf("child: %d %q", status, body)
	}
	g.lab.Expect()
	if status, _ := g.ask(http.MethodGet, "lab/app/manifests/"+arm.String()); status != 403 {
		t.Errorf("refused child: %d", status)
	}
	g.lab.Expect("GET /v2/app/manifests/" + arm.String())
}

func TestGatedUnknown(t *testing.T) {
	g := newGated(t)
	g.lab.Image("app", "1", noise(1, 10))
	none := digest.FromString("none").String()
	for path, want := range map[string]int{
		"lab/app/manifests/none": 404, "lab/app/manifests/" + none: 404, "lab/app/blobs/" + none: 404, "lab/none/manifests/1": 404,
		"lab/app/referrers/" + none: 200, "lab/app/tags/list": 200, "lab/none/tags/list": 404, "nobody/app/manifests/1": 403,
	} {
		if status, body := g.ask(http.MethodGet, path); status != want {
			t.Errorf("%s: %d, want %d: %s", path, status, want, body)
		}
	}
	down(g.lab)
	for path, want := range map[string]int{"lab/app/manifests/other": 502, "lab/app/manifests/" + digest.FromString("other").String(): 502, "lab/app/referrers/" + digest.FromString("other").String(): 502} {
		if status, body := g.ask(http.MethodGet, path); status != want && status != 503 {
			t.Errorf("with the upstream down: %s: %d, want %d: %s", path, status, want, body)
		}
	}
}

func TestGatedManifestWithoutImage(t *testing.T) {
	g := newGated(t)
	g.lab.Manifest("app", "old", pratique.MediaTypeSignedSchema1, []byte(`{"schemaVersion":1,"fsLayers":[]}`))
	if status, body := g.ask(http.MethodGet, "lab/app/manifests/old"); status != 400 || !strings.Contains(body, "schema 1 is not supported") {
		t.Errorf("%d %q", status, body)
	}
	if status, _ := g.ask(http.MethodHead, "lab/app/manifests/old"); status != 200 {
		t.Errorf("HEAD: %d, want it bare", status)
	}
}
