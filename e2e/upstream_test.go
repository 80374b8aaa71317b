//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"pratique/tools/images"
)

// Upstream is a stock distribution v3 registry that holds the sample images,
// behind a tap that records every request and can hold it up.
type Upstream struct {
	Addr   string // host:port of the tap
	sample map[string]remote.Taggable
	server *process
	tap    *httptest.Server

	mu       sync.Mutex
	requests []Request
	delay    func(*http.Request) time.Duration
}

// Request is one that the upstream saw.
type Request struct {
	Method, Path string
	Agent        string // User-Agent: who asked
	Status       int
	Bytes        int64 // of the answer's body
}

func (r Request) String() string {
	return fmt.Sprintf("%s %s %d (%s)", r.Method, r.Path, r.Status, r.Agent)
}

// Blob reports whether content was asked for, not merely named.
func (r Request) Blob() bool {
	return r.Method == http.MethodGet && strings.Contains(r.Path, "/blobs/")
}

// StartUpstream starts one with the sample images in it.
func StartUpstream(t testing.TB) *Upstream {
	t.Helper()
	return startUpstream(t, "")
}

// startUpstream starts one with more YAML in the registry's configuration.
func startUpstream(t testing.TB, extra string) *Upstream {
	t.Helper()
	dir, addr := workdir(t, "upstream"), freeAddr(t)
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf(`version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: %q, secret: e2e}
%s
`, filepath.Join(dir, "data"), addr, extra)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t, "registry"), "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	u := &Upstream{server: startProcess(t, "upstream", cmd)}
	u.server.waitFor(t, answers("http://"+addr+"/v2/"))

	set, err := images.Open(filepath.Join("..", images.Archive))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = set.Close() })
	if u.sample, err = set.Sample(); err != nil {
		t.Fatal(err)
	}
	if err := set.PushSample(t.Context(), addr); err != nil {
		t.Fatal(err)
	}

	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
	proxy.ErrorLog = log.New(io.Discard, "", 0) // clients that leave are part of the tests
	u.tap = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.hold(r)
		rec := &recorder{ResponseWriter: w}
		proxy.ServeHTTP(rec, r)
		u.mu.Lock()
		defer u.mu.Unlock()
		u.requests = append(u.requests, Request{Method: r.Method, Path: r.URL.Path, Agent: r.UserAgent(), Status: rec.status, Bytes: rec.bytes})
	}))
	u.Addr = strings.TrimPrefix(u.tap.URL, "http://")
	t.Cleanup(u.Stop)
	return u
}

func (u *Upstream) hold(r *http.Request) {
	u.mu.Lock()
	delay := u.delay
	u.mu.Unlock()
	if delay == nil {
		return
	}
	select {
	case <-time.After(delay(r)):
	case <-r.Context().Done():
	}
}

// Slow makes every request wait for as long as f says before it is answered.
func (u *Upstream) Slow(f func(*http.Request) time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.delay = f
}

// SlowBlobs makes every request for content wait.
func (u *Upstream) SlowBlobs(d time.Duration) {
	u.Slow(func(r *http.Request) time.Duration {
		if strings.Contains(r.URL.Path, "/blobs/") {
			return d
		}
		return 0
	})
}

// Requests returns what was asked since the last call of Forget.
func (u *Upstream) Requests() []Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]Request(nil), u.requests...)
}

// Forget empties the record.
func (u *Upstream) Forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests = nil
}

// Stop ends the upstream: connections to it are refused from now on.
func (u *Upstream) Stop() {
	u.tap.CloseClientConnections()
	u.tap.Close()
	u.server.stop()
}

// Digest is what the sample's name stands for.
func (u *Upstream) Digest(t testing.TB, sample string) string {
	t.Helper()
	d, err := partial.Digest(u.sample[sample].(partial.WithRawManifest))
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// Child is the image that a client of linux/arch gets: the index's child, or
// the image itself.
func (u *Upstream) Child(t testing.TB, sample, arch string) v1.Image {
	t.Helper()
	idx, ok := u.sample[sample].(v1.ImageIndex)
	if !ok {
		return u.sample[sample].(v1.Image)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Manifests {
		if d.Platform.Architecture == arch {
			img, err := idx.Image(d.Digest)
			if err != nil {
				t.Fatal(err)
			}
			return img
		}
	}
	t.Fatalf("%s has no child for %s", sample, arch)
	return nil
}

// recorder notes status and size of an answer.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// layers are the digests of everything below an image's manifest.
func (u *Upstream) layers(t testing.TB, sample string) []string {
	t.Helper()
	m, err := u.Child(t, sample, "amd64").Manifest()
	if err != nil {
		t.Fatal(err)
	}
	out := []string{m.Config.Digest.String()}
	for _, l := range m.Layers {
		out = append(out, l.Digest.String())
	}
	return out
}
