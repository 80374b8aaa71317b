package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/proxy/upstream"
)

// faulty is the whole pull path on sockets: a client, Server, Gate, Cache,
// upstream Client, and an upstream that fails as told. Of two images one was
// pulled before anything went wrong.
type faulty struct {
	*pulled
	verdicts
	url    string
	client *http.Client
	log    lines

	cached digest.Digest // pulled before: lab/cached:1
	body   []byte        // of its layer
	image  digest.Digest // lab/app:1, not asked for yet
	raw    []byte        // its manifest
	layer  []byte
	before []string // what was stored before the fault
}

// layerSize is more than a transfer holds back, and than one read.
const layerSize = 400_000

func newFaulty(t *testing.T) *faulty {
	t.Helper()
	return newFaultyOn(t, "")
}

// newFaultyOn keeps its blobs in dir; if empty, anywhere.
func newFaultyOn(t *testing.T, dir string, change ...func(*upstream.Config)) *faulty {
	t.Helper()
	f := &faulty{pulled: newPulled(t)}
	if dir != "" {
		f.dir = dir
	}
	f.layer, f.body = noise(1, layerSize), noise(2, layerSize)
	f.cached, _ = f.lab.Image("cached", "1", f.body)
	f.image, f.raw = f.lab.Image("app", "1", f.layer)
	logger := slog.New(&f.log)
	f.clients = append(f.clients, func(cfg *upstream.Config) {
		// The breaker has its own test; here each fault is to be seen.
		cfg.Log, cfg.Now, cfg.BreakAfter = logger, f.clock, 1000
	})
	f.clients = append(f.clients, change...)
	f.start(func(cfg *proxy.CacheConfig) { cfg.Log = logger })
	set, err := policy.Load(policy.File{Name: "test", Data: []byte("name: test\ndefault: allow\nrules:\n  - {name: critical, vulnerability: {severity: CRITICAL}, action: deny}\n")})
	if err != nil {
		t.Fatal(err)
	}
	names, err := proxy.NewUpstreamIndex(map[string]string{"lab": f.lab.URL, "hub": f.hub.URL})
	if err != nil {
		t.Fatal(err)
	}
	gate := proxy.NewGate(f.Cache, &f.verdicts, f.state, set, proxy.GateConfig{
		Hold: 25 * time.Second, Upstreams: names, Platforms: []pratique.Platform{{OS: "linux", Architecture: "amd64"}},
	})
	server := proxy.NewServer(gate, proxy.ServerConfig{Upstreams: names, BareHead: true, Log: logger})
	var answering sync.WaitGroup
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answering.Add(1)
		defer answering.Done()
		server.ServeHTTP(w, r)
	}))
	// Without connections that are kept, because a client asks again by itself when
	// one of those ends before a byte.
	f.url, f.client = s.URL, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	t.Cleanup(s.Close)
	f.pullCached()
	answering.Wait() // a request's line is written after its last byte
	f.ready()
	return f
}

// patience has upstreams wait for as long as a fault by this name needs.
func patience(name string) func(*upstream.Config) {
	return func(cfg *upstream.Config) {
		if strings.Contains(name, "stall") || strings.Contains(name, "trickle") {
			cfg.HeaderTimeout, cfg.StallTimeout = 400*time.Millisecond, 400*time.Millisecond
		}
	}
}

// ready forgets what was logged and asked, and remembers what is stored.
func (f *faulty) ready() {
	f.quiet()
	f.lab.Seen()
	f.log.take()
	f.before = f.stored()
}

