//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique/internal/redis/redistest"
)

// TestReplicas has two real processes on one Redis and one object store. What one did
// holds for the other; what one was doing when it was killed, the other does; what
// neither can ask Redis about is as it was, or 503.
func TestReplicas(t *testing.T) {
	t.Parallel()
	w := startPair(t)
	for name := range updated {
		w.up.Push(t, archived(t, name), "update/"+name+":1")
	}
	for _, step := range []struct {
		name string
		test func(*testing.T, *pair)
	}{
		{"exceptions", exceptionsOfBoth},
		{"a pull released by the other", releasedByOther},
		{"both at once", coldAtBoth},
		{"takeover", takeover},
		{"database", databaseOfBoth},
		{"redis stopped", redisStopped},
	} {
		began := time.Now()
		if !t.Run(step.name, func(t *testing.T) { step.test(t, w) }) {
			t.Logf("A:\n%s\nB:\n%s", w.a.server.log.tail(3000), w.b.server.log.tail(3000))
			return // the next would begin with what this one left
		}
		t.Logf("%s: %v", step.name, time.Since(began).Round(100*time.Millisecond))
	}
}

// pair is two replicas and what they share.
type pair struct {
	t     *testing.T // of all steps: processes end with it
	up    *Upstream
	redis *redistest.Server
	sink  *eventSink
	a, b  *Pratique
}

func startPair(t *testing.T) *pair {
	t.Helper()
	w := &pair{t: t, up: StartUpstream(t), sink: startSink(t), redis: redistest.Start(t, "--appendfsync", "everysec")}
	extra := policies(t, updatePolicy) + startObjects(t, "127.0.0.1").storage("") + fmt.Sprintf(`state:
  redis: {url: %q}
notify: {sinks: {record: {url: %q, private: true}}}
`, w.redis.URL(), w.sink.URL)
	o := Options{Database: olderDatabase, TagTTL: "1h", Extra: extra}
	w.a, w.b = StartPratique(t, w.up, o), StartPratique(t, w.up, o)
	return w
}

func (w *pair) both() map[string]*Pratique { return map[string]*Pratique{"A": w.a, "B": w.b} }

// scans is how many images both have scanned.
func (w *pair) scans(t *testing.T) (a, b float64) {
	t.Helper()
	return w.a.Metric(t, "pratique_scanner_scans_total"), w.b.Metric(t, "pratique_scanner_scans_total")
}

// blocked holds requests for blobs up until it is opened, and says when there is one.
func (w *pair) blocked(t *testing.T) (asked <-chan struct{}, open func()) {
	t.Helper()
	w.up.Forget()
	gate, first := make(chan struct{}), make(chan struct{})
	said := sync.OnceFunc(func() { close(first) })
	open = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(func() { open(); w.up.Slow(nil) })
	w.up.Slow(func(r *http.Request) time.Duration {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			said()
			select {
			case <-gate:
			case <-r.Context().Done():
			}
		}
		return 0
	})
	return first, open
}

// once checks that the upstream sent every blob at most once since blocked.
func (w *pair) once(t *testing.T) {
	t.Helper()
	sent := map[string]int{}
	for _, r := range w.up.Requests() {
		if r.Blob() && r.Status == http.StatusOK {
			sent[r.Path]++
		}
	}
	for path, n := range sent {
		if n != 1 {
			t.Errorf("the upstream sent %s %d times", path, n)
		}
	}
	if len(sent) == 0 {
		t.Error("the upstream sent nothing: nothing is shown")
	}
}

// answered is what a pull was answered with, and when.
type answered struct {
	status int
	body   string
	at     time.Time
}

func (p *Pratique) pull(name string) <-chan answered {
	out := make(chan answered, 1)
	go func() {
		status, body := answerOf("http://" + p.Registry + "/v2/docker.io/update/" + name + "/manifests/1")
		out <- answered{status, body, time.Now()}
	}()
	return out
}

// exceptionsOfBoth: made at A, met at B; revoked at A, refused at B.
func exceptionsOfBoth(t *testing.T, w *pair) {
	const name = "alma9-rpmdb"
	for at, p := range w.both() {
		if status, body := manifest(t, p, name); status != http.StatusForbidden {
			t.Fatalf("%s: %d %s", at, status, body)
		}
	}
	r := w.a.Command(t, "exception", "create", "--rule", "house/severe", "--repository", "docker.io/update/"+name, "--expires", "1d", "--reason", "a test", "--author", "ann")
	id := exceptionID.FindString(r.output)
	if r.exit != 0 || id == "" {
		t.Fatal(r.output)
	}
	began := time.Now()
	w.b.becomes(t, "update/"+name+":1", http.StatusOK, 30*time.Second)
	t.Logf("met after %v", time.Since(began))
	if r := w.a.Command(t, "exception", "revoke", id, "--reason", "over", "--author", "ann"); r.exit != 0 {
		t.Fatal(r.output)
	}
	began = time.Now()
	w.b.becomes(t, "update/"+name+":1", http.StatusForbidden, 30*time.Second)
	t.Logf("revoked after %v", time.Since(began))
}

