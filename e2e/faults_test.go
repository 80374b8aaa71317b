//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"pratique/tools/images"
)

// fileLayer is a tar with one file of n bytes that do not compress.
func fileLayer(t testing.TB, seed uint64, n int) []byte {
	t.Helper()
	raw := make([]byte, n)
	r := rand.NewPCG(seed, seed)
	for i := range raw {
		raw[i] = byte(r.Uint64())
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("srv/data-%d", seed), Mode: 0o644, Size: int64(n), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pushWith puts the clean sample with one layer more into the upstream.
func pushWith(t testing.TB, u *Upstream, name string, mediaType types.MediaType, layer []byte) v1.Image {
	t.Helper()
	img, err := mutate.Append(u.Child(t, images.Clean, "amd64"), mutate.Addendum{Layer: static.NewLayer(layer, mediaType), MediaType: mediaType})
	if err != nil {
		t.Fatal(err)
	}
	if err := images.Push(t.Context(), u.Addr, name, img); err != nil {
		t.Fatal(err)
	}
	return img
}

// TestLayersThatAreGarbage: what is not what its media type says, or not whole,
// is a failed scan that says so, and is refused; not an image without findings.
func TestLayersThatAreGarbage(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	p := StartPratique(t, u, Options{})
	whole := fileLayer(t, 1, 100_000)
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(whole); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	noise := fileLayer(t, 2, 50_000)[1024:]
	const gz, zstd = types.OCILayer, types.MediaType("application/vnd.oci.image.layer.v1.tar+zstd")
	for name, tt := range map[string]struct {
		mediaType types.MediaType
		raw       []byte
		says      string
	}{
		"noise-as-gzip":   {gz, noise, "says gzip"},
		"gzip-of-noise":   {gz, append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3}, noise...), "corrupt input"},
		"truncated-gzip":  {gz, zipped.Bytes()[:zipped.Len()/2], "unexpected EOF"},
		"gzip-then-noise": {gz, append(bytes.Clone(zipped.Bytes()), noise...), "invalid header"},
		"noise-as-zstd":   {zstd, noise, "says zstd"},
		"zstd-of-noise":   {zstd, append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x00}, noise...), "compression: zstd"},
		"noise-as-tar":    {types.OCIUncompressedLayer, noise, "invalid tar header"},
		"truncated-tar":   {types.OCIUncompressedLayer, whole[:50_000], "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			pushWith(t, u, "odd/"+name+":1", tt.mediaType, tt.raw)
			res, body := p.Do(t, http.MethodGet, "/v2/docker.io/odd/"+name+"/manifests/1", nil)
			if res.StatusCode != http.StatusForbidden || !strings.Contains(body, `"DENIED"`) ||
				!strings.Contains(body, "the scan failed") || !strings.Contains(body, tt.says) {
				t.Errorf("%s %s, want it denied, and %q", res.Status, body, tt.says)
			}
			r := p.Command(t, "check", "docker.io/odd/"+name+":1")
			if r.exit != 3 || !strings.Contains(r.output, "REFUSED") || !strings.Contains(r.output, tt.says) {
				t.Errorf("pratique check: exit %d:\n%s", r.exit, r.output)
			}
		})
	}
	if r := p.Command(t, "check", "docker.io/"+images.Clean); r.exit != 0 {
		t.Errorf("the clean image: exit %d:\n%s", r.exit, r.output)
	}
}

// TestUpstreamsDown: Pratique starts without them, says what is the matter, and
// what was pulled before goes on being served.
func TestUpstreamsDown(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	p := StartPratique(t, u, Options{TagTTL: "0s"})
	manifest := "/v2/docker.io/" + strings.Replace(images.Clean, ":", "/manifests/", 1)
	pulled := []string{manifest, "/v2/docker.io/" + strings.Replace(images.Clean, ":1.0", "/manifests/", 1) + u.Digest(t, images.Clean)}
	for _, path := range pulled {
		if res, body := p.Do(t, http.MethodGet, path, nil); res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %s", path, res.Status, body)
		}
	}
	u.Stop()
	p.Stop()
	p.Start(t) // waits until it is ready
	for range 10 {
		for _, path := range pulled {
			if res, body := p.Do(t, http.MethodGet, path, nil); res.StatusCode != http.StatusOK {
				t.Errorf("%s: %s %s", path, res.Status, body)
			}
		}
		for _, path := range []string{"/v2/docker.io/demo/none/manifests/1", "/v2/lab/demo/none/manifests/1", "/v2/lab/demo/none/tags/list"} {
			if res, body := p.Do(t, http.MethodGet, path, nil); res.StatusCode != http.StatusBadGateway && res.StatusCode != http.StatusGatewayTimeout {
				t.Errorf("%s: %s %s", path, res.Status, body)
			}
		}
	}
	if got := p.Metric(t, "pratique_upstream_breaker_state"); got < 2 {
		t.Errorf("pratique_upstream_breaker_state sums to %v, want an open one", got)
	}
	res, body := p.Do(t, http.MethodGet, "/v2/lab/demo/none/manifests/1", nil)
	if res.Header.Get("Retry-After") == "" {
		t.Errorf("no Retry-After with the breaker open: %s %s", res.Status, body)
	}
}