// stored lists the blobs that exist.
func (f *faulty) stored() []string {
	f.t.Helper()
	var all []string
	err := f.blobs.Walk(f.t.Context(), func(d digest.Digest, _ int64, _ time.Time) error {
		all = append(all, d.String())
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// got is what a client received; err when the body broke off.
type got struct {
	status     int
	code       string
	message    string
	retryAfter string
	body       []byte
	err        error
}

func (f *faulty) ask(path string) got {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, f.url+"/v2/"+path, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	res, err := f.client.Do(r)
	if err != nil {
		return got{err: err} // broken off with the header still in a buffer
	}
	defer func() { _ = res.Body.Close() }()
	g := got{status: res.StatusCode, retryAfter: res.Header.Get("Retry-After")}
	g.body, g.err = io.ReadAll(res.Body)
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if res.StatusCode >= 400 && json.Unmarshal(g.body, &doc) == nil && len(doc.Errors) == 1 {
		g.code, g.message = doc.Errors[0].Code, doc.Errors[0].Message
	}
	return g
}

// pullCached fails the test unless the image that is cached can be had whole.
func (f *faulty) pullCached() {
	f.t.Helper()
	if g := f.ask("lab/cached/manifests/1"); g.status != 200 || digest.FromBytes(g.body) != f.cached {
		f.t.Errorf("the cached image's tag: %d %s", g.status, g.body)
	}
	if g := f.ask("lab/cached/manifests/" + f.cached.String()); g.status != 200 || digest.FromBytes(g.body) != f.cached {
		f.t.Errorf("the cached image's digest: %d %s", g.status, g.body)
	}
	if g := f.ask("lab/cached/blobs/" + digest.FromBytes(f.body).String()); g.status != 200 || g.err != nil || !bytes.Equal(g.body, f.body) {
		f.t.Errorf("the cached image's layer: %d, %d bytes, %v", g.status, len(g.body), g.err)
	}
}

// quiet waits until nothing is in transfer.
func (f *faulty) quiet() {
	f.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); len(f.spool()) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("left in the spool: %v", f.spool())
		}
	}
}

// fault is one way in which an upstream fails, and what must come of it.
type fault struct {
	name string
	on   string // requests that fail; if empty, all
	do   proxytest.Fault
	with func(*faulty) proxytest.Fault // instead of do, when it needs the upstream's address
	// ask is the path; if empty, the manifest's or the layer's.
	ask string

	status int
	code   proxy.Code
	broken bool // the answer began before anybody could know: the body breaks off
	says   string
	retry  string // Retry-After
}

// check asks, and asserts all that holds of every fault: the answer, one line
// in the log, nothing kept, nothing lost, and that the upstream's recovery is
// enough.
func (f *faulty) check(tt fault, healthy []byte) {
	t := f.t
	t.Helper()
	do := tt.do
	if tt.with != nil {
		do = tt.with(f)
	}
	f.lab.Fault(tt.on, 0, do)
	g := f.ask(tt.ask)
	switch {
	case tt.broken:
		// Which of the three is a matter of time: a status when the failure came
		// first, half a body, or a connection that ends.
		told := g.status == down502 || g.status == down504
		if !told && (g.err == nil || len(g.body) >= len(healthy)) {
			t.Errorf("%d, %d of %d bytes, %v; want a body that breaks off", g.status, len(g.body), len(healthy), g.err)
		}
	case g.status != tt.status || g.code != string(tt.code) || !strings.Contains(g.message, tt.says) || g.retryAfter != tt.retry:
		t.Errorf("%d %s %q, Retry-After %q\nwant %d %s %q, Retry-After %q", g.status, g.code, g.message, g.retryAfter, tt.status, tt.code, tt.says, tt.retry)
	}
	f.quiet()
	if got := f.log.wait(1); len(got) != 1 || !strings.HasPrefix(got[0], "request ") {
		t.Errorf("%d lines in the log, want one:\n%s", len(got), strings.Join(got, "\n"))
	}
	if now := f.stored(); !slices.Equal(now, f.before) {
		t.Errorf("stored: %v, before: %v", now, f.before)
	}
	f.pullCached()
	f.lab.Heal()
	f.wait(time.Hour) // a 429's hold is over
	if g := f.ask(tt.ask); g.status != 200 || g.err != nil || !bytes.Equal(g.body, healthy) {
		t.Errorf("when the upstream is well again: %d, %d bytes, %v %s", g.status, len(g.body), g.err, g.message)
	}
	f.pullCached()
}

const (
	down502   = http.StatusBadGateway
	down504   = http.StatusGatewayTimeout
	metadata  = "http://169.254.169.254/latest/meta-data"
	tokenName = "/token"
)

