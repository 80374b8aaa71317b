package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/proxy/upstream"
)

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
