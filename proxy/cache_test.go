package proxy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/proxy"
	"pratique/proxy/proxytest"
)

// The life of a tag: one question per TagTTL, bytes only when it moved.
func TestTagIsRevalidated(t *testing.T) {
	p := newPulled(t)
	first, _ := p.lab.Image("app", "v1", []byte("one"))
	const head, get = "HEAD /v2/app/manifests/v1", "GET /v2/app/manifests/"

	if m := p.mustManifest("lab/app:v1", first); m.Hit || m.Stale {
		t.Errorf("cold: %+v", m)
	}
	p.lab.Expect(get + "v1")
	p.wait(59 * time.Second)
	if m := p.mustManifest("lab/app:v1", first); !m.Hit {
		t.Error("fresh: no hit")
	}
	p.lab.Expect()
	p.wait(time.Second)
	if m := p.mustManifest("lab/app:v1", first); !m.Hit {
		t.Error("unchanged: no hit")
	}
	p.lab.Expect(head)
	p.wait(59 * time.Second)
	p.mustManifest("lab/app:v1", first) // renewed by the question before
	p.lab.Expect()

	second, _ := p.lab.Image("app", "v1", []byte("two"))
	p.wait(time.Minute)
	if m := p.mustManifest("lab/app:v1", second); m.Hit {
		t.Error("changed: a hit")
	}
	p.lab.Expect(head, get+second.String())
	p.mustManifest("lab/app@"+first.String(), first) // the old one stays
	p.lab.Expect()

	state, err := p.state.Tag(t.Context(), ref(t, "lab/app:v1"))
	if err != nil || state.Digest != second || !state.CheckedAt.Equal(p.clock()) || !state.ChangedAt.Equal(p.clock()) {
		t.Errorf("%+v, %v", state, err)
	}
}

// A restart forgets nothing that was learned.
func TestRestart(t *testing.T) {
	p := newPulled(t)
	layer := noise(1, 100_000)
	d, raw := p.lab.Image("app", "v1", layer)
	p.mustManifest("lab/app:v1", d)
	if _, err := p.pull("lab/app", digest.FromBytes(layer)); err != nil {
		t.Fatal(err)
	}
	if !p.exists(digest.FromBytes(layer)) {
		t.Fatal("not stored")
	}
	p.lab.Seen()
	p.start()
	m := p.mustManifest("lab/app:v1", d)
	if !m.Hit || string(m.Raw) != string(raw) || m.Image.FirstSeen.IsZero() || m.Image.MediaType != pratique.MediaTypeImageManifest {
		t.Errorf("%+v", m)
	}
	b, err := p.blob("lab/app", digest.FromBytes(layer))
	if err != nil || !b.Hit {
		t.Errorf("%+v, %v", b, err)
	}
	p.lab.Expect()
}

func TestUpstreamDown(t *testing.T) {
	never := make(chan struct{})
	for name, fault := range map[string]proxytest.Fault{
		"503":   proxytest.Status(503),
		"504":   proxytest.Status(504),
		"429":   proxytest.Status(429),
		"reset": proxytest.Reset(),
		"stall": proxytest.Stall(-1, never),
	} {
		t.Run(name, func(t *testing.T) {
			p := newStalling(t, time.Second, func(cfg *proxy.CacheConfig) { cfg.RevalidateTimeout = 100 * time.Millisecond })
			d, _ := p.lab.Image("app", "v1")
			p.mustManifest("lab/app:v1", d)
			p.lab.Fault("", 0, fault)
			p.wait(24 * time.Hour)
			if m := p.mustManifest("lab/app:v1", d); !m.Stale || !m.Hit {
				t.Errorf("a day later: %+v", m)
			}
			if m := p.mustManifest("lab/app@"+d.String(), d); m.Stale {
				t.Error("a digest is never stale")
			}
			p.wait(time.Second)
			if _, err := p.manifest("lab/app:v1"); !proxy.Down(err) {
				t.Errorf("too old: %v", err)
			}
			p.mustManifest("lab/app@"+d.String(), d)
			if _, err := p.manifest("lab/app:other"); !proxy.Down(err) {
				t.Errorf("a tag never seen: %v", err)
			}
			if _, err := p.manifest("lab/app@" + digest.FromString("x").String()); !proxy.Down(err) {
				t.Errorf("a digest never seen: %v", err)
			}
			p.lab.Heal()
		})
	}
}