// challenge is a 401 that sends clients to a realm.
func challenge(realm string) proxytest.Fault {
	return proxytest.Status(401, "WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="upstream"`, realm))
}

// realm makes everything but the token service want a token, and the service
// answer by do.
func realm(do proxytest.Fault) func(*faulty) proxytest.Fault {
	return func(f *faulty) proxytest.Fault {
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.URL.Path == tokenName {
				do(w, r, next)
				return
			}
			challenge(f.lab.URL+tokenName)(w, r, next)
		}
	}
}

func content(text string) proxytest.Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { _, _ = io.WriteString(w, text) }
}

// TestManifestFaults: whatever an upstream does instead of answering a manifest
// request.
func TestManifestFaults(t *testing.T) {
	other := digest.FromString("other").String()
	busy := proxy.CodeTooManyRequests
	for _, tt := range []fault{
		{name: "truncated", do: proxytest.Truncate(50), status: down502, code: busy},
		{name: "oversized", do: proxytest.Alter(func(b []byte) []byte { return append(b, ' ') }), status: down502, code: busy, says: "nonsense"},
		{name: "larger than 4 MiB", do: proxytest.Alter(func(b []byte) []byte { return append(b, make([]byte, pratique.MaxManifestSize)...) }), status: 400, code: proxy.CodeManifestInvalid, says: "at most 4194304 are accepted"},
		{name: "larger than 4 MiB, length not said", do: chunked(func(b []byte) []byte { return append(b, make([]byte, pratique.MaxManifestSize)...) }), status: 400, code: proxy.CodeManifestInvalid, says: "at most 4194304 are accepted"},
		{name: "wrong byte", do: proxytest.Corrupt(30), status: down502, code: busy, says: "nonsense"},
		{name: "wrong digest", do: proxytest.Header("Docker-Content-Digest", other), status: down502, code: busy, says: "nonsense"},
		{name: "no digest but nonsense", do: proxytest.Header("Docker-Content-Digest", "../../etc/passwd"), status: down502, code: busy, says: "nonsense"},
		{name: "length too small", do: proxytest.Header("Content-Length", "50"), status: down502, code: busy},
		{name: "length too great", do: proxytest.Header("Content-Length", "5000"), status: down502, code: busy},
		{name: "stall before the header", do: proxytest.Stall(-1, nil), status: down504, code: busy, says: "no answer in time"},
		{name: "stall before the body", do: proxytest.Stall(0, nil), status: down504, code: busy},
		{name: "stall in the body", do: proxytest.Stall(50, nil), status: down504, code: busy, says: "no progress"},
		{name: "trickle", do: proxytest.Trickle(20 * time.Millisecond), status: down504, code: busy, says: "no progress"},
		{name: "reset before the header", do: proxytest.Reset(), status: down502, code: busy},
		{name: "reset in the header", do: proxytest.ResetAfter("HTTP/1.1 200 OK\r\nContent-Le"), status: down502, code: busy},
		{name: "reset in the body", do: proxytest.ResetAfter("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"schema"), status: down502, code: busy},
		{name: "no HTTP", do: proxytest.ResetAfter("SSH-2.0-OpenSSH_9.2\r\n"), status: down502, code: busy},
		{name: "endless header", do: proxytest.ResetAfter("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2<<20)), status: down502, code: busy},
		{name: "401 loop", with: realm(content(`{"token":"t","expires_in":300}`)), status: 403, code: proxy.CodeDenied, says: "an anonymous pull"},
		{name: "401 without a challenge", do: proxytest.Status(401), status: 403, code: proxy.CodeDenied},
		{name: "401, no token service", with: realm(proxytest.Status(404)), status: down502, code: busy, says: "the token service"},
		{name: "401, token service down", with: realm(proxytest.Status(503)), status: down502, code: busy},
		{name: "401, token service stalls", with: realm(proxytest.Stall(-1, nil)), status: down504, code: busy},
		{name: "401, token service resets", with: realm(proxytest.Reset()), status: down502, code: busy},
		{name: "401, token service sends nonsense", with: realm(content("<html>")), status: down502, code: busy, says: "no JSON"},
		{name: "401, token service sends no token", with: realm(content("{}")), status: down502, code: busy, says: "no token"},
		{name: "401, token service limits", with: realm(proxytest.Status(429, "Retry-After", "7")), status: 429, code: busy, retry: "7"},
		{name: "401, realm at a forbidden address", do: challenge("http://169.254.169.254/token"), status: down502, code: busy, says: "never dialled"},
		{name: "401, realm is a file", do: challenge("file:///etc/passwd"), status: down502, code: busy},
		{name: "403", do: proxytest.Status(403), status: 403, code: proxy.CodeDenied, says: "refused"},
		{name: "404", do: proxytest.Status(404), status: 404, code: proxy.CodeManifestUnknown},
		{name: "410", do: proxytest.Status(410), status: 404, code: proxy.CodeManifestUnknown},
		{name: "429", do: proxytest.Status(429), status: 429, code: busy, says: "limits", retry: "10"},
		{name: "429 with Retry-After", do: proxytest.Status(429, "Retry-After", "42"), status: 429, code: busy, says: "limits", retry: "42"},
		{name: "451", do: proxytest.Status(451), status: 403, code: proxy.CodeDenied, says: "legal"},
		{name: "400", do: proxytest.Status(400), status: down502, code: busy},
		{name: "500", do: proxytest.Status(500), status: down502, code: busy},
		{name: "502", do: proxytest.Status(502), status: down502, code: busy},
		{name: "503 with Retry-After", do: proxytest.Status(503, "Retry-After", "3"), status: down502, code: busy, retry: "3"},
		{name: "504", do: proxytest.Status(504), status: down504, code: busy},
		{name: "599", do: proxytest.Status(599), status: down502, code: busy},
		{name: "204", do: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(204) }, status: 400, code: proxy.CodeManifestInvalid},
		{name: "redirect loop", do: proxytest.Redirect("?again"), status: down502, code: busy, says: "redirect refused"},
		{name: "redirect to a forbidden address", do: proxytest.Redirect(metadata), status: down502, code: busy, says: "never dialled"},
		{name: "redirect to a file", do: proxytest.Redirect("file:///etc/passwd"), status: down502, code: busy, says: "redirect refused"},
		{name: "redirect to nobody", do: proxytest.Redirect("http://127.0.0.1:1/"), status: down502, code: busy},
	} {
		tt.on, tt.ask = "GET", "lab/app/manifests/1"
		t.Run(tt.name, func(t *testing.T) {
			f := newFaultyOn(t, "", patience(tt.name))
			f.check(tt, f.raw)
		})
	}
}

// TestBlobFaults: whatever an upstream does instead of sending a layer.
func TestBlobFaults(t *testing.T) {
	busy := proxy.CodeTooManyRequests
	for _, tt := range []fault{
		{name: "truncated, for ever", do: proxytest.Truncate(100), broken: true},
		{name: "truncated to nothing", do: proxytest.Truncate(0), status: down502, code: busy},
		{name: "oversized", do: proxytest.Alter(func(b []byte) []byte { return append(b, 0) }), status: down502, code: busy, says: "400001 bytes"},
		{name: "oversized, length not said", do: chunked(func(b []byte) []byte { return append(b, b...) }), broken: true},
		{name: "wrong length", do: proxytest.Alter(func(b []byte) []byte { return b[:len(b)-1] }), status: down502, code: busy, says: "399999 bytes"},
		{name: "wrong digest, first byte", do: proxytest.Corrupt(0), broken: true},
		{name: "wrong digest, last byte", do: proxytest.Corrupt(layerSize - 1), broken: true},
		{name: "encoded", do: proxytest.Header("Content-Encoding", "gzip"), status: down502, code: busy, says: "Content-Encoding"},
		{name: "stall before the header", do: proxytest.Stall(-1, nil), status: down504, code: busy, says: "no answer in time"},
		{name: "stall before the body", do: proxytest.Stall(0, nil), status: down504, code: busy, says: "no progress"},
		{name: "stall in the body", do: proxytest.Stall(10, nil), broken: true},
		{name: "reset before the header", do: proxytest.Reset(), status: down502, code: busy},
		{name: "reset in the header", do: proxytest.ResetAfter("HTTP/1.1 200 OK\r\nContent-Le"), status: down502, code: busy},
		{name: "reset in the body", do: proxytest.ResetAfter("HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\nxx"), broken: true},
		{name: "401 loop", with: realm(content(`{"token":"t","expires_in":300}`)), status: 403, code: proxy.CodeDenied},
		{name: "403", do: proxytest.Status(403), status: 403, code: proxy.CodeDenied},
		{name: "404", do: proxytest.Status(404), status: 404, code: proxy.CodeBlobUnknown},
		{name: "429", do: proxytest.Status(429), status: 429, code: busy, retry: "10"},
		{name: "429 with Retry-After", do: proxytest.Status(429, "Retry-After", "42"), status: 429, code: busy, retry: "42"},
		{name: "500", do: proxytest.Status(500), status: down502, code: busy},
		{name: "503", do: proxytest.Status(503), status: down502, code: busy},
		{name: "504", do: proxytest.Status(504), status: down504, code: busy},
		{name: "redirect loop", do: proxytest.Redirect("?again"), status: down502, code: busy, says: "redirect refused"},
		{name: "redirect to a forbidden address", do: proxytest.Redirect(metadata), status: down502, code: busy, says: "never dialled"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFaultyOn(t, "", patience(tt.name))
			if g := f.ask("lab/app/manifests/1"); g.status != 200 {
				t.Fatalf("the manifest: %d %s", g.status, g.message)
			}
			f.log.wait(1)
			f.ready()
			tt.on, tt.ask = "GET", "lab/app/blobs/"+digest.FromBytes(f.layer).String()
			if tt.retry == "" && (tt.status == down502 || tt.status == down504) {
				tt.retry = "5" // a manifest that is here names it
			}
			f.check(tt, f.layer)
		})
	}
}

// TestBlobFaultsThatPass are resumed by Range, and the client notices nothing.
func TestBlobFaultsThatPass(t *testing.T) {
	for name, tt := range map[string]struct {
		do    proxytest.Fault
		times int
	}{
		"truncated once":      {proxytest.Truncate(150_000), 1},
		"truncated each time": {proxytest.Truncate(100_000), 3},
		"stall in the body":   {proxytest.Stall(150_000, nil), 1},
		"truncated, then 503": {func() proxytest.Fault {
			var n int
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if n++; n == 1 {
					proxytest.Truncate(150_000)(w, r, next)
				} else {
					proxytest.Status(503)(w, r, next)
				}
			}
		}(), 3},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFaultyOn(t, "", patience(name))
			f.ask("lab/app/manifests/1")
			f.log.wait(1)
			f.ready()
			d := digest.FromBytes(f.layer)
			f.lab.Fault("GET", tt.times, tt.do)
			if g := f.ask("lab/app/blobs/" + d.String()); g.status != 200 || g.err != nil || !bytes.Equal(g.body, f.layer) {
				t.Errorf("%d, %d bytes, %v", g.status, len(g.body), g.err)
			}
			f.quiet()
			if got := f.log.wait(1); len(got) != 1 {
				t.Errorf("%d lines in the log, want one:\n%s", len(got), strings.Join(got, "\n"))
			}
			for i, line := range f.lab.Seen() {
				if resumes := strings.Contains(line, " Range: bytes="); resumes != (i > 0) {
					t.Errorf("request %d: %s", i, line)
				}
			}
			if _, err := f.blobs.Stat(t.Context(), d); err != nil {
				t.Errorf("it was not kept: %v", err)
			}
		})
	}
}

