package database_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"pratique"
	"pratique/scanner/database"
)

const layerType = "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip"

// artifact is the image that Trivy publishes a database as.
func artifact(t testing.TB, raw []byte, mediaType string) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(raw, types.MediaType(mediaType)))
	if err != nil {
		t.Fatal(err)
	}
	img = mutate.MediaType(img, types.OCIManifestSchema1)
	return emptyConfig{mutate.ConfigMediaType(img, "application/vnd.aquasec.trivy.config.v1+json")}
}

// emptyConfig keeps the image's manifest but announces {} as the config, as
// Trivy's artifacts do.
type emptyConfig struct{ v1.Image }

func (e emptyConfig) RawConfigFile() ([]byte, error) { return []byte("{}"), nil }
func (e emptyConfig) ConfigName() (v1.Hash, error) {
	h, _, err := v1.SHA256(strings.NewReader("{}"))
	return h, err
}
func (e emptyConfig) Manifest() (*v1.Manifest, error) {
	m, err := e.Image.Manifest()
	if err != nil {
		return nil, err
	}
	m = m.DeepCopy()
	m.Config.Size = 2
	m.Config.Digest, err = e.ConfigName()
	return m, err
}
func (e emptyConfig) RawManifest() ([]byte, error) {
	m, err := e.Manifest()
	if err != nil {
		return nil, err
	}
	return jsonOf(m)
}
func (e emptyConfig) Digest() (v1.Hash, error) {
	raw, err := e.RawManifest()
	if err != nil {
		return v1.Hash{}, err
	}
	h, _, err := v1.SHA256(bytes.NewReader(raw))
	return h, err
}
func (e emptyConfig) Size() (int64, error) {
	raw, err := e.RawManifest()
	return int64(len(raw)), err
}

// source is a registry on loopback that records requests and fails when told.
type source struct {
	*httptest.Server
	ref string

	mu       sync.Mutex
	requests []string
	blobs    int                                               // fetched since it began
	fail     func(w http.ResponseWriter, r *http.Request) bool // true: answered
}

func newSource(t testing.TB) *source {
	t.Helper()
	s := &source{}
	next := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Method+" "+kindOf(r.URL.Path))
		if r.Method == http.MethodGet && kindOf(r.URL.Path) == "blob" {
			s.blobs++
		}
		fail := s.fail
		s.mu.Unlock()
		if fail == nil || !fail(w, r) {
			next.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	s.ref = u.Host + "/aquasec/trivy-db:2"
	return s
}

func kindOf(path string) string {
	switch {
	case strings.Contains(path, "/manifests/"):
		return "manifest"
	case strings.Contains(path, "/blobs/"):
		return "blob"
	}
	return path
}

// take returns the requests since the last call.
func (s *source) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.requests
	s.requests = nil
	return out
}

