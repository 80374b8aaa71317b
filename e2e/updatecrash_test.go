//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique/internal/sqlite"
)

// updateCrashRounds is how often TestUpdateCrash kills the server, unless
// CRASH_ROUNDS says otherwise. CRASH_SEED repeats a run's choices.
const updateCrashRounds = 5

// updateCrash is a server that knows a fleet of images, and is killed while another
// database comes into use.
type updateCrash struct {
	*crash
	base string // the fleet as it was made, with the older database
	sink *eventSink
}

// TestUpdateCrash kills the server at random moments of an import, a swap and a
// rescan. Whatever was cut off, in the end every report says what it says after an
// update that nobody disturbed.
func TestUpdateCrash(t *testing.T) {
	rounds, seed := updateCrashRounds, uint64(time.Now().UnixNano())
	if s := os.Getenv("CRASH_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("CRASH_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d rounds, CRASH_SEED=%d", rounds, seed)
	random := rand.New(rand.NewPCG(seed, 0))

	u := startUpdateCrash(t)
	before, _ := reportsIn(t, u.base)
	u.begin(t)
	began := time.Now()
	u.importDatabase(t, newerDatabase)
	took := time.Since(began) + time.Second
	want := u.settle(t)
	if differing(before, want) < len(want)/10 {
		t.Fatalf("only %d of %d reports differ between the databases: nothing is shown", differing(before, want), len(want))
	}
	t.Logf("%d images, %d reports changed, killed within %s of an import", len(want), differing(before, want), took.Round(time.Millisecond))

	landed := 0
	for round := range rounds {
		u.begin(t)
		for range 1 + random.IntN(2) { // sometimes it is killed again while it goes on
			imported := u.importing(t)
			time.Sleep(time.Duration(random.Int64N(int64(took) * 5 / 4)))
			u.kill()
			if <-imported {
				landed++
			}
			u.start(t)
			u.ready(t)
		}
		u.importDatabase(t, newerDatabase) // where it is there already, this changes nothing
		if diff := cmp.Diff(want, u.settle(t)); diff != "" {
			t.Fatalf("round %d: reports (-undisturbed +killed):\n%.4000s\n%s", round, diff, u.log.tail(4000))
		}
	}
	t.Logf("the import had been answered in %d of the kills", landed)
}

func startUpdateCrash(t *testing.T) *updateCrash {
	t.Helper()
	p := &Pratique{Registry: freeAddr(t), Admin: "http://" + freeAddr(t), dir: workdir(t, "updatecrash")}
	u := &updateCrash{crash: &crash{Pratique: p}, base: filepath.Join(p.dir, "base"), sink: startSink(t)}
	t.Cleanup(func() {
		if u.cmd != nil && u.cmd.ProcessState == nil {
			u.kill()
		}
	})
	fill := exec.Command(binary(t, "fleet"), "fill", "-images", "300", "-layers", "100", "-components", "1500", "-marked", "5",
		"-database", olderDatabase, "-o", u.base)
	fill.Dir = root(t)
	if r := run(t, fill); r.exit != 0 {
		t.Fatalf("fleet: %s", r.output)
	}
	// Nobody is behind the upstream: nothing is fetched.
	text := p.render(t, &Upstream{Addr: freeAddr(t)}, Options{Database: olderDatabase, Extra: "scanner: {workers: 1}\n" +
		fmt.Sprintf("notify: {sinks: {record: {url: %q, private: true}}}\n", u.sink.URL)})
	if err := os.WriteFile(p.config(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return u
}

// begin starts a server on the fleet as it was made.
func (u *updateCrash) begin(t *testing.T) {
	t.Helper()
	data := filepath.Join(u.dir, "data")
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(data, os.DirFS(u.base)); err != nil {
		t.Fatal(err)
	}
	u.start(t)
	u.ready(t)
}

func (u *updateCrash) ready(t *testing.T) {
	t.Helper()
	ready := answers(u.Admin + "/readyz")
	for deadline := time.Now().Add(90 * time.Second); ready() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %v\n%s", ready(), u.log.tail(6000))
		}
	}
}

// importing begins an import, and tells at its end whether it was answered.
func (u *updateCrash) importing(t *testing.T) <-chan bool {
	t.Helper()
	cmd := exec.Command(binary(t, "pratique"), "db", "import", filepath.Join(root(t), newerDatabase))
	cmd.Env = append(os.Environ(), "PRATIQUE_SERVER="+u.Admin)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan bool, 1)
	go func() { done <- cmd.Wait() == nil }()
	return done
}

// settle waits until the rescanner rests, stops the server, and returns the reports
// if they are of the newer database; else it starts the server again, which goes on.
func (u *updateCrash) settle(t *testing.T) map[string]string {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; {
		for u.Metric(t, "pratique_scheduler_rescanning") != 0 || u.Metric(t, "pratique_scheduler_rescan_seconds_count") == 0 {
			if time.Now().After(deadline) {
				t.Fatalf("the rescan does not end:\n%s", u.log.tail(6000))
			}
			time.Sleep(10 * time.Millisecond)
		}
		u.Stop(t)
		if reports, current := reportsIn(t, filepath.Join(u.dir, "data")); current == "2026-11-22" {
			return reports
		}
		if time.Now().After(deadline) {
			t.Fatalf("not current with the newer database:\n%s", u.log.tail(6000))
		}
		u.start(t)
		u.ready(t)
	}
}

// Stop ends the server as an operator would.
func (u *updateCrash) Stop(t *testing.T) {
	t.Helper()
	if err := u.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = u.cmd.Wait()
}

// reportsIn are all reports of a state, as JSON without times, and the day of the
// database that they are current with.
func reportsIn(t *testing.T, dir string) (map[string]string, string) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	engine, _, err := db.Current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for d, err := range db.ReportedImages(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := db.Report(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var doc any
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatal(err)
		}
		if raw, err = json.MarshalIndent(timeless(doc), "", " "); err != nil {
			t.Fatal(err)
		}
		out[d.String()] = string(raw)
	}
	return out, engine.DatabaseAt.Format(time.DateOnly)
}

// timeless is a document without the times that depend on when it was made.
func timeless(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if slices.Contains([]string{"scannedAt", "firstSeen", "firstScanned", "at"}, k) {
				delete(v, k)
				continue
			}
			v[k] = timeless(x)
		}
	case []any:
		for i, x := range v {
			v[i] = timeless(x)
		}
	}
	return v
}

// differing counts the reports with other findings.
func differing(a, b map[string]string) int {
	findings := func(doc string) string {
		var r struct{ Findings json.RawMessage }
		_ = json.Unmarshal([]byte(doc), &r) // what is no report has no findings
		return string(r.Findings)
	}
	n := 0
	for d, doc := range b {
		if findings(a[d]) != findings(doc) {
			n++
		}
	}
	return n
}