// scanning is the replica that scans, when there is one scan, and the other.
func (w *pair) scanning(t *testing.T) (scans, waits *Pratique) {
	t.Helper()
	within(t, 30*time.Second, "one of both scans", func() bool {
		scans, waits = w.a, w.b
		if w.b.Metric(t, "pratique_scheduler_jobs_running") > 0 {
			scans, waits = w.b, w.a
		}
		return scans.Metric(t, "pratique_scheduler_jobs_running") == 1
	})
	return scans, waits
}

// releasedByOther: a pull waits for a scan that the other replica does.
func releasedByOther(t *testing.T, w *pair) {
	const name = "debian-bookworm-skeleton"
	asked, open := w.blocked(t)
	first := w.a.pull(name)
	<-asked
	scans, waits := w.scanning(t)
	before := waits.Metric(t, "pratique_scanner_scans_total")
	there := waits.pull(name)
	select {
	case r := <-there:
		t.Fatalf("%d %s before anything was scanned", r.status, r.body)
	case <-time.After(500 * time.Millisecond):
	}
	here := scans.pull(name)
	open()
	for _, r := range []answered{<-first, <-here} {
		if r.status != http.StatusOK {
			t.Errorf("where it was scanned: %d %s", r.status, r.body)
		}
	}
	scanned := time.Now()
	if r := <-there; r.status != http.StatusOK {
		t.Errorf("elsewhere: %d %s", r.status, r.body)
	} else {
		t.Logf("released %v after those where it was scanned", r.at.Sub(scanned))
	}
	if after := waits.Metric(t, "pratique_scanner_scans_total"); after != before {
		t.Errorf("both scanned")
	}
	w.once(t)
}

