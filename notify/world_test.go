package notify_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/notify"
	"pratique/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

// clock is the time of a test.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// got is one request that a receiver had.
type got struct {
	header http.Header
	body   []byte
}

// receiver is a sink on loopback. Its answer is a function of how many requests
// came before; nil is 204.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	got    []got
	answer func(n int, w http.ResponseWriter)
}

func receive(t *testing.T, answer func(n int, w http.ResponseWriter)) *receiver {
	r := &receiver{answer: answer}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		n := len(r.got)
		r.got = append(r.got, got{q.Header.Clone(), body})
		answer := r.answer
		r.mu.Unlock()
		if answer == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		answer(n, w)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) use(answer func(n int, w http.ResponseWriter)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *receiver) all() []got {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]got(nil), r.got...)
}

// wait returns the requests once there are n.
func (r *receiver) wait(t *testing.T, n int) []got {
	t.Helper()
	eventually(t, "requests", func() bool { return len(r.all()) >= n })
	return r.all()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not in 20 seconds", what)
		}
	}
}

// told is a structured event as it arrived.
type told struct {
	ID      string         `json:"id"`
	Type    string         `json:"type"`
	Source  string         `json:"source"`
	Subject string         `json:"subject"`
	Data    map[string]any `json:"data"`
}

func parse(t *testing.T, gs []got) []told {
	t.Helper()
	out := make([]told, len(gs))
	for i, g := range gs {
		if err := json.Unmarshal(g.body, &out[i]); err != nil {
			t.Fatalf("%v: %s", err, g.body)
		}
	}
	return out
}

func database(t *testing.T) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func transport(t *testing.T) http.RoundTripper {
	rt := &http.Transport{DisableKeepAlives: true}
	t.Cleanup(rt.CloseIdleConnections)
	return rt
}

// quick are a notifier's settings for tests.
func quick(c *clock) notify.Config {
	cfg := notify.Config{
		Source: "/test", Backoff: time.Millisecond, MaxBackoff: 4 * time.Millisecond, Timeout: 5 * time.Second,
		Gather: time.Nanosecond, Poll: 2 * time.Millisecond, Attempts: 3,
	}
	if c != nil {
		cfg.Now = c.Now
	}
	return cfg
}

