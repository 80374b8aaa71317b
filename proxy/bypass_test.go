package proxy

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
)

// attack is one way to get at what must not be had. It returns all that it
// got: status lines, headers and bodies.
type attack struct {
	name string
	run  func(t *testing.T, b *besieged) string
}

// besieged is a registry with refused content behind a gate, spoken to over a
// socket. Every refused or undecided byte holds secretOf of some name below.
type besieged struct {
	*testServer
	w       *world
	bad     pratique.Descriptor // refused, docker.io/library/app:bad
	badIdx  pratique.Descriptor // index of refused images, :bad-index
	mixed   pratique.Descriptor // index of a refused and a clean image, :mixed
	fresh   pratique.Descriptor // never scanned, :fresh
	failed  pratique.Descriptor // its scan failed, :failed
	refused []string            // secrets that must never be seen
}

func besiege(t *testing.T, cfg GateConfig) *besieged {
	t.Helper()
	w := newWorld(t)
	b := &besieged{w: w}
	b.bad = w.image(t, app, "bad", "bad")
	w.critical(b.bad)
	arm := w.image(t, app, "", "bad-arm")
	w.critical(arm)
	b.badIdx = w.index(t, app, "bad-index", at(b.bad, amd64), at(arm, arm64))
	good := w.image(t, app, "good", "good")
	w.clean(good)
	b.mixed = w.index(t, app, "mixed", at(b.bad, amd64), at(good, arm64))
	b.fresh = w.image(t, app, "fresh", "fresh")
	b.failed = w.image(t, app, "failed", "failed")
	w.scans.set(report(b.failed.Digest, pratique.StateFailed))
	// The same refused digest under other names.
	w.critical(w.image(t, "ghcr.io/team/copy", "1", "bad"))
	w.critical(w.image(t, "lab/copy", "1", "bad"))
	w.clean(w.image(t, "lab/app", "good", "good"))
	b.refused = []string{secretOf("bad"), secretOf("bad-arm"), secretOf("fresh"), secretOf("failed"), secretOf("index-bad-index")}
	if cfg.Hold == 0 {
		cfg.Hold = 20 * time.Millisecond
	}
	b.testServer = serve(t, w.gate(cfg), true)
	return b
}

