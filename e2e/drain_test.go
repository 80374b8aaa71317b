//go:build e2e

package e2e

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique/tools/images"
)

// TestDrain: on SIGTERM readiness goes first, new requests are told when to come
// again, running ones end whole, and the process ends well.
func TestDrain(t *testing.T) {
	u := StartUpstream(t)
	p := StartPratique(t, u, Options{})
	pullCase{sample: images.Clean}.check(t, newCrane(t, p), u)
	// A cold pull waits for its scan, which waits for the upstream.
	u.SlowBlobs(1500 * time.Millisecond)
	type answer struct {
		status int
		body   []byte
		err    error
	}
	held := make(chan answer, 1)
	asked := len(u.Requests())
	go func() {
		res, err := http.Get("http://" + p.Registry + manifestPath(images.MultiArch))
		if err != nil {
			held <- answer{err: err}
			return
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		held <- answer{res.StatusCode, body, err}
	}()
	for len(u.Requests()) == asked { // the manifest was asked for: it is on its way
		time.Sleep(10 * time.Millisecond)
	}
	if err := p.server.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	refused, unready := false, false
	for !refused { // the cached image, on a connection of its own
		select {
		case <-p.server.done:
			t.Fatalf("it ended with a request running:\n%s", p.server.log.tail(3000))
		default:
		}
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Get("http://" + p.Registry + manifestPath(images.Clean))
		if err != nil {
			t.Fatalf("a new request while draining: %v", err)
		}
		_ = res.Body.Close()
		switch res.StatusCode {
		case http.StatusOK: // the signal has not arrived
		case http.StatusServiceUnavailable:
			if refused = true; res.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		default:
			t.Fatalf("a new request while draining = %s", res.Status)
		}
	}
	if res, err := http.Get(p.Admin + "/readyz"); err != nil {
		t.Errorf("/readyz: %v", err)
	} else {
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		unready = res.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(body), "stopping")
	}
	if !unready {
		t.Error("it is ready while it stops")
	}
	a := <-held
	if a.err != nil || a.status != http.StatusOK || digest.FromBytes(a.body).String() != u.Digest(t, images.MultiArch) {
		t.Errorf("the request that was running = %d, %d bytes, %v", a.status, len(a.body), a.err)
	}
	ended(t, p, 0)
}

// TestDrainHasALimit: what does not end in time is cut, and the client knows that
// it has not all of it.
func TestDrainHasALimit(t *testing.T) {
	u := StartUpstream(t)
	p := StartPratique(t, u, Options{})
	pullCase{sample: images.Vulnerable, refused: true}.check(t, newCrane(t, p), u)
	p.Stop()
	raw, err := os.ReadFile(p.config())
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(raw), "registry: {", "registry: {drain: 500ms, ", 1)
	if err := os.WriteFile(p.config(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Start(t)
	u.SlowBlobs(time.Minute)
	cut := make(chan error, 1)
	asked := len(u.Requests())
	go func() { // waits for a scan that will not end
		res, err := http.Get("http://" + p.Registry + manifestPath(images.MultiArch))
		if err == nil {
			_, err = bufio.NewReader(res.Body).WriteTo(io.Discard)
			_ = res.Body.Close()
		}
		cut <- err
	}()
	for len(u.Requests()) == asked {
		time.Sleep(10 * time.Millisecond)
	}
	if err := p.server.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-cut; err == nil {
		t.Error("a request that could not end was answered as if it had")
	}
	ended(t, p, 1)
	if !strings.Contains(p.Log(), "requests still running after 500ms were cut") {
		t.Errorf("the log does not tell:\n%s", p.server.log.tail(3000))
	}
}

// TestReloadBySignal: the real binary takes SIGHUP for what it is.
func TestReloadBySignal(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	p := StartPratique(t, u, Options{})
	pullCase{sample: images.Clean}.check(t, newCrane(t, p), u)
	raw, err := os.ReadFile(p.config())
	if err != nil {
		t.Fatal(err)
	}
	hangup := func(text string) {
		t.Helper()
		if err := os.WriteFile(p.config(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := p.server.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	eventually := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not within 30 s: %s\n%s", what, p.server.log.tail(3000))
			}
		}
	}
	status := func() int { r, _ := p.Do(t, http.MethodGet, manifestPath(images.Clean), nil); return r.StatusCode }

	hangup("nonsense")
	eventually("the failure is told", func() bool { return strings.Contains(p.Log(), "configuration not reloaded") })
	if got := status(); got != http.StatusOK {
		t.Errorf("after a reload that failed: %d", got)
	}
	policy := p.dir + "/strict.yaml"
	if err := os.WriteFile(policy, []byte("name: strict\ndefault: deny\nrules:\n  - {name: eol, endOfLife: {}, action: deny}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hangup(string(raw) + "policies: [" + policy + "]\n")
	eventually("what was served is refused", func() bool { return status() == http.StatusForbidden })
	for _, layer := range u.layers(t, images.Clean) {
		if res, _ := p.Do(t, http.MethodGet, "/v2/docker.io/demo/clean/blobs/"+layer, nil); res.StatusCode != http.StatusForbidden {
			t.Errorf("layer %s = %s after the policy changed", layer, res.Status)
		}
	}
	hangup(string(raw))
	eventually("what was refused is served", func() bool { return status() == http.StatusOK })
}

// ended waits for the process's end and holds its exit code against want.
func ended(t *testing.T, p *Pratique, want int) {
	t.Helper()
	select {
	case <-p.server.done:
	case <-time.After(60 * time.Second):
		t.Fatalf("it does not end:\n%s", p.server.log.tail(3000))
	}
	if got := p.server.cmd.ProcessState.ExitCode(); got != want {
		t.Errorf("exit code %d, want %d:\n%s", got, want, p.server.log.tail(3000))
	}
}
