package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"pratique/internal/config"
	"pratique/tools/images"
	"pratique/web"
)

const (
	servesAll = "name: open\ndefault: allow\nrules:\n  - {name: eol, endOfLife: {}, action: deny}\n"
	refuses   = "name: shut\ndefault: deny\nrules:\n  - {name: eol, endOfLife: {}, action: deny}\n"
)

// rewrite replaces a file as an operator's tools do: whole.
func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// reloadable is a product whose configuration and policy are rewritten.
type reloadable struct {
	*product
	file, policy, text string
}

func startReloadable(t *testing.T, upstream string) *reloadable {
	t.Helper()
	r := &reloadable{file: configuration(t, upstream, demoDatabase)}
	r.policy = filepath.Join(filepath.Dir(r.file), "policy.yaml")
	rewrite(t, r.policy, servesAll)
	text, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	r.text = string(text) + fmt.Sprintf("policies: [%q]\nwatch: 0s\n", r.policy)
	rewrite(t, r.file, r.text)
	r.product = startServe(t, r.file)
	r.ready(t)
	return r
}

// reload asks by HTTP, which answers when it is done.
func (r *reloadable) reload(t *testing.T) (int, web.Reloaded, string) {
	t.Helper()
	res, err := http.Post("http://"+r.admin+"/api/v1/reload", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out web.Reloaded
	if res.StatusCode == http.StatusOK {
		if err := json.Unmarshal(body, &out); err != nil {
			t.Fatal(err)
		}
	}
	return res.StatusCode, out, string(body)
}

func (r *reloadable) manifest(t *testing.T, path string) int {
	t.Helper()
	status, _ := get(t, "http://"+r.registry+path)
	return status
}

const (
	cleanPath = "/v2/lab/demo/clean/manifests/1.0"
	otherPath = "/v2/other/demo/clean/manifests/1.0"
)

func TestReload(t *testing.T) {
	upstream := startSample(t)
	r := startReloadable(t, upstream.host)
	if got := r.manifest(t, cleanPath); got != http.StatusOK {
		t.Fatalf("before any reload: %d", got)
	}

	t.Run("a signal changes the policies", func(t *testing.T) {
		rewrite(t, r.policy, refuses)
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		// A verdict is remembered; not across policies.
		eventually(t, func() bool { return r.manifest(t, cleanPath) == http.StatusForbidden })
		eventually(t, func() bool { return strings.Contains(r.log.String(), `"configuration reloaded"`) })
		rewrite(t, r.policy, servesAll)
		if status, out, body := r.reload(t); status != http.StatusOK || len(out.NeedsRestart) != 0 || len(out.Changed) != 1 {
			t.Errorf("reload = %d %s", status, body)
		}
		if got := r.manifest(t, cleanPath); got != http.StatusOK {
			t.Errorf("after the policies that serve are back: %d", got)
		}
	})

	broken := map[string]func(){
		"a policy with a mistake":        func() { rewrite(t, r.policy, "name: x\nrulez: []\n") },
		"a policy that is gone":          func() { _ = os.Remove(r.policy) },
		"a configuration with a mistake": func() { rewrite(t, r.file, r.text+"registri: {}\n") },
		"a configuration that is gone":   func() { _ = os.Remove(r.file) },
		"an upstream without its certificate": func() {
			rewrite(t, r.file, strings.Replace(r.text, "upstreams:", "upstreams:\n  other: {url: \"https://registry.example\", ca: /no/such/file}", 1))
		},
		"two upstreams of one name": func() {
			rewrite(t, r.file, strings.Replace(r.text, "upstreams:", fmt.Sprintf("upstreams:\n  other: {url: \"http://%s\", private: true}", upstream.host), 1))
		},
	}
	for name, spoil := range broken {
		t.Run(name+" changes nothing", func(t *testing.T) {
			spoil()
			if status, _, body := r.reload(t); status != http.StatusUnprocessableEntity || !strings.Contains(body, `"error"`) {
				t.Errorf("reload = %d %s", status, body)
			}
			if got := r.manifest(t, cleanPath); got != http.StatusOK {
				t.Errorf("pull = %d", got)
			}
			if status, body := get(t, "http://"+r.admin+"/readyz"); status != http.StatusOK || !strings.Contains(body, "ok    configuration: the last reload failed and changed nothing") {
				t.Errorf("/readyz = %d\n%s", status, body)
			}
			if _, body := get(t, "http://"+r.admin+"/metrics"); !strings.Contains(body, "\npratique_config_reload_successful 0\n") {
				t.Error("the metric says that it was applied")
			}
			rewrite(t, r.policy, servesAll)
			rewrite(t, r.file, r.text)
			if status, _, body := r.reload(t); status != http.StatusOK {
				t.Errorf("reload of what is right again = %d %s", status, body)
			}
			if _, body := get(t, "http://"+r.admin+"/readyz"); !strings.Contains(body, "ok    configuration\n") {
				t.Errorf("/readyz after it\n%s", body)
			}
		})
	}

	t.Run("upstreams come and go", func(t *testing.T) {
		second := startSample(t)
		if got := r.manifest(t, otherPath); got != http.StatusForbidden {
			t.Errorf("an upstream that is not configured: %d", got)
		}
		rewrite(t, r.file, strings.Replace(r.text, "upstreams:", fmt.Sprintf("upstreams:\n  other: {url: \"http://%s\", private: true}", second.host), 1))
		if status, _, body := r.reload(t); status != http.StatusOK {
			t.Fatalf("reload = %d %s", status, body)
		}
		if _, err := r.pull(t, "other/"+images.Clean); err != nil {
			t.Errorf("pull from the new upstream: %v", err)
		}
		if got := runCommand(t, "http://"+r.admin, "check", "other/"+images.Clean); got.code != exitOK {
			t.Errorf("check through the new upstream: %+v", got)
		}
		rewrite(t, r.file, r.text)
		if status, _, body := r.reload(t); status != http.StatusOK {
			t.Fatalf("reload = %d %s", status, body)
		}
		if got := r.manifest(t, otherPath); got != http.StatusForbidden {
			t.Errorf("an upstream that was taken away: %d, though its content is cached", got)
		}
	})

	t.Run("what needs a restart is told", func(t *testing.T) {
		rewrite(t, r.file, strings.Replace(r.text, "scanner: {workers: 1}", "scanner: {workers: 2}\nrefusal: {help: ask us}", 1))
		_, out, body := r.reload(t)
		want := web.Reloaded{Policies: out.Policies, Changed: []string{"refusal.help"}, NeedsRestart: []string{"scanner.workers"}}
		if diff := cmp.Diff(want, out); diff != "" {
			t.Errorf("%s\n%s", body, diff)
		}
		if _, body := get(t, "http://"+r.admin+"/readyz"); !strings.Contains(body, "ok    configuration: changed keys need a restart: scanner.workers") {
			t.Errorf("/readyz\n%s", body)
		}
	})

	t.Run("the log's level", func(t *testing.T) {
		if r.manifest(t, "/v2/"); strings.Contains(r.log.String(), `"kind":"base"`) {
			t.Fatal("debug lines are written already: nothing is shown")
		}
		rewrite(t, r.file, strings.Replace(r.text, "log: {", "log: {level: debug, ", 1))
		if status, _, body := r.reload(t); status != http.StatusOK {
			t.Fatalf("reload = %d %s", status, body)
		}
		r.manifest(t, "/v2/")
		eventually(t, func() bool { return strings.Contains(r.log.String(), `"level":"DEBUG"`) })
	})
}

// TestReloadDropsNoRequest: clients pull while the configuration is read again
// all the time, now well, now not.
func TestReloadDropsNoRequest(t *testing.T) {
	upstream := startSample(t)
	r := startReloadable(t, upstream.host)
	if _, err := r.pull(t, "lab/"+images.Clean); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	pulls := make([]int, 4)
	for i := range pulls {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := r.pull(t, "lab/"+images.Clean); err != nil {
					t.Error(err)
					return
				}
				pulls[i]++
			}
		})
	}
	for i := range 60 {
		text := r.text + fmt.Sprintf("refusal: {help: \"version %d\"}\n", i)
		if i%3 == 0 {
			text = "nonsense"
		}
		rewrite(t, r.file, text)
		r.reload(t)
	}
	close(done)
	wg.Wait()
	total := 0
	for _, n := range pulls {
		total += n
	}
	if total == 0 {
		t.Error("nothing was pulled meanwhile: nothing is shown")
	}
	if _, body := get(t, "http://"+r.admin+"/metrics"); !strings.Contains(body, `pratique_config_reloads_total{outcome="applied"} 4`) ||
		!strings.Contains(body, fmt.Sprintf(`pratique_proxy_pulls_total{outcome="served"} %d`, total+1)) {
		t.Errorf("counters do not go on across reloads, %d pulls:\n%s", total+1, body)
	}
}

