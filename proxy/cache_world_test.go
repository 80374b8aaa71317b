package proxy_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"pratique"
	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/proxy/upstream"
	"pratique/store"
)

// pulled is a cache over two upstreams, with a clock that only the test moves.
type pulled struct {
	*proxy.Cache
	t        *testing.T
	lab, hub *proxytest.Upstream
	state    *proxytest.State
	blobs    *store.Blobs
	dir      string
	stall    time.Duration // time-outs of the upstream clients
	clients  []func(*upstream.Config)

	mu  sync.Mutex
	now time.Time
}

// newPulled starts a cache with upstreams "lab" and "hub". At the end of the
// test nothing may be running.
func newPulled(t *testing.T, change ...func(*proxy.CacheConfig)) *pulled {
	t.Helper()
	return newStalling(t, 30*time.Second, change...)
}

// newStalling is newPulled with other time-outs of the upstream clients.
func newStalling(t *testing.T, stall time.Duration, change ...func(*proxy.CacheConfig)) *pulled {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	p := &pulled{
		t: t, lab: proxytest.New(t), hub: proxytest.New(t), state: proxytest.NewState(), dir: t.TempDir(), stall: stall,
		now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC),
	}
	p.start(change...)
	return p
}

// start makes the cache, as after a restart of the process.
func (p *pulled) start(change ...func(*proxy.CacheConfig)) {
	p.t.Helper()
	p.startOver(p.state, p.state, change...)
}

// startOver is start over another state.
func (p *pulled) startOver(catalog store.Catalog, tags store.Tags, change ...func(*proxy.CacheConfig)) {
	p.t.Helper()
	ups := map[string]proxy.Upstream{}
	for key, u := range map[string]*proxytest.Upstream{"lab": p.lab, "hub": p.hub} {
		cfg := upstream.Config{
			URL: u.URL, Private: true, HeaderTimeout: p.stall, StallTimeout: p.stall, RetryPause: time.Millisecond,
			BreakPause: 10 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
		}
		for _, f := range p.clients {
			f(&cfg)
		}
		c, err := upstream.New(key, cfg)
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Cleanup(c.Close)
		ups[key] = c
	}
	var err error
	p.blobs, err = store.OpenBlobs(p.t.Context(), store.BlobsConfig{Parameters: map[string]any{"rootdirectory": p.dir}})
	if err != nil {
		p.t.Fatal(err)
	}
	blobs := p.blobs
	p.t.Cleanup(func() {
		if err := blobs.Close(); err != nil {
			p.t.Error(err)
		}
	})
	cfg := proxy.CacheConfig{Now: p.clock, Log: slog.New(slog.DiscardHandler), ResumePause: time.Millisecond}
	for _, f := range change {
		f(&cfg)
	}
	p.Cache = proxy.NewCache(ups, p.blobs, catalog, tags, cfg)
	cache := p.Cache
	p.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := cache.Close(ctx); err != nil {
			p.t.Error(err)
		}
	})
}

func (p *pulled) clock() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

func (p *pulled) wait(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = p.now.Add(d)
}

func ref(t *testing.T, s string) pratique.Ref {
	t.Helper()
	r, err := pratique.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (p *pulled) manifest(s string) (proxy.Manifest, error) {
	return p.Manifest(p.t.Context(), proxy.Request{Ref: ref(p.t, s)})
}

// mustManifest fails the test unless s is the manifest d.
func (p *pulled) mustManifest(s string, d digest.Digest) proxy.Manifest {
	p.t.Helper()
	m, err := p.manifest(s)
	if err != nil {
		p.t.Fatalf("%s: %v", s, err)
	}
	if m.Image.Digest != d || digest.FromBytes(m.Raw) != d {
		p.t.Fatalf("%s is %s, want %s", s, m.Image.Digest, d)
	}
	return m
}

func (p *pulled) blob(repo string, d digest.Digest) (proxy.Blob, error) {
	return p.Blob(p.t.Context(), proxy.Request{Ref: ref(p.t, repo+"@"+d.String())})
}

// read reads a blob from offset.
func read(b proxy.Blob, offset int64) ([]byte, error) {
	r, err := b.Open(offset)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(r)
	return got, errors.Join(err, r.Close())
}

func (p *pulled) pull(repo string, d digest.Digest) ([]byte, error) {
	b, err := p.blob(repo, d)
	if err != nil {
		return nil, err
	}
	return read(b, 0)
}

// exists waits for the end of the transfer of d and reports whether it is stored.
func (p *pulled) exists(d digest.Digest) bool {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		p.t.Error(err)
	}
	_, err := p.blobs.Stat(p.t.Context(), d)
	if err != nil && !errors.Is(err, pratique.ErrNotFound) {
		p.t.Fatal(err)
	}
	return err == nil
}

// spool are the files of blobs in arrival.
func (p *pulled) spool() []string {
	files, err := filepath.Glob(filepath.Join(p.dir, "spool", "*", "*-*"))
	if err != nil {
		p.t.Fatal(err)
	}
	return files
}

func noise(seed byte, n int) []byte {
	raw := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(raw)
	return raw
}

// wants fails unless err is an *Error with the code and status.
func wants(t *testing.T, err error, code proxy.Code, status int) *proxy.Error {
	t.Helper()
	var e *proxy.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no *proxy.Error", err)
	}
	if e.Code != code || e.Status() != status {
		t.Errorf("%s %d (%s), want %s %d", e.Code, e.Status(), e.Message, code, status)
	}
	return e
}

// down makes an upstream answer 503 to everything.
func down(u *proxytest.Upstream) { u.Fault("", 0, proxytest.Status(http.StatusServiceUnavailable)) }
