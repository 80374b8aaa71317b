//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pratique/tools/images"
)

const hookSecret = "Bearer 9f0c2b5d4f7e4a3b8c1d6e5f2a7b8c9d"

// notifying is what a registry in front of Pratique is configured with: it notifies
// the relay, which hands on to Pratique as soon as there is one, and says "taken" to
// all before, such as the samples.
type notifying struct {
	*httptest.Server
	mu     sync.Mutex
	to     string // base URL
	calls  int    // that were handed on
	answer map[int]int
}

func startRelay(t *testing.T) *notifying {
	t.Helper()
	n := &notifying{answer: map[int]int{}}
	n.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		to := n.to
		n.mu.Unlock()
		if to == "" {
			return
		}
		req, err := http.NewRequestWithContext(r.Context(), r.Method, to+r.URL.Path, r.Body)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		req.Header = r.Header.Clone()
		req.Host = "a-name-that-nobody-configured.example.com"
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer func() { _ = res.Body.Close() }()
		n.mu.Lock()
		n.calls++
		n.answer[res.StatusCode]++
		n.mu.Unlock()
		w.WriteHeader(res.StatusCode)
		_, _ = io.Copy(w, res.Body)
	}))
	t.Cleanup(n.Close)
	return n
}

// use has calls handed on from now on.
func (n *notifying) use(base string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.to = base
}

// notifications is the registry's configuration.
func (n *notifying) notifications() string {
	return fmt.Sprintf(`notifications:
  endpoints:
    - {name: pratique, url: "%s/hooks/lab", headers: {Authorization: [%q]}, timeout: 5s, threshold: 3, backoff: 200ms}
`, n.URL, hookSecret)
}

// hooked is Pratique's configuration.
func hooked(t *testing.T, more string) string {
	t.Helper()
	file := filepath.Join(workdir(t, "hook"), "secret")
	if err := os.WriteFile(file, []byte(hookSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`hooks:
  prefetch: ["docker.io/team/**"]
  from:
    lab: {type: distribution, upstream: docker.io, secretFile: %q}
%s`, file, more)
}

// series is one line of /metrics, 0 when it is not there.
func (p *Pratique) series(t testing.TB, name string) float64 {
	t.Helper()
	res, err := http.Get(p.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			var v float64
			if _, err := fmt.Sscan(rest, &v); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			return v
		}
	}
	return 0
}

