package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"pratique"
)

// registryFuncs is a Registry made of functions; a nil one refuses.
type registryFuncs struct {
	refusing
	manifest  func(context.Context, Request) (Manifest, error)
	blob      func(context.Context, Request) (Blob, error)
	tags      func(context.Context, Request) (TagList, error)
	referrers func(context.Context, Request) (Referrers, error)
}

func (f registryFuncs) Manifest(ctx context.Context, r Request) (Manifest, error) {
	if f.manifest == nil {
		return f.refusing.Manifest(ctx, r)
	}
	return f.manifest(ctx, r)
}

func (f registryFuncs) Blob(ctx context.Context, r Request) (Blob, error) {
	if f.blob == nil {
		return f.refusing.Blob(ctx, r)
	}
	return f.blob(ctx, r)
}

func (f registryFuncs) Tags(ctx context.Context, r Request) (TagList, error) {
	if f.tags == nil {
		return f.refusing.Tags(ctx, r)
	}
	return f.tags(ctx, r)
}

func (f registryFuncs) Referrers(ctx context.Context, r Request) (Referrers, error) {
	if f.referrers == nil {
		return f.refusing.Referrers(ctx, r)
	}
	return f.referrers(ctx, r)
}

// testServer serves reg on loopback; log holds its lines.
type testServer struct {
	*httptest.Server
	log     *lockedBuffer
	metrics *prometheus.Registry
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func serve(t *testing.T, reg Registry, bare bool) *testServer {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) }) // after Close
	s := &testServer{log: &lockedBuffer{}, metrics: prometheus.NewRegistry()}
	s.Server = httptest.NewUnstartedServer(NewServer(reg, ServerConfig{
		Upstreams: testIndex(t),
		BareHead:  bare,
		Log:       slog.New(slog.NewJSONHandler(s.log, nil)),
		Metrics:   s.metrics,
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// answer is what a client got besides the body.
type answer struct {
	Status        string
	StatusCode    int
	Header        http.Header
	ContentLength int64
}

// do sends one request and returns the answer with its body read.
func (s *testServer) do(t *testing.T, method, path string, header ...string) (answer, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp.Status, resp.StatusCode, resp.Header, resp.ContentLength}, string(body)
}

// lines waits until the log has n lines, and returns them parsed: a line is
// written after the answer's last byte.
func (s *testServer) lines(t *testing.T, n int) []map[string]any {
	t.Helper()
	for range 200 {
		if strings.Count(s.log.String(), "\n") >= n {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	var out []map[string]any
	dec := json.NewDecoder(strings.NewReader(s.log.String()))
	for dec.More() {
		var line map[string]any
		if err := dec.Decode(&line); err != nil {
			t.Fatal(err)
		}
		out = append(out, line)
	}
	if len(out) != n {
		t.Fatalf("%d log lines, want %d:\n%s", len(out), n, s.log)
	}
	return out
}

const blobText = "0123456789abcdef"

func blobOf(text string, open func(int64) (io.ReadCloser, error)) func(context.Context, Request) (Blob, error) {
	if open == nil {
		open = func(offset int64) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text[offset:])), nil }
	}
	return func(_ context.Context, r Request) (Blob, error) {
		return Blob{Digest: r.Ref.Digest, Size: int64(len(text)), Hit: true, Verdict: "v1", Open: open}, nil
	}
}

func TestServerManifest(t *testing.T) {
	raw := []byte(`{"schemaVersion":2}`)
	d := digest.FromBytes(raw)
	s := serve(t, registryFuncs{manifest: func(_ context.Context, r Request) (Manifest, error) {
		m := Manifest{Image: pratique.Image{Digest: d, MediaType: pratique.MediaTypeDockerManifest, Size: int64(len(raw))}, Raw: raw, Hit: true, Verdict: "abc",
			Warnings: []string{`rule "x"` + "\r\nSet-Cookie: a=b"}}
		if r.Head {
			m.Raw = nil
		}
		return m, nil
	}}, true)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		resp, body := s.do(t, method, "/v2/lab/app/manifests/1")
		want := map[string]string{
			"Docker-Distribution-Api-Version": "registry/2.0",
			"Docker-Content-Digest":           d.String(),
			"Content-Type":                    pratique.MediaTypeDockerManifest,
			"Content-Length":                  fmt.Sprint(len(raw)),
			"Etag":                            `"` + d.String() + `"`,
			"Warning":                         `299 - "rule \"x\"??Set-Cookie: a=b"`,
			"Set-Cookie":                      "",
		}
		for name, value := range want {
			if got := resp.Header.Get(name); got != value {
				t.Errorf("%s: %s = %q, want %q", method, name, got, value)
			}
		}
		if method == http.MethodGet && body != string(raw) {
			t.Errorf("body = %q", body)
		}
	}
	for value, status := range map[string]int{`"` + d.String() + `"`: 304, `W/"x", "` + d.String() + `"`: 304, "*": 304, `"other"`: 200, d.String(): 200} {
		resp, body := s.do(t, http.MethodGet, "/v2/lab/app/manifests/1", "If-None-Match", value)
		if resp.StatusCode != status || status == 304 && body != "" {
			t.Errorf("If-None-Match %s: %d %q, want %d", value, resp.StatusCode, body, status)
		}
	}
}

