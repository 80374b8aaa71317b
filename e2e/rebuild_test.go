//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pratique/internal/redis/redistest"
	"pratique/tools/images"
)

// TestRebuild loses all that Redis held. What is made anew from the object store
// decides as before, and no upstream is asked for bytes.
func TestRebuild(t *testing.T) {
	t.Parallel()
	up := StartUpstream(t)
	server := redistest.Start(t)
	o := startObjects(t, "127.0.0.1")
	state := server.Client()
	extra := o.storage("") + fmt.Sprintf("state: {redis: {url: %q}}\n", server.URL())
	p := StartPratique(t, up, Options{Extra: extra})
	samples := map[string]bool{images.Clean: true, images.MultiArch: true, images.Vulnerable: false} // served or not
	pull := func(when string) {
		t.Helper()
		for sample, served := range samples {
			r := run(t, exec.Command(binary(t, "crane"), "pull", "--insecure", p.Registry+"/docker.io/"+sample, filepath.Join(workdir(t, "pull"), "image.tar")))
			if (r.exit == 0) != served || !served && !strings.Contains(r.output, "DENIED") {
				t.Errorf("%s, %s: exit %d, %s", sample, when, r.exit, r.output)
			}
		}
	}
	rebuild := func(want string, args ...string) {
		t.Helper()
		if r := p.Command(t, append([]string{"rebuild", "--config", p.config()}, args...)...); !strings.Contains(r.output, want) || (r.exit == 0) != strings.HasPrefix(want, "links ") {
			t.Errorf("rebuild %v: exit %d, want %q\n%s", args, r.exit, want, r.output)
		}
	}
	pull("at first")
	rebuild("use the state")
	p.Stop()
	rebuild("the target is not empty")
	links := state.DBSize(t.Context()).Val()
	if err := state.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	up.Forget()
	// Killed in the middle, it goes on where it was, and needs no leave for what it made.
	o.latency.Store(int64(700 * time.Millisecond))
	killed := exec.Command(binary(t, "pratique"), "rebuild", "--config", p.config())
	killed.Env = append(os.Environ(), "TMPDIR="+workdir(t, "killed"))
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); !state.HExists(t.Context(), "pratique:{schema}", "rebuild").Val(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("it never began")
		}
	}
	_ = killed.Process.Kill()
	if err := killed.Wait(); err == nil {
		t.Error("it was at its end already")
	}
	o.latency.Store(0)
	rebuild("links ")
	if now := state.DBSize(t.Context()).Val(); now == 0 || now > links {
		t.Errorf("%d keys after it, %d before", now, links)
	}
	p.Start(t)
	pull("made anew")
	for _, r := range up.Requests() {
		if r.Blob() {
			t.Errorf("the upstream was asked for bytes: %s", r)
		}
	}
	// All that was pulled is there already.
	rebuild("links      0 made", "--merge")
}
