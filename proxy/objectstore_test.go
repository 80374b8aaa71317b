package proxy_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/proxy/upstream"
	"pratique/store"
	"pratique/store/s3test"
)

// TestReplicasOverAnObjectStore: three replicas with a directory of their own each
// share a bucket and fetch a layer once; when the bucket is away, what needs it is
// 503, in time and never a 404, and all is well when it is back.
func TestReplicasOverAnObjectStore(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	objects := server.Proxy(t)
	lab, state, leases := proxytest.New(t), proxytest.NewState(), &shared{}
	bucket, layer := server.Bucket(), noise(1, 3<<20)
	image, _ := lab.Image("app", "v1", layer)
	d := digest.FromBytes(layer)
	caches := make([]*proxy.Cache, 3)
	for i := range caches {
		caches[i] = overBucket(t, lab, state, leases, objects.Parameters(bucket), 0)
	}
	hasty := overBucket(t, lab, state, leases, objects.Parameters(bucket), 300*time.Millisecond)
	if m, err := caches[0].Manifest(t.Context(), proxy.Request{Ref: ref(t, "lab/app:v1")}); err != nil || m.Image.Digest != image {
		t.Fatal(m.Image.Digest, err)
	}
	lab.Seen()
	var wg sync.WaitGroup
	for i, c := range caches {
		for range 10 {
			wg.Go(func() {
				b, err := c.Blob(t.Context(), proxy.Request{Ref: ref(t, "lab/app@"+d.String())})
				if err != nil {
					t.Error(i, err)
					return
				}
				if got, err := read(b, 0); err != nil || !bytes.Equal(got, layer) {
					t.Error(i, len(got), err)
				}
			})
		}
	}
	wg.Wait()
	lab.Expect("GET /v2/app/blobs/" + d.String())

	objects.Set(s3test.Faults{Refuse: true})
	for i, r := range []pratique.Ref{ref(t, "lab/app@"+d.String()), ref(t, "lab/app@"+digest.FromString("other").String())} {
		_, err := hasty.Blob(t.Context(), proxy.Request{Ref: r})
		if e := wants(t, err, proxy.CodeTooManyRequests, http.StatusServiceUnavailable); e.RetryAfter == 0 {
			t.Errorf("%d: no Retry-After", i)
		}
	}
	if _, err := caches[0].Manifest(t.Context(), proxy.Request{Ref: ref(t, "lab/app@"+image.String())}); err != nil {
		t.Errorf("a manifest in memory: %v", err)
	}
	_, err := hasty.Manifest(t.Context(), proxy.Request{Ref: ref(t, "lab/app@"+image.String())})
	wants(t, err, proxy.CodeTooManyRequests, http.StatusServiceUnavailable)
	lab.Expect()

	objects.Set(s3test.Faults{})
	b, err := caches[1].Blob(t.Context(), proxy.Request{Ref: ref(t, "lab/app@"+d.String())})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := read(b, 0); err != nil || !bytes.Equal(got, layer) {
		t.Error(len(got), err)
	}
	lab.Expect()
}

// overBucket is the cache of a replica that waits so long for the bucket, 0 for as
// long as replicas do.
func overBucket(t *testing.T, lab *proxytest.Upstream, state *proxytest.State, leases store.Leases, bucket map[string]any, answer time.Duration) *proxy.Cache {
	t.Helper()
	client, err := upstream.New("lab", upstream.Config{URL: lab.URL, Private: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	blobs, err := store.OpenBlobs(t.Context(), store.BlobsConfig{
		Driver: "s3", Parameters: bucket, Spool: t.TempDir(), Answer: answer, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := blobs.Close(); err != nil {
			t.Error(err)
		}
	})
	c := proxy.NewCache(map[string]proxy.Upstream{"lab": client}, blobs, state, state, proxy.CacheConfig{
		Leases: leases, FollowPoll: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return c
}