// What the upstream says now is not overruled by what it said before.
func TestAnswersAreNoOutage(t *testing.T) {
	for name, tt := range map[string]struct {
		fault  proxytest.Fault
		code   proxy.Code
		status int
	}{
		"403": {proxytest.Status(403), proxy.CodeDenied, 403},
		"401": {proxytest.Status(401), proxy.CodeDenied, 403},
		"404": {proxytest.Status(404), proxy.CodeManifestUnknown, 404},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPulled(t)
			d, _ := p.lab.Image("app", "v1")
			p.mustManifest("lab/app:v1", d)
			p.lab.Fault("", 0, tt.fault)
			p.wait(time.Hour)
			_, err := p.manifest("lab/app:v1")
			wants(t, err, tt.code, tt.status)
		})
	}
}

// A tag that was deleted does not come back when the upstream goes down, and
// does when it comes back there.
func TestDeletedTag(t *testing.T) {
	p := newPulled(t)
	d, _ := p.lab.Image("app", "v1")
	p.mustManifest("lab/app:v1", d)
	p.lab.Untag("app", "v1")
	p.wait(time.Minute)
	_, err := p.manifest("lab/app:v1")
	wants(t, err, proxy.CodeManifestUnknown, 404)
	down(p.lab)
	if _, err := p.manifest("lab/app:v1"); !proxy.Down(err) {
		t.Errorf("served from before its deletion: %v", err)
	}
	p.lab.Heal()
	d, _ = p.lab.Image("app", "v1", []byte("new"))
	p.mustManifest("lab/app:v1", d) // at once: absence is not remembered
}

// A digest belongs to the repositories whose upstream has it there.
func TestDigestOfAnotherRepository(t *testing.T) {
	p := newPulled(t)
	d, _ := p.lab.Image("secret", "v1")
	p.mustManifest("lab/secret:v1", d)
	p.lab.Seen()
	for _, other := range []string{"lab/app@", "hub/secret@"} {
		_, err := p.manifest(other + d.String())
		wants(t, err, proxy.CodeManifestUnknown, 404)
	}
	p.lab.Expect("GET /v2/app/manifests/" + d.String())
	p.hub.Expect("GET /v2/secret/manifests/" + d.String())
	p.hub.Image("secret", "")
	p.mustManifest("hub/secret@"+d.String(), d)
}

func TestUnknownUpstream(t *testing.T) {
	p := newPulled(t)
	r := proxy.Request{Ref: ref(t, "evil.example/app@"+digest.FromString("x").String()), N: -1}
	_, err := p.Manifest(t.Context(), r)
	wants(t, err, proxy.CodeDenied, 403)
	_, err = p.Blob(t.Context(), r)
	wants(t, err, proxy.CodeDenied, 403)
	_, err = p.Tags(t.Context(), r)
	wants(t, err, proxy.CodeDenied, 403)
	_, err = p.Referrers(t.Context(), r)
	wants(t, err, proxy.CodeDenied, 403)
	_, err = p.OpenBlob(t.Context(), r.Ref, pratique.Descriptor{Digest: r.Ref.Digest})
	wants(t, err, proxy.CodeDenied, 403)
}

