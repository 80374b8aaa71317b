package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

func TestManifestErrors(t *testing.T) {
	other := digest.FromString("other").String()
	tests := []struct {
		name   string
		fault  proxytest.Fault
		code   proxy.Code
		status int
	}{
		{"404", proxytest.Status(404), proxy.CodeManifestUnknown, 404},
		{"410", proxytest.Status(410), proxy.CodeManifestUnknown, 404},
		{"401 without a challenge", proxytest.Status(401), proxy.CodeDenied, 403},
		{"401 with one we cannot answer", proxytest.Status(401, "WWW-Authenticate", "Negotiate"), proxy.CodeDenied, 403},
		{"401 basic, no credentials", proxytest.Status(401, "WWW-Authenticate", `Basic realm="x"`), proxy.CodeDenied, 403},
		{"403", proxytest.Status(403), proxy.CodeDenied, 403},
		{"451", proxytest.Status(451), proxy.CodeDenied, 403},
		{"429", proxytest.Status(429), proxy.CodeTooManyRequests, 429},
		{"400", proxytest.Status(400), proxy.CodeTooManyRequests, 502},
		{"500", proxytest.Status(500), proxy.CodeTooManyRequests, 502},
		{"502", proxytest.Status(502), proxy.CodeTooManyRequests, 502},
		{"503", proxytest.Status(503), proxy.CodeTooManyRequests, 502},
		{"504", proxytest.Status(504), proxy.CodeTooManyRequests, 504},
		{"reset", proxytest.Reset(), proxy.CodeTooManyRequests, 502},
		{"truncated", proxytest.Truncate(10), proxy.CodeTooManyRequests, 502},
		{"wrong bytes", proxytest.Corrupt(3), proxy.CodeTooManyRequests, 502},
		{"wrong digest header", proxytest.Header("Docker-Content-Digest", other), proxy.CodeTooManyRequests, 502},
		{"nonsense in the digest header", proxytest.Header("Docker-Content-Digest", "../../x"), proxy.CodeTooManyRequests, 502},
		{"too large", proxytest.Alter(func([]byte) []byte { return make([]byte, pratique.MaxManifestSize+1) }), proxy.CodeManifestInvalid, 400},
		{"redirect loop", proxytest.Redirect("?again"), proxy.CodeTooManyRequests, 502},
		{"redirect to a file", proxytest.Redirect("file:///etc/passwd"), proxy.CodeTooManyRequests, 502},
		{"redirect to metadata", proxytest.Redirect("http://169.254.169.254/latest/meta-data"), proxy.CodeTooManyRequests, 502},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := proxytest.New(t)
			u.Image("app", "v1")
			u.Fault("GET", 0, tt.fault)
			_, raw, err := client(t, u).Manifest(t.Context(), "app", "v1")
			is(t, err, tt.code, tt.status)
			if raw != nil {
				t.Errorf("%d bytes with the error", len(raw))
			}
		})
	}
}

// A digest asked for is a digest got, whatever the headers say.
func TestManifestByDigestIsVerified(t *testing.T) {
	u := proxytest.New(t)
	d, _ := u.Image("app", "v1")
	u.Fault("GET", 0, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { fmt.Fprint(w, `{"schemaVersion":2}`) })
	_, _, err := client(t, u).Manifest(t.Context(), "app", d.String())
	is(t, err, proxy.CodeTooManyRequests, 502)
	u.Heal()
	u.Fault("HEAD", 0, proxytest.Header("Docker-Content-Digest", digest.FromString("x").String()))
	_, err = client(t, u).Resolve(t.Context(), "app", d.String())
	is(t, err, proxy.CodeTooManyRequests, 502)
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

func TestRetries(t *testing.T) {
	tests := []struct {
		name  string
		fault proxytest.Fault
		times int
		asked int
		ok    bool
	}{
		{"reset once", proxytest.Reset(), 1, 2, true},
		{"502 twice", proxytest.Status(502), 2, 3, true},
		{"503 three times", proxytest.Status(503), 3, 3, false},
		{"500 is an answer", proxytest.Status(500), 1, 1, false},
		{"404 is an answer", proxytest.Status(404), 1, 1, false},
		{"429 is an answer", proxytest.Status(429), 1, 1, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := proxytest.New(t)
			u.Image("app", "v1")
			u.Fault("GET", tt.times, tt.fault)
			_, _, err := client(t, u).Manifest(t.Context(), "app", "v1")
			if (err == nil) != tt.ok {
				t.Errorf("err = %v", err)
			}
			if got := len(u.Seen()); got != tt.asked {
				t.Errorf("asked %d times, want %d", got, tt.asked)
			}
		})
	}
}

