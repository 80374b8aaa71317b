//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// updated are images of the archive that the two databases are compared on, with
// what a policy says of them before and after: refused is what has a HIGH finding
// with a fix, and of those that are kept patched, what has one without.
var updated = map[string][2]int{
	"debian-bookworm-skeleton":         {http.StatusOK, http.StatusForbidden},
	"distroless-amd64-skeleton":        {http.StatusOK, http.StatusForbidden},
	"debian-bookworm-patched-skeleton": {http.StatusForbidden, http.StatusOK},
	"debian-trixie-patched-skeleton":   {http.StatusForbidden, http.StatusOK},
	"debian-trixie-skeleton":           {http.StatusOK, http.StatusOK},
	"alpine39-apkdb":                   {http.StatusOK, http.StatusOK},
	"alma9-rpmdb":                      {http.StatusForbidden, http.StatusForbidden},
	"app-skeleton":                     {http.StatusForbidden, http.StatusForbidden},
}

const updatePolicy = `
- {name: severe, vulnerability: {severity: HIGH, fixable: true}, action: deny}
- {name: open, match: {repository: ["*/*-patched-*"]}, vulnerability: {status: [affected]}, action: deny}
`

// updateRate is how many pulls a second there are while the database is swapped,
// unless UPDATE_RATE says otherwise.
const updateRate = 200

// TestUpdate swaps the vulnerability database under pulls. Exactly the images
// change that it says something else of, and they say what the trivy program says
// of them; each change is told once; every pull is answered as before or as after.
func TestUpdate(t *testing.T) {
	t.Parallel()
	rate := updateRate
	if s := os.Getenv("UPDATE_RATE"); s != "" {
		var err error
		if rate, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	u, sink := StartUpstream(t), startSink(t)
	for name := range updated {
		u.Push(t, archived(t, name), "update/"+name+":1")
	}
	p := StartPratique(t, u, Options{Database: olderDatabase, TagTTL: "1h", Extra: policies(t, updatePolicy) +
		fmt.Sprintf("notify: {sinks: {record: {url: %q, private: true}}}\n", sink.URL)})

	findings := expectedFindings(t)
	for name, status := range updated {
		if got, body := manifest(t, p, name); got != status[0] {
			t.Errorf("%s before: %d, want %d: %s", name, got, status[0], body)
		}
		sameFindings(t, p, name, findings[name+".old"])
	}
	// Only what the watcher has seen can be told to have changed: each image was
	// admitted or refused.
	sink.wait(t, "of the first pulls", func(es []event) bool {
		return len(ofType(es, "image.admitted"))+len(ofType(es, "image.refused")) == len(updated)
	})
	before := len(ofType(sink.events(), "verdict.changed"))

	load := startPulls(t, p, rate)
	time.Sleep(time.Second)
	p.importDatabase(t, newerDatabase)
	for name := range updated {
		p.current(t, name, "2026-11-22")
	}
	for name, status := range updated {
		if got, body := manifest(t, p, name); got != status[1] {
			t.Errorf("%s after: %d, want %d: %s", name, got, status[1], body)
		}
		sameFindings(t, p, name, findings[name+".new"])
	}
	sink.wait(t, "of what changed", func(es []event) bool { return len(ofType(es, "verdict.changed")) >= before+4 })
	time.Sleep(time.Second)
	load.stop(t)

	var want, got []string
	for name, status := range updated {
		if status[0] != status[1] {
			want = append(want, name+" "+map[int]string{http.StatusOK: "allow", http.StatusForbidden: "deny"}[status[1]])
		}
	}
	for _, e := range ofType(sink.events(), "verdict.changed")[before:] {
		if e.Data.Cause != "database" {
			t.Errorf("%s changed because of %q", e.Data.Repository, e.Data.Cause)
		}
		got = append(got, e.Data.Repository[strings.LastIndexByte(e.Data.Repository, '/')+1:]+" "+e.Data.Outcome)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("changes told (-want +got):\n%s", diff)
	}
	swaps := slices.DeleteFunc(ofType(sink.events(), "database.updated"), func(e event) bool {
		return e.Data.DatabaseTime.Format(time.DateOnly) != "2026-11-22"
	})
	if len(swaps) != 1 {
		t.Errorf("told %d times that the database was updated: %+v", len(swaps), swaps)
	}
	sink.once(t)
}

// manifest pulls one of the images by tag.
func manifest(t testing.TB, p *Pratique, name string) (int, string) {
	t.Helper()
	res, body := p.Do(t, http.MethodGet, "/v2/docker.io/update/"+name+"/manifests/1", nil)
	return res.StatusCode, body
}

// checked is what `pratique check -o json` shows, as far as it is looked at here.
type checked struct {
	Report struct {
		State    string
		Findings []struct{ ID, Kind, Package, Installed, Fixed, Severity, Status string }
		Database struct {
			Digest    string
			UpdatedAt time.Time
		}
	}
}

func (p *Pratique) check(t testing.TB, name string) checked {
	t.Helper()
	r := p.Command(t, "check", "-o", "json", "docker.io/update/"+name+":1")
	var c checked
	if err := json.Unmarshal([]byte(r.stdout), &c); err != nil {
		t.Fatalf("check %s: %v\n%s", name, err, r.output)
	}
	return c
}

// current waits until the report on an image is made with the database of a day.
func (p *Pratique) current(t testing.TB, name, day string) {
	t.Helper()
	var c checked
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if c = p.check(t, name); c.Report.Database.UpdatedAt.Format(time.DateOnly) == day {
			return
		}
	}
	t.Fatalf("the report on %s is of the database of %s", name, c.Report.Database.UpdatedAt)
}

