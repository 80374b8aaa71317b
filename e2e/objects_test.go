//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pratique/tools/images"
)

// TestObjects keeps layers in a real S3 server: clients pull through it, what is
// refused leaves no address of an object, and what is hot outlives the object store.
func TestObjects(t *testing.T) {
	t.Parallel()
	up := StartUpstream(t)
	o := startObjects(t, "127.0.0.1")
	p := StartPratique(t, up, Options{Extra: o.storage("")})
	pullTo := func(p *Pratique, sample string) result {
		return run(t, exec.Command(binary(t, "crane"), "pull", "--insecure", p.Registry+"/docker.io/"+sample, filepath.Join(workdir(t, "pull"), "image.tar")))
	}
	if r := pullTo(p, images.Clean); r.exit != 0 {
		t.Fatalf("pull through S3: %s", r.output)
	}
	if r := pullTo(p, images.Vulnerable); r.exit == 0 || !strings.Contains(r.output, "DENIED") {
		t.Fatalf("a refused image through S3: exit %d, %s", r.exit, r.output)
	}
	p.Stop()
	p.Start(t) // nothing but the bucket and the state
	if r := pullTo(p, images.Clean); r.exit != 0 {
		t.Fatalf("pull after a restart: %s", r.output)
	}

	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	get := func(url string) (*http.Response, []byte) {
		t.Helper()
		res, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, body
	}
	blob := func(p *Pratique, sample, layer string) string {
		name, _, _ := strings.Cut(sample, ":")
		return "http://" + p.Registry + "/v2/docker.io/" + name + "/blobs/" + layer
	}

	t.Run("redirect", func(t *testing.T) {
		// Layers of some size: small ones are not worth another request.
		up := startCrashUpstream(t)
		for round := range 3 {
			up.add(t, round, rand.New(rand.NewPCG(6, uint64(round)))) //nolint:gosec // a load
		}
		p := StartPratique(t, &Upstream{Addr: up.addr}, Options{Extra: o.storage("  redirect: true\n")})
		sent := 0
		for _, i := range up.images {
			if r := pullTo(p, i.name+":1"); (r.exit != 0) != i.refused { // crane follows
				t.Fatalf("%s, refused %v: exit %d, %s", i.name, i.refused, r.exit, r.output)
			}
			layer := i.blobs[len(i.blobs)-1]
			res, body := get(blob(p, i.name, layer))
			address := res.Header.Get("Location")
			if i.refused {
				if res.StatusCode != http.StatusForbidden || address != "" || bytes.Contains(body, []byte("X-Amz-")) {
					t.Errorf("layer of a refused image: %s, Location %q, %s", res.Status, address, body)
				}
				continue
			}
			if address == "" {
				continue
			}
			sent++
			if _, body := get(address); fmt.Sprintf("sha256:%x", sha256.Sum256(body)) != layer {
				t.Error("the address gives other bytes")
			}
			// It is good for this object and this method alone.
			other := strings.Replace(address, strings.TrimPrefix(layer, "sha256:"), strings.Repeat("0", 64), 1)
			if res, _ := get(other); res.StatusCode != http.StatusForbidden {
				t.Errorf("the signature for another object: %s", res.Status)
			}
		}
		if sent == 0 {
			t.Error("no layer was answered with an address")
		}
		if strings.Contains(p.Log(), "X-Amz-Signature") {
			t.Error("an address is in the log")
		}
	})

	t.Run("hot", func(t *testing.T) {
		p := StartPratique(t, up, Options{Extra: o.storage("  hot: {maxSize: 64MiB}\n")})
		if r := pullTo(p, images.Clean); r.exit != 0 {
			t.Fatal(r.output)
		}
		layers := up.layers(t, images.Clean)
		for _, layer := range layers {
			if res, body := get(blob(p, images.Clean, layer)); res.StatusCode != http.StatusOK || fmt.Sprintf("sha256:%x", sha256.Sum256(body)) != layer {
				t.Fatalf("layer: %s", res.Status)
			}
		}
		o.errors.Store(1000)
		defer o.errors.Store(0)
		for _, layer := range layers {
			if res, body := get(blob(p, images.Clean, layer)); res.StatusCode != http.StatusOK || fmt.Sprintf("sha256:%x", sha256.Sum256(body)) != layer {
				t.Errorf("hot layer without the object store: %s %s", res.Status, body)
			}
		}
		// What is not hot is 503, and comes back by itself.
		cold := StartPratique(t, up, Options{Extra: o.storage("")})
		name, _, _ := strings.Cut(images.Clean, ":")
		url := "http://" + cold.Registry + "/v2/docker.io/" + name + "/manifests/" + up.Digest(t, images.Clean)
		if res, body := get(url); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
			t.Errorf("manifest without the object store: %s (Retry-After %q) %s", res.Status, res.Header.Get("Retry-After"), body)
		}
		o.errors.Store(0)
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
			res, body := get(url)
			if res.StatusCode == http.StatusOK {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the object store is back, and: %s %s", res.Status, body)
			}
		}
	})
}