// TestUnfitManifests: what the upstream sends whole and right, and is refused
// for what it is.
func TestUnfitManifests(t *testing.T) {
	descriptors := func(n int) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":400,"platform":{"os":"linux","architecture":"amd64"}}`, pratique.MediaTypeImageManifest, digest.FromString(fmt.Sprint(i)))
		}
		return out
	}
	index := func(children ...string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, pratique.MediaTypeImageIndex, strings.Join(children, ","))
	}
	for _, tt := range []struct {
		name, mediaType, raw string
		status               int
		code                 proxy.Code
		says                 string
	}{
		{"index of 10,000 images, all wanted", pratique.MediaTypeImageIndex, index(descriptors(10_000)...), 403, proxy.CodeDenied, "index-size"},
		{"unknown media type", "application/vnd.example.thing+json", `{"schemaVersion":2,"mediaType":"application/vnd.example.thing+json"}`, 400, proxy.CodeManifestInvalid, "not supported"},
		{"schema 1", pratique.MediaTypeSignedSchema1, `{"schemaVersion":1,"fsLayers":[]}`, 400, proxy.CodeManifestInvalid, "schema 1"},
		{"no media type", "", `hello`, 400, proxy.CodeManifestInvalid, "invalid"},
		{"a web page", "text/html", `<html>log in</html>`, 400, proxy.CodeManifestInvalid, ""},
		{"10,000 levels of JSON", pratique.MediaTypeImageManifest, strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000), 400, proxy.CodeManifestInvalid, "invalid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFaulty(t)
			d := f.lab.Manifest("odd", "1", tt.mediaType, []byte(tt.raw))
			f.ready()
			for i, path := range []string{"lab/odd/manifests/1", "lab/odd/manifests/" + d.String()} {
				g := f.ask(path)
				if g.status != tt.status || g.code != string(tt.code) || !strings.Contains(g.message, tt.says) {
					t.Errorf("%s: %d %s %q, want %d %s %q", path, g.status, g.code, g.message, tt.status, tt.code, tt.says)
				}
				if got := f.log.wait(i + 1); len(got) != i+1 {
					t.Errorf("%d lines in the log, want %d:\n%s", len(got), i+1, strings.Join(got, "\n"))
				}
			}
			if now := f.stored(); tt.code == proxy.CodeManifestInvalid && !slices.Equal(now, f.before) {
				t.Errorf("stored: %v, before: %v", now, f.before)
			}
			f.pullCached()
		})
	}
	t.Run("index of 10,000 images, one wanted", func(t *testing.T) {
		f := newFaulty(t)
		children := append(descriptors(9_999), fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"amd64"}}`, pratique.MediaTypeImageManifest, f.image, len(f.raw)))
		raw := strings.Replace(index(children...), `"architecture":"amd64"`, `"architecture":"s390x"`, 9_999)
		f.lab.Manifest("app", "many", pratique.MediaTypeImageIndex, []byte(raw))
		f.lab.Seen()
		if g := f.ask("lab/app/manifests/many"); g.status != 200 || string(g.body) != raw {
			t.Errorf("%d, %d bytes %s", g.status, len(g.body), g.message)
		}
		f.lab.Expect("GET /v2/app/manifests/many", "GET /v2/app/manifests/"+f.image.String())
	})
	for depth, want := range map[int]int{pratique.MaxIndexDepth: 200, pratique.MaxIndexDepth + 1: 403} {
		t.Run(fmt.Sprintf("%d indexes nested", depth), func(t *testing.T) {
			f := newFaulty(t)
			child, size, kind := f.image, len(f.raw), pratique.MediaTypeImageManifest
			for range depth {
				raw := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"amd64"}}]}`, pratique.MediaTypeImageIndex, kind, child, size)
				child, size, kind = f.lab.Manifest("app", "nested", pratique.MediaTypeImageIndex, []byte(raw)), len(raw), pratique.MediaTypeImageIndex
			}
			if g := f.ask("lab/app/manifests/nested"); g.status != want || want == 403 && !strings.Contains(g.message, "index-depth") {
				t.Errorf("%d %s, want %d", g.status, g.message, want)
			}
			f.pullCached()
		})
	}
}