// see lets everything of a repository be asked for once, as pulls do.
func (b *besieged) see(t *testing.T) {
	t.Helper()
	for name, r := range b.w.repos {
		for tag := range r.tags {
			if _, err := b.w.Manifest(t.Context(), get(name, tag)); err != nil {
				t.Fatal(err)
			}
		}
		for d := range r.manifests {
			if _, err := b.w.Manifest(t.Context(), get(name, d.String())); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// fetch is a request whose whole answer is returned.
func (b *besieged) fetch(t *testing.T, method, path string, header ...string) string {
	t.Helper()
	resp, body := b.do(t, method, path, header...)
	return fmt.Sprint(resp.Status, resp.Header, body)
}

// path of something in docker.io/library/app, in both forms of the name.
func prefix(kind, reference string) string {
	return "/v2/docker.io/library/app/" + kind + "/" + reference
}
func mirror(kind, reference string) string {
	return "/v2/library/app/" + kind + "/" + reference + "?ns=docker.io"
}

// gets are attacks by plain requests.
func gets(paths map[string]func(b *besieged) []string) []attack {
	var out []attack
	for name, of := range paths {
		out = append(out, attack{name, func(t *testing.T, b *besieged) string {
			var all strings.Builder
			for _, path := range of(b) {
				for _, method := range []string{http.MethodGet, http.MethodHead} {
					all.WriteString(b.fetch(t, method, path))
				}
			}
			return all.String()
		}})
	}
	return out
}

func attacks() []attack {
	one := func(path string) func(*besieged) []string { return func(*besieged) []string { return []string{path} } }
	out := gets(map[string]func(*besieged) []string{
		"by tag":                            one(prefix("manifests", "bad")),
		"by tag through a mirror":           one(mirror("manifests", "bad")),
		"by digest":                         func(b *besieged) []string { return []string{prefix("manifests", b.bad.Digest.String())} },
		"by digest through a mirror":        func(b *besieged) []string { return []string{mirror("manifests", b.bad.Digest.String())} },
		"index of refused images by tag":    one(prefix("manifests", "bad-index")),
		"index of refused images by digest": func(b *besieged) []string { return []string{prefix("manifests", b.badIdx.Digest.String())} },
		"child of an index that may be had": func(b *besieged) []string {
			return []string{prefix("manifests", "mixed"), prefix("manifests", b.bad.Digest.String())}
		},
		"config blob":                              one(prefix("blobs", configOf("bad").String())),
		"layer blob":                               one(prefix("blobs", layerOf("bad").String())),
		"layer blob through a mirror":              one(mirror("blobs", layerOf("bad").String())),
		"manifest digest as a blob":                func(b *besieged) []string { return []string{prefix("blobs", b.bad.Digest.String())} },
		"index digest as a blob":                   func(b *besieged) []string { return []string{prefix("blobs", b.badIdx.Digest.String())} },
		"layer digest as a manifest":               one(prefix("manifests", layerOf("bad").String())),
		"config digest as a manifest":              one(prefix("manifests", configOf("bad").String())),
		"referrers of it":                          func(b *besieged) []string { return []string{prefix("referrers", b.bad.Digest.String())} },
		"another repository's name for it":         one("/v2/ghcr.io/team/copy/manifests/1"),
		"another repository's name, by digest":     func(b *besieged) []string { return []string{"/v2/lab/copy/manifests/" + b.bad.Digest.String()} },
		"another upstream by its address":          one("/v2/copy/manifests/1?ns=127.0.0.1:7001"),
		"layer through another repository":         one("/v2/ghcr.io/team/copy/blobs/" + layerOf("bad").String()),
		"layer through a repository of clean ones": one("/v2/lab/app/blobs/" + layerOf("bad").String()),
		"manifest as a blob of another repository": func(b *besieged) []string { return []string{"/v2/lab/app/blobs/" + b.bad.Digest.String()} },
		"name without library":                     one("/v2/docker.io/app/manifests/bad"),
		"upstream in upper case":                   one("/v2/DOCKER.IO/library/app/manifests/bad"),
		"name in upper case":                       one("/v2/docker.io/library/APP/manifests/bad"),
		"ns in upper case":                         one("/v2/library/app/manifests/bad?ns=DOCKER.IO"),
		"ns by the registry's host":                one("/v2/library/app/manifests/bad?ns=registry-1.docker.io"),
		"ns with the port":                         one("/v2/library/app/manifests/bad?ns=registry-1.docker.io:443"),
		"ns with a user":                           one("/v2/library/app/manifests/bad?ns=a:b@docker.io"),
		"ns twice":                                 one("/v2/library/app/manifests/bad?ns=lab&ns=docker.io"),
		"ns and prefix":                            one("/v2/docker.io/library/app/manifests/bad?ns=docker.io"),
		"encoded slash":                            one("/v2/docker.io/library%2fapp/manifests/bad"),
		"encoded name":                             one("/v2/docker.io/library/%61pp/manifests/bad"),
		"encoded dots":                             one("/v2/lab/%2e%2e/docker.io/library/app/manifests/bad"),
		"two slashes":                              one("/v2/docker.io//library/app/manifests/bad"),
		"slash at the end":                         one(prefix("manifests", "bad") + "/"),
		"digest in upper case": func(b *besieged) []string {
			return []string{prefix("manifests", strings.ToUpper(b.bad.Digest.String()))}
		},
		"digest with spaces":                 func(b *besieged) []string { return []string{prefix("manifests", b.bad.Digest.String()+"%20")} },
		"not scanned yet":                    one(prefix("manifests", "fresh")),
		"layer of what is not scanned yet":   one(prefix("blobs", layerOf("fresh").String())),
		"manifest not scanned yet as a blob": func(b *besieged) []string { return []string{prefix("blobs", b.fresh.Digest.String())} },
		"scan failed":                        one(prefix("manifests", "failed")),
		"layer of what could not be scanned": one(prefix("blobs", layerOf("failed").String())),
	})
	header := func(name string, header ...string) attack {
		return attack{name, func(t *testing.T, b *besieged) string {
			var all strings.Builder
			for _, path := range []string{prefix("manifests", "bad"), prefix("manifests", b.bad.Digest.String()), prefix("blobs", layerOf("bad").String()), prefix("blobs", configOf("bad").String())} {
				all.WriteString(b.fetch(t, http.MethodGet, path, header...))
			}
			return all.String()
		}}
	}
	return append(out,
		header("range", "Range", "bytes=0-99"),
		header("several ranges", "Range", "bytes=0-5,6-99"),
		header("suffix range", "Range", "bytes=-99"),
		header("if-none-match of any", "If-None-Match", "*"),
		header("agent of a scanner", "User-Agent", "trivy/0.74.0"),
		header("agent of the proxy itself", "User-Agent", "pratique/1.0"),
		header("forwarded from loopback", "X-Forwarded-For", "127.0.0.1", "Forwarded", "for=127.0.0.1", "X-Real-Ip", "127.0.0.1"),
		header("rewritten by header", "X-Original-Url", "/v2/", "X-Rewrite-Url", "/v2/", "X-Forwarded-Prefix", "/v2/lab"),
		header("method by header", "X-Http-Method-Override", "HEAD"),
		header("with credentials", "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("admin:admin"))),
		header("accept anything", "Accept", "*/*", "Accept-Encoding", "zstd, gzip"),
		header("another host", "Host", "registry-1.docker.io"),
		attack{"absolute request target", func(t *testing.T, b *besieged) string {
			return raw(t, b.testServer, "GET http://registry-1.docker.io"+prefix("manifests", "bad")+" HTTP/1.1")
		}},
		attack{"dots on the wire", func(t *testing.T, b *besieged) string {
			return raw(t, b.testServer, "GET /v2/lab/../docker.io/library/app/manifests/bad HTTP/1.1")
		}},
		attack{"pipelined behind a harmless request", func(t *testing.T, b *besieged) string {
			return raw(t, b.testServer, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\nGET "+prefix("manifests", "bad")+" HTTP/1.1")
		}},
		attack{"a second request in the first one's body", func(t *testing.T, b *besieged) string {
			return raw(t, b.testServer, "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET "+prefix("manifests", "bad")+" HTTP/1.1")
		}},
		attack{"other methods", func(t *testing.T, b *besieged) string {
			var all strings.Builder
			for _, method := range []string{"POST", "PUT", "OPTIONS", "TRACE", "PROPFIND", "get"} {
				all.WriteString(b.fetch(t, method, prefix("manifests", "bad")))
			}
			return all.String()
		}},
		attack{"the digest of the refusal as a blob", func(t *testing.T, b *besieged) string {
			_, body := b.do(t, http.MethodGet, prefix("manifests", "bad"))
			return b.fetch(t, http.MethodGet, prefix("blobs", digest.FromString(body).String()))
		}},
		attack{"while its scan runs", func(t *testing.T, b *besieged) string {
			var wg sync.WaitGroup
			parts := make([]string, 8)
			for i := range parts {
				wg.Go(func() {
					parts[i] = b.fetch(t, http.MethodGet, []string{prefix("manifests", "fresh"), prefix("blobs", layerOf("fresh").String())}[i%2])
				})
			}
			time.Sleep(5 * time.Millisecond)
			b.w.critical(b.fresh)
			wg.Wait()
			return strings.Join(parts, "")
		}},
		attack{"after its clean report was replaced", func(t *testing.T, b *besieged) string {
			good := ref(app, "good")
			m, err := b.w.Manifest(t.Context(), Request{Ref: good, N: -1})
			if err != nil {
				t.Fatal(err)
			}
			b.fetch(t, http.MethodGet, prefix("manifests", "good"))
			b.w.scans.set(report(m.Image.Digest, pratique.StateScanned, critical))
			b.refused = append(b.refused, secretOf("good"))
			return b.fetch(t, http.MethodGet, prefix("manifests", "good"), "If-None-Match", `"`+m.Image.Digest.String()+`"`) +
				b.fetch(t, http.MethodGet, prefix("blobs", layerOf("good").String())) +
				b.fetch(t, http.MethodGet, prefix("manifests", "mixed"))
		}},
		attack{"tag moved between HEAD and GET", func(t *testing.T, b *besieged) string {
			first := b.fetch(t, http.MethodHead, prefix("manifests", "good"))
			b.w.mu.Lock()
			b.w.repos[app].tags["good"] = b.bad.Digest
			b.w.mu.Unlock()
			return first + b.fetch(t, http.MethodGet, prefix("manifests", "good"))
		}},
		attack{"with reports unreadable", func(t *testing.T, b *besieged) string {
			b.w.scans.mu.Lock()
			b.w.scans.err = errors.New("database is locked")
			b.w.scans.mu.Unlock()
			return b.fetch(t, http.MethodGet, prefix("manifests", "bad")) + b.fetch(t, http.MethodGet, prefix("blobs", layerOf("bad").String()))
		}},
		attack{"with the catalog unreadable", func(t *testing.T, b *besieged) string {
			b.w.catalog.mu.Lock()
			b.w.catalog.err = errors.New("database is locked")
			b.w.catalog.mu.Unlock()
			return b.fetch(t, http.MethodGet, prefix("manifests", "bad")) + b.fetch(t, http.MethodGet, prefix("blobs", layerOf("bad").String())) +
				b.fetch(t, http.MethodGet, prefix("manifests", "bad-index"))
		}},
		attack{"a layer named by an artifact pushed beside it", func(t *testing.T, b *besieged) string {
			// Before anybody asked for the image the layer is the artifact's alone.
			b.fetch(t, http.MethodGet, prefix("manifests", "bad"))
			b.w.manifest(t, app, "trojan", pratique.MediaTypeImageManifest, map[string]any{
				"artifactType": "application/x", "config": b.w.blob(app, pratique.MediaTypeEmptyJSON, "{}"),
				"layers": []any{pratique.Descriptor{MediaType: "application/octet-stream", Digest: layerOf("bad"), Size: 10}},
			})
			return b.fetch(t, http.MethodGet, prefix("manifests", "trojan")) + b.fetch(t, http.MethodGet, prefix("blobs", layerOf("bad").String()))
		}},
		attack{"an image that calls itself an artifact", func(t *testing.T, b *besieged) string {
			b.w.manifest(t, app, "disguised", pratique.MediaTypeImageManifest, map[string]any{
				"artifactType": "application/vnd.cncf.helm.config.v1+json", "annotations": map[string]string{"x": secretOf("fresh")},
				"config": b.w.blob(app, pratique.MediaTypeEmptyJSON, "{}"), "layers": []any{b.w.blob(app, layerType, "disguised "+secretOf("fresh"))},
			})
			return b.fetch(t, http.MethodGet, prefix("manifests", "disguised")) + b.fetch(t, http.MethodGet, prefix("blobs", digest.FromString("disguised "+secretOf("fresh")).String()))
		}},
		attack{"an index that carries a refused child inside", func(t *testing.T, b *besieged) string {
			type carrying struct {
				pratique.Descriptor
				Data []byte `json:"data"`
			}
			good := b.w.image(t, app, "", "good")
			bad := at(b.bad, amd64)
			b.w.manifest(t, app, "carrier", pratique.MediaTypeImageIndex, map[string]any{
				"manifests": []any{carrying{bad, b.w.repo(app).manifests[b.bad.Digest].raw}, at(good, arm64)}, "annotations": map[string]string{"x": secretOf("bad")},
			})
			bad.URLs = []string{"https://elsewhere.example/"}
			b.w.manifest(t, app, "pointer", pratique.MediaTypeImageIndex, map[string]any{
				"manifests": []any{bad, at(good, arm64)}, "annotations": map[string]string{"x": secretOf("bad")},
			})
			return b.fetch(t, http.MethodGet, prefix("manifests", "carrier")) + b.fetch(t, http.MethodGet, prefix("manifests", "pointer"))
		}},
		attack{"an index made servable by an artifact", func(t *testing.T, b *besieged) string {
			chart := b.w.manifest(t, app, "", pratique.MediaTypeImageManifest, map[string]any{
				"config": b.w.blob(app, "application/vnd.cncf.helm.config.v1+json", "{}"), "layers": []any{b.w.blob(app, "application/x", "chart")},
			})
			b.w.index(t, app, "bad-index", at(b.bad, amd64), chart)
			return b.fetch(t, http.MethodGet, prefix("manifests", "bad-index"))
		}},
	)
}

func TestBypass(t *testing.T) {
	all := attacks()
	if len(all) < 60 {
		t.Fatalf("%d attacks", len(all))
	}
	for _, seen := range []bool{false, true} {
		for _, a := range all {
			t.Run(fmt.Sprintf("%s/seen=%v", a.name, seen), func(t *testing.T) {
				b := besiege(t, GateConfig{})
				if seen {
					b.see(t)
				}
				got := a.run(t, b)
				for _, secret := range b.refused {
					if strings.Contains(got, secret) {
						t.Errorf("leaked %s:\n%s", secret, got)
					}
				}
			})
		}
	}
}

// The same requests do get what may be had: a gate that refuses everything
// would pass the test above.
func TestBypassControl(t *testing.T) {
	b := besiege(t, GateConfig{})
	for _, path := range []string{
		prefix("manifests", "good"), mirror("manifests", "good"), prefix("blobs", layerOf("good").String()), prefix("blobs", configOf("good").String()),
		"/v2/docker.io/app/manifests/good", "/v2/lab/app/manifests/good", "/v2/app/blobs/" + layerOf("good").String() + "?ns=127.0.0.1:7001",
	} {
		if got := b.fetch(t, http.MethodGet, path); !strings.HasPrefix(got, "200 OK") || !strings.Contains(got, secretOf("good")) {
			t.Errorf("%s: %s", path, got)
		}
	}
	if got := b.fetch(t, http.MethodGet, prefix("manifests", "mixed")); !strings.HasPrefix(got, "200 OK") || !strings.Contains(got, secretOf("index-mixed")) {
		t.Errorf("an index with one clean image: %s", got)
	}
}

// A refusal of a HEAD tells a client nothing that it could take for content.
func TestBypassBareHead(t *testing.T) {
	b := besiege(t, GateConfig{})
	b.see(t)
	for _, path := range []string{prefix("manifests", "bad"), prefix("manifests", "fresh"), prefix("manifests", "bad-index"), prefix("blobs", layerOf("bad").String()), prefix("manifests", b.bad.Digest.String())} {
		got := strings.ToLower(raw(t, b.testServer, "HEAD "+path+" HTTP/1.1"))
		if !strings.HasPrefix(got, "http/1.1 200") || strings.Contains(got, "docker-content-digest") || strings.Contains(got, "content-length") || strings.Contains(got, "etag") {
			t.Errorf("HEAD %s: %s", path, got)
		}
	}
}

// What the client reads in each refusal.
func TestBypassText(t *testing.T) {
	b := besiege(t, GateConfig{})
	b.see(t)
	for path, want := range map[string]string{
		prefix("manifests", "bad"):                          "403",
		prefix("blobs", layerOf("bad").String()):            "403",
		prefix("blobs", b.bad.Digest.String()):              "403",
		prefix("manifests", "bad-index"):                    "403",
		prefix("referrers", b.bad.Digest.String()):          "403",
		"/v2/ghcr.io/team/copy/manifests/1":                 "403",
		prefix("manifests", "fresh"):                        "429",
		prefix("blobs", layerOf("fresh").String()):          "429",
		"/v2/lab/app/blobs/" + layerOf("bad").String():      "404",
		prefix("manifests", "none"):                         "404",
		prefix("manifests", hexDigest):                      "404",
		"/v2/quay.io/a/manifests/1":                         "403",
		"/v2/docker.io/library%2fapp/manifests/bad":         "400",
		prefix("manifests", "bad") + "?ns=docker.io&ns=lab": "400",
	} {
		resp, body := b.do(t, http.MethodGet, path)
		if fmt.Sprint(resp.StatusCode) != want {
			t.Errorf("%s: %d, want %s: %s", path, resp.StatusCode, want, body)
		}
		if want == "403" && !strings.Contains(path, "quay.io") && !strings.Contains(body, "refused by rule test/critical: CVE-2024-0001 openssl 3.0.1 -> 3.0.2; verdict ") {
			t.Errorf("%s does not say why: %s", path, body)
		}
		if want == "429" && (resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "scan pending")) {
			t.Errorf("%s: %v %s", path, resp.Header, body)
		}
	}
}

// No policies at all refuse everything.
func TestBypassNoPolicies(t *testing.T) {
	b := besiege(t, GateConfig{})
	var none *policy.Set
	b.w.policies = none
	s := serve(t, b.w.gate(GateConfig{Hold: time.Millisecond}), true)
	for _, path := range []string{prefix("manifests", "good"), prefix("manifests", "mixed"), prefix("blobs", layerOf("good").String())} {
		if resp, body := s.do(t, http.MethodGet, path); resp.StatusCode == http.StatusOK || strings.Contains(body, secretOf("good")) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}

// A client that resets its connection while it is held leaves nothing behind.
func TestBypassClientGone(t *testing.T) {
	b := besiege(t, GateConfig{Hold: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", b.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET "+prefix("manifests", "fresh")+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	waiting := func() int {
		b.w.scans.mu.Lock()
		defer b.w.scans.mu.Unlock()
		return b.w.scans.waiting
	}
	until := func(n int) {
		t.Helper()
		for waiting() != n {
			select {
			case <-ctx.Done():
				t.Fatalf("%d requests wait, want %d", waiting(), n)
			case <-time.After(time.Millisecond):
			}
		}
	}
	until(1)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	until(0)
	if line := b.lines(t, 1)[0]; line["outcome"] != "canceled" {
		t.Errorf("log: %v", line)
	}
}
