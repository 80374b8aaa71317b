package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
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
		"pratique_cache_transfers_running": 0, "pratique_cache_resumes_total": 0,
		"pratique_cache_stored_bytes_total": 1000,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