// reaches waits until a series has a value, or more.
func (p *Pratique) reaches(t testing.TB, name string, want float64) time.Duration {
	t.Helper()
	begun := time.Now()
	for p.series(t, name) < want {
		if time.Since(begun) > time.Minute {
			t.Fatalf("%s is %v after a minute, want %v", name, p.series(t, name), want)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(begun)
}

const (
	decidedPushes = `pratique_hook_pushes_total{outcome="decided"}`
	unknownPushes = `pratique_hook_pushes_total{outcome="unknown"}`
)

// call posts a webhook and returns the status.
func (p *Pratique) call(t testing.TB, path, body, authorization string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.Admin+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", authorization)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// asked are the requests of Pratique's own about a repository.
func asked(u *Upstream, repo string) []Request {
	var out []Request
	for _, r := range u.Requests() {
		if strings.HasPrefix(r.Agent, "pratique/") && strings.HasPrefix(r.Path, "/v2/"+repo+"/") {
			out = append(out, r)
		}
	}
	return out
}

// TestHookDecidesBeforeThePull: what is pushed to a stock registry that notifies
// Pratique is fetched, scanned and decided there before anybody pulls it, with no
// poll; tags known here move at once.
func TestHookDecidesBeforeThePull(t *testing.T) {
	t.Parallel()
	relay := startRelay(t)
	u := startUpstream(t, relay.notifications())
	p := StartPratique(t, u, Options{TagTTL: "1h", Extra: hooked(t, "")})
	img := archived(t, "debian-bookworm-patched-skeleton")

	// Known here by a pull, before anything is told.
	old := u.Push(t, img, "plain/app:1.0")
	p.becomes(t, "plain/app:1.0", http.StatusOK, time.Minute)
	relay.use(p.Admin)

	begun := time.Now()
	pushed := u.Push(t, labelled(t, img, "fresh"), "team/fresh:1.0")
	p.reaches(t, decidedPushes, 1)
	t.Logf("decided %.2f s after the push began", time.Since(begun).Seconds())
	analyses := p.Metric(t, "pratique_scanner_analyses_total")
	waits := p.Metric(t, "pratique_gate_wait_seconds_count")
	if list := p.Command(t, "images"); !strings.Contains(list.output, "team/fresh") {
		t.Errorf("the image is not known before the first pull:\n%s", list.output)
	}
	u.Forget()
	status, body, header := p.status(t, "team/fresh:1.0")
	if status != http.StatusOK || header.Get("Docker-Content-Digest") != pushed {
		t.Errorf("first pull: %d %s %s", status, header.Get("Docker-Content-Digest"), body)
	}
	if r := newCrane(t, p).Pull(t, "team/fresh:1.0", "amd64"); r.exit != 0 {
		t.Errorf("first pull: %s", r.output)
	}
	if more := p.Metric(t, "pratique_scanner_analyses_total") - analyses; more != 0 {
		t.Errorf("the first pull needed %v analyses", more)
	}
	if more := p.Metric(t, "pratique_gate_wait_seconds_count") - waits; more != 0 {
		t.Errorf("the first pull was held %v times", more)
	}
	if rs := asked(u, "team/fresh"); len(rs) > 0 {
		t.Errorf("the first pull asked upstream: %v", rs)
	}

	// A tag known here moves, though it is believed for an hour.
	next := u.Push(t, labelled(t, img, "next"), "plain/app:1.0")
	p.reaches(t, decidedPushes, 2)
	if _, _, header := p.status(t, "plain/app:1.0"); header.Get("Docker-Content-Digest") != next {
		t.Errorf("the tag names %s, want %s (before: %s)", header.Get("Docker-Content-Digest"), next, old)
	}

	// What nobody asked for and is not to be prefetched costs its upstream nothing.
	unknown := p.series(t, unknownPushes)
	u.Push(t, labelled(t, img, "other"), "plain/other:1.0")
	p.reaches(t, unknownPushes, unknown+1)
	if rs := asked(u, "plain/other"); len(rs) > 0 {
		t.Errorf("asked for what nobody wants: %v", rs)
	}

	// What breaks policy stays refused; it was only decided earlier.
	u.Push(t, u.Child(t, images.Vulnerable, "amd64"), "team/refused:1.0")
	p.reaches(t, decidedPushes, 3)
	if status, _, _ := p.status(t, "team/refused:1.0"); status != http.StatusForbidden {
		t.Errorf("a refused image that a webhook had fetched: %d", status)
	}

	// An index: its children for the platforms served here, and no others.
	waits = p.Metric(t, "pratique_gate_wait_seconds_count")
	pushIndex(t, u, "team/many:1.0", u.Child(t, images.MultiArch, "amd64"), u.Child(t, images.MultiArch, "arm64"))
	p.reaches(t, decidedPushes, 4)
	p.status(t, "team/many:1.0")
	if more := p.Metric(t, "pratique_gate_wait_seconds_count") - waits; more != 0 {
		t.Errorf("the pull of an index was held %v times", more)
	}
	relay.mu.Lock()
	defer relay.mu.Unlock()
	if relay.answer[http.StatusAccepted] != relay.calls {
		t.Errorf("answers: %v", relay.answer)
	}
	if bad := p.Metric(t, "pratique_hook_open_pushes"); bad != 0 {
		t.Errorf("%v pushes are open", bad)
	}
}

// TestHookForged: without the secret nothing happens; with it nothing but questions to
// the hook's own upstream, whatever a payload names.
func TestHookForged(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	var dials atomic.Int64
	elsewhere, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = elsewhere.Close() }()
	go func() {
		for {
			c, err := elsewhere.Accept()
			if err != nil {
				return
			}
			dials.Add(1)
			_ = c.Close()
		}
	}()
	p := StartPratique(t, u, Options{TagTTL: "1h", Extra: hooked(t, "")})
	u.Push(t, archived(t, "debian-bookworm-patched-skeleton"), "team/app:1.0")
	u.Forget()
	other := elsewhere.Addr().String()
	push := func(id, repo, url string) string {
		return fmt.Sprintf(`{"events": [{"id": %q, "action": "push", "target": {"mediaType": "application/vnd.oci.image.manifest.v1+json", "repository": %q, "tag": "1.0", "url": %q}, "request": {"host": %q, "addr": %[4]q}, "source": {"addr": %[4]q}}]}`, id, repo, url, other)
	}
	for what, secret := range map[string]string{
		"none": "", "wrong": "Bearer 0", "prefix": hookSecret[:20], "longer": hookSecret + " ", "other scheme": "Basic" + hookSecret[6:],
	} {
		if got := p.call(t, "/hooks/lab", push("1", "team/app", ""), secret); got != http.StatusUnauthorized && what != "longer" { // a header's end is trimmed on the wire
			t.Errorf("%s: %d", what, got)
		}
	}
	p.reaches(t, `pratique_hook_calls_total{hook="lab",outcome="unauthorized"}`, 4)
	if accepted := p.series(t, `pratique_hook_calls_total{hook="lab",outcome="accepted"}`); accepted > 1 {
		t.Errorf("%v accepted", accepted)
	}
	for repo, want := range map[string]int{
		other + "/team/app": 400, "http://" + other + "/team/app": 400, "../../v2/team/app": 400, "team/app?ns=" + other: 400,
		"team//app": 400, "team/app@" + other: 400, "Team/App": 400, "/team/app": 400, "team/%2e%2e/app": 400, "": 400, "team/app": 202,
	} {
		if got := p.call(t, "/hooks/lab", push("x"+repo, repo, "http://"+other+"/v2/team/app/manifests/1.0"), hookSecret); got != want {
			t.Errorf("%q: %d", repo, got)
		}
	}
	p.reaches(t, decidedPushes, 1)
	if n := dials.Load(); n != 0 {
		t.Errorf("the host of the payload was dialled %d times", n)
	}
	if len(asked(u, "team/app")) == 0 {
		t.Error("the upstream was not asked")
	}
	for _, r := range u.Requests() {
		if r.Path != "/v2/" && !strings.HasPrefix(r.Path, "/v2/team/app/") {
			t.Errorf("asked for %s", r)
		}
	}
	for path, want := range map[string]int{"/hooks/other": 404, "/hooks/": 404, "/hooks/lab/x": 401, "/hooks/../api/v1/reload": 404} {
		if got := p.call(t, path, push("y", "team/app", ""), hookSecret); got != want {
			t.Errorf("%s: %d", path, got)
		}
	}
	if strings.Contains(p.Log(), hookSecret[7:]) {
		t.Error("the log has the secret")
	}
}

// TestHookSurvivesKill: what was accepted is followed up by the next process; with a
// listener of their own, webhooks arrive there and nothing else does.
func TestHookSurvivesKill(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	own := freeAddr(t)
	p := StartPratique(t, u, Options{TagTTL: "1h", Extra: hooked(t, fmt.Sprintf("  listen: %q\n", own))})
	u.Push(t, archived(t, "debian-bookworm-patched-skeleton"), "team/app:1.0")
	push := `{"events": [{"id": "1", "action": "push", "target": {"mediaType": "application/vnd.oci.image.manifest.v1+json", "repository": "team/app", "tag": "1.0"}}]}`
	if got := p.call(t, "/hooks/lab", push, hookSecret); got != http.StatusNotFound {
		t.Errorf("at the admin listener: %d", got)
	}
	hooks := &Pratique{Admin: "http://" + own}
	for _, path := range []string{"/metrics", "/api/v1/reload", "/readyz", "/debug/pprof/", "/", "/v2/"} {
		if got := hooks.call(t, path, "", hookSecret); got != http.StatusNotFound {
			t.Errorf("%s at the hooks' listener: %d", path, got)
		}
	}

	release := make(chan struct{})
	var held atomic.Bool
	u.Slow(func(r *http.Request) time.Duration {
		if strings.HasPrefix(r.URL.Path, "/v2/team/app/manifests/") && !held.Load() {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		return 0
	})
	if got := hooks.call(t, "/hooks/lab", push, hookSecret); got != http.StatusAccepted {
		t.Fatalf("%d", got)
	}
	if err := p.server.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.server.done
	held.Store(true)
	close(release)
	p.Start(t)
	p.reaches(t, decidedPushes, 1)
	if status, body, _ := p.status(t, "team/app:1.0"); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}