// TestNamesOutsideTheGrammar never reach an upstream.
func TestNamesOutsideTheGrammar(t *testing.T) {
	f := newFaulty(t)
	long := strings.Repeat("a", 300)
	for path, want := range map[string]struct {
		status int
		code   proxy.Code
	}{
		"lab/App/manifests/1":                                         {400, proxy.CodeNameInvalid},
		"lab/app_/manifests/1":                                        {400, proxy.CodeNameInvalid},
		"lab/a..b/manifests/1":                                        {400, proxy.CodeNameInvalid},
		"lab/-a/manifests/1":                                          {400, proxy.CodeNameInvalid},
		"lab//app/manifests/1":                                        {400, proxy.CodeNameInvalid},
		"lab/%2e%2e/app/manifests/1":                                  {400, proxy.CodeNameInvalid},
		"lab/app%2fapp/manifests/1":                                   {400, proxy.CodeNameInvalid},
		"lab/app%00/manifests/1":                                      {400, proxy.CodeNameInvalid},
		"lab/äpp/manifests/1":                                         {400, proxy.CodeNameInvalid},
		"lab/" + long + "/manifests/1":                                {400, proxy.CodeNameInvalid},
		"lab/app/manifests/.1":                                        {404, proxy.CodeManifestUnknown},
		"lab/app/manifests/-1":                                        {404, proxy.CodeManifestUnknown},
		"lab/app/manifests/" + long:                                   {404, proxy.CodeManifestUnknown},
		"lab/app/manifests/sha256:totallywrong":                       {400, proxy.CodeDigestInvalid},
		"lab/app/manifests/md5:" + long[:32]:                          {400, proxy.CodeDigestInvalid},
		"lab/app/blobs/sha256:" + long[:63]:                           {400, proxy.CodeDigestInvalid},
		"lab/app/blobs/1":                                             {400, proxy.CodeDigestInvalid},
		"lab/app/referrers/latest":                                    {400, proxy.CodeDigestInvalid},
		"lab/App/tags/list":                                           {400, proxy.CodeNameInvalid},
		"lab/app/tags/list?last=.x":                                   {400, proxy.CodeUnsupported},
		"nobody/app/manifests/1":                                      {403, proxy.CodeDenied},
		"app/manifests/1?ns=169.254.169.254":                          {403, proxy.CodeDenied},
		"app/manifests/1?ns=lab&ns=hub":                               {400, proxy.CodeNameInvalid},
		"lab/app/manifests/" + strings.ToUpper("sha256:") + long[:64]: {400, proxy.CodeDigestInvalid},
	} {
		f.log.take()
		g := f.ask(path)
		if g.status != want.status || g.code != string(want.code) {
			t.Errorf("%s: %d %s %q, want %d %s", path, g.status, g.code, g.message, want.status, want.code)
		}
		if got := f.log.wait(1); len(got) != 1 {
			t.Errorf("%s: %d lines in the log, want one:\n%s", path, len(got), strings.Join(got, "\n"))
		}
	}
	f.lab.Expect()
	f.hub.Expect()
	if now := f.stored(); !slices.Equal(now, f.before) {
		t.Errorf("stored: %v, before: %v", now, f.before)
	}
}

