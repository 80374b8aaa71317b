//go:build e2e

package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// heard is one event that a sink took.
type heard struct {
	ID, Type, Subject string
	Data              map[string]any
}

// listener is a sink on loopback that holds every request against its secret.
type listener struct {
	*httptest.Server
	mu     sync.Mutex
	took   []heard
	wrong  []string
	before func(n int) int // of requests so far; what to answer, 0 = take it
	asked  int
}

const sinkSecret = "e2e-secret"

func listenTo(t *testing.T, before func(n int) int) *listener {
	l := newListener(before)
	l.Start()
	t.Cleanup(l.Close)
	return l
}

func newListener(before func(n int) int) *listener {
	l := &listener{before: before}
	l.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		l.mu.Lock()
		n := l.asked
		l.asked++
		l.mu.Unlock()
		if l.before != nil {
			if code := l.before(n); code != 0 {
				w.WriteHeader(code)
				return
			}
		}
		var e heard
		if err == nil {
			err = json.Unmarshal(body, &e)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if err != nil || !signed(r.Header.Get("Pratique-Signature"), body) {
			l.wrong = append(l.wrong, fmt.Sprintf("%v, signature %q: %s", err, r.Header.Get("Pratique-Signature"), body))
		}
		l.took = append(l.took, e)
	}))
	return l
}

// signed verifies as docs/events.md says.
func signed(signature string, body []byte) bool {
	when, mac, ok := strings.Cut(strings.TrimPrefix(signature, "t="), ",v1=")
	h := hmac.New(sha256.New, []byte(sinkSecret))
	h.Write([]byte(when + "."))
	h.Write(body)
	return ok && hmac.Equal([]byte(hex.EncodeToString(h.Sum(nil))), []byte(mac))
}

func (l *listener) all() []heard {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.took)
}

// facts are the events by what they are about: type and subject, short.
func (l *listener) facts() map[string][]heard {
	out := map[string][]heard{}
	for _, e := range l.all() {
		key := strings.TrimPrefix(e.Type, "dev.pratique.") + " " + e.Subject
		out[key] = append(out[key], e)
	}
	return out
}

func (l *listener) check(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.wrong {
		t.Error(w)
	}
}

func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not in %s", what, limit)
		}
	}
}

// sinks is the configuration of sinks by name.
func sinks(t *testing.T, urls map[string]string) string {
	t.Helper()
	secret := filepath.Join(workdir(t, "sinks"), "secret")
	if err := os.WriteFile(secret, []byte(sinkSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("notify:\n  name: /e2e\n  link: https://pratique.example.com\n  sinks:\n")
	for _, name := range slices.Sorted(maps.Keys(urls)) {
		fmt.Fprintf(&b, "    %s: {url: %q, private: true, secretFile: %q}\n", name, urls[name], secret)
	}
	return b.String()
}

// exception makes one, and with revoke ends it again; it returns its id.
func (p *Pratique) exception(t *testing.T, n int, revoke bool) string {
	t.Helper()
	body := fmt.Sprintf(`{"finding": "CVE-2026-%05d", "repository": "lab/none", "reason": "waiting", "author": "ann", "expires": %q}`, n, time.Now().Add(time.Hour*24*20).UTC().Format(time.RFC3339))
	res, err := http.Post(p.Admin+"/api/v1/exceptions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var made struct{ ID string }
	if err := json.NewDecoder(res.Body).Decode(&made); err != nil || res.StatusCode != http.StatusCreated {
		t.Fatalf("exception: %d %v", res.StatusCode, err)
	}
	if revoke {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, p.Admin+"/api/v1/exceptions/"+made.ID+"?by=bob&reason=fixed", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("revoke: %d", res.StatusCode)
		}
	}
	return made.ID
}

// TestSinks: a sink that works, one that fails twice, one that is slow and one that
// is not there. Each of the first three gets each event once, signed, those about one
// thing in order; nobody who pulls is the wiser.
func TestSinks(t *testing.T) {
	t.Parallel()
	good := listenTo(t, nil)
	flaky := listenTo(t, func(n int) int {
		if n < 2 {
			return http.StatusInternalServerError
		}
		return 0
	})
	hang := make(chan struct{})
	slow := listenTo(t, func(int) int { <-hang; return 0 })
	defer slow.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	up := StartUpstream(t)
	p := StartPratique(t, up, Options{Extra: sinks(t, map[string]string{
		"good": good.URL, "flaky": flaky.URL, "slow": slow.URL, "gone": "http://" + gone.Addr().String(),
	})})

	for range 20 {
		if code, body, _ := p.status(t, "demo/clean:1.0"); code != http.StatusOK {
			t.Fatalf("clean: %d %s", code, body)
		}
		if code, body, _ := p.status(t, "demo/vulnerable:1.0"); code != http.StatusForbidden {
			t.Fatalf("vulnerable: %d %s", code, body)
		}
	}
	var ids []string
	for i := range 10 {
		ids = append(ids, p.exception(t, i, true))
	}
	want := []string{"image.admitted docker.io/demo/clean", "image.refused docker.io/demo/vulnerable", "image.scanned docker.io/demo/clean", "image.scanned docker.io/demo/vulnerable"}
	for _, id := range ids {
		want = append(want, "exception.created "+id, "exception.revoked "+id)
	}
	complete := func(l *listener) func() bool {
		return func() bool {
			got := slices.Collect(maps.Keys(l.facts()))
			for _, w := range want {
				if !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, w) }) {
					return false
				}
			}
			return true
		}
	}
	within(t, 60*time.Second, "all events at the sink that works", complete(good))
	within(t, 60*time.Second, "all events at the sink that failed twice", complete(flaky))
	if n := len(slow.all()); n != 0 {
		t.Errorf("the slow sink took %d before it could", n)
	}
	close(hang)
	within(t, 60*time.Second, "all events at the slow sink", complete(slow))
	for name, l := range map[string]*listener{"good": good, "flaky": flaky} {
		l.check(t)
		for fact, es := range l.facts() {
			if len(es) != 1 {
				t.Errorf("%s: %s arrived %d times", name, fact, len(es))
			}
		}
		inOrder(t, name, l.all())
	}
	p.listed(t, good)
}

