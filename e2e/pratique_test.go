//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// demoDatabase ships with Pratique.
const demoDatabase = "configs/demo/trivy-db.tar.gz"

// Pratique is the real binary with state of its own.
type Pratique struct {
	Registry string // host:port
	Admin    string // http://host:port
	dir      string
	server   *process
}

// Options of a Pratique. The zero value has the upstream as `docker.io` and as
// `lab`, the demonstration's database and the policy that ships.
type Options struct {
	Hold   time.Duration // If zero, 25 s.
	Head   string        // refusal.head. If empty, bare.
	TagTTL string        // cache.tagTTL. If empty, 1m.
	// Database is a file of the repository. If empty, the demonstration's.
	Database string
	Source   string // host:port to fetch the database from, instead of Database
	Extra    string // more YAML, top-level keys
}

// StartPratique starts one in front of u and waits until it can decide.
func StartPratique(t testing.TB, u *Upstream, o Options) *Pratique {
	t.Helper()
	p := preparePratique(t, u, o)
	p.Start(t)
	return p
}

// preparePratique is StartPratique before the start.
func preparePratique(t testing.TB, u *Upstream, o Options) *Pratique {
	t.Helper()
	p := &Pratique{Registry: freeAddr(t), Admin: "http://" + freeAddr(t), dir: workdir(t, "server")}
	if err := os.WriteFile(p.config(), []byte(p.render(t, u, o)), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *Pratique) config() string { return filepath.Join(p.dir, "pratique.yaml") }

func (p *Pratique) render(t testing.TB, u *Upstream, o Options) string {
	t.Helper()
	if o.Hold == 0 {
		o.Hold = 25 * time.Second
	}
	if o.Head == "" {
		o.Head = "bare"
	}
	if o.TagTTL == "" {
		o.TagTTL = "1m"
	}
	if o.Database == "" {
		o.Database = demoDatabase
	}
	database := fmt.Sprintf("{path: %q}", filepath.Join(root(t), o.Database))
	source := ""
	if o.Source != "" {
		database = fmt.Sprintf("{sources: [%q]}", o.Source+"/aquasec/trivy-db:2")
		source = fmt.Sprintf("  databases: {url: %q, private: true}\n", "http://"+o.Source)
	}
	return fmt.Sprintf(`dataDir: %q
registry: {listen: %q, hold: %s}
refusal: {head: %s}
admin: {listen: %q}
cache: {tagTTL: %s}
upstreams:
  docker.io: {url: "http://%s", private: true}
  lab: {url: "http://localhost%[8]s", private: true}
%[11]sdatabase: %[9]s
javaDatabase: {sources: []}
platforms: [linux/amd64, linux/arm64]
%[10]s
`, filepath.Join(p.dir, "data"), p.Registry, o.Hold, o.Head, strings.TrimPrefix(p.Admin, "http://"), o.TagTTL,
		u.Addr, u.Addr[strings.LastIndexByte(u.Addr, ':'):], database, o.Extra, source)
}

// Start starts the server with the state that is there.
func (p *Pratique) Start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(binary(t, "pratique"), "serve", "--config", p.config())
	cmd.Dir = p.dir
	p.server = startProcess(t, "pratique", cmd)
	p.server.waitFor(t, answers(p.Admin+"/readyz"))
}

// Stop ends the server and keeps its state.
func (p *Pratique) Stop() { p.server.stop() }

// Log is what the server wrote so far.
func (p *Pratique) Log() string { return p.server.log.String() }

// Command runs `pratique ARGS` against the server.
func (p *Pratique) Command(t testing.TB, args ...string) result {
	t.Helper()
	cmd := exec.Command(binary(t, "pratique"), args...)
	cmd.Env = append(os.Environ(), "PRATIQUE_SERVER="+p.Admin)
	return run(t, cmd)
}

// Metric is the sum of all series of a metric, 0 when nothing was counted yet.
// Whoever asserts a zero asserts another time that it moves: a metric that was
// renamed reads as zero.
func (p *Pratique) Metric(t testing.TB, name string) float64 {
	t.Helper()
	res, err := http.Get(p.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	sum := 0.0
	for in := bufio.NewScanner(res.Body); in.Scan(); {
		series, value, ok := strings.Cut(in.Text(), " ")
		if base, _, _ := strings.Cut(series, "{"); !ok || base != name {
			continue
		}
		v, err := strconv.ParseFloat(value[strings.LastIndexByte(value, ' ')+1:], 64)
		if err != nil {
			t.Fatalf("%s: %v", in.Text(), err)
		}
		sum += v
	}
	return sum
}

// Do sends one request to the registry, as it is, and returns the answer with
// its body read.
func (p *Pratique) Do(t testing.TB, method, path string, header http.Header) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.Registry+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var body strings.Builder
	if _, err := bufio.NewReader(res.Body).WriteTo(&body); err != nil {
		t.Fatal(err)
	}
	return res, body.String()
}