func TestServerBlobRange(t *testing.T) {
	s := serve(t, registryFuncs{blob: blobOf(blobText, nil)}, true)
	tests := []struct {
		name, header, ifRange string
		status                int
		body, contentRange    string
	}{
		{"none", "", "", 200, blobText, ""},
		{"from to", "bytes=2-5", "", 206, "2345", "bytes 2-5/16"},
		{"the first byte", "bytes=0-0", "", 206, "0", "bytes 0-0/16"},
		{"to the end", "bytes=10-", "", 206, "abcdef", "bytes 10-15/16"},
		{"the last byte", "bytes=15-", "", 206, "f", "bytes 15-15/16"},
		{"beyond the end", "bytes=10-99", "", 206, "abcdef", "bytes 10-15/16"},
		{"the last three", "bytes=-3", "", 206, "def", "bytes 13-15/16"},
		{"more than there is", "bytes=-99", "", 206, blobText, "bytes 0-15/16"},
		{"behind the end", "bytes=16-", "", 416, "", "bytes */16"},
		{"the last zero", "bytes=-0", "", 416, "", "bytes */16"},
		{"several", "bytes=0-1,4-5", "", 200, blobText, ""},
		{"backwards", "bytes=5-2", "", 200, blobText, ""},
		{"another unit", "items=0-1", "", 200, blobText, ""},
		{"nonsense", "bytes=a-b", "", 200, blobText, ""},
		{"a sign", "bytes=+1-2", "", 200, blobText, ""},
		{"overflow", "bytes=99999999999999999999-", "", 200, blobText, ""},
		{"if it is the same", "bytes=2-5", `"` + hexDigest + `"`, 206, "2345", "bytes 2-5/16"},
		{"if it is another", "bytes=2-5", `"other"`, 200, blobText, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			header := []string{"Range", tt.header, "If-Range", tt.ifRange}
			if tt.ifRange == "" {
				header = header[:2]
			}
			resp, body := s.do(t, http.MethodGet, "/v2/lab/app/blobs/"+hexDigest, header...)
			if resp.StatusCode != tt.status || resp.Header.Get("Content-Range") != tt.contentRange {
				t.Errorf("%d %q, want %d %q", resp.StatusCode, resp.Header.Get("Content-Range"), tt.status, tt.contentRange)
			}
			if tt.status < 300 && (body != tt.body || resp.ContentLength != int64(len(tt.body))) {
				t.Errorf("body = %q (%d), want %q", body, resp.ContentLength, tt.body)
			}
		})
	}
	resp, _ := s.do(t, http.MethodHead, "/v2/lab/app/blobs/"+hexDigest, "Range", "bytes=2-5")
	if resp.StatusCode != http.StatusOK || resp.ContentLength != 16 || resp.Header.Get("Accept-Ranges") != "bytes" || resp.Header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("HEAD: %d %v", resp.StatusCode, resp.Header)
	}
}

// brokenReader fails after some bytes, or ends too early with a nil error.
type brokenReader struct {
	r   io.Reader
	err error
}

func (b *brokenReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if errors.Is(err, io.EOF) {
		err = b.err
	}
	return n, err
}