// coldAtBoth: an image that nobody has asked for, at both in the same moment.
func coldAtBoth(t *testing.T, w *pair) {
	a, b := w.scans(t)
	_, open := w.blocked(t)
	var pulls []<-chan answered
	for range 10 {
		pulls = append(pulls, w.a.pull("debian-trixie-skeleton"), w.b.pull("debian-trixie-skeleton"))
	}
	time.Sleep(500 * time.Millisecond)
	open()
	for _, p := range pulls {
		if r := <-p; r.status != http.StatusOK {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	if afterA, afterB := w.scans(t); afterA+afterB != a+b+1 {
		t.Errorf("A did %v scans, B %v; want one in all", afterA-a, afterB-b)
	}
	w.once(t)
}

// takeoverLimit is what is promised, and twice that on a machine that does other
// things.
const takeoverLimit = 2 * 15 * time.Second

// takeover: a replica is killed in the middle of a scan, and the other ends it.
func takeover(t *testing.T, w *pair) {
	const name = "alpine39-apkdb"
	asked, open := w.blocked(t)
	w.b.pull(name)
	<-asked
	scans, waits := w.scanning(t)
	there := waits.pull(name)
	time.Sleep(200 * time.Millisecond)
	_ = syscall.Kill(-scans.server.cmd.Process.Pid, syscall.SIGKILL)
	killed := time.Now()
	<-scans.server.done
	open()
	r := <-there
	for r.status == http.StatusServiceUnavailable && time.Since(killed) < takeoverLimit { // the hold was over
		r = <-waits.pull(name)
	}
	took := r.at.Sub(killed)
	t.Logf("answered %v after the other was killed", took)
	if r.status != http.StatusOK || took > takeoverLimit {
		t.Errorf("%d %s after %v, want it within %v", r.status, r.body, took, takeoverLimit)
	}
	scans.Start(w.t)
	if status, body := manifest(t, scans, name); status != http.StatusOK {
		t.Errorf("it is back: %d %s", status, body)
	}
}

// databaseOfBoth: a database that B is given is in use at both, and never goes back;
// what changed by it is told once.
func databaseOfBoth(t *testing.T, w *pair) {
	changed := []string{"debian-bookworm-skeleton", "debian-bookworm-patched-skeleton"}
	for _, p := range w.both() {
		for _, name := range changed {
			if status, body := manifest(t, p, name); status != updated[name][0] {
				t.Fatalf("%s before: %d %s", name, status, body)
			}
		}
	}
	w.sink.wait(t, "of the first pulls", func(es []event) bool {
		said := append(ofType(es, "image.admitted"), ofType(es, "image.refused")...)
		return !slices.ContainsFunc(changed, func(name string) bool {
			return !slices.ContainsFunc(said, func(e event) bool { return strings.HasSuffix(e.Data.Repository, "/"+name) })
		})
	})
	w.b.importDatabase(t, newerDatabase)
	for at, p := range w.both() {
		for _, name := range changed {
			p.current(t, name, "2026-11-22")
			p.becomes(t, "update/"+name+":1", updated[name][1], 30*time.Second)
			if t.Failed() {
				t.Logf("at %s", at)
			}
		}
	}
	inUse := w.a.inUse(t)
	// Its configuration names the older one still.
	w.b.Stop()
	w.b.Start(w.t)
	for at, p := range w.both() {
		if got := p.inUse(t); got != inUse {
			t.Errorf("%s uses %s, want %s", at, got, inUse)
		}
		for _, name := range changed {
			if status, body := manifest(t, p, name); status != updated[name][1] {
				t.Errorf("%s at %s: %d %s", name, at, status, body)
			}
		}
	}
	// Only of these two was anything decided that the update changes.
	told := func(es []event) []string {
		var out []string
		for _, e := range ofType(es, "verdict.changed") {
			if e.Data.Cause == "database" {
				out = append(out, e.Data.Repository[strings.LastIndexByte(e.Data.Repository, '/')+1:]+" "+e.Data.Outcome)
			}
		}
		slices.Sort(out)
		return out
	}
	w.sink.wait(t, "of what changed", func(es []event) bool { return len(told(es)) >= 2 })
	time.Sleep(time.Second)
	if d := cmp.Diff([]string{"debian-bookworm-patched-skeleton allow", "debian-bookworm-skeleton deny"}, told(w.sink.events())); d != "" {
		t.Errorf("changes told (-want +got):\n%s", d)
	}
	w.sink.once(t)
}

// inUse is the digest of the database in use.
func (p *Pratique) inUse(t *testing.T) string {
	t.Helper()
	r := p.Command(t, "db", "status", "-o", "json")
	var st databaseStatus
	if err := json.Unmarshal([]byte(r.stdout), &st); err != nil {
		t.Fatalf("%v: %s", err, r.output)
	}
	return st.Database.Digest
}

// redisStopped: Redis does not answer, and goes on.
func redisStopped(t *testing.T, w *pair) {
	const served, refused, cold = "debian-trixie-skeleton", "alma9-rpmdb", "cold"
	w.up.Push(t, labelled(t, archived(t, served), cold), "update/"+cold+":1")
	for at, p := range w.both() {
		for name, want := range map[string]int{served: http.StatusOK, refused: http.StatusForbidden} {
			if status, body := manifest(t, p, name); status != want {
				t.Fatalf("%s at %s before: %d %s", name, at, status, body)
			}
		}
	}
	w.redis.Pause()
	resume := sync.OnceFunc(w.redis.Resume)
	defer resume()
	time.Sleep(time.Second) // both have noticed
	var asking sync.WaitGroup
	for at, p := range w.both() {
		asking.Go(func() {
			for name, want := range map[string]int{served: http.StatusOK, refused: http.StatusForbidden} {
				began := time.Now()
				r := <-p.pull(name)
				t.Logf("%s at %s: %d after %v", name, at, r.status, time.Since(began).Round(time.Millisecond))
				if r.status != want {
					t.Errorf("%s at %s without Redis: %d %s, want %d", name, at, r.status, r.body, want)
				}
			}
			began := time.Now()
			res, err := http.Get("http://" + p.Registry + "/v2/docker.io/update/" + cold + "/manifests/1")
			t.Logf("a new image at %s: answered after %v", at, time.Since(began).Round(time.Millisecond))
			if err != nil {
				t.Error(err)
				return
			}
			_ = res.Body.Close()
			if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
				t.Errorf("a new image at %s without Redis: %s (Retry-After %q)", at, res.Status, res.Header.Get("Retry-After"))
			}
		})
	}
	asking.Wait()
	resume()
	began := time.Now()
	for _, p := range w.both() {
		p.becomes(t, "update/"+cold+":1", http.StatusOK, 60*time.Second)
		t.Logf("served %v after Redis went on", time.Since(began).Round(time.Millisecond))
		select {
		case <-p.server.done:
			t.Error("a replica ended")
		default:
		}
	}
}