func (s *source) failing(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

func (s *source) push(t testing.TB, img v1.Image) {
	t.Helper()
	s.failing(nil)
	ref, err := name.ParseReference(s.ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	s.take()
}

func TestSources(t *testing.T) {
	first, second := newSource(t), newSource(t)
	s := newSetup(t, database.Config{Sources: []string{first.ref, second.ref}})
	first.push(t, artifact(t, archive(t, "old"), layerType))
	second.push(t, artifact(t, archive(t, "new"), layerType))

	check := func(what string, want digest.Digest, requests ...string) {
		t.Helper()
		if err := s.Check(t.Context()); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if want != "" && s.Status().Digest != want {
			t.Errorf("%s: %s stands, want %s", what, s.Status().Digest, want)
		}
		if diff := cmp.Diff(requests, first.take()); diff != "" {
			t.Errorf("%s: requests (-want +got):\n%s", what, diff)
		}
	}
	check("first fetch", "", "GET /v2/", "HEAD manifest", "GET manifest", "GET blob", "GET blob")
	old := s.Status().Digest
	if st := s.Status(); !st.UpdatedAt.Equal(oldAt) || st.Source != first.ref || !st.LastCheck.Equal(now) || !st.DownloadedAt.Equal(now) {
		t.Errorf("status %+v", st)
	}
	check("nothing new", old, "GET /v2/", "HEAD manifest")
	if got := second.take(); len(got) > 0 {
		t.Errorf("the second source was asked although the first answers: %v", got)
	}

	first.push(t, artifact(t, archive(t, "new"), layerType))
	check("an update", "", "GET /v2/", "HEAD manifest", "GET manifest", "GET blob", "GET blob")
	fresh := s.Status().Digest
	if fresh == old {
		t.Error("the update was not adopted")
	}
	// The first goes down, the second has the same artifact.
	first.failing(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true })
	check("fallback", fresh, "GET /v2/")
	if diff := cmp.Diff([]string{"GET /v2/", "HEAD manifest"}, second.take()); diff != "" {
		t.Errorf("second source (-want +got):\n%s", diff)
	}
}

// TestSourceFailures: the standing database stays, whatever a source does; a
// refused offer is not fetched twice, a failed transfer is.
func TestSourceFailures(t *testing.T) {
	fresh := archive(t, "new")
	good := artifact(t, fresh, layerType)
	answer := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(code); return true }
	}
	// onLayer answers for the layer's blob, the large one.
	onLayer := func(f func(w http.ResponseWriter, r *http.Request)) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/blobs/"+digest.FromBytes(fresh).String()) {
				return false
			}
			f(w, r)
			return true
		}
	}
	two, err := mutate.AppendLayers(empty.Image, static.NewLayer(fresh, layerType), static.NewLayer(fresh, layerType))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		image  v1.Image
		fail   func(http.ResponseWriter, *http.Request) bool
		reason string   // of the refusal; empty: a failure that may pass
		again  []string // requests of the next check
	}{
		{"429", good, answer(429), "", []string{"GET /v2/"}},
		{"500", good, answer(500), "", []string{"GET /v2/"}},
		{"404", good, answer(404), "", []string{"GET /v2/"}},
		{"layer cut short", good, onLayer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(fresh)))
			_, _ = w.Write(fresh[:len(fresh)/2])
		}), database.ReasonDigest, []string{"GET /v2/", "HEAD manifest", "GET manifest", "GET blob", "GET blob"}},
		{"layer cut short, well-formed", good, onLayer(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(fresh[:len(fresh)/2])
		}), "", []string{"GET /v2/", "HEAD manifest", "GET manifest", "GET blob", "GET blob"}},
		{"another layer", good, onLayer(func(w http.ResponseWriter, _ *http.Request) {
			b := bytes.Clone(fresh)
			b[len(b)/2] ^= 1
			_, _ = w.Write(b)
		}), "", []string{"GET /v2/", "HEAD manifest", "GET manifest", "GET blob", "GET blob"}},
		{"another database in place of the layer", good, onLayer(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(archive(t, "old"))
		}), "", []string{"GET /v2/", "HEAD manifest", "GET manifest", "GET blob", "GET blob"}},
		{"layer is gone", good, onLayer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }),
			"", []string{"GET /v2/", "HEAD manifest", "GET manifest", "GET blob", "GET blob"}},
		{"another media type", artifact(t, fresh, "application/vnd.oci.image.layer.v1.tar+gzip"), nil,
			"", []string{"GET /v2/", "HEAD manifest", "GET manifest"}},
		{"two layers", two, nil, "", []string{"GET /v2/", "HEAD manifest", "GET manifest"}},
		{"an older one", artifact(t, edit(t, "new", oldAt.Add(-time.Hour), func(string) {}), layerType), nil,
			database.ReasonOlder, []string{"GET /v2/", "HEAD manifest"}},
		{"an empty one", artifact(t, edit(t, "new", newAt, emptyDatabase(t)), layerType), nil,
			database.ReasonEmpty, []string{"GET /v2/", "HEAD manifest"}},
		{"not an archive", artifact(t, []byte("this is not an archive at all"), layerType), nil,
			database.ReasonArchive, []string{"GET /v2/", "HEAD manifest"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := newSource(t)
			s := newSetup(t, database.Config{Sources: []string{src.ref}})
			standing := s.mustImport(t, archive(t, "old")).Digest
			src.push(t, c.image)
			src.failing(c.fail)
			err := s.Check(t.Context())
			if err == nil {
				t.Fatal("no error")
			}
			var r *database.Refusal
			if refused := errors.As(err, &r); c.reason != "" && (!refused || r.Reason != c.reason) {
				t.Errorf("got %v, want a refusal for %q", err, c.reason)
			}
			if _, d := s.answer(t.Context(), t); d != standing {
				t.Errorf("%s answers, want %s", d, standing)
			}
			if st := s.Status(); st.LastError == "" || st.Digest != standing {
				t.Errorf("status %+v", st)
			}
			src.take()
			if err := s.Check(t.Context()); err == nil {
				t.Error("the second check succeeded")
			}
			if diff := cmp.Diff(c.again, src.take()); diff != "" {
				t.Errorf("requests of the second check (-want +got):\n%s", diff)
			}
			// When the source recovers, so does the database, at once.
			src.push(t, artifact(t, archive(t, "new"), layerType))
			if err := s.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			if st := s.Status(); st.LastError != "" || !st.UpdatedAt.Equal(newAt) {
				t.Errorf("after recovery: %+v", st)
			}
		})
	}
}

