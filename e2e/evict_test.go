//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// TestEviction: a cache with room for two of three images. The one that was pulled
// first goes while the others are served; clients have it again, with no error
// and no analysis, and while its upstream is gone what is left is served.
func TestEviction(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	const size = 5 << 20
	names := []string{"demo/one:1", "demo/two:1", "demo/three:1"}
	layer := map[string]string{}
	for i, name := range names {
		img := pushWith(t, u, name, types.OCIUncompressedLayer, fileLayer(t, uint64(i), size))
		layer[name] = lastLayer(t, img)
	}
	p := StartPratique(t, u, Options{TagTTL: "1m, maxSize: 14MiB"})
	file := func(name string) string {
		hex := strings.TrimPrefix(layer[name], "sha256:")
		return filepath.Join(p.dir, "data", "blobs", "blobs", "sha256", hex[:2], hex)
	}
	there := func(name string) bool {
		_, err := os.Stat(file(name))
		return err == nil
	}
	pull := func(client int, name string) {
		t.Helper()
		if r := clients[client].start(t, p).Pull(t, name, "amd64"); r.exit != 0 {
			t.Errorf("%s, %s: exit code %d\n%s", clients[client].name, name, r.exit, r.output)
		}
	}
	for _, name := range names {
		pull(0, name)
		time.Sleep(time.Second) // pulls are written down behind the answer
	}
	for deadline := time.Now().Add(time.Minute); there(names[0]); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the image that was pulled first is still there:\n%s", p.Command(t, "cache", "status").output)
		}
	}
	if !there(names[2]) {
		t.Error("the image that was pulled last is gone")
	}
	analyses := p.Metric(t, "pratique_scanner_analyses_total")
	for client := range 3 { // the others pull alike
		for _, name := range names {
			pull(client, name)
		}
	}
	if n := p.Metric(t, "pratique_scanner_analyses_total") - analyses; n != 0 {
		t.Errorf("%v analyses of what was analysed before", n)
	}
	if p.Metric(t, "pratique_cache_refetched_bytes_total") < size || p.Metric(t, "pratique_cache_evicted_bytes_total") < size {
		t.Error("the metrics do not tell")
	}

	// With the upstream gone a layer that is here is had, and one that is not is an
	// outage.
	if r := p.Command(t, "cache", "evict", "--to", "0"); r.exit != 0 {
		t.Fatalf("cache evict: exit code %d\n%s", r.exit, r.output)
	}
	pull(0, names[2])
	u.Stop()
	for _, name := range names[1:] {
		repository, _, _ := strings.Cut(name, ":")
		res, body := p.Do(t, http.MethodGet, "/v2/docker.io/"+repository+"/blobs/"+layer[name], nil)
		switch here := there(name); {
		case here && res.StatusCode != http.StatusOK:
			t.Errorf("%s is here: %s %.200s", name, res.Status, body)
		case !here && (res.StatusCode != http.StatusBadGateway && res.StatusCode != http.StatusGatewayTimeout || res.Header.Get("Retry-After") == ""):
			t.Errorf("%s is gone: %s, Retry-After %q, %.200s", name, res.Status, res.Header.Get("Retry-After"), body)
		}
	}
	if !there(names[2]) || there(names[1]) {
		t.Error("the wrong ones are here: this proves less than it should")
	}
}

func lastLayer(t testing.TB, img v1.Image) string {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return m.Layers[len(m.Layers)-1].Digest.String()
}
