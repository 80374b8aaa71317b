package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/proxy/upstream"
	"pratique/store"
)

// readerWorld is a reader over a real cache and an upstream on loopback.
type readerWorld struct {
	reader
	t  *testing.T
	up *proxytest.Upstream

	mu  sync.Mutex
	now time.Time
}

func newReaderWorld(t *testing.T) *readerWorld {
	t.Helper()
	w := &readerWorld{t: t, up: proxytest.New(t), now: scannedAt}
	quiet := slog.New(slog.DiscardHandler)
	client, err := upstream.New("lab", upstream.Config{URL: w.up.URL, Private: true, RetryPause: time.Millisecond, BreakAfter: 1000, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	blobs, err := store.OpenBlobs(t.Context(), store.BlobsConfig{Parameters: map[string]any{"rootdirectory": t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	state := proxytest.NewState()
	w.cache = proxy.NewCache(map[string]proxy.Upstream{"lab": client}, blobs, state, state, proxy.CacheConfig{
		Log: quiet, ResumePause: time.Millisecond, MaxResumes: 1,
		Now: func() time.Time {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.now
		},
	})
	t.Cleanup(func() { _ = w.cache.Close(context.Background()) })
	return w
}

func (w *readerWorld) ref(s string) pratique.Ref {
	w.t.Helper()
	ref, err := pratique.ParseRef("lab/" + s)
	if err != nil {
		w.t.Fatal(err)
	}
	return ref
}

// questions are all that a reader can be asked about a reference, which has a
// digest where that matters.
func (w *readerWorld) questions(ref pratique.Ref) map[string]error {
	_, _, manifest := w.Manifest(w.t.Context(), ref)
	_, tags := w.Tags(w.t.Context(), ref)
	_, resolve := w.Resolve(w.t.Context(), ref)
	_, blob := w.readBlob(ref, pratique.Descriptor{Digest: digest.FromString("no such blob"), Size: 5}, 100)
	_, referrers := w.Referrers(w.t.Context(), ref.At(digest.FromString("no such subject")))
	return map[string]error{"manifest": manifest, "tags": tags, "resolve": resolve, "blob": blob, "referrers": referrers}
}

func (w *readerWorld) readBlob(ref pratique.Ref, d pratique.Descriptor, limit int64) ([]byte, error) {
	body, err := w.Blob(w.t.Context(), ref, d, limit)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

func TestReader(t *testing.T) {
	w := newReaderWorld(t)
	d, raw := w.up.Image("team/app", "1.0", []byte("layer"))
	for _, tag := range []string{"1.1", "1.2", "1.3", "1.4"} {
		w.up.Image("team/app", tag, []byte(tag))
	}
	for _, name := range []string{"team/app:1.0", "team/app@" + d.String(), "team/app:nonsense@" + d.String()} {
		img, got, err := w.Manifest(t.Context(), w.ref(name))
		if err != nil || img.Digest != d || !bytes.Equal(got, raw) {
			t.Errorf("%s: %s, %v", name, img.Digest, err)
		}
	}
	tags, err := w.Tags(t.Context(), w.ref("team/app:1.0"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1.0", "1.1", "1.2", "1.3", "1.4"}, tags); diff != "" {
		t.Error(diff)
	}
	if got, err := w.Resolve(t.Context(), w.ref("team/app:1.0")); err != nil || got != d {
		t.Errorf("resolved %s, %v; want %s", got, err, d)
	}
	// By tag, whatever digest comes with it.
	if got, err := w.Resolve(t.Context(), w.ref("team/app:1.1@"+d.String())); err != nil || got == d {
		t.Errorf("resolved %s, %v; want what the tag names", got, err)
	}
}

func TestReaderReferrers(t *testing.T) {
	for _, api := range []bool{true, false} {
		w := newReaderWorld(t)
		d, raw := w.up.Image("team/app", "1.0", []byte("layer"))
		if none, err := w.Referrers(t.Context(), w.ref("team/app@"+d.String())); err != nil || len(none) > 0 {
			t.Errorf("no referrers: %v, %v", none, err)
		}
		signature := signatureOf(t, w.up, "team/app", pratique.Descriptor{MediaType: pratique.MediaTypeImageManifest, Digest: d, Size: int64(len(raw))})
		if !api {
			w.up.NoReferrers()
			doc, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": pratique.MediaTypeImageIndex, "manifests": []pratique.Descriptor{signature}})
			if err != nil {
				t.Fatal(err)
			}
			w.up.Manifest("team/app", strings.Replace(d.String(), ":", "-", 1), pratique.MediaTypeImageIndex, doc)
		}
		got, err := w.Referrers(t.Context(), w.ref("team/app@"+d.String()))
		if err != nil || len(got) != 1 || got[0].Digest != signature.Digest {
			t.Errorf("api %v: %v, %v", api, got, err)
		}
	}
}

// signatureOf puts an artifact that refers to subject upstream.
func signatureOf(t *testing.T, up *proxytest.Upstream, repo string, subject pratique.Descriptor) pratique.Descriptor {
	t.Helper()
	raw, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": pratique.MediaTypeImageManifest, "artifactType": "application/vnd.example.signature", "subject": subject,
		"config": up.Blob(repo, pratique.MediaTypeEmptyJSON, []byte("{}")), "layers": []pratique.Descriptor{up.Blob(repo, "text/plain", []byte("signed"))},
	})
	if err != nil {
		t.Fatal(err)
	}
	return pratique.Descriptor{
		MediaType: pratique.MediaTypeImageManifest, Size: int64(len(raw)), ArtifactType: "application/vnd.example.signature",
		Digest: up.Manifest(repo, "", pratique.MediaTypeImageManifest, raw),
	}
}

// TestReaderTellsAbsentFromFailed: only an upstream's word that there is nothing
// counts as nothing.
func TestReaderTellsAbsentFromFailed(t *testing.T) {
	w := newReaderWorld(t)
	w.up.Image("team/app", "1.0", []byte("layer"))
	for name, err := range w.questions(w.ref("team/none:1.0")) {
		if name == "referrers" { // none is an answer
			if err != nil {
				t.Errorf("absent %s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, pratique.ErrNotFound) {
			t.Errorf("absent %s: %v", name, err)
		}
	}
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusInternalServerError} {
		w.up.Fault("", 0, proxytest.Status(status))
		for name, err := range w.questions(w.ref("team/app:1.0")) {
			if err == nil || errors.Is(err, pratique.ErrNotFound) {
				t.Errorf("status %d, %s: %v", status, name, err)
			}
		}
		w.up.Heal()
	}
	w.up.Seen()
	for name, err := range w.questions(pratique.Ref{Registry: strings.TrimPrefix(w.up.URL, "http://"), Repo: "team/app", Tag: "1.0"}) {
		if err == nil || errors.Is(err, pratique.ErrNotFound) {
			t.Errorf("an upstream that is not configured, %s: %v", name, err)
		}
	}
	if seen := w.up.Seen(); len(seen) > 0 {
		t.Errorf("an upstream that is not configured was dialled: %v", seen)
	}
}

func TestReaderResolvesWithTheUpstreamsWord(t *testing.T) {
	w := newReaderWorld(t)
	d, _ := w.up.Image("team/app", "1.0", []byte("layer"))
	if got, err := w.Resolve(t.Context(), w.ref("team/app:1.0")); err != nil || got != d {
		t.Fatal(got, err)
	}
	w.up.Fault("", 0, proxytest.Status(http.StatusServiceUnavailable))
	w.mu.Lock()
	w.now = w.now.Add(10 * time.Minute)
	w.mu.Unlock()
	// The cache still serves it: that is for pulls.
	if _, _, err := w.Manifest(t.Context(), w.ref("team/app:1.0")); err != nil {
		t.Error(err)
	}
	if got, err := w.Resolve(t.Context(), w.ref("team/app:1.0")); err == nil || errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("resolved %s without the upstream", got)
	}
}

func TestReaderBoundsBlobs(t *testing.T) {
	content := bytes.Repeat([]byte("blob"), 20_000)
	for _, tc := range []struct {
		name   string
		size   int64 // that the descriptor says
		limit  int64
		fault  proxytest.Fault
		stored bool
		ok     bool
	}{
		{name: "as said", size: 80_000, limit: 80_000, ok: true},
		{name: "as said, stored", size: 80_000, limit: 80_000, stored: true, ok: true},
		{name: "too large", size: 80_000, limit: 79_999},
		{name: "too large, stored", size: 80_000, limit: 79_999, stored: true},
		{name: "said to be smaller", size: 10, limit: 1000},
		{name: "said to be smaller, stored", size: 10, limit: 1000, stored: true},
		{name: "said to be empty", size: 0, limit: 1000},
		{name: "said to be less than nothing", size: -1, limit: 1 << 30},
		{name: "said to be larger", size: 90_000, limit: 100_000},
		{name: "cut", size: 80_000, limit: 80_000, fault: proxytest.Truncate(1000)},
		{name: "spoilt", size: 80_000, limit: 80_000, fault: proxytest.Corrupt(40_000)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newReaderWorld(t)
			d := w.up.Blob("team/app", "text/plain", content)
			if tc.stored {
				if _, err := w.readBlob(w.ref("team/app:1"), d, 1<<20); err != nil {
					t.Fatal(err)
				}
			}
			if tc.fault != nil {
				w.up.Fault("GET /v2/team/app/blobs/", 0, tc.fault)
			}
			d.Size = tc.size
			got, err := w.readBlob(w.ref("team/app:1"), d, tc.limit)
			if tc.ok && (err != nil || !bytes.Equal(got, content)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if !tc.ok && (err == nil || errors.Is(err, pratique.ErrNotFound)) {
				t.Errorf("%d bytes, error %v", len(got), err)
			}
		})
	}
}

func TestBoundedReader(t *testing.T) {
	r := &bounded{io.NopCloser(strings.NewReader("more than said")), 4}
	if got, err := io.ReadAll(r); !errors.Is(err, pratique.ErrInvalid) || len(got) > 4 {
		t.Errorf("%q, %v", got, err)
	}
	r = &bounded{io.NopCloser(strings.NewReader("said")), 4}
	if got, err := io.ReadAll(r); err != nil || string(got) != "said" {
		t.Errorf("%q, %v", got, err)
	}
}

// gateSays answers for each digest.
type gateSays struct {
	reports  map[digest.Digest]pratique.State
	outcomes map[digest.Digest]pratique.Outcome
	images   map[digest.Digest]pratique.Image
	fail     error
	checked  []pratique.Ref
}

func (g *gateSays) Standing(_ context.Context, ref pratique.Ref, img pratique.Image) (pratique.Decision, error) {
	return pratique.Decision{
		Ref: ref, Image: img, Report: pratique.Report{Image: img.Digest, State: g.reports[img.Digest]},
		Verdict: pratique.Verdict{Outcome: g.outcomes[img.Digest]},
	}, g.fail
}

func (g *gateSays) Check(_ context.Context, ref pratique.Ref, client netip.Addr, wait time.Duration) (pratique.Decision, error) {
	if client.IsValid() || wait != 0 {
		return pratique.Decision{}, errors.New("a check for nobody that does not wait")
	}
	g.checked = append(g.checked, ref)
	return pratique.Decision{}, pratique.ErrPending
}

func (g *gateSays) Image(_ context.Context, d digest.Digest) (pratique.Image, error) {
	img, ok := g.images[d]
	if !ok {
		return img, pratique.ErrNotFound
	}
	return img, nil
}

func TestNewerVersions(t *testing.T) {
	amd64, arm64 := pratique.Platform{OS: "linux", Architecture: "amd64"}, pratique.Platform{OS: "linux", Architecture: "arm64"}
	image := func(name string) pratique.Image {
		return pratique.Image{
			Digest: digest.FromString(name), Kind: pratique.KindImage, MediaType: pratique.MediaTypeImageManifest,
			Config: pratique.Descriptor{MediaType: pratique.MediaTypeImageConfig}, Layers: []pratique.Descriptor{{Digest: digest.FromString("layer")}},
		}
	}
	index := func(name string, children ...string) pratique.Image {
		img := pratique.Image{Digest: digest.FromString(name), Kind: pratique.KindIndex}
		for i, c := range children {
			p := []pratique.Platform{amd64, arm64, {OS: "windows", Architecture: "amd64"}}[i]
			img.Children = append(img.Children, pratique.Descriptor{Digest: digest.FromString(c), Platform: &p, MediaType: pratique.MediaTypeImageManifest})
		}
		return img
	}
	loop := index("loop", "loop")
	g := &gateSays{images: map[digest.Digest]pratique.Image{}, reports: map[digest.Digest]pratique.State{}, outcomes: map[digest.Digest]pratique.Outcome{}}
	for _, img := range []pratique.Image{
		image("good"), image("fair"), image("bad"), image("new"), image("exempt new"),
		index("both good", "good", "fair", "absent"), index("one bad", "good", "bad"), index("one new", "good", "new"), index("bad and new", "new", "bad"),
		index("one absent", "good", "absent"), index("empty"), loop,
	} {
		g.images[img.Digest] = img
	}
	for name, outcome := range map[string]pratique.Outcome{"good": pratique.OutcomeAllow, "fair": pratique.OutcomeWarn, "bad": pratique.OutcomeDeny} {
		g.reports[digest.FromString(name)], g.outcomes[digest.FromString(name)] = pratique.StateScanned, outcome
	}
	g.outcomes[digest.FromString("exempt new")] = pratique.OutcomeWarn
	// What clients would be told of an index by itself counts for nothing.
	g.outcomes[loop.Digest], g.outcomes[digest.FromString("one bad")] = pratique.OutcomeAllow, pratique.OutcomeAllow
	n := newerVersions{gate: g, manifests: g, platforms: func() []pratique.Platform { return []pratique.Platform{amd64, arm64} }}
	for name, want := range map[string]string{
		"good": "yes", "fair": "yes", "bad": "no", "new": "pending", "exempt new": "pending", "absent": "pending",
		"both good": "yes", "one bad": "no", "one new": "pending", "bad and new": "no", "one absent": "pending", "empty": "no", "loop": "no",
	} {
		ref := pratique.Ref{Registry: "lab", Repo: "app", Tag: "1", Digest: digest.FromString(name)}
		ok, err := n.compliant(t.Context(), ref)
		got := map[bool]string{true: "yes", false: "no"}[ok]
		if errors.Is(err, pratique.ErrPending) && !ok {
			got = "pending"
		} else if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	g.fail = errors.New("no facts")
	if ok, err := n.compliant(t.Context(), pratique.Ref{Digest: digest.FromString("both good")}); ok || !errors.Is(err, g.fail) {
		t.Errorf("%v, %v: want the failure", ok, err)
	}
	ref := pratique.Ref{Registry: "lab", Repo: "app", Tag: "1", Digest: digest.FromString("new")}
	if err := n.request(t.Context(), ref); !errors.Is(err, pratique.ErrPending) || !slices.Equal(g.checked, []pratique.Ref{ref}) {
		t.Errorf("%v, checked %v", err, g.checked)
	}
}