// inOrder holds the events about one exception against the order of what happened.
func inOrder(t *testing.T, name string, es []heard) {
	t.Helper()
	made := map[string]bool{}
	for _, e := range es {
		switch e.Type {
		case "dev.pratique.exception.created":
			made[e.Subject] = true
		case "dev.pratique.exception.revoked":
			if !made[e.Subject] {
				t.Errorf("%s: %s was revoked before it was made", name, e.Subject)
			}
		}
	}
}

// listed: what went where is listed, and sent again when asked for, with its id.
func (p *Pratique) listed(t *testing.T, good *listener) {
	t.Helper()
	r := p.Command(t, "events", "list", "--type", "image.refused", "-o", "json")
	var list struct {
		Events []struct {
			ID         string
			Deliveries []struct {
				Sink, State, Error string
				Attempts           int
			}
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &list); err != nil || len(list.Events) != 1 {
		t.Fatalf("events list: %v %s", err, r.output)
	}
	e := list.Events[0]
	states := map[string]string{}
	for _, d := range e.Deliveries {
		states[d.Sink] = d.State
		if d.Sink == "gone" && !strings.Contains(d.Error, "refused") && d.Attempts > 0 {
			t.Errorf("error %q", d.Error)
		}
	}
	if states["good"] != "done" || states["flaky"] != "done" || states["gone"] != "open" {
		t.Errorf("states %v", states)
	}
	count := func() (n int) {
		for _, h := range good.all() {
			if h.ID == e.ID {
				n++
			}
		}
		return n
	}
	if r := p.Command(t, "events", "replay", e.ID); r.exit != 0 {
		t.Errorf("events replay: %s", r.output)
	}
	within(t, 30*time.Second, "the event again", func() bool { return count() == 2 })
	if r := p.Command(t, "events", "list", "--cause", "scan"); r.exit != 0 || !strings.Contains(r.output, "image.scanned") || strings.Contains(r.output, "exception") {
		t.Errorf("events list --cause: %s", r.output)
	}
}

// eventRounds is how often TestSinksCrash kills the server, unless ROUNDS says
// otherwise.
const eventRounds = 5

// TestSinksCrash kills the server in the middle of sending, with at least 200 events
// that wait. No event is lost, none changes its id, and none is told twice but those
// that were under way when the server died.
func TestSinksCrash(t *testing.T) {
	t.Parallel()
	rounds := eventRounds
	if s := os.Getenv("ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	const each = 60 // events between two kills
	pace := func(int) int { time.Sleep(3 * time.Millisecond); return 0 }
	good, open := listenTo(t, pace), make(chan struct{})
	good.before = func(n int) int {
		<-open // nothing goes before everything waits
		return pace(n)
	}
	up := StartUpstream(t)
	p := StartPratique(t, up, Options{Extra: sinks(t, map[string]string{"good": good.URL})})
	var ids []string
	for i := range (200 + each*rounds) / 2 {
		ids = append(ids, p.exception(t, i, true))
	}
	within(t, 60*time.Second, "all events in the outbox", func() bool { return p.Metric(t, "pratique_notify_events_total") >= float64(2*len(ids)) })
	close(open)
	for round := range rounds {
		before := len(good.all())
		within(t, 60*time.Second, "events", func() bool { return len(good.all()) >= before+each })
		_ = p.server.cmd.Process.Kill()
		<-p.server.done
		t.Logf("round %d: killed after %d events", round, len(good.all()))
		p.Start(t)
	}
	want := map[string]bool{}
	for _, id := range ids {
		want["exception.created "+id], want["exception.revoked "+id] = true, true
	}
	within(t, 120*time.Second, "all events", func() bool {
		got := good.facts()
		for fact := range want {
			if len(got[fact]) == 0 {
				return false
			}
		}
		return true
	})
	good.check(t)
	inOrder(t, "good", good.all())
	byID, twice := map[string]string{}, 0
	for fact, es := range good.facts() {
		for _, e := range es {
			if e.ID != es[0].ID {
				t.Errorf("%s has the ids %s and %s", fact, es[0].ID, e.ID)
			}
		}
		if other := byID[es[0].ID]; other != "" {
			t.Errorf("%s and %s have one id", fact, other)
		}
		byID[es[0].ID] = fact
		twice += len(es) - 1
	}
	// What was sent, and not yet noted to be, when a server died.
	if limit := 110 * rounds; twice > limit {
		t.Errorf("%d events came again after %d kills", twice, rounds)
	}
	t.Logf("%d events, %d of them again after %d kills", len(byID), twice, rounds)
	within(t, 60*time.Second, "an empty outbox", func() bool {
		r := p.Command(t, "events", "list", "--limit", "1000", "-o", "json")
		return r.exit == 0 && !strings.Contains(r.stdout, `"open"`)
	})
}