// TestUpstreamOutage: what is cached is served, and everything else fails as an
// outage does: never 404. Then all is well by itself.
func TestUpstreamOutage(t *testing.T) {
	f := newFaulty(t)
	f.wait(2 * time.Minute)
	f.lab.Fault("", 0, proxytest.Reset())
	f.pullCached()
	none := digest.FromString("none").String()
	for _, path := range []string{
		"lab/app/manifests/1", "lab/app/manifests/" + f.image.String(), "lab/cached/manifests/2", "lab/cached/manifests/" + none,
		"lab/cached/tags/list", "lab/cached/referrers/" + f.cached.String(),
	} {
		if g := f.ask(path); g.status != 502 && g.status != 504 {
			t.Errorf("%s: %d %s", path, g.status, g.message)
		}
	}
	f.pullCached()
	f.lab.Heal()
	if g := f.ask("lab/app/manifests/1"); g.status != 200 {
		t.Errorf("afterwards: %d %s", g.status, g.message)
	}
}

// TestStaleTags: how long a tag stands in for an upstream that is down depends
// on how much such a tag moves.
func TestStaleTags(t *testing.T) {
	const week, day = 7 * 24 * time.Hour, 24 * time.Hour
	for tag, window := range map[string]time.Duration{
		"1.27": week, "v1.27.3": week, "3.20.1-alpine": week, "2026.11.1_build.7": week,
		"latest": time.Hour,
		"8":      day, "stable": day, "bookworm-slim": day, "v1": day, "sha-1.2": day, "1.x": day,
	} {
		t.Run(tag, func(t *testing.T) {
			p := newPulled(t)
			d, _ := p.lab.Image("app", tag)
			p.mustManifest("lab/app:"+tag, d)
			down(p.lab)
			p.wait(window)
			if m := p.mustManifest("lab/app:"+tag, d); !m.Stale {
				t.Errorf("after %s: %+v", window, m)
			}
			p.wait(time.Second)
			if _, err := p.manifest("lab/app:" + tag); !proxy.Down(err) {
				t.Errorf("after more than %s: %v", window, err)
			}
			p.wait(10 * 365 * day)
			p.mustManifest("lab/app@"+d.String(), d)
		})
	}
	t.Run("never", func(t *testing.T) {
		p := newPulled(t, func(cfg *proxy.CacheConfig) { cfg.StaleIfError.Semver = -1 })
		d, _ := p.lab.Image("app", "1.0")
		p.mustManifest("lab/app:1.0", d)
		down(p.lab)
		p.wait(time.Minute)
		if _, err := p.manifest("lab/app:1.0"); !proxy.Down(err) {
			t.Errorf("%v", err)
		}
	})
}

