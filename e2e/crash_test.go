//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// crashRounds is how often TestCrash kills the server, unless CRASH_ROUNDS says
// otherwise. CRASH_SEED repeats a run's choices.
const crashRounds = 30

// crash is the server under TestCrash: killed and started on the same data. It
// is not started with startProcess, whose clean-up of hundreds of dead processes
// would meet other processes under their numbers.
type crash struct {
	*Pratique
	up  *crashUpstream
	cmd *exec.Cmd
	log *logBuffer

	checked map[string]bool // blobs that were read since the last whole audit
}

// TestCrash kills the server under load, again and again, at random moments and
// when it has just done something: a blob has begun, has been renamed, the state
// was written, a worker was started. After each: no worker is left, every stored
// blob is what its name says, what was asked for is decided without anybody
// asking again, and what was begun is gone. All the while clients hold every
// byte against the truth.
func TestCrash(t *testing.T) {
	rounds, seed := crashRounds, uint64(time.Now().UnixNano())
	for name, set := range map[string]func(string) error{
		"CRASH_ROUNDS": func(s string) (err error) { rounds, err = strconv.Atoi(s); return err },
		"CRASH_SEED":   func(s string) (err error) { seed, err = strconv.ParseUint(s, 10, 64); return err },
	} {
		if s := os.Getenv(name); s != "" {
			if err := set(s); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	t.Logf("%d rounds, CRASH_SEED=%d", rounds, seed)
	random := rand.New(rand.NewPCG(seed, 0))

	c := startCrash(t)
	defer c.kill()
	points := map[string]int{}
	began := time.Now()
	for round := range rounds {
		c.up.add(t, round, random)
		strike := c.aim(t, crashPoints[round%len(crashPoints)], random)
		load := startLoad(c, rand.New(rand.NewPCG(seed, uint64(round)+1)))
		point := strike()
		c.kill()
		points[point]++
		load.stop()
		for _, wrong := range load.wrong() {
			t.Errorf("round %d, killed at %s: %s", round, point, wrong)
		}
		c.inspect(t, round%10 == 9)
		if random.IntN(2) == 0 { // so that what is an orphan is collected under load
			c.age(t)
		}
		if random.IntN(6) == 0 { // and killed again while it recovers
			c.start(t)
			time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
			c.kill()
			c.inspect(t, false)
		}
		c.restart(t)
		c.decided(t, load.answered())
		if t.Failed() {
			t.Fatalf("round %d, killed at %s; the server's log:\n%s", round, point, c.log.tail(6000))
		}
	}
	t.Logf("killed at %v, in %s", points, time.Since(began).Round(time.Second))
	if n := points[crashPoints[0].name]; rounds >= crashRounds && 4*n > 3*rounds {
		t.Errorf("%d of %d kills were at random: the points are not met any more", n, rounds)
	}
	c.orphans(t)
	c.everything(t)
}

// startCrash starts a server over an empty store and an upstream that drips.
func startCrash(t *testing.T) *crash {
	t.Helper()
	up := startCrashUpstream(t)
	p := &Pratique{Registry: freeAddr(t), Admin: "http://" + freeAddr(t), dir: workdir(t, "crash")}
	if err := os.WriteFile(p.config(), []byte(p.render(t, &Upstream{Addr: up.addr}, Options{Hold: 5 * time.Second, Extra: "scanner: {workers: 1}"})), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &crash{Pratique: p, up: up, checked: map[string]bool{}}
	c.restart(t)
	return c
}

// start starts the process and does not wait for it.
func (c *crash) start(t *testing.T) {
	t.Helper()
	c.log = &logBuffer{}
	c.cmd = exec.Command(binary(t, "pratique"), "serve", "--config", c.config())
	c.cmd.Dir = c.dir
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// restart starts the process, waits until it can decide, and checks that what
// the dead one had begun is gone.
func (c *crash) restart(t *testing.T) {
	t.Helper()
	left := c.begun(t)
	c.start(t)
	ready := answers(c.Admin + "/readyz")
	for deadline := time.Now().Add(90 * time.Second); ready() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not ready after a kill: %v\n%s", ready(), c.log.tail(6000))
		}
	}
	for _, path := range left {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s was left by a killed process and is still there", path)
		}
	}
}

// begun lists what a dead process left that its successor has to remove.
func (c *crash) begun(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"blobs/spool/*-*", "blobs/blobs/*.probe", "tmp/pratique-workers-[0-9]*", "tmp/pratique-import-*"} {
		left, err := filepath.Glob(filepath.Join(c.dir, "data", pattern))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, left...)
	}
	return out
}

