//go:build e2e

package e2e

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"pratique/tools/images"
)

// TestColdPullIsHeld: a client that pulls an image for the first time waits for
// the scan and gets its answer, within one request.
func TestColdPullIsHeld(t *testing.T) {
	const slow = 1500 * time.Millisecond
	u := StartUpstream(t)
	u.SlowBlobs(slow)
	for _, client := range clients {
		t.Run(client.name, func(t *testing.T) {
			p := StartPratique(t, u, Options{})
			for _, c := range []pullCase{{sample: images.Clean}, {sample: images.Vulnerable, refused: true}} {
				r := c.check(t, client.start(t, p), u)
				if r.took < slow {
					t.Errorf("%s took %s: before its content could be there", c.sample, r.took)
				}
			}
		})
	}
}

// TestColdPullThatOutlastsTheHold: 429 with Retry-After, the scan goes on, and
// the client that tries again is served.
func TestColdPullThatOutlastsTheHold(t *testing.T) {
	u := StartUpstream(t)
	u.SlowBlobs(4 * time.Second)
	p := StartPratique(t, u, Options{Hold: time.Second})
	path := "/v2/docker.io/" + strings.Replace(images.Clean, ":", "/manifests/", 1)

	began := time.Now()
	res, body := p.Do(t, http.MethodGet, path, nil)
	if res.StatusCode != http.StatusTooManyRequests || !strings.Contains(body, `"TOOMANYREQUESTS"`) || !strings.Contains(body, "scan pending") {
		t.Errorf("GET = %s %s, want 429 TOOMANYREQUESTS: scan pending", res.Status, body)
	}
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err != nil || s < 1 {
		t.Errorf("Retry-After = %q, want seconds", res.Header.Get("Retry-After"))
	}
	if took := time.Since(began); took < time.Second || took > 3*time.Second {
		t.Errorf("the hold of 1 s lasted %s", took)
	}
	if r := p.Command(t, "check", "--wait", "0s", "docker.io/"+images.Clean); r.exit != 4 {
		t.Errorf("pratique check = %d, want 4 (not decided yet):\n%s", r.exit, r.output)
	}

	for _, client := range clients {
		if client.name == "crane" {
			continue // tries for seven seconds and stops, see below
		}
		t.Run(client.name, func(t *testing.T) {
			p := StartPratique(t, u, Options{Hold: 2 * time.Second})
			pullCase{sample: images.Clean}.check(t, client.start(t, p), u)
		})
	}
	t.Run("crane", func(t *testing.T) {
		u.SlowBlobs(time.Minute)
		p := StartPratique(t, u, Options{Hold: time.Second})
		r := newCrane(t, p).Pull(t, images.Clean, "amd64")
		if r.exit == 0 {
			t.Fatalf("pulled:\n%s", r.output)
		}
		shown(t, "crane", "scan pending", r.output, p, u)
	})
}

// TestMirrorThatIsNotClosed: containerd with the upstream behind Pratique, as
// most people configure it, must not get from there what is refused or not yet
// decided. It is the bare HEAD that holds it.
//
// containerd takes the refusal for content: after Pratique it asks the upstream
// for a blob with the digest of what it was sent, which is not there.
func TestMirrorThatIsNotClosed(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	start := func(t *testing.T, o Options) Client {
		p := StartPratique(t, u, o)
		u.Forget()
		return StartContainerd(t, openHosts(p, u)).CRI()
	}
	leaked := func() []Request {
		var out []Request
		for _, r := range u.Requests() {
			if strings.Contains(r.Agent, "containerd") && (r.Status < 400 || strings.Contains(r.Path, "/manifests/")) {
				out = append(out, r)
			}
		}
		return out
	}
	for _, c := range []pullCase{
		{name: "refused image by tag", sample: images.Vulnerable, refused: true},
		{name: "refused image by digest", sample: images.Vulnerable, digest: true, refused: true},
		{name: "refused index by tag", sample: images.AllRefused, refused: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.check(t, start(t, Options{}), u)
			if got := leaked(); len(got) > 0 {
				t.Errorf("containerd got from the upstream: %v", got)
			}
		})
	}
	t.Run("not decided", func(t *testing.T) {
		u.Slow(func(r *http.Request) time.Duration { // towards Pratique alone
			if strings.Contains(r.URL.Path, "/blobs/") && !strings.Contains(r.UserAgent(), "containerd") {
				return time.Minute
			}
			return 0
		})
		defer u.Slow(nil)
		r := start(t, Options{Hold: 500 * time.Millisecond}).Pull(t, images.Clean, "amd64")
		if r.exit == 0 || !strings.Contains(r.output, "scan pending") {
			t.Errorf("exit %d, want it told that the scan is pending:\n%s", r.exit, r.output)
		}
		if got := leaked(); len(got) > 0 {
			t.Errorf("containerd got from the upstream: %v", got)
		}
	})
	t.Run("refusal.head 403 does not hold it", func(t *testing.T) {
		// The control: without the bare HEAD the same set-up is a hole, which shows
		// that the tests above can fail.
		r := start(t, Options{Head: "403"}).Pull(t, images.Vulnerable, "amd64")
		if got := leaked(); r.exit != 0 || len(got) == 0 {
			t.Errorf("exit %d, from the upstream %v: this client is closed by itself now; say so in %s", r.exit, got, document)
		}
	})
}
