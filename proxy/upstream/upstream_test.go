package upstream_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"pratique"
	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/proxy/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client asks u as a private upstream, with short time-outs.
func client(t *testing.T, u *proxytest.Upstream, change ...func(*upstream.Config)) *upstream.Client {
	t.Helper()
	cfg := upstream.Config{URL: u.URL, Private: true, HeaderTimeout: 5 * time.Second, StallTimeout: 5 * time.Second, RetryPause: time.Millisecond}
	for _, f := range change {
		f(&cfg)
	}
	c, err := upstream.New("lab", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// is fails unless err is an *Error with the code and status.
func is(t *testing.T, err error, code proxy.Code, status int) *proxy.Error {
	t.Helper()
	var e *proxy.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no *proxy.Error", err)
	}
	if e.Code != code || e.Status() != status {
		t.Errorf("%s %d (%s), want %s %d", e.Code, e.Status(), e.Message, code, status)
	}
	if strings.ContainsAny(e.Message, "\n\r") {
		t.Errorf("more than a line: %q", e.Message)
	}
	return e
}

func TestResolveAndManifest(t *testing.T) {
	u := proxytest.New(t)
	d, raw := u.Image("library/app", "v1", []byte("layer"))
	c, ctx := client(t, u), t.Context()
	for _, reference := range []string{"v1", d.String()} {
		got, err := c.Resolve(ctx, "library/app", reference)
		want := pratique.Descriptor{MediaType: pratique.MediaTypeImageManifest, Digest: d, Size: int64(len(raw))}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("Resolve %s: %v\n%s", reference, err, diff)
		}
		mediaType, bytes, err := c.Manifest(ctx, "library/app", reference)
		if err != nil || mediaType != pratique.MediaTypeImageManifest || string(bytes) != string(raw) {
			t.Errorf("Manifest %s: %s %q %v", reference, mediaType, bytes, err)
		}
	}
	u.Expect("HEAD /v2/library/app/manifests/v1", "GET /v2/library/app/manifests/v1",
		"HEAD /v2/library/app/manifests/"+d.String(), "GET /v2/library/app/manifests/"+d.String())
}

