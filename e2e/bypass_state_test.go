//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pratique/tools/images"
)

// doors are requests for every part of the vulnerable image and its index.
func doors() []string {
	return both(
		"/v2/docker.io/demo/vulnerable/manifests/1.0", "/v2/demo/vulnerable/manifests/{bad}?ns=docker.io", "/v2/docker.io/demo/vulnerable/blobs/{bad}",
		"/v2/docker.io/demo/vulnerable/blobs/{config}", "/v2/docker.io/demo/vulnerable/blobs/{layer}", "/v2/demo/vulnerable/blobs/{first}?ns=docker.io",
		"/v2/docker.io/demo/all-refused/manifests/1.0", "/v2/docker.io/demo/all-refused/manifests/{index}", "/v2/docker.io/demo/all-refused/manifests/{bad}",
		"/v2/docker.io/demo/all-refused/blobs/{index}", "/v2/docker.io/demo/mixed/manifests/{bad}", "/v2/docker.io/demo/mixed/blobs/{layer}",
	)
}

// lay builds a siege without any history in front of u.
func lay(t *testing.T, u *Upstream, o Options) *siege {
	t.Helper()
	bad := u.Child(t, images.Vulnerable, "amd64")
	blobs := u.layers(t, images.Vulnerable)
	s := &siege{u: u, secrets: secrets{}, refused: []string{digestOf(t, bad), u.Digest(t, images.AllRefused)}}
	s.secrets.addImage(t, "refused image", bad)
	s.words = strings.NewReplacer("{bad}", digestOf(t, bad), "{index}", u.Digest(t, images.AllRefused),
		"{config}", blobs[0], "{first}", blobs[1], "{layer}", blobs[len(blobs)-1])
	s.Pratique = StartPratique(t, u, o)
	return s
}

// assault goes through all doors.
func (s *siege) assault(t *testing.T) {
	t.Helper()
	for _, request := range doors() {
		s.check(t, request, s.send(t, request), false)
	}
}

// TestBypassRuleThatCameLater: what was cached and served under an older policy
// is refused at every door under the new one, without the upstream too.
func TestBypassRuleThatCameLater(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	s := lay(t, u, Options{Extra: openPolicy(t), TagTTL: "1h"})
	for _, c := range []pullCase{{sample: images.Vulnerable}, {sample: images.Mixed}} {
		c.check(t, newCrane(t, s.Pratique), u)
	}
	s.decide(t, "docker.io/"+images.AllRefused)
	if got := s.send(t, "GET /v2/docker.io/demo/vulnerable/blobs/{layer}"); s.secrets.find(got) == "" {
		t.Fatalf("it was not served before: %.300q", got)
	}
	s.restricted(t)
	u.Forget()
	s.assault(t)
	for _, r := range u.Requests() {
		if r.Blob() {
			t.Errorf("the upstream saw %s", r)
		}
	}
	u.Stop()
	s.assault(t)
}

// TestBypassWhileItIsScanned: all doors are tried without pause from before the
// first byte is fetched until the verdict stands.
func TestBypassWhileItIsScanned(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	s := lay(t, u, Options{Hold: 200 * time.Millisecond})
	u.SlowBlobs(time.Second)
	decided := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				for _, request := range doors() {
					s.check(t, request, s.send(t, request), false)
				}
				select {
				case <-decided:
					return
				default:
				}
			}
		})
	}
	s.decide(t, "docker.io/"+images.Vulnerable)
	s.decide(t, "docker.io/"+images.AllRefused)
	close(decided)
	wg.Wait()
	s.assault(t)
}