func (p *Pratique) importDatabase(t testing.TB, archive string) {
	t.Helper()
	if r := p.Command(t, "db", "import", filepath.Join(root(t), archive)); r.exit != 0 {
		t.Fatalf("db import: %s", r.output)
	}
}

// expectedFindings is what the trivy program found, by IMAGE.old and IMAGE.new: lines
// of package, installed, id, severity, status and fixed.
func expectedFindings(t testing.TB) map[string][]string {
	t.Helper()
	r := run(t, exec.Command("tar", "-C", workdir(t, "expected"), "-xf", filepath.Join(root(t), "testdata/expected/findings.tar.zst"), "--to-command", `printf '\n%s\n' "$TAR_FILENAME"; cat`))
	if r.exit != 0 {
		t.Fatalf("tar: %s", r.output)
	}
	out, name := map[string][]string{}, ""
	for _, line := range strings.Split(r.stdout, "\n") {
		switch cells := strings.Split(line, "\t"); {
		case strings.HasSuffix(line, ".txt"):
			name = strings.TrimSuffix(filepath.Base(line), ".txt")
		case len(cells) == 8:
			out[name] = append(out[name], strings.Join(cells[1:7], "\t"))
		}
	}
	if len(out) < 30 {
		t.Fatalf("findings of %d images and databases", len(out))
	}
	for _, lines := range out {
		slices.Sort(lines)
	}
	return out
}

func sameFindings(t testing.TB, p *Pratique, name string, want []string) {
	t.Helper()
	var got []string
	for _, f := range p.check(t, name).Report.Findings {
		if f.Kind == "vulnerability" {
			got = append(got, strings.Join([]string{f.Package, f.Installed, f.ID, f.Severity, f.Status, f.Fixed}, "\t"))
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-trivy +pratique):\n%s", name, diff)
	}
}

// pulls is load on the registry: manifests, and of what is served a config.
type pulls struct {
	ended  chan struct{}
	group  sync.WaitGroup
	counts [600]atomic.Int64 // answers by status
	mu     sync.Mutex
	wrong  map[string]int
}

func startPulls(t testing.TB, p *Pratique, rate int) *pulls {
	t.Helper()
	l := &pulls{ended: make(chan struct{}), wrong: map[string]int{}}
	names := slices.Sorted(maps.Keys(updated))
	const pullers = 4
	for i := range pullers {
		l.group.Go(func() {
			tick := time.NewTicker(time.Second * pullers / time.Duration(rate))
			defer tick.Stop()
			for n := i; ; n++ {
				select {
				case <-tick.C:
					l.pull(p, names[n%len(names)])
				case <-l.ended:
					return
				}
			}
		})
	}
	return l
}

func (l *pulls) pull(p *Pratique, name string) {
	base := "http://" + p.Registry + "/v2/docker.io/update/" + name
	status, body := answerOf(base + "/manifests/1")
	l.count(name, status, status == updated[name][0] || status == updated[name][1], body)
	if status != http.StatusOK {
		return
	}
	var m struct{ Config struct{ Digest string } }
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		l.count(name, 0, false, err.Error())
		return
	}
	// In between it may have become refused, if it is one of those.
	status, body = answerOf(base + "/blobs/" + m.Config.Digest)
	l.count(name, status, status == http.StatusOK || status == updated[name][1], body)
}

func answerOf(url string) (int, string) {
	res, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(body)
}

func (l *pulls) count(name string, status int, right bool, body string) {
	l.counts[status].Add(1)
	if !right {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.wrong[fmt.Sprintf("%s: %d %.200s", name, status, body)]++
	}
}

// stop ends the load and reports what was answered wrongly.
func (l *pulls) stop(t testing.TB) {
	t.Helper()
	close(l.ended)
	l.group.Wait()
	for what, n := range l.wrong {
		t.Errorf("%d pulls answered with %s", n, what)
	}
	served, refused := l.counts[http.StatusOK].Load(), l.counts[http.StatusForbidden].Load()
	t.Logf("pulls: %d served, %d refused", served, refused)
	if served == 0 || refused == 0 {
		t.Error("nothing was served, or nothing refused: nothing is shown")
	}
}

// event is what a sink got, as far as it is looked at here.
type event struct {
	ID, Type string
	Data     struct {
		Repository, Outcome, Cause string
		DatabaseTime               time.Time
	}
}

// eventSink records what it is told.
type eventSink struct {
	*httptest.Server
	mu  sync.Mutex
	got []event
}

func startSink(t testing.TB) *eventSink {
	t.Helper()
	s := &eventSink{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil { // whoever sent it died, or sends it again
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.got = append(s.got, e)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *eventSink) events() []event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func ofType(es []event, kind string) []event {
	return slices.DeleteFunc(slices.Clone(es), func(e event) bool { return e.Type != "dev.pratique."+kind })
}

func (s *eventSink) wait(t testing.TB, what string, done func([]event) bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !done(s.events()); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no event %s; there are %+v", what, s.events())
		}
	}
}

// once checks that nothing was told twice.
func (s *eventSink) once(t testing.TB) {
	t.Helper()
	times := map[string]int{}
	for _, e := range s.events() {
		if times[e.ID]++; times[e.ID] == 2 {
			t.Errorf("told twice: %+v", e)
		}
	}
}
