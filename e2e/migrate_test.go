//go:build e2e

package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique/internal/redis/redistest"
	"pratique/tools/images"
)

// verdictID is how a refusal names its verdict.
var verdictID = regexp.MustCompile(`verdict ([0-9a-f]{12})`)

// TestMigrate moves what one server with a disk knows to Redis and an object store, with
// a kill on the way. What was decided is decided so there, without another scan.
func TestMigrate(t *testing.T) {
	t.Parallel()
	up := StartUpstream(t)
	old := StartPratique(t, up, Options{TagTTL: "1h"})
	pull := func(p *Pratique, ref string) result {
		return run(t, exec.Command(binary(t, "crane"), "pull", "--insecure", p.Registry+"/docker.io/"+ref, filepath.Join(workdir(t, "pull"), "image.tar")))
	}
	refusal := pull(old, images.Vulnerable)
	verdict := verdictID.FindStringSubmatch(refusal.output)
	if refusal.exit == 0 || verdict == nil {
		t.Fatalf("an image to refuse: exit %d, %s", refusal.exit, refusal.output)
	}
	if r := old.Command(t, "exception", "create", "--rule", "default/fixable-critical", "--repository", "docker.io/demo/vulnerable", "--expires", "1d", "--reason", "moves along", "--author", "eve"); r.exit != 0 {
		t.Fatal(r.output)
	}
	byDigest := func(sample string) string {
		name, _, _ := strings.Cut(sample, ":")
		return name + "@" + up.Digest(t, sample)
	}
	served := map[string]bool{images.Clean: true, images.MultiArch: true, images.Vulnerable: true, images.AllRefused: false}
	pulls := func(p *Pratique, when string) {
		t.Helper()
		for sample, served := range served {
			for _, ref := range []string{sample, byDigest(sample)} {
				if r := pull(p, ref); (r.exit == 0) != served || !served && !strings.Contains(r.output, "DENIED") {
					t.Errorf("%s, %s: exit %d, %s", ref, when, r.exit, r.output)
				}
			}
		}
	}
	pulls(old, "before the move")
	told := func(p *Pratique) map[string]string {
		out := make(map[string]string)
		for _, args := range [][]string{{"images"}, {"exception", "list", "--all"}, {"check", "--verdict", verdict[1]}, {"check", images.Clean}, {"check", images.AllRefused}} {
			r := p.Command(t, append(args, "-o", "json")...)
			out[strings.Join(args, " ")] = fmt.Sprint(r.exit, "\n", r.output)
		}
		return out
	}
	before := told(old)

	server := redistest.Start(t)
	extra := startObjects(t, "127.0.0.1").storage("") + fmt.Sprintf("state: {redis: {url: %q}}\n", server.URL())
	replica := preparePratique(t, up, Options{TagTTL: "1h", Extra: extra})
	data := filepath.Join(old.dir, "data")
	args := []string{"migrate", "--config", replica.config(), "--from", "sqlite:" + filepath.Join(data, "state.db"), "--blobs", filepath.Join(data, "blobs")}
	if r := old.Command(t, args...); r.exit != 1 || !strings.Contains(r.output, "another process has it open") {
		t.Errorf("beside the server: exit %d, %s", r.exit, r.output)
	}
	old.Stop()
	kills := 0
	for wait := 200 * time.Millisecond; ; wait += 300 * time.Millisecond { // somewhere, until it is faster
		var said strings.Builder
		cmd := exec.Command(binary(t, "pratique"), args...)
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(wait, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		kill.Stop()
		if err == nil {
			t.Logf("after %d kills: %s", kills, said.String())
			break
		}
		kills++
		if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
			t.Fatalf("migrate: %v: %s", err, said.String())
		}
	}
	if r := old.Command(t, args...); r.exit != 1 || !strings.Contains(r.output, "not empty") {
		t.Errorf("a second time: exit %d, %s", r.exit, r.output)
	}

	up.Forget()
	replica.Start(t)
	pulls(replica, "after the move")
	if d := cmp.Diff(before, told(replica)); d != "" {
		t.Errorf("what it tells (-before +after the move):\n%s", d)
	}
	for _, name := range []string{"pratique_scanner_scans_total", "pratique_scanner_analyses_total"} {
		if n := replica.Metric(t, name); n != 0 {
			t.Errorf("%s: %v after the move, want 0", name, n)
		}
	}
	for _, r := range up.Requests() {
		if r.Blob() {
			t.Errorf("the upstream was asked for bytes: %s", r)
		}
	}
}