func TestServerTruncates(t *testing.T) {
	for name, failure := range map[string]error{"the source fails": errors.New("upstream reset"), "the source ends early": io.EOF} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, registryFuncs{blob: blobOf(blobText, func(int64) (io.ReadCloser, error) {
				return io.NopCloser(&brokenReader{strings.NewReader(blobText[:5]), failure}), nil
			})}, true)
			resp, err := s.Client().Get(s.URL + "/v2/lab/app/blobs/" + hexDigest)
			if err == nil {
				defer func() { _ = resp.Body.Close() }()
				body, readErr := io.ReadAll(resp.Body)
				if readErr == nil {
					t.Errorf("read %q to its end without an error", body)
				}
				if strings.Contains(string(body), "errors") {
					t.Errorf("an error document was appended: %q", body)
				}
			}
			line := s.lines(t, 1)[0]
			if line["outcome"] != "upstream" || line["status"] != float64(200) {
				t.Errorf("log: %v", line)
			}
		})
	}
}

// raw sends a request by hand and returns the answer's bytes: net/http's client
// hides what a HEAD answer had no length.
func raw(t *testing.T, s *testServer, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "%s\r\nHost: x\r\nConnection: close\r\n\r\n", request); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(bufio.NewReader(conn))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestServerBareHead(t *testing.T) {
	refusal := &Error{Code: CodeDenied, Message: "no", Bare: true, RetryAfter: time.Second}
	reg := registryFuncs{
		manifest: func(context.Context, Request) (Manifest, error) { return Manifest{}, refusal },
		blob:     func(context.Context, Request) (Blob, error) { return Blob{}, refusal },
	}
	for _, path := range []string{"/v2/lab/app/manifests/1", "/v2/lab/app/blobs/" + hexDigest, "/v2/nobody/app/manifests/1"} {
		bare := raw(t, serve(t, reg, true), "HEAD "+path+" HTTP/1.1")
		if !strings.HasPrefix(bare, "HTTP/1.1 200 ") {
			t.Errorf("HEAD %s: %q, want 200", path, bare)
		}
		for _, name := range []string{"content-length", "docker-content-digest", "transfer-encoding", "etag", "retry-after", "content-type"} {
			if strings.Contains(strings.ToLower(bare), name) {
				t.Errorf("HEAD %s has %s: %q", path, name, bare)
			}
		}
		if !strings.HasSuffix(bare, "\r\n\r\n") {
			t.Errorf("HEAD %s has a body: %q", path, bare)
		}
		strict := raw(t, serve(t, reg, false), "HEAD "+path+" HTTP/1.1")
		if !strings.HasPrefix(strict, "HTTP/1.1 403 ") || !strings.HasSuffix(strict, "\r\n\r\n") {
			t.Errorf("HEAD %s without bare: %q, want 403 without a body", path, strict)
		}
	}
}

func TestServerErrors(t *testing.T) {
	tests := []struct {
		name       string
		err        error
		status     int
		retryAfter string
		body       string
		outcome    string
	}{
		{"refused", &Error{Code: CodeDenied, Message: `a 1 -> 2 & <3>`}, 403, "", `{"errors":[{"code":"DENIED","message":"a 1 -> 2 & <3>"}]}`, "refused"},
		{"wrapped", fmt.Errorf("x: %w", &Error{Code: CodeManifestUnknown, Message: "m", Detail: "d"}), 404, "", `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"m","detail":"d"}]}`, "unknown"},
		{"pending", &Error{Code: CodeTooManyRequests, Message: "m", RetryAfter: 1200 * time.Millisecond, Err: pratique.ErrPending}, 429, "2", `{"errors":[{"code":"TOOMANYREQUESTS","message":"m"}]}`, "pending"},
		{"limited", &Error{Code: CodeTooManyRequests, Message: "m", RetryAfter: time.Millisecond}, 429, "1", `{"errors":[{"code":"TOOMANYREQUESTS","message":"m"}]}`, "limited"},
		{"upstream down", &Error{Code: CodeTooManyRequests, HTTPStatus: 502, Message: "m"}, 502, "", `{"errors":[{"code":"TOOMANYREQUESTS","message":"m"}]}`, "upstream"},
		{"internal", errors.New("password in a path"), 500, "", `{"errors":[{"code":"INTERNAL","message":"internal error; the log of Pratique tells more"}]}`, "failed"},
		{"a detail that does not marshal", &Error{Code: CodeDenied, Message: "m", Detail: func() {}}, 403, "", `{"errors":[{"code":"DENIED","message":"m"}]}`, "refused"},
		{"not found below", fmt.Errorf("row: %w", pratique.ErrNotFound), 500, "", `{"errors":[{"code":"INTERNAL","message":"internal error; the log of Pratique tells more"}]}`, "failed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, registryFuncs{manifest: func(context.Context, Request) (Manifest, error) { return Manifest{}, tt.err }}, true)
			resp, body := s.do(t, http.MethodGet, "/v2/lab/app/manifests/1")
			if resp.StatusCode != tt.status || resp.Header.Get("Retry-After") != tt.retryAfter || resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%d %v", resp.StatusCode, resp.Header)
			}
			if diff := cmp.Diff(tt.body+"\n", body); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if line := s.lines(t, 1)[0]; line["outcome"] != tt.outcome {
				t.Errorf("outcome = %v, want %s", line["outcome"], tt.outcome)
			}
		})
	}
}