func TestTimeouts(t *testing.T) {
	short := func(cfg *upstream.Config) {
		cfg.HeaderTimeout, cfg.StallTimeout = 100*time.Millisecond, 100*time.Millisecond
	}
	never := make(chan struct{})
	t.Run("header", func(t *testing.T) {
		u := proxytest.New(t)
		u.Fault("GET", 0, proxytest.Stall(-1, never))
		_, _, err := client(t, u, short).Manifest(t.Context(), "app", "v1")
		is(t, err, proxy.CodeTooManyRequests, 504)
		u.Expect("GET /v2/app/manifests/v1") // once: a retry would triple the wait
	})
	t.Run("body", func(t *testing.T) {
		u := proxytest.New(t)
		d := u.Blob("app", "", make([]byte, 100_000))
		u.Fault("GET", 0, proxytest.Stall(50_000, never))
		body, _, err := client(t, u, short).Blob(t.Context(), "app", d.Digest, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		n, err := io.Copy(io.Discard, body)
		is(t, err, proxy.CodeTooManyRequests, 504)
		if n != 50_000 {
			t.Errorf("%d bytes", n)
		}
	})
	t.Run("a slow reader is no stall", func(t *testing.T) {
		u := proxytest.New(t)
		d := u.Blob("app", "", make([]byte, 100_000))
		body, _, err := client(t, u, short).Blob(t.Context(), "app", d.Digest, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		time.Sleep(200 * time.Millisecond)
		if n, err := io.Copy(io.Discard, body); err != nil || n != 100_000 {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
	t.Run("the caller leaves", func(t *testing.T) {
		u := proxytest.New(t)
		u.Fault("GET", 0, proxytest.Stall(-1, never))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		_, _, err := client(t, u).Manifest(ctx, "app", "v1")
		if !errors.Is(err, context.Canceled) || proxy.Down(err) {
			t.Errorf("got %v", err)
		}
	})
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

func TestBlobErrors(t *testing.T) {
	tests := []struct {
		name   string
		offset int64
		fault  proxytest.Fault
	}{
		{"range ignored", 5, proxytest.Header("Content-Range", "")}, // status stays 206
		{"range at another place", 5, proxytest.Header("Content-Range", "bytes 4-9/10")},
		{"range not to the end", 5, proxytest.Header("Content-Range", "bytes 5-8/10")},
		{"range of unknown size", 5, proxytest.Header("Content-Range", "bytes 5-9/*")},
		{"encoded", 0, proxytest.Header("Content-Encoding", "gzip")},
		{"range not satisfiable", 5, proxytest.Status(416)},
		{"204", 0, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(204) }},
		{"range ignored, 200", 5, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { fmt.Fprint(w, "0123456789") }},
		{"206 without a range", 0, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Range", "bytes 0-9/10")
			w.WriteHeader(206)
			fmt.Fprint(w, "0123456789")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := proxytest.New(t)
			d := u.Blob("app", "", []byte("0123456789"))
			u.Fault("GET", 0, tt.fault)
			_, _, err := client(t, u).Blob(t.Context(), "app", d.Digest, tt.offset)
			is(t, err, proxy.CodeTooManyRequests, 502)
		})
	}
}

// After a 429 nobody asks again before the time that it named.
func TestRetryAfterHoldsTheUpstreamBack(t *testing.T) {
	start := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		header []string
		want   time.Duration
	}{
		"seconds":        {[]string{"Retry-After", "90"}, 90 * time.Second},
		"date":           {[]string{"Retry-After", "Sun, 01 Nov 2026 12:02:00 GMT"}, 2 * time.Minute},
		"nothing":        {nil, 10 * time.Second},
		"nonsense":       {[]string{"Retry-After", "soon"}, 10 * time.Second},
		"past date":      {[]string{"Retry-After", "Sun, 01 Nov 2026 11:00:00 GMT"}, 10 * time.Second},
		"negative":       {[]string{"Retry-After", "-5"}, 10 * time.Second},
		"for ever":       {[]string{"Retry-After", "99999999999"}, time.Hour},
		"beyond integer": {[]string{"Retry-After", "999999999999999999999"}, 10 * time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			u := proxytest.New(t)
			u.Image("app", "v1")
			u.Fault("GET", 1, proxytest.Status(429, tt.header...))
			now := start
			c := client(t, u, func(cfg *upstream.Config) { cfg.Now = func() time.Time { return now } })
			_, _, err := c.Manifest(t.Context(), "app", "v1")
			if e := is(t, err, proxy.CodeTooManyRequests, 429); e.RetryAfter != tt.want {
				t.Errorf("RetryAfter %v, want %v", e.RetryAfter, tt.want)
			}
			u.Expect("GET /v2/app/manifests/v1")
			now = start.Add(tt.want - time.Second)
			_, err = c.Resolve(t.Context(), "app", "v1")
			if e := is(t, err, proxy.CodeTooManyRequests, 429); e.RetryAfter != time.Second {
				t.Errorf("RetryAfter %v, want 1s", e.RetryAfter)
			}
			u.Expect()
			now = start.Add(tt.want)
			if _, err := c.Resolve(t.Context(), "app", "v1"); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
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
	c := client(t, u, func(cfg *upstream.Config) { cfg.MaxConcurrent = 3 })
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

func TestNewErrors(t *testing.T) {
	for name, cfg := range map[string]upstream.Config{
		"no url":                {},
		"no scheme":             {URL: "docker.io"},
		"other scheme":          {URL: "ftp://docker.io"},
		"path":                  {URL: "https://docker.io/v2/"},
		"query":                 {URL: "https://docker.io?x=1"},
		"user":                  {URL: "https://me:secret@docker.io"},
		"no CA":                 {URL: "https://docker.io", CAFile: "/does/not/exist"},
		"user without file":     {URL: "https://docker.io", Credentials: upstream.Credentials{Username: "me"}},
		"two kinds":             {URL: "https://docker.io", Credentials: upstream.Credentials{DockerConfig: "x", Keychain: "ecr"}},
		"unknown keychain":      {URL: "https://docker.io", Credentials: upstream.Credentials{Keychain: "gpg"}},
		"password without name": {URL: "https://docker.io", Credentials: upstream.Credentials{PasswordFile: "x"}},
	} {
		if _, err := upstream.New("x", cfg); err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
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
