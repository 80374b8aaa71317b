package lineage_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/evidence/lineage"
	"pratique/internal/sqlite"
	"pratique/policy"
	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/proxy/upstream"
	"pratique/store"
)

const (
	needTags  = policy.NeedTags
	needNewer = policy.NeedNewer
	needBase  = policy.NeedBase
	needAll   = needTags | needNewer | needBase
)

// world is a lineage over a real cache, a real state file and an upstream on
// loopback, with a clock that only the test moves and a gate that says what the
// test wants.
type world struct {
	*lineage.Lineage
	t     *testing.T
	up    *proxytest.Upstream
	cache *proxy.Cache
	db    *sqlite.DB
	cfg   lineage.Config
	turn  func(ctx context.Context, every bool)
	sizes map[digest.Digest]int64

	mu        sync.Mutex
	now       time.Time
	gate      map[string]bool // by tag: scanned, and whether it may be had
	requested []string        // tags, since asked last
	judge     func(ctx context.Context, ref pratique.Ref) (bool, error)
}

var begin = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func newWorld(t *testing.T, change ...func(*lineage.Config)) *world {
	t.Helper()
	w := &world{t: t, up: proxytest.New(t), now: begin, gate: map[string]bool{}, sizes: map[digest.Digest]int64{}}
	quiet := slog.New(slog.DiscardHandler)
	client, err := upstream.New("docker.io", upstream.Config{URL: w.up.URL, Private: true, RetryPause: time.Millisecond, BreakAfter: 1000, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	blobs, err := store.OpenBlobs(t.Context(), store.BlobsConfig{Parameters: map[string]any{"rootdirectory": t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	if w.db, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.db.Close() })
	w.cache = proxy.NewCache(map[string]proxy.Upstream{"docker.io": client}, blobs, w.db, w.db, proxy.CacheConfig{Now: w.clock, Log: quiet})
	t.Cleanup(func() { _ = w.cache.Close(context.Background()) })
	names, err := proxy.NewUpstreamIndex(map[string]string{"docker.io": w.up.URL})
	if err != nil {
		t.Fatal(err)
	}
	w.cfg = lineage.Config{Compliant: w.compliant, Request: w.request, Upstreams: names.Ref, Log: quiet, Now: w.clock}
	for _, f := range change {
		f(&w.cfg)
	}
	w.restart()
	return w
}

// restart forgets all that is not in the state file.
func (w *world) restart() {
	w.Lineage = lineage.New(registry{w.cache}, w.db, w.cfg)
	w.turn = w.Passes()
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) wait(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// compliant says of a tag what the test put into gate.
func (w *world) compliant(ctx context.Context, ref pratique.Ref) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.judge != nil {
		judge := w.judge
		w.mu.Unlock()
		defer w.mu.Lock()
		return judge(ctx, ref)
	}
	ok, scanned := w.gate[ref.Tag]
	if !scanned {
		return false, fmt.Errorf("%s: %w", ref, pratique.ErrPending)
	}
	return ok, nil
}

func (w *world) request(_ context.Context, ref pratique.Ref) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requested = append(w.requested, ref.Tag)
	return nil
}

// allow has the gate let tags through, or not.
func (w *world) allow(ok bool, tags ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, tag := range tags {
		w.gate[tag] = ok
	}
}

func (w *world) takeRequested() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.requested
	w.requested = nil
	slices.Sort(out)
	return out
}

// image puts an image with these layers and annotations behind a tag upstream.
func (w *world) image(name string, annotations map[string]string, layers ...string) digest.Digest {
	w.t.Helper()
	repo, tag, _ := strings.Cut(name, ":")
	doc := map[string]any{
		"schemaVersion": 2, "mediaType": pratique.MediaTypeImageManifest, "annotations": annotations,
		"config": w.up.Blob(repo, pratique.MediaTypeImageConfig, fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","made":%q}`, name+strings.Join(layers, ","))),
	}
	var ds []pratique.Descriptor
	for _, l := range layers {
		ds = append(ds, w.up.Blob(repo, "application/vnd.oci.image.layer.v1.tar+gzip", []byte(l)))
	}
	doc["layers"] = ds
	return w.put(repo, tag, pratique.MediaTypeImageManifest, doc)
}

// index puts an index of images behind a tag upstream.
func (w *world) index(name string, children ...digest.Digest) digest.Digest {
	w.t.Helper()
	repo, tag, _ := strings.Cut(name, ":")
	var ds []pratique.Descriptor
	for i, c := range children {
		ds = append(ds, pratique.Descriptor{
			MediaType: pratique.MediaTypeImageManifest, Digest: c, Size: w.sizes[c],
			Platform: &pratique.Platform{OS: "linux", Architecture: []string{"amd64", "arm64"}[i]},
		})
	}
	return w.put(repo, tag, pratique.MediaTypeImageIndex, map[string]any{
		"schemaVersion": 2, "mediaType": pratique.MediaTypeImageIndex, "manifests": ds,
	})
}

func (w *world) put(repo, tag, mediaType string, doc any) digest.Digest {
	w.t.Helper()
	raw, err := json.Marshal(doc)
	if err != nil {
		w.t.Fatal(err)
	}
	d := w.up.Manifest("library/"+repo, tag, mediaType, raw)
	w.sizes[d] = int64(len(raw))
	return d
}

// ref reads nginx:1.27 or nginx@sha256:….
func (w *world) ref(name string) pratique.Ref {
	w.t.Helper()
	ref, err := pratique.ParseRef("docker.io/library/" + name)
	if err != nil {
		w.t.Fatal(err)
	}
	return ref
}

// pull pulls a name through the cache.
func (w *world) pull(name string) (pratique.Ref, pratique.Image) {
	w.t.Helper()
	ref := w.ref(name)
	m, err := w.cache.Manifest(w.t.Context(), proxy.Request{Ref: ref, N: -1})
	if err != nil {
		w.t.Fatal(err)
	}
	return ref, m.Image
}

// ask pulls a name and asks for its lineage.
func (w *world) ask(name string, needs policy.Needs) pratique.Lineage {
	w.t.Helper()
	ref, img := w.pull(name)
	return w.about(ref, img, needs)
}

func (w *world) about(ref pratique.Ref, img pratique.Image, needs policy.Needs) pratique.Lineage {
	w.t.Helper()
	got, err := w.Lineage.Lineage(w.t.Context(), ref, img, needs, false)
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

// pass is one turn of Run.
func (w *world) pass() { w.turn(w.t.Context(), true) }

// newer says what l.Newer holds: "minor 1.28.0 +" is compliant.
func newer(l pratique.Lineage) []string {
	out := []string{}
	for _, n := range l.Newer {
		s := string(n.Level) + " " + n.Tag
		if n.Compliant {
			s += " +"
		}
		out = append(out, s)
	}
	return out
}

// lists and tags are how many lists and single tags the upstream was asked for
// since it was asked last.
func (w *world) lookups() (lists, tags int) {
	for _, line := range w.up.Seen() {
		switch {
		case strings.Contains(line, "/tags/list") && !strings.Contains(line, "last="):
			lists++
		case strings.Contains(line, "/manifests/") && !strings.Contains(line, "/manifests/sha256:"):
			tags++
		}
	}
	return lists, tags
}

func (w *world) down() { w.up.Fault("", 0, proxytest.Status(http.StatusServiceUnavailable)) }

// registry is the cache as evidence.Registry; the one that ships is tested in
// cmd/pratique.
type registry struct{ cache *proxy.Cache }

func absent(err error) error {
	if e, ok := errors.AsType[*proxy.Error](err); ok && e.Status() == http.StatusNotFound {
		return fmt.Errorf("%w: %w", pratique.ErrNotFound, err)
	}
	return err
}

func (r registry) Manifest(ctx context.Context, ref pratique.Ref) (pratique.Image, []byte, error) {
	m, err := r.cache.Manifest(ctx, proxy.Request{Ref: ref, N: -1})
	return m.Image, m.Raw, absent(err)
}

func (r registry) Blob(context.Context, pratique.Ref, pratique.Descriptor, int64) (io.ReadCloser, error) {
	return nil, errors.New("lineage reads no blobs")
}

func (r registry) Referrers(context.Context, pratique.Ref) ([]pratique.Descriptor, error) {
	return nil, errors.New("lineage reads no referrers")
}

func (r registry) Tags(ctx context.Context, ref pratique.Ref) ([]string, error) {
	l, err := r.cache.Tags(ctx, proxy.Request{Ref: ref, N: -1})
	return l.Tags, absent(err)
}

func (r registry) Resolve(ctx context.Context, ref pratique.Ref) (digest.Digest, error) {
	m, err := r.cache.Manifest(ctx, proxy.Request{Ref: ref, N: -1})
	if err == nil && m.Stale {
		err = errors.New("the upstream does not answer")
	}
	return m.Image.Digest, absent(err)
}