// What is asked for: every kind of manifest, and bytes as they are.
func TestRequestHeaders(t *testing.T) {
	u := proxytest.New(t)
	u.Image("app", "v1")
	var got http.Header
	u.Fault("GET", 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		got = r.Header.Clone()
		next.ServeHTTP(w, r)
	})
	if _, _, err := client(t, u).Manifest(t.Context(), "app", "v1"); err != nil {
		t.Fatal(err)
	}
	want := http.Header{
		"User-Agent": {"pratique"},
		"Accept": {"application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, " +
			"application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Upstreams whose HEAD is no use are asked with GET.
func TestResolveFallsBack(t *testing.T) {
	for name, fault := range map[string]proxytest.Fault{
		"no digest":          proxytest.Header("Docker-Content-Digest", ""),
		"method not allowed": proxytest.Status(http.StatusMethodNotAllowed),
		"bad request":        proxytest.Status(http.StatusBadRequest),
	} {
		t.Run(name, func(t *testing.T) {
			u := proxytest.New(t)
			d, raw := u.Image("app", "v1")
			u.Fault("HEAD", 0, fault)
			got, err := client(t, u).Resolve(t.Context(), "app", "v1")
			if err != nil || got.Digest != d || got.Size != int64(len(raw)) {
				t.Errorf("%+v, %v", got, err)
			}
			u.Expect("HEAD /v2/app/manifests/v1", "GET /v2/app/manifests/v1")
		})
	}
}

// Names outside the grammar never become a URL.
func TestNamesOutsideTheGrammar(t *testing.T) {
	u := proxytest.New(t)
	c, ctx := client(t, u), t.Context()
	for _, repo := range []string{"", "..", "a/../b", "A", "a//b", "a?x=1", "a%2fb", "a#b", "a/manifests/latest\n", strings.Repeat("a", 256)} {
		_, _, err := c.Manifest(ctx, repo, "v1")
		is(t, err, proxy.CodeNameInvalid, 400)
		_, err = c.Resolve(ctx, repo, "v1")
		is(t, err, proxy.CodeNameInvalid, 400)
		_, _, err = c.Blob(ctx, repo, digest.FromString("x"), 0)
		is(t, err, proxy.CodeNameInvalid, 400)
		_, err = c.Tags(ctx, repo)
		is(t, err, proxy.CodeNameInvalid, 400)
		_, err = c.Referrers(ctx, repo, digest.FromString("x"))
		is(t, err, proxy.CodeNameInvalid, 400)
	}
	for _, reference := range []string{"../x", "a/b", "sha256:x", "sha256:" + strings.Repeat("A", 64), "-a", "a?b"} {
		_, _, err := c.Manifest(ctx, "app", reference)
		is(t, err, proxy.CodeManifestInvalid, 400)
	}
	if _, _, err := c.Blob(ctx, "app", "sha256:../../x", 0); err == nil {
		t.Error("a blob with a digest that is none")
	}
	u.Expect()
}

func TestBlob(t *testing.T) {
	u := proxytest.New(t)
	raw := bytes.Repeat([]byte("0123456789"), 1000)
	d := u.Blob("app", "", raw)
	c, ctx := client(t, u), t.Context()
	for _, offset := range []int64{0, 1, 9_999} {
		body, size, err := c.Blob(ctx, "app", d.Digest, offset)
		if err != nil || size != 10_000 {
			t.Fatalf("from %d: size %d, %v", offset, size, err)
		}
		got, err := io.ReadAll(body)
		body.Close()
		if err != nil || !bytes.Equal(got, raw[offset:]) {
			t.Errorf("from %d: %d bytes, %v", offset, len(got), err)
		}
	}
	path := "GET /v2/app/blobs/" + d.Digest.String()
	u.Expect(path, path+" Range: bytes=1-", path+" Range: bytes=9999-")
	_, _, err := c.Blob(ctx, "app", digest.FromString("x"), 0)
	is(t, err, proxy.CodeBlobUnknown, 404)
}

func TestPrivateAddresses(t *testing.T) {
	u := proxytest.New(t)
	u.Image("app", "v1")
	public := func(cfg *upstream.Config) { cfg.Private = false }
	_, _, err := client(t, u, public).Manifest(t.Context(), "app", "v1")
	e := is(t, err, proxy.CodeTooManyRequests, 502)
	if !strings.Contains(e.Message, "not configured as private") {
		t.Errorf("message %q", e.Message)
	}
	// A name is judged by what it resolves to.
	_, port, _ := net.SplitHostPort(u.Host())
	c := client(t, u, public, func(cfg *upstream.Config) { cfg.URL = "http://localhost:" + port })
	_, _, err = c.Manifest(t.Context(), "app", "v1")
	is(t, err, proxy.CodeTooManyRequests, 502)
	u.Expect()
}

// Credentials go to the upstream alone, wherever it redirects to.
func TestRedirectsCarryNoCredentials(t *testing.T) {
	u, cdn := proxytest.New(t), proxytest.New(t)
	raw := []byte("layer")
	d := u.Blob("app", "", raw)
	cdn.Blob("app", "", raw)
	u.RequireBasic("me", "secret")
	path := "/v2/app/blobs/" + d.Digest.String()
	u.Fault("GET "+path+" Authorization", 0, proxytest.Redirect(cdn.URL+path))
	c := client(t, u, basic(t, "me", "secret"))
	for range 2 {
		body, _, err := c.Blob(t.Context(), "app", d.Digest, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%q, %v", got, err)
		}
		body.Close()
	}
	u.Expect("GET "+path, "GET "+path+" Authorization: Basic", "GET "+path+" Authorization: Basic")
	cdn.Expect("GET "+path, "GET "+path)
}

func TestRedirectDowngrade(t *testing.T) {
	plain := proxytest.New(t)
	d := plain.Blob("app", "", []byte("x"))
	secure := quietTLS(http.RedirectHandler(plain.URL+"/v2/app/blobs/"+d.Digest.String(), http.StatusTemporaryRedirect))
	defer secure.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	writePEM(t, ca, secure)
	c := client(t, plain, func(cfg *upstream.Config) { cfg.URL, cfg.CAFile = secure.URL, ca })
	_, _, err := c.Blob(t.Context(), "app", d.Digest, 0)
	is(t, err, proxy.CodeTooManyRequests, 502)
	plain.Expect()
	// Without its CA the server is not believed at all, and not asked again.
	c = client(t, plain, func(cfg *upstream.Config) { cfg.URL = secure.URL })
	_, _, err = c.Blob(t.Context(), "app", d.Digest, 0)
	is(t, err, proxy.CodeTooManyRequests, 502)
}

func basic(t *testing.T, user, password string) func(*upstream.Config) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(cfg *upstream.Config) {
		cfg.Credentials = upstream.Credentials{Username: user, PasswordFile: file}
	}
}

func TestConcurrencyIsBounded(t *testing.T) {
	u := proxytest.New(t)
	u.Image("app", "v1")
	var mu sync.Mutex
	running, most := 0, 0
	u.Fault("GET", 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		time.Sleep(20 * time.Millisecond)
		next.ServeHTTP(w, r)
		mu.Lock()
		running--
		mu.Unlock()
	})
	c := client(t, u, func(cfg *upstream.Config) { cfg.MaxRequests = 3 })
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			if _, _, err := c.Manifest(t.Context(), "app", "v1"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most > 3 {
		t.Errorf("%d at once", most)
	}
}

func TestMetrics(t *testing.T) {
	u := proxytest.New(t)
	u.Image("app", "v1")
	reg := prometheus.NewPedanticRegistry()
	measure := func(cfg *upstream.Config) { cfg.Metrics = reg }
	c := client(t, u, measure)
	client(t, u, measure) // a second upstream shares the metrics
	if _, _, err := c.Manifest(t.Context(), "app", "v1"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resolve(t.Context(), "app", "none"); err == nil {
		t.Fatal("no error")
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := f.GetName()
			for _, l := range m.GetLabel() {
				key += " " + l.GetValue()
			}
			got[key] = m.GetCounter().GetValue()
		}
	}
	if got["pratique_upstream_requests_total manifest 2xx lab"] != 1 || got["pratique_upstream_requests_total resolve 4xx lab"] != 1 ||
		got["pratique_upstream_received_bytes_total lab"] == 0 {
		t.Errorf("got %v", got)
	}
}