// TestReloadJudgesWhoIsHeld: a pull that waits for its scan while the policies
// change is judged by the new ones.
func TestReloadJudgesWhoIsHeld(t *testing.T) {
	upstream := startSample(t)
	r := startReloadable(t, upstream.host)
	release := make(chan struct{})
	upstream.mu.Lock()
	upstream.slow = release
	upstream.mu.Unlock()
	held := make(chan int, 1)
	go func() {
		status, _ := get(t, "http://"+r.registry+cleanPath)
		held <- status
	}()
	eventually(t, func() bool { return upstream.asked() > 0 })
	rewrite(t, r.policy, refuses)
	if status, _, body := r.reload(t); status != http.StatusOK {
		t.Fatalf("reload = %d %s", status, body)
	}
	close(release)
	if got := <-held; got != http.StatusForbidden {
		t.Errorf("who was held got %d, want the new policies' 403", got)
	}
}

// TestHot: which keys are applied while the process runs; every other key is
// told to need a restart.
func TestHot(t *testing.T) {
	load := func(sets ...string) config.Config {
		cfg, err := config.Load("", nil, sets)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	values := map[string]string{
		"registry.hold": "1s", "registry.maxHeld": "7", "refusal.head": "403", "refusal.help": "x", "platforms": "linux/s390x",
		"policies": "/some/policy.yaml", "log.level": "debug", "upstreams.docker.io.url": "https://mirror.example",
		"upstreams.ghcr.io.url": "https://ghcr.io",
		// From here on: not hot.
		"registry.listen": ":1", "registry.drain": "1s", "admin.listen": ":2", "admin.hosts": "a.example", "dataDir": "/x",
		"cache.tagTTL": "3s", "database.refresh": "2h", "scanner.workers": "3", "log.format": "json", "state.sqlite.path": "/y",
		"storage.spool": "/z", "javaDatabase.path": "/j",
	}
	cold := map[string]bool{
		"registry.listen": true, "registry.drain": true, "admin.listen": true, "admin.hosts": true, "dataDir": true,
		"cache.tagTTL": true, "database.refresh": true, "scanner.workers": true, "log.format": true, "state.sqlite.path": true,
		"storage.spool": true, "javaDatabase.path": true,
	}
	for key, value := range values {
		t.Run(key, func(t *testing.T) {
			current, next := load(), load(key+"="+value)
			now := hot(current, next)
			left, changed := config.Differences(now, next), config.Differences(current, now)
			if len(left)+len(changed) == 0 {
				t.Fatal("the value is the default: nothing is shown")
			}
			if isCold := len(left) > 0; isCold != cold[key] || isCold && len(changed) > 0 {
				t.Errorf("applied %v, needs a restart %v", changed, left)
			}
		})
	}
	if diff := cmp.Diff([]string(nil), config.Differences(load(), load()), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("a configuration differs from itself: %s", diff)
	}
}

// TestWatch: who writes a policy file does not have to tell anybody, and what is
// half written changes nothing.
func TestWatch(t *testing.T) {
	upstream := startSample(t)
	r := &reloadable{file: configuration(t, upstream.host, demoDatabase)}
	r.policy = filepath.Join(filepath.Dir(r.file), "policy.yaml")
	rewrite(t, r.policy, servesAll)
	text, err := os.ReadFile(r.file)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, r.file, string(text)+fmt.Sprintf("policies: [%q]\nwatch: 1s\n", r.policy))
	r.product = startServe(t, r.file)
	r.ready(t)
	if got := r.manifest(t, cleanPath); got != http.StatusOK {
		t.Fatalf("before any change: %d", got)
	}
	if err := os.WriteFile(r.policy, []byte(refuses[:20]), 0o600); err != nil { // in place, cut
		t.Fatal(err)
	}
	eventually(t, func() bool { return strings.Contains(r.log.String(), "the one in force stays") })
	if got := r.manifest(t, cleanPath); got != http.StatusOK {
		t.Errorf("with half a policy: %d", got)
	}
	if err := os.WriteFile(r.policy, []byte(refuses), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return r.manifest(t, cleanPath) == http.StatusForbidden })
	rewrite(t, r.policy, servesAll)
	eventually(t, func() bool { return r.manifest(t, cleanPath) == http.StatusOK })
	if n := strings.Count(r.log.String(), "the one in force stays"); n != 1 {
		t.Errorf("one mistake was told %d times", n)
	}
}