// What cannot be parsed is refused with the reason and leaves nothing.
func TestManifestsThatAreNone(t *testing.T) {
	for name, tt := range map[string]struct {
		mediaType, raw, reason string
	}{
		"schema 1":     {pratique.MediaTypeSignedSchema1, `{"schemaVersion":1,"fsLayers":[]}`, "schema 1 is not supported"},
		"no JSON":      {pratique.MediaTypeImageManifest, `hello`, "invalid"},
		"unknown type": {"application/vnd.example+json", `{"schemaVersion":2,"mediaType":"application/vnd.example+json"}`, "not supported"},
		"both": {pratique.MediaTypeImageIndex,
			`{"schemaVersion":2,"config":{"digest":"sha256:` + strings.Repeat("a", 64) + `"},"manifests":[{"digest":"sha256:` + strings.Repeat("a", 64) + `"}]}`, "both"},
		"bad digest": {pratique.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[{"digest":"sha256:../x"}]}`, "digest"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPulled(t)
			d := p.lab.Manifest("app", "v1", tt.mediaType, []byte(tt.raw))
			for _, s := range []string{"lab/app:v1", "lab/app@" + d.String()} {
				_, err := p.manifest(s)
				if e := wants(t, err, proxy.CodeManifestInvalid, 400); !strings.Contains(e.Message, tt.reason) {
					t.Errorf("%s: %q does not say %q", s, e.Message, tt.reason)
				}
			}
			if p.exists(d) {
				t.Error("it was kept")
			}
		})
	}
}

// Bytes, then the link, then the tag: whatever fails, what is recorded is true
// and asking again completes it.
func TestOrderOfWrites(t *testing.T) {
	for _, method := range []string{"Link", "Image"} {
		t.Run(method, func(t *testing.T) {
			p := newPulled(t)
			d, _ := p.lab.Image("app", "v1")
			boom := errors.New("boom")
			p.state.Fail = func(m string) error {
				if m == method {
					return boom
				}
				return nil
			}
			if _, err := p.manifest("lab/app:v1"); !errors.Is(err, boom) {
				t.Fatalf("got %v", err)
			}
			p.state.Fail = nil
			if _, err := p.blobs.Stat(t.Context(), d); err != nil {
				t.Errorf("the bytes come first: %v", err)
			}
			_, tagErr := p.state.Tag(t.Context(), ref(t, "lab/app:v1"))
			if !errors.Is(tagErr, pratique.ErrNotFound) {
				t.Errorf("the tag comes last: %v", tagErr)
			}
			p.mustManifest("lab/app:v1", d)
		})
	}
}

// A disk that is full stops nothing that is cached: a tag is still revalidated,
// and only new content fails.
func TestTagThatCannotBeRecorded(t *testing.T) {
	p := newPulled(t)
	d, _ := p.lab.Image("app", "v1")
	p.mustManifest("lab/app:v1", d)
	p.lab.Seen()
	p.state.Fail = func(method string) error {
		if strings.HasPrefix(method, "Set") || method == "Link" {
			return syscall.ENOSPC
		}
		return nil
	}
	p.wait(time.Hour)
	p.mustManifest("lab/app:v1", d)
	p.lab.Expect("HEAD /v2/app/manifests/v1")
	if got, err := p.Tags(t.Context(), proxy.Request{Ref: ref(t, "lab/app:v1"), N: -1}); err != nil || len(got.Tags) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	p.lab.Image("app", "v1", []byte("new"))
	p.wait(time.Hour)
	_, err := p.manifest("lab/app:v1")
	wants(t, err, proxy.CodeTooManyRequests, 503)
}

// A store that fails is an error, not an empty cache.
func TestStateFails(t *testing.T) {
	p := newPulled(t)
	layer := []byte("layer")
	d, _ := p.lab.Image("app", "v1", layer)
	p.mustManifest("lab/app:v1", d)
	p.lab.Seen()
	p.wait(time.Hour)
	boom := errors.New("boom")
	p.state.Fail = func(string) error { return boom }
	r := proxy.Request{Ref: ref(t, "lab/app@"+digest.FromBytes(layer).String()), N: -1}
	if _, err := p.Blob(t.Context(), r); !errors.Is(err, boom) {
		t.Errorf("Blob: %v", err)
	}
	if _, err := p.manifest("lab/app:v1"); !errors.Is(err, boom) {
		t.Errorf("Manifest: %v", err)
	}
	if _, err := p.Tags(t.Context(), r); !errors.Is(err, boom) {
		t.Errorf("Tags: %v", err)
	}
	p.lab.Expect()
}

// A manifest that the disk changed is fetched again, not served.
func TestSpoiltManifest(t *testing.T) {
	p := newPulled(t)
	d, raw := p.lab.Image("app", "v1")
	p.mustManifest("lab/app:v1", d)
	path := filepath.Join(p.dir, "blobs", "sha256", d.Encoded()[:2], d.Encoded())
	if err := os.WriteFile(path, []byte(strings.Replace(string(raw), "2", "3", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	p.start()
	p.lab.Seen()
	p.mustManifest("lab/app:v1", d)
	p.lab.Expect("GET /v2/app/manifests/" + d.String())
	if err := os.Remove(path); err != nil { // lost altogether
		t.Fatal(err)
	}
	p.start()
	p.mustManifest("lab/app@"+d.String(), d)
	p.lab.Expect("GET /v2/app/manifests/" + d.String())
}

// Everybody who asks at once is answered by one question, and one who leaves
// takes nobody along.
func TestSingleFlight(t *testing.T) {
	p := newPulled(t)
	d, _ := p.lab.Image("app", "v1")
	release := make(chan struct{})
	p.lab.Fault("GET", 0, proxytest.Stall(-1, release))
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := p.Manifest(ctx, proxy.Request{Ref: ref(t, "lab/app:v1")})
		left <- err
	}()
	for len(p.lab.Seen()) == 0 {
		time.Sleep(time.Millisecond)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if m, err := p.manifest("lab/app:v1"); err != nil || m.Image.Digest != d {
				t.Errorf("%s, %v", m.Image.Digest, err)
			}
		})
	}
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the one who left: %v", err)
	}
	time.Sleep(50 * time.Millisecond)
	close(release)
	wg.Wait()
	p.lab.Expect() // no second question
}

// Digests are byte-exact, whatever white space and order the upstream likes.
func TestIndexIsByteExact(t *testing.T) {
	p := newPulled(t)
	child, _ := p.lab.Image("app", "")
	raw := fmt.Appendf(nil, "{\n  \"manifests\": [ {\"digest\":%q, \"size\": 2,\t\"mediaType\":%q, \"x-own\": 1.0} ],\r\n \"schemaVersion\":2}\n\n",
		child, pratique.MediaTypeImageManifest)
	d := p.lab.Manifest("app", "v1", pratique.MediaTypeImageIndex, raw)
	m := p.mustManifest("lab/app:v1", d)
	if diff := cmp.Diff(string(raw), string(m.Raw)); diff != "" || m.Image.Kind != pratique.KindIndex {
		t.Error(diff)
	}
	p.mustManifest("lab/app@"+child.String(), child)
}

// A sha512 digest is verified as such; the image keeps its one identity.
func TestSHA512(t *testing.T) {
	p := newPulled(t)
	d, raw := p.lab.Image("app", "v1")
	long := digest.SHA512.FromBytes(raw)
	p.lab.Fault("GET /v2/app/manifests/sha512:", 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		w.Header().Set("Content-Type", pratique.MediaTypeImageManifest)
		_, _ = w.Write(raw)
	})
	p.mustManifest("lab/app@"+long.String(), d)
	_, err := p.manifest("lab/app@" + digest.SHA512.FromString("x").String())
	wants(t, err, proxy.CodeTooManyRequests, 502)
}

func TestTagLists(t *testing.T) {
	p := newPulled(t)
	for _, tag := range []string{"a", "b", "c"} {
		p.lab.Image("app", tag)
	}
	list := func() (proxy.TagList, error) {
		return p.Tags(t.Context(), proxy.Request{Ref: ref(t, "lab/app:x"), N: -1})
	}
	for range 2 {
		got, err := list()
		if diff := cmp.Diff([]string{"a", "b", "c"}, got.Tags); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
	}
	p.lab.Expect("GET /v2/app/tags/list?n=1000")
	p.lab.Image("app", "d")
	p.wait(time.Minute)
	if got, err := list(); err != nil || !slices.Contains(got.Tags, "d") {
		t.Errorf("%v, %v", got, err)
	}
	down(p.lab)
	p.wait(100 * 24 * time.Hour)
	if got, err := list(); err != nil || len(got.Tags) != 4 {
		t.Errorf("upstream down: %v, %v", got, err)
	}
	if _, err := p.Tags(t.Context(), proxy.Request{Ref: ref(t, "lab/other:x"), N: -1}); !proxy.Down(err) {
		t.Errorf("never listed: %v", err)
	}
	p.lab.Heal()
	_, err := p.Tags(t.Context(), proxy.Request{Ref: ref(t, "lab/other:x"), N: -1})
	wants(t, err, proxy.CodeNameUnknown, 404)
}

func TestTagPages(t *testing.T) {
	ordered := []string{"a", "b", "c", "d"}
	mixed := []string{"alpha", "Beta", "gamma"} // the spec's order ignores case
	tests := []struct {
		name string
		tags []string
		n    int
		last string
		want []string
		more bool
	}{
		{"all", ordered, -1, "", ordered, false},
		{"first page", ordered, 2, "", []string{"a", "b"}, true},
		{"second page", ordered, 2, "b", []string{"c", "d"}, false},
		{"page larger than the rest", ordered, 9, "c", []string{"d"}, false},
		{"exactly all", ordered, 4, "", ordered, false},
		{"nothing asked for", ordered, 0, "", []string{}, false},
		{"after the last", ordered, -1, "d", []string{}, false},
		{"after a tag that is gone", ordered, -1, "bb", []string{"c", "d"}, false},
		{"before all", ordered, 1, "A", []string{"a"}, true},
		{"after all", ordered, 1, "zz", []string{}, false},
		{"mixed case, there", mixed, -1, "Beta", []string{"gamma"}, false},
		{"mixed case, gone", mixed, -1, "Beth", []string{"gamma"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPulled(t)
			r := proxy.Request{Ref: ref(t, "lab/app:x"), N: tt.n, Last: tt.last}
			if err := p.state.SetTagList(t.Context(), r.Ref, tt.tags, p.clock()); err != nil {
				t.Fatal(err)
			}
			got, err := p.Tags(t.Context(), r)
			if diff := cmp.Diff(proxy.TagList{Tags: tt.want, More: tt.more}, got); diff != "" || err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

func TestReferrersAreFiltered(t *testing.T) {
	p := newPulled(t)
	d, _ := p.lab.Image("app", "v1")
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"digest":%q,"size":1,"artifactType":"sig","own":1.0},{"digest":%q,"size":1,"artifactType":"sbom"}]}`,
		pratique.MediaTypeImageIndex, digest.FromString("1"), digest.FromString("2"))
	p.lab.Fault("GET /v2/app/referrers/", 0, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", pratique.MediaTypeImageIndex)
		fmt.Fprint(w, index)
	})
	for artifactType, want := range map[string]int{"": 2, "sig": 1, "none": 0} {
		got, err := p.Referrers(t.Context(), proxy.Request{Ref: ref(t, "lab/app@"+d.String()), ArtifactType: artifactType})
		if err != nil {
			t.Fatal(err)
		}
		var doc struct{ Manifests []json.RawMessage }
		if err := json.Unmarshal(got.Index, &doc); err != nil || doc.Manifests == nil || len(doc.Manifests) != want || got.Filtered != (artifactType != "") {
			t.Errorf("%q: %s, %v", artifactType, got.Index, err)
		}
		if artifactType == "sig" && !strings.Contains(string(got.Index), `"own":1.0`) {
			t.Errorf("changed: %s", got.Index)
		}
		if artifactType == "" && string(got.Index) != index {
			t.Errorf("changed: %s", got.Index)
		}
	}
	p.lab.Heal()
	down(p.lab)
	if _, err := p.Referrers(t.Context(), proxy.Request{Ref: ref(t, "lab/app@"+d.String())}); !proxy.Down(err) {
		t.Errorf("upstream down: %v", err)
	}
}

