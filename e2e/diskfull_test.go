//go:build e2e

package e2e

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"pratique/tools/images"
)

// TestDiskFull: everything that Pratique keeps lies on a small disk, which fills
// up. What was pulled is served, what is new fails as what it is, and when there
// is space again all is well, without a restart.
func TestDiskFull(t *testing.T) {
	u := StartUpstream(t)
	pushWith(t, u, "demo/new:1", types.OCIUncompressedLayer, fileLayer(t, 7, 1<<20))
	p := &Pratique{Registry: freeAddr(t), Admin: "http://" + freeAddr(t), dir: workdir(t, "diskfull")}
	if err := os.WriteFile(p.config(), []byte(p.render(t, u, Options{TagTTL: "0s"})), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(p.dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the server, whose own cleanup is registered later
		if err := syscall.Unmount(data, 0); err != nil {
			t.Error(err)
		}
	})
	p.Start(t)

	pulled := "/v2/docker.io/" + strings.Replace(images.Clean, ":", "/manifests/", 1)
	layers := u.layers(t, images.Clean)
	pull := func(when string) {
		t.Helper()
		if res, body := p.Do(t, http.MethodGet, pulled, nil); res.StatusCode != http.StatusOK {
			t.Errorf("%s, the pulled image: %s %s", when, res.Status, body)
		}
		for _, d := range layers {
			path := "/v2/docker.io/" + strings.TrimSuffix(images.Clean, ":1.0") + "/blobs/" + d
			if res, _ := p.Do(t, http.MethodGet, path, nil); res.StatusCode != http.StatusOK {
				t.Errorf("%s, %s: %s", when, path, res.Status)
			}
		}
	}
	pull("before")

	ballast := filepath.Join(data, "ballast")
	fill(t, ballast)
	for range 5 {
		pull("full")
		res, body := p.Do(t, http.MethodGet, "/v2/docker.io/demo/new/manifests/1", nil)
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || !strings.Contains(body, "full") || strings.Contains(body, data) {
			t.Errorf("a new image: %s, Retry-After %q, %s", res.Status, res.Header.Get("Retry-After"), body)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	pull("with space")
	deadline := time.Now().Add(time.Minute)
	for {
		res, body := p.Do(t, http.MethodGet, "/v2/docker.io/demo/new/manifests/1", nil)
		if res.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the new image, with space: %s %s", res.Status, body)
		}
		time.Sleep(time.Second)
	}
}

// fill writes a file until nothing fits any more.
func fill(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for chunk := make([]byte, 4096); ; {
		if _, err := f.Write(chunk); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