func TestServerPanic(t *testing.T) {
	s := serve(t, registryFuncs{manifest: func(context.Context, Request) (Manifest, error) { panic("secret detail") }}, true)
	resp, body := s.do(t, http.MethodGet, "/v2/lab/app/manifests/1")
	if resp.StatusCode != http.StatusInternalServerError || strings.Contains(body, "secret") || !strings.Contains(body, "INTERNAL") {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	lines := s.lines(t, 2)
	if lines[0]["panic"] != "secret detail" || lines[1]["outcome"] != "failed" {
		t.Errorf("log: %v", lines)
	}
}

func TestServerReadOnly(t *testing.T) {
	s := serve(t, registryFuncs{}, true)
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"} {
		resp, body := s.do(t, method, "/v2/lab/app/blobs/uploads/")
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD" || !strings.Contains(body, `"UNSUPPORTED"`) {
			t.Errorf("%s: %d %v %s", method, resp.StatusCode, resp.Header, body)
		}
	}
}

func TestServerBase(t *testing.T) {
	s := serve(t, registryFuncs{}, true)
	for _, path := range []string{"/v2/", "/v2"} {
		resp, body := s.do(t, http.MethodGet, path)
		if resp.StatusCode != http.StatusOK || body != "{}" || resp.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
	}
}

func TestServerTags(t *testing.T) {
	var asked Request
	s := serve(t, registryFuncs{tags: func(_ context.Context, r Request) (TagList, error) {
		asked = r
		if r.N == 0 {
			return TagList{}, nil
		}
		return TagList{Tags: []string{"1", "1.0_a"}, More: r.N > 0}, nil
	}}, true)
	tests := []struct{ path, body, link string }{
		{"/v2/lab/app/tags/list", `{"name":"lab/app","tags":["1","1.0_a"]}`, ""},
		{"/v2/lab/app/tags/list?n=2", `{"name":"lab/app","tags":["1","1.0_a"]}`, `</v2/lab/app/tags/list?last=1.0_a&n=2>; rel="next"`},
		{"/v2/nginx/tags/list?n=2&ns=docker.io", `{"name":"nginx","tags":["1","1.0_a"]}`, `</v2/nginx/tags/list?last=1.0_a&n=2&ns=docker.io>; rel="next"`},
		{"/v2/lab/app/tags/list?n=0", `{"name":"lab/app","tags":[]}`, ""},
	}
	for _, tt := range tests {
		resp, body := s.do(t, http.MethodGet, tt.path)
		if resp.StatusCode != http.StatusOK || strings.TrimSpace(body) != tt.body || resp.Header.Get("Link") != tt.link {
			t.Errorf("%s: %d %q %q", tt.path, resp.StatusCode, body, resp.Header.Get("Link"))
		}
	}
	if asked.Ref.Repository() != "lab/app" {
		t.Errorf("asked for %v", asked.Ref)
	}
}

func TestServerReferrers(t *testing.T) {
	s := serve(t, registryFuncs{referrers: func(_ context.Context, r Request) (Referrers, error) {
		return Referrers{Index: []byte("{}"), Filtered: r.ArtifactType != ""}, nil
	}}, true)
	resp, _ := s.do(t, http.MethodGet, "/v2/lab/app/referrers/"+hexDigest+"?artifactType=a/b")
	if resp.Header.Get("OCI-Filters-Applied") != "artifactType" || resp.Header.Get("Content-Type") != pratique.MediaTypeImageIndex {
		t.Errorf("%v", resp.Header)
	}
	if resp, _ = s.do(t, http.MethodGet, "/v2/lab/app/referrers/"+hexDigest); resp.Header.Get("OCI-Filters-Applied") != "" {
		t.Error("a filter was said to be applied")
	}
}