// TestLargestBlob: what is larger is refused before it is asked for, or as soon
// as it shows.
func TestLargestBlob(t *testing.T) {
	small := func(cfg *proxy.CacheConfig) { cfg.MaxBlobSize = 50_000 }
	p := newPulled(t, small)
	layer := noise(3, 50_001)
	d, _ := p.linked(layer)
	_, err := p.blob("lab/app", d)
	if e := wants(t, err, proxy.CodeDenied, 403); !strings.Contains(e.Message, "cache.maxBlobSize") {
		t.Errorf("%q", e.Message)
	}
	if _, err := p.OpenBlob(t.Context(), ref(t, "lab/app:v1"), pratique.Descriptor{Digest: d, Size: int64(len(layer))}); !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("OpenBlob: %v", err)
	}
	p.lab.Expect() // nothing was asked
	free := p.lab.Blob("app", "", noise(4, 50_001)).Digest
	_, err = p.pull("lab/app", free)
	wants(t, err, proxy.CodeDenied, 403)
	p.lab.Fault("GET", 0, chunked(func(b []byte) []byte { return b }))
	if raw, err := p.pull("lab/app", free); err == nil || len(raw) > 50_000 {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
	if p.exists(free) || len(p.spool()) > 0 {
		t.Errorf("kept, or left: %v", p.spool())
	}
}