func newNotifier(t *testing.T, box notify.Box, sinks map[string]notify.Sink, cfg notify.Config) *notify.Notifier {
	t.Helper()
	n, err := notify.New(box, sinks, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// run sends until the test, or what is returned, ends it.
func run(t *testing.T, n *notify.Notifier) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = n.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func event(id, order, kind string) store.Event {
	return store.Event{
		ID: id, Type: kind, At: start, Subject: "docker.io/library/nginx@" + order, Order: order, Repository: "docker.io/library/nginx",
		Data: json.RawMessage(`{"text":"` + id + ` <told> & done","n":1}`),
	}
}

func put(t *testing.T, db *sqlite.DB, sinks []string, es ...store.Event) {
	t.Helper()
	out := make([]store.Addressed, len(es))
	for i, e := range es {
		out[i] = store.Addressed{Event: e, Sinks: sinks}
	}
	if err := db.Append(t.Context(), out, nil); err != nil {
		t.Fatal(err)
	}
}

// world is what a watcher looks at, and who is told.
type world struct {
	t       *testing.T
	clock   clock
	db      *sqlite.DB
	recv    *receiver
	watcher *notify.Watcher
	stamps  *store.Stamps

	mu        sync.Mutex
	images    []store.Known
	decisions map[digest.Digest]pratique.Decision
	fail      map[digest.Digest]error
	engine    pratique.Engine
	version   string
	looked    int
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, db: database(t), recv: receive(t, nil), decisions: map[digest.Digest]pratique.Decision{}, fail: map[digest.Digest]error{},
		engine: pratique.Engine{Database: digest.FromString("db1"), DatabaseAt: start}, version: "1", stamps: store.NewStamps(),
	}
	w.clock.t = start
	w.restart()
	return w
}

// restart makes another watcher, as another process would.
func (w *world) restart() {
	w.watch(newNotifier(w.t, w.db, map[string]notify.Sink{"all": {URL: w.recv.URL, Transport: transport(w.t)}}, quick(&w.clock)), notify.WatcherConfig{})
}

// watch makes a watcher that tells a notifier.
func (w *world) watch(n *notify.Notifier, cfg notify.WatcherConfig) {
	w.watcher = notify.NewWatcher(n, notify.Sources{
		Gate: w, Catalog: w, Pulls: w.db, Exceptions: w.db, Tags: w.db, Marks: w.db,
		Database: func() (pratique.Engine, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.engine.Database == "" {
				return pratique.Engine{}, pratique.ErrNoDatabase
			}
			return w.engine, nil
		},
		Version: func() string { w.mu.Lock(); defer w.mu.Unlock(); return w.version },
		Stamps:  w.stamps,
	}, cfg)
}

func (w *world) Standing(_ context.Context, ref pratique.Ref, img pratique.Image) (pratique.Decision, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looked++
	d := w.decisions[img.Digest]
	d.Ref, d.Image = ref.At(img.Digest), img
	return d, w.fail[img.Digest]
}

func (w *world) Images(context.Context) iter.Seq2[store.Known, error] {
	w.mu.Lock()
	all := append([]store.Known(nil), w.images...)
	w.mu.Unlock()
	return func(yield func(store.Known, error) bool) {
		for _, k := range all {
			if !yield(k, nil) {
				return
			}
		}
	}
}

func (w *world) Knowns(ctx context.Context, ds []digest.Digest) (map[digest.Digest]store.Known, error) {
	out := map[digest.Digest]store.Known{}
	for k := range w.Images(ctx) {
		if slices.Contains(ds, k.Image.Digest) {
			out[k.Image.Digest] = k
		}
	}
	return out, nil
}

// decide has the gate answer with an outcome for an image, from now on.
func (w *world) decide(name string, outcome pratique.Outcome, change func(*pratique.Decision)) digest.Digest {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := digest.FromString(name)
	if _, known := w.decisions[d]; !known {
		w.images = append(w.images, store.Known{
			Ref:   pratique.Ref{Registry: "docker.io", Repo: "library/" + name, Tag: "1", Digest: d},
			Image: pratique.Image{Digest: d},
		})
	}
	dec := pratique.Decision{
		Report: pratique.Report{Image: d, State: pratique.StateScanned, Engine: w.engine, ScannedAt: start},
		Verdict: pratique.Verdict{ID: "v-" + outcome.String(), Outcome: outcome, Policy: w.version, Reasons: []pratique.Reason{{
			Policy: "default", Rule: "critical", Action: outcome, Message: "CVE-2026-1 in openssl",
			Findings: []pratique.Finding{{ID: "CVE-2026-1", Severity: pratique.SeverityCritical, Package: "openssl", Installed: "1", Fixed: "2"}},
		}}},
	}
	if change != nil {
		change(&dec)
	}
	w.decisions[d] = dec
	w.stamps.Changed(d)
	return d
}

// look lets the watcher look, and returns the new events, oldest first, as
// "type subject".
func (w *world) look(images ...digest.Digest) []store.Event {
	w.t.Helper()
	before := len(w.events())
	for _, d := range images {
		w.watcher.Changed(d)
	}
	w.watcher.Look(w.t.Context())
	return w.events()[before:]
}

func (w *world) events() []store.Event {
	w.t.Helper()
	rs, err := w.db.Events(w.t.Context(), store.EventQuery{Limit: 10000})
	if err != nil {
		w.t.Fatal(err)
	}
	out := make([]store.Event, 0, len(rs))
	for i := range rs {
		out = append(out, rs[len(rs)-1-i].Event)
	}
	return out
}

// kinds are the types of events, short.
func kinds(es []store.Event) string {
	var out []string
	for _, e := range es {
		out = append(out, strings.TrimPrefix(e.Type, "dev.pratique."))
	}
	return strings.Join(out, " ")
}

var errBroken = errors.New("broken")