func TestServerAccessLogAndMetrics(t *testing.T) {
	s := serve(t, registryFuncs{blob: blobOf(blobText, nil), manifest: func(context.Context, Request) (Manifest, error) {
		return Manifest{}, &Error{Code: CodeDenied, Message: "no", Detail: &Refusal{Verdict: pratique.Verdict{ID: "abc123"}}}
	}}, true)
	s.do(t, http.MethodGet, "/v2/library/nginx/blobs/"+hexDigest+"?ns=docker.io", "User-Agent", "containerd/2.4", "X-Forwarded-For", "203.0.113.9")
	s.do(t, http.MethodGet, "/v2/lab/app/manifests/1.0")
	lines := s.lines(t, 2)
	for _, line := range lines {
		for _, name := range []string{"time", "level", "msg", "duration", "agent", "error"} {
			delete(line, name)
		}
	}
	want := []map[string]any{
		{"method": "GET", "kind": "blob", "upstream": "docker.io", "repository": "library/nginx", "reference": hexDigest, "digest": hexDigest,
			"status": 200.0, "outcome": "served", "verdict": "v1", "bytes": 16.0, "hit": true, "client": "127.0.0.1"},
		{"method": "GET", "kind": "manifest", "upstream": "lab", "repository": "app", "reference": "1.0", "digest": "",
			"status": 403.0, "outcome": "refused", "verdict": "abc123", "bytes": 0.0, "hit": false, "client": "127.0.0.1"},
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if err := testutil.GatherAndCompare(s.metrics, strings.NewReader(`
# HELP pratique_proxy_pulls_total Manifest GET requests by how they ended.
# TYPE pratique_proxy_pulls_total counter
pratique_proxy_pulls_total{outcome="refused"} 1
# HELP pratique_proxy_sent_bytes_total Bytes of content sent to clients, by kind.
# TYPE pratique_proxy_sent_bytes_total counter
pratique_proxy_sent_bytes_total{kind="blob"} 16
`), "pratique_proxy_pulls_total", "pratique_proxy_sent_bytes_total"); err != nil {
		t.Error(err)
	}
}

// containerd 1.x asks for the error document as a blob.
func TestServerEchoesErrorsAsBlobs(t *testing.T) {
	reg := registryFuncs{
		manifest: func(context.Context, Request) (Manifest, error) {
			return Manifest{}, &Error{Code: CodeDenied, Message: "CVE-2024-0001", Bare: true}
		},
		blob: func(context.Context, Request) (Blob, error) { return Blob{}, Errorf(CodeBlobUnknown, "unknown") },
	}
	now := time.Now()
	var mu sync.Mutex
	h := NewServer(reg, ServerConfig{Upstreams: testIndex(t), Log: slog.New(slog.DiscardHandler), Now: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}})
	ask := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	_, body := ask("/v2/lab/app/manifests/1")
	asBlob := "/blobs/" + digest.FromString(body).String()
	if status, got := ask("/v2/lab/app" + asBlob); status != 403 || got != body {
		t.Errorf("as a blob: %d %q", status, got)
	}
	if status, _ := ask("/v2/lab/other" + asBlob); status != 404 {
		t.Errorf("in another repository: %d, want 404", status)
	}
	if status, _ := ask("/v2/lab/app/blobs/" + hexDigest); status != 404 {
		t.Errorf("another blob: %d, want 404", status)
	}
	mu.Lock()
	now = now.Add(echoLife + time.Second)
	mu.Unlock()
	if status, _ := ask("/v2/lab/app" + asBlob); status != 404 {
		t.Errorf("after its life: %d, want 404", status)
	}
}

func TestEchoesAreBounded(t *testing.T) {
	s := newEchoes(time.Now)
	r := ref("lab/app", "1")
	for i := range 3 * maxEchos {
		s.add(r, fmt.Append(nil, i), &Error{Code: CodeDenied})
	}
	if len(s.byKey) != maxEchos || len(s.oldest) != maxEchos {
		t.Errorf("%d and %d echoes, want %d", len(s.byKey), len(s.oldest), maxEchos)
	}
	r.Digest = digest.FromString(fmt.Sprint(3*maxEchos - 1))
	if s.find(r) == nil {
		t.Error("the newest was dropped")
	}
}