// TestBypassWithoutDatabase: no database, a broken one or an empty one. Nothing
// is served by a Pratique that has nothing to match with, and one that lost it
// keeps to its verdicts.
func TestBypassWithoutDatabase(t *testing.T) {
	t.Parallel()
	whole, err := os.ReadFile(filepath.Join(root(t), demoDatabase))
	if err != nil {
		t.Fatal(err)
	}
	u := StartUpstream(t)
	for name, content := range map[string][]byte{
		"absent": nil, "corrupt": append(append([]byte(nil), whole[:len(whole)/2]...), make([]byte, 4096)...), "emptied": {},
	} {
		t.Run(name, func(t *testing.T) {
			broken := filepath.Join(workdir(t, "db"), "trivy-db.tar.gz")
			if content != nil {
				if err := os.WriteFile(broken, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			useBroken := func(text string) string {
				return strings.ReplaceAll(text, filepath.Join(root(t), demoDatabase), broken)
			}

			s := lay(t, u, Options{Hold: 50 * time.Millisecond})
			s.decide(t, "docker.io/"+images.Vulnerable)
			s.Stop()
			s.edit(t, useBroken)
			t.Run("lost later, with its copy", func(t *testing.T) {
				spoil(t, filepath.Join(s.dir, "data"), content)
				s.startAnyhow(t)
				s.assault(t)
				s.Stop()
			})
			t.Run("never there", func(t *testing.T) {
				if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
					t.Fatal(err)
				}
				s.secrets.addImage(t, "image that nobody could match", u.Child(t, images.Clean, "amd64"))
				s.startAnyhow(t)
				s.assault(t)
				for _, request := range both("/v2/docker.io/demo/clean/manifests/1.0", "/v2/docker.io/demo/clean/manifests/"+u.Digest(t, images.Clean)) {
					s.check(t, request, s.send(t, request), false)
				}
			})
		})
	}
}

// startAnyhow starts a server that may never be ready.
func (s *siege) startAnyhow(t *testing.T) {
	t.Helper()
	cmd := exec.Command(binary(t, "pratique"), "serve", "--config", s.config())
	cmd.Dir = s.dir
	s.server = startProcess(t, "pratique", cmd)
	s.server.waitFor(t, answers(s.Admin+"/healthz"))
}

// spoil writes content over every copy of the vulnerability database that was
// adopted, or removes it when content is nil.
func spoil(t *testing.T, dir string, content []byte) {
	t.Helper()
	spoilt := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Name() != "trivy.db" {
			return err
		}
		spoilt++
		if content == nil {
			return os.Remove(path)
		}
		return os.WriteFile(path, content, 0o600)
	})
	if err != nil || spoilt == 0 {
		t.Fatalf("%d copies spoilt: %v", spoilt, err)
	}
}

// TestBypassTagThatMoves: upstream's tag moves from an image that may be had to
// one that may not, between a client's HEAD and its GET.
func TestBypassTagThatMoves(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	push := func(sample string) {
		t.Helper()
		if err := images.Push(t.Context(), u.Addr, "demo/moving:1.0", u.Child(t, sample, "amd64")); err != nil {
			t.Fatal(err)
		}
	}
	push(images.Clean)
	s := lay(t, u, Options{TagTTL: "0s", Hold: 300 * time.Millisecond})
	s.decide(t, "docker.io/demo/moving:1.0")
	clean := u.Digest(t, images.Clean)
	if got := s.send(t, "HEAD /v2/docker.io/demo/moving/manifests/1.0"); !strings.Contains(string(got), clean) {
		t.Fatalf("HEAD before the tag moves: %q", got)
	}
	push(images.Vulnerable)
	for range 2 { // not decided, then refused
		for _, request := range []string{
			"GET /v2/docker.io/demo/moving/manifests/1.0", "GET /v2/docker.io/demo/moving/manifests/1.0\nIf-None-Match: \"" + clean + "\"",
			"HEAD /v2/docker.io/demo/moving/manifests/1.0", "GET /v2/docker.io/demo/moving/manifests/{bad}", "GET /v2/docker.io/demo/moving/blobs/{layer}",
		} {
			s.check(t, request, s.send(t, request), false)
		}
		s.decide(t, "docker.io/demo/moving:1.0")
	}
	// What the HEAD promised may still be had by its digest.
	if res, body := s.Do(t, http.MethodGet, "/v2/docker.io/demo/moving/manifests/"+clean, nil); res.StatusCode != http.StatusOK {
		t.Errorf("GET of the digest that may be had = %s %s", res.Status, body)
	}
}