// TestSlowUpstreamHarmsNoOther: an upstream that stalls with all its slots taken
// leaves the others as they were.
func TestSlowUpstreamHarmsNoOther(t *testing.T) {
	p := newPulled(t)
	p.clients = append(p.clients, func(cfg *upstream.Config) { cfg.MaxTransfers, cfg.MaxRequests = 2, 2 })
	p.start()
	release := make(chan struct{})
	p.lab.Fault("", 0, proxytest.Stall(-1, release))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 100 {
		raw := noise(byte(i), 1000)
		d := p.lab.Blob("app", "", raw).Digest
		wg.Go(func() {
			_, _ = p.Blob(ctx, proxy.Request{Ref: ref(t, "lab/app@"+d.String())})
		})
		wg.Go(func() {
			_, _ = p.Manifest(ctx, proxy.Request{Ref: ref(t, fmt.Sprintf("lab/app:t%d", i))})
		})
	}
	layer := noise(200, 100_000)
	d, _ := p.hub.Image("other", "1", layer)
	p.mustManifest("hub/other:1", d)
	if raw, err := p.pull("hub/other", digest.FromBytes(layer)); err != nil || !bytes.Equal(raw, layer) {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
	cancel()
	p.lab.Heal()
	close(release)
	wg.Wait()
}

// lines is a slog.Handler that keeps what is written at info and above.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (l *lines) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *lines) WithGroup(string) slog.Handler                    { return l }

func (l *lines) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, text)
	return nil
}

// take returns the lines so far and forgets them.
func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.all
	l.all = nil
	return all
}

// wait waits until there are n lines, for a while, and returns them all: a
// request's line is written after its answer.
func (l *lines) wait(n int) []string {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		all := slices.Clone(l.all)
		l.mu.Unlock()
		if len(all) >= n || time.Now().After(deadline) {
			return all
		}
	}
}