// TestRetryAfter: a source that says when to come back is not asked before.
func TestRetryAfter(t *testing.T) {
	src, other := newSource(t), newSource(t)
	clock := now
	s := newSetup(t, database.Config{Sources: []string{src.ref, other.ref}, Now: func() time.Time { return clock }})
	src.push(t, artifact(t, archive(t, "new"), layerType))
	src.failing(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "600")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	for range 3 {
		if err := s.Check(t.Context()); err == nil {
			t.Fatal("no error")
		}
		clock = clock.Add(3 * time.Minute)
	}
	if got := src.take(); len(got) != 1 {
		t.Errorf("asked %v within ten minutes", got)
	}
	if got := other.take(); len(got) != 6 { // /v2/ and manifest, three times
		t.Errorf("the other source was asked %v", got)
	}
	clock = clock.Add(2 * time.Minute)
	src.failing(nil)
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.Status().Digest == "" {
		t.Error("nothing adopted")
	}
}

// TestOnlyConfigured: nothing but the source is dialled, whatever its challenge
// names; the transport decides.
func TestOnlyConfigured(t *testing.T) {
	var dialled []string
	rt := roundTrip(func(r *http.Request) (*http.Response, error) {
		dialled = append(dialled, r.URL.Host)
		return nil, errors.New("no network")
	})
	s := newSetup(t, database.Config{Sources: []string{"mirror.gcr.io/aquasec/trivy-db:2", "ghcr.io/aquasecurity/trivy-db:2"}, Transport: rt})
	if err := s.Check(t.Context()); err == nil {
		t.Fatal("no error")
	}
	slices.Sort(dialled)
	if diff := cmp.Diff([]string{"ghcr.io", "mirror.gcr.io"}, slices.Compact(dialled)); diff != "" {
		t.Errorf("dialled (-want +got):\n%s", diff)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestValidSource(t *testing.T) {
	for s, ok := range map[string]bool{
		"mirror.gcr.io/aquasec/trivy-db:2":                                true,
		"ghcr.io/aquasecurity/trivy-db@sha256:" + strings.Repeat("a", 64): true,
		"http://registry.lab:5000/trivy-db:2":                             true,
		"https://registry.lab/trivy-db":                                   true,
		"localhost:5000/trivy-db:2":                                       true,
		"aquasec/trivy-db:2":                                              false, // Docker Hub is never implied
		"trivy-db":                                                        false,
		"":                                                                false,
		"ghcr.io/UPPER/db:2":                                              false,
		"ftp://ghcr.io/a/b":                                               false,
	} {
		if err := database.ValidSource(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
		if err := database.ValidSource(s); err != nil && !errors.Is(err, pratique.ErrInvalid) {
			t.Errorf("%q: %v is not ErrInvalid", s, err)
		}
	}
}

// TestImportBesideStall: a source that never ends its answer does not keep an
// operator from importing by hand.
func TestImportBesideStall(t *testing.T) {
	src := newSource(t)
	s := newSetup(t, database.Config{Sources: []string{src.ref}})
	src.push(t, artifact(t, archive(t, "old"), layerType))
	stalled := make(chan struct{})
	src.failing(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, digest.FromBytes(archive(t, "old")).String()) {
			return false
		}
		w.Header().Set("Content-Length", "200000")
		_, _ = w.Write(archive(t, "old")[:1000])
		_ = http.NewResponseController(w).Flush()
		close(stalled)
		<-r.Context().Done()
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	checked := make(chan error, 1)
	go func() { checked <- s.Check(ctx) }()
	<-stalled
	s.mustImport(t, archive(t, "new"))
	s.answer(t.Context(), t)
	cancel()
	if err := <-checked; !errors.Is(err, context.Canceled) {
		t.Errorf("Check ended with %v", err)
	}
	if es := kept(t, s.dir); len(es) != 2 {
		t.Errorf("left behind: %v", es)
	}
}

// TestMetricsOfBothKinds: both databases register beside each other.
func TestMetricsOfBothKinds(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	s := newSetup(t, database.Config{Metrics: reg})
	database.NewJava(database.Config{Dir: t.TempDir(), Metrics: reg})
	s.mustImport(t, archive(t, "new"))
	want := fmt.Sprintf(`
# HELP pratique_database_age_seconds Age of the adopted database's content; 0 while there is none.
# TYPE pratique_database_age_seconds gauge
pratique_database_age_seconds{kind="java"} 0
pratique_database_age_seconds{kind="vulnerability"} %g
`, now.Sub(newAt).Seconds())
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "pratique_database_age_seconds"); err != nil {
		t.Error(err)
	}
}