// After Close nothing is fetched; what is stored goes on being served.
func TestClosed(t *testing.T) {
	p := newPulled(t)
	d, _ := p.lab.Image("app", "v1")
	p.lab.Image("app", "v2")
	p.mustManifest("lab/app:v1", d)
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.mustManifest("lab/app:v1", d)
	_, err := p.manifest("lab/app:v2")
	wants(t, err, proxy.CodeTooManyRequests, 503)
	_, err = p.blob("lab/app", digest.FromString("x"))
	wants(t, err, proxy.CodeTooManyRequests, 503)
}

func TestCacheMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	p := newPulled(t, func(cfg *proxy.CacheConfig) { cfg.Metrics = reg })
	layer := noise(1, 1000)
	d, _ := p.lab.Image("app", "v1", layer)
	p.mustManifest("lab/app:v1", d)
	p.mustManifest("lab/app:v1", d)
	if _, err := p.pull("lab/app", digest.FromBytes(layer)); err != nil {
		t.Fatal(err)
	}
	if !p.exists(digest.FromBytes(layer)) {
		t.Fatal("not stored")
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
			got[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	want := map[string]float64{
		"pratique_cache_requests_total manifest miss": 1, "pratique_cache_requests_total manifest hit": 1,
		"pratique_cache_requests_total blob miss": 1, "pratique_cache_transfers_total stored": 1,
		"pratique_cache_transfers_running": 0, "pratique_cache_stored_bytes_total": 1000,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A full disk is said clearly and is no 404.
func TestDiskFullIsUnavailable(t *testing.T) {
	p := newPulled(t)
	p.lab.Image("app", "v1")
	p.state.Fail = func(method string) error {
		if method == "Link" {
			return &os.PathError{Op: "write", Path: "/secret/path", Err: syscall.ENOSPC}
		}
		return nil
	}
	_, err := p.manifest("lab/app:v1")
	e := wants(t, err, proxy.CodeTooManyRequests, 503)
	if e.RetryAfter == 0 || strings.Contains(e.Message, "secret") || !strings.Contains(e.Message, "full") {
		t.Errorf("%+v", e)
	}
}