// kill ends the process without a word.
func (c *crash) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// inspect looks at what a killed process left: no worker, no wrong blob.
func (c *crash) inspect(t *testing.T, whole bool) {
	t.Helper()
	var alive []string
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if alive = c.processes(); len(alive) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(alive) > 0 {
		t.Errorf("processes outlived the server: %v", alive)
	}
	if whole {
		clear(c.checked)
	}
	for path, d := range c.blobs(t) {
		if c.checked[path] {
			continue
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := digest.FromBytes(raw); got != d {
			t.Errorf("%s holds %d bytes that are %s", path, len(raw), got)
		}
		c.checked[path] = true
	}
}

// blobs are the stored blobs by path. A file whose name is no digest fails the
// test, except the probe of a start that was cut short.
func (c *crash) blobs(t *testing.T) map[string]digest.Digest {
	t.Helper()
	out := map[string]digest.Digest{}
	err := filepath.WalkDir(filepath.Join(c.dir, "data", "blobs", "blobs"), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(path, ".probe") {
			return err
		}
		d := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		if err := d.Validate(); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		out[path] = d
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// processes are those that know this server's folder: itself and its workers.
func (c *crash) processes() []string {
	var out []string
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range folders {
		if p == fmt.Sprintf("/proc/%d", os.Getpid()) {
			continue
		}
		environ, _ := os.ReadFile(p + "/environ")
		command, _ := os.ReadFile(p + "/cmdline")
		if strings.Contains(string(environ)+string(command), c.dir) {
			out = append(out, filepath.Base(p)+" "+strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return out
}

// age makes every stored blob two hours old, so that the collector looks at it.
func (c *crash) age(t *testing.T) {
	t.Helper()
	then := time.Now().Add(-2 * time.Hour)
	for path := range c.blobs(t) {
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
	}
}

// known is what the server says of each image that it knows. Asking opens no
// scan.
func (c *crash) known(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for after := ""; ; {
		res, err := http.Get(c.Admin + "/api/v1/images?limit=1000&after=" + after)
		if err != nil {
			t.Fatal(err)
		}
		var page struct {
			Images []struct{ Digest, State, Outcome string }
			Next   string
		}
		err = json.NewDecoder(res.Body).Decode(&page)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("images: %s %v", res.Status, err)
		}
		for _, i := range page.Images {
			out[i.Digest] = i.State + " " + i.Outcome
		}
		if after = page.Next; after == "" {
			return out
		}
	}
}

// decided waits until every known image has its report, without asking for one,
// and holds the outcome against the truth. What a client was answered about must
// be known.
func (c *crash) decided(t *testing.T, answered []string) {
	t.Helper()
	var known map[string]string
	var open []string
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		known, open = c.known(t), nil
		for d, state := range known {
			if !strings.HasPrefix(state, "scanned ") {
				open = append(open, d+" "+state)
			}
		}
		if len(open) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(open) > 0 {
		t.Errorf("forgotten by the server: %v", open)
	}
	for _, d := range answered {
		if known[d] == "" {
			t.Errorf("%s was answered about before the kill, and is not known after it", d)
		}
	}
	for d, state := range known {
		if i := c.up.byDigest(d); i == nil {
			t.Errorf("%s is known to the server, not to the upstream", d)
		} else if refused := state == "scanned deny"; refused != i.refused {
			t.Errorf("%s (%s) is %q", i.name, d, state)
		}
	}
}

// orphans plants a blob that nothing names beside those that are linked, all of
// them old: only it goes, with whatever the kills left unlinked.
func (c *crash) orphans(t *testing.T) {
	t.Helper()
	c.kill()
	stray := []byte("nothing names this")
	d := digest.FromBytes(stray)
	path := filepath.Join(c.dir, "data", "blobs", "blobs", "sha256", d.Encoded()[:2], d.Encoded())
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, stray, 0o600); err != nil {
		t.Fatal(err)
	}
	c.age(t)
	c.restart(t)
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(path); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the orphan is still there\n%s", c.log.tail(3000))
		}
	}
	if n := c.Metric(t, "pratique_store_orphans_removed_total"); n < 1 {
		t.Errorf("%v orphans counted", n)
	}
}

// everything asks for every image that the server knows, with the upstream gone:
// what may be had is there whole, what may not is refused with all it holds.
func (c *crash) everything(t *testing.T) {
	t.Helper()
	known := c.known(t)
	c.decided(t, nil)
	u := &crashUser{c: c, random: rand.New(rand.NewPCG(1, 1))}
	for d := range known { // what no client fetched whole before is fetched now
		if i := c.up.byDigest(d); i != nil && !i.refused {
			u.pull(i, i.digest)
		}
	}
	c.up.close()
	served := 0
	for d := range known {
		i := c.up.byDigest(d)
		if i == nil {
			continue // reported by decided
		}
		if got := u.pull(i, i.digest); !i.refused && got != http.StatusOK {
			t.Errorf("%s: %d with the upstream gone", i.name, got)
		} else if !i.refused {
			served++
		}
	}
	for _, wrong := range u.wrong {
		t.Error(wrong)
	}
	if served == 0 {
		t.Error("nothing was served: nothing is shown")
	}
	t.Logf("%d images known, %d served, %d refused", len(known), served, len(known)-served)
	if !slices.Contains(u.seen, http.StatusForbidden) {
		t.Error("nothing was refused: nothing is shown")
	}
}
