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
	"strings"
	"testing"
	"time"
)

// bench is one run of all measurements; what they write ends in
// docs/benchmarks.md.
type bench struct {
	t            *testing.T
	text         strings.Builder
	upstream     *benchUpstream
	distribution *process // the last that was started
}

func (b *bench) printf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.text.WriteString(text)
	fmt.Print(text)
}

// TestBench measures Pratique beside its peers in one run on one machine and
// writes docs/benchmarks.md. It fails when somebody answers anything but 200, a blob
// is fetched twice, or a warm pull reads from Redis; the times are for people to
// judge. BENCH_ONLY names one part (warm, gate, many, pull, memory, replicas) to be
// measured and printed alone.
func TestBench(t *testing.T) {
	need(t, "wrk")
	b := &bench{t: t, upstream: startBenchUpstream(t)}
	b.printf("%s, %d CPUs (%s), Linux %s, %s, nginx %s, load before the run %s.\n\n", time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), cpuModel(),
		strings.TrimSpace(read("/proc/sys/kernel/osrelease")), runtime.Version(), nginxVersion(t), strings.Join(strings.Fields(read("/proc/loadavg"))[:1], ""))
	only := os.Getenv("BENCH_ONLY")
	for _, part := range []struct {
		name string
		run  func()
	}{{"warm", b.warm}, {"gate", b.gate}, {"many", b.many}, {"pull", b.pull}, {"memory", b.memory}, {"replicas", b.replicas}} {
		if only == "" || only == part.name {
			part.run()
		}
	}
	if only == "" && !t.Failed() {
		writeBenchmarks(t, b.text.String())
	}
}

// gate measures the gate alone: what it adds to a warm manifest request.
func (b *bench) gate() {
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", "^BenchmarkGate", "-benchtime", "1s", "-benchmem", "./proxy")
	cmd.Dir = root(b.t)
	r := run(b.t, cmd)
	if r.exit != 0 {
		b.t.Fatalf("go test -bench:\n%s", r.output)
	}
	b.printf("### The gate's own share of a warm request\n\n| | mean, ns | p99, ns | allocations |\n|---|---|---|---|\n")
	for _, l := range strings.Split(r.stdout, "\n") {
		f := strings.Fields(l)
		if len(f) < 4 || !strings.HasPrefix(f[0], "BenchmarkGate") {
			continue
		}
		value := func(unit string) string {
			if i := slices.Index(f, unit); i > 0 {
				return f[i-1]
			}
			return ""
		}
		name := strings.ReplaceAll(strings.TrimPrefix(procs.ReplaceAllString(f[0], ""), "BenchmarkGate/"), "_", " ")
		b.printf("| %s | %s | %s | %s |\n", name, value("ns/op"), value("p99-ns"), value("allocs/op"))
	}
	b.printf("\n")
}

var procs = regexp.MustCompile(`-\d+$`)

// startPratique starts one with empty caches in front of the bench's upstream.
func (b *bench) startPratique(extra string) *Pratique {
	b.t.Helper()
	return StartPratique(b.t, &Upstream{Addr: b.upstream.Addr}, Options{Extra: extra})
}

// startLogging starts one whose access log is written, to where it costs the
// system call and nothing more.
func (b *bench) startLogging() *Pratique {
	t := b.t
	t.Helper()
	p := &Pratique{Registry: freeAddr(t), Admin: "http://" + freeAddr(t), dir: workdir(t, "server")}
	if err := os.WriteFile(p.config(), []byte(p.render(t, &Upstream{Addr: b.upstream.Addr}, Options{})), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `exec "$0" serve --config "$1" 2>/dev/null`, binary(t, "pratique"), p.config())
	cmd.Dir = p.dir
	p.server = startProcess(t, "pratique", cmd)
	p.server.waitFor(t, answers(p.Admin+"/readyz"))
	return p
}

// unscanned is a policy that lets images through while they are scanned.
func (b *bench) unscanned() string {
	path := filepath.Join(workdir(b.t, "policy"), "unscanned.yaml")
	text := "name: bench\ndefault: allow\nrules:\n  - {name: at-once, unscanned: {}, action: allow}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// startDistributionProxy starts distribution as a pull-through cache of addr.
func (b *bench) startDistributionProxy(upstream string) string {
	t := b.t
	t.Helper()
	dir, addr := workdir(t, "proxy"), freeAddr(t)
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: %q, secret: bench}
proxy: {remoteurl: "http://%s"}
`, filepath.Join(dir, "data"), addr, upstream)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t, "registry"), "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	b.distribution = startProcess(t, "proxy", cmd)
	b.distribution.waitFor(t, answers("http://"+addr+"/v2/"))
	return addr
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func read(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	return string(raw)
}

func cpuModel() string {
	_, rest, _ := strings.Cut(read("/proc/cpuinfo"), "model name\t: ")
	model, _, _ := strings.Cut(rest, "\n")
	return model
}

func nginxVersion(t *testing.T) string {
	r := run(t, exec.Command("/usr/sbin/nginx", "-v"))
	_, version, _ := strings.Cut(strings.TrimSpace(r.output), "/")
	return version
}

// writeBenchmarks replaces what stands between the markers of the document.
func writeBenchmarks(t *testing.T, text string) {
	t.Helper()
	const path, begin, end = "../docs/benchmarks.md", "<!-- measured -->\n", "<!-- end -->\n"
	before, rest, ok := strings.Cut(read(path), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no %q … %q", path, begin, end)
	}
	if err := os.WriteFile(path, []byte(before+begin+text+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
