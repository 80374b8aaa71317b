//go:build e2e && bench

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"pratique/tools/images"
)

// Rounds of a measurement, and how long each lasts.
const (
	rounds   = 3
	duration = 3 * time.Second
)

// peer is one server that is measured: base is its URL up to the repository.
type peer struct{ name, base string }

// work is one thing that is asked of each peer.
type work struct{ name, path string }

// TestPeers measures Pratique beside distribution's proxy in one run, both warm,
// both in front of the same upstream, round by round in turn. It fails when one
// of them answers anything but 200; the numbers are for people to judge.
// UPDATE_DOCS=1 writes them into docs/benchmarks.md.
func TestPeers(t *testing.T) {
	need(t, "wrk")
	u := StartUpstream(t)
	img, err := random.Image(2<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := images.Push(t.Context(), u.Addr, "bench/app:1.0", img); err != nil {
		t.Fatal(err)
	}
	p := StartPratique(t, u, Options{Extra: "log: {level: warn}"})
	peers := []peer{
		{"Pratique", "http://" + p.Registry + "/v2/lab/bench/app"},
		{"distribution 3.1.2, proxy", "http://" + startDistributionProxy(t, u) + "/v2/bench/app"},
	}
	works := []work{
		{"manifest by digest", "/manifests/" + digestOf(t, img)},
		{"manifest by tag", "/manifests/1.0"},
		{"blob of 2 MiB", "/blobs/" + layerOf(t, img)},
	}
	for _, p := range peers {
		for _, w := range works { // warm: fetched, scanned, decided
			mustServe(t, p.base+w.path)
		}
	}

	results := make(map[work]map[peer][]float64)
	for range rounds {
		for _, w := range works {
			for _, p := range peers {
				if results[w] == nil {
					results[w] = make(map[peer][]float64)
				}
				results[w][p] = append(results[w][p], wrk(t, p.base+w.path))
			}
		}
	}

	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d CPUs (%s), %s; wrk -t1 -c16, %s a round, median of %d rounds in turn; requests per second.\n\n",
		time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), cpuModel(), runtime.Version(), duration, rounds)
	fmt.Fprintf(&b, "| warm | %s | %s | ratio |\n|---|---|---|---|\n", peers[0].name, peers[1].name)
	for _, w := range works {
		ours, theirs := median(results[w][peers[0]]), median(results[w][peers[1]])
		fmt.Fprintf(&b, "| %s | %.0f | %.0f | %.1f |\n", w.name, ours, theirs, ours/theirs)
	}
	fmt.Printf("\n%s\n", b.String())
	if os.Getenv("UPDATE_DOCS") == "1" {
		writeBenchmarks(t, b.String())
	}
}

// startDistributionProxy starts distribution as a pull-through cache of u.
func startDistributionProxy(t *testing.T, u *Upstream) string {
	t.Helper()
	dir, addr := workdir(t, "proxy"), freeAddr(t)
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: %q, secret: bench}
proxy: {remoteurl: "http://%s"}
`, filepath.Join(dir, "data"), addr, u.Addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t, "registry"), "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	startProcess(t, "proxy", cmd).waitFor(t, answers("http://"+addr+"/v2/"))
	return addr
}

func layerOf(t *testing.T, img v1.Image) string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func mustServe(t *testing.T, url string) {
	t.Helper()
	if err := answers(url)(); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
}

var (
	perSecond = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	failures  = regexp.MustCompile(`Non-2xx or 3xx responses|Socket errors`)
)

// wrk asks url for a while and returns requests per second.
func wrk(t *testing.T, url string) float64 {
	t.Helper()
	r := run(t, exec.Command("wrk", "-t1", "-c16", "-d"+duration.String(), "-H", "Accept: */*", url))
	found := perSecond.FindStringSubmatch(r.stdout)
	if found == nil || failures.MatchString(r.stdout) {
		t.Fatalf("wrk %s:\n%s", url, r.output)
	}
	v, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func cpuModel() string {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	_, rest, _ := strings.Cut(string(raw), "model name\t: ")
	model, _, _ := strings.Cut(rest, "\n")
	return model
}

// writeBenchmarks replaces what stands between the markers of the document.
func writeBenchmarks(t *testing.T, text string) {
	t.Helper()
	const path, begin, end = "../docs/benchmarks.md", "<!-- measured -->\n", "<!-- end -->\n"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(raw), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no %q … %q", path, begin, end)
	}
	if err := os.WriteFile(path, []byte(before+begin+text+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
