//go:build e2e && bench

package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Rounds of a measurement of wrk, and how long each lasts.
const (
	rounds   = 5
	duration = 2 * time.Second
)

// accept is what clients send; distribution gives no OCI manifest to */*.
const accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, */*"

// peer is one server that is measured: url is where it has the work.
type peer struct {
	name   string
	server *process
	url    func(w work) string
}

// work is one thing that is asked of each peer.
type work struct {
	name    string
	img     benchImage
	path    string
	clients int
	file    string // what nginx serves instead; empty: nginx has no such thing
	size    int64  // of a blob; 0: requests are counted and not bytes
}

// sample is what one round of wrk measured.
type sample struct {
	rate           float64 // requests or, of blobs, GiB a second
	server, client float64 // seconds of processor time for each GiB
}

// warm measures with wrk, round by round in turn, and writes the medians.
func (b *bench) warm() {
	t := b.t
	small, large := b.upstream.push(t, "bench/small", 1, 2<<20, false), b.upstream.push(t, "bench/large", 1, 200<<20, false)
	static := workdir(t, "static")
	for name, from := range map[string]string{"2m": small.layers[0], "200m": large.layers[0]} {
		copyFile(t, filepath.Join(b.upstream.dir, from), filepath.Join(static, name))
	}
	if err := os.WriteFile(filepath.Join(static, "manifest"), small.manifest, 0o644); err != nil {
		t.Fatal(err)
	}
	quiet, logging := b.startPratique("log: {level: warn}"), b.startLogging()
	distribution := b.startDistributionProxy(b.upstream.Addr)
	nginx, nginxServer := startNginx(t, static)
	on := func(addr, prefix string) func(work) string {
		return func(w work) string { return "http://" + addr + "/v2/" + prefix + w.img.repo + w.path }
	}
	peers := []peer{
		{"Pratique", quiet.server, on(quiet.Registry, "docker.io/")},
		{"Pratique, access log on", logging.server, on(logging.Registry, "docker.io/")},
		{"distribution 3.1.2, proxy", b.distribution, on(distribution, "")},
		{"nginx, sendfile", nginxServer, func(w work) string {
			if w.file == "" {
				return ""
			}
			return "http://" + nginx + "/" + w.file
		}},
	}
	works := []work{
		{"manifest by digest", small, "/manifests/" + small.digest, 16, "manifest", 0},
		{"manifest by tag", small, "/manifests/1.0", 16, "", 0},
		{"blob of 2 MiB, GiB/s", small, "/blobs/" + small.layers[0], 16, "2m", small.sizes[0]},
		{"blob of 200 MiB, 4 clients, GiB/s", large, "/blobs/" + large.layers[0], 4, "200m", large.sizes[0]},
	}
	for _, w := range works { // warm: fetched, scanned, decided; the manifest first
		manifest := w
		manifest.path, manifest.size = "/manifests/"+w.img.digest, 0
		for _, p := range peers {
			for _, w := range []work{manifest, w} {
				if url := p.url(w); url != "" {
					mustServe(t, url)
				}
			}
			if w.size > 0 {
				mustServeExactly(t, p.url(w), w.img.layers[0])
			}
		}
	}
	results := make([][][]sample, len(works))
	for i, w := range works {
		results[i] = make([][]sample, len(peers))
		for round := range rounds {
			for j := range peers {
				if round%2 == 1 { // whoever comes after whom: in every other round the other way round
					j = len(peers) - 1 - j
				}
				if url := peers[j].url(w); url != "" {
					results[i][j] = append(results[i][j], wrk(t, url, w, peers[j].server))
				}
			}
		}
	}
	rate := func(s sample) float64 { return s.rate }
	b.printf("### Warm\n\nRequests per second, `wrk -t1`, 16 clients unless it says otherwise, medians of %d rounds of %s in turn.\n", rounds, duration)
	b.printf("Of blobs, the bytes that wrk got: counted by requests, those cut off at the end of a round would be lost.\n\n")
	b.printf("| | Pratique | with its access log | distribution's proxy | nginx | ÷ distribution | ÷ nginx |\n|---|---|---|---|---|---|---|\n")
	for i, w := range works {
		ours, logged, theirs := medianOf(results[i][0], rate), medianOf(results[i][1], rate), medianOf(results[i][2], rate)
		static, share := "", ""
		if results[i][3] != nil {
			n := medianOf(results[i][3], rate)
			static, share = number(n), fmt.Sprintf("%.2f", ours/n)
		}
		b.printf("| %s | %s | %s | %s | %s | **%.2f** | %s |\n", w.name, number(ours), number(logged), number(theirs), static, ours/theirs, share)
	}
	b.printf("\nSeconds of processor time for each GiB, in the server + in wrk, medians of the same rounds. They show\nwhat the rates above cannot: who works for them.\n\n")
	b.printf("| | Pratique | with its access log | distribution's proxy | nginx |\n|---|---|---|---|---|\n")
	for i, w := range works {
		if w.size == 0 {
			continue
		}
		b.printf("| %s |", strings.TrimSuffix(w.name, ", GiB/s"))
		for _, s := range results[i] {
			b.printf(" %.2f + %.2f |", medianOf(s, func(s sample) float64 { return s.server }), medianOf(s, func(s sample) float64 { return s.client }))
		}
		b.printf("\n")
	}
	b.printf("\nMemory (RSS) after that: Pratique %d MiB, distribution's proxy %d MiB.\n\n", rss(t, quiet.server)>>20, rss(t, b.distribution)>>20)
	quiet.Stop()
	logging.Stop()
	b.distribution.stop()
}

// startNginx serves a folder with what Debian's nginx has for that.
func startNginx(t *testing.T, static string) (addr string, server *process) {
	t.Helper()
	dir := workdir(t, "nginx")
	addr = freeAddr(t)
	config := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`worker_processes auto; daemon off; user root; pid %[1]s/pid; error_log stderr;
events { worker_connections 1024; }
http {
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; default_type application/octet-stream;
  client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  server { listen %[2]s; root %[3]s; }
}
`, dir, addr, static)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(static, 0o755); err != nil {
		t.Fatal(err)
	}
	nginx := "/usr/sbin/nginx"
	if _, err := os.Stat(nginx); err != nil {
		nginx = need(t, "nginx")
	}
	server = startProcess(t, "nginx", exec.Command(nginx, "-c", config))
	server.waitFor(t, answers("http://"+addr+"/manifest"))
	return addr, server
}

func mustServe(t *testing.T, url string) {
	t.Helper()
	if _, _, err := fetch(http.DefaultClient, url); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
}

// mustServeExactly fails unless url gives the content of a digest: a peer that is
// fast with something else is not measured.
func mustServeExactly(t *testing.T, url, d string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	h := sha256.New()
	if n, err := io.Copy(h, res.Body); err != nil || res.StatusCode != http.StatusOK || fmt.Sprintf("sha256:%x", h.Sum(nil)) != d {
		t.Fatalf("%s: %s, %d bytes that are not %s, %v", url, res.Status, n, d, err)
	}
}

var (
	perSecond = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	total     = regexp.MustCompile(` requests in ([0-9.]+)s, ([0-9.]+)([KMG])B read`)
	failures  = regexp.MustCompile(`Non-2xx or 3xx responses|Socket errors: connect [1-9]|read [1-9]|write [1-9]`)
)

// wrk asks url for a while.
func wrk(t *testing.T, url string, w work, server *process) sample {
	t.Helper()
	return wrkFor(t, url, w, server, duration)
}

func wrkFor(t *testing.T, url string, w work, server *process, duration time.Duration) sample {
	t.Helper()
	before := cpu(t, server)
	cmd := exec.Command("wrk", "-t1", "-c"+strconv.Itoa(w.clients), "-d"+duration.String(), "--timeout", "30s", "-H", "Accept: "+accept, url)
	r := run(t, cmd)
	used := cpu(t, server) - before
	requests, got := perSecond.FindStringSubmatch(r.stdout), total.FindStringSubmatch(r.stdout)
	if requests == nil || got == nil || failures.MatchString(r.stdout) {
		t.Fatalf("wrk %s:\n%s", url, r.output)
	}
	if w.size == 0 {
		return sample{rate: float(t, requests[1])}
	}
	gib := float(t, got[2]) / map[string]float64{"K": 1 << 20, "M": 1 << 10, "G": 1}[got[3]]
	client := (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	return sample{rate: gib / float(t, got[1]), server: used / gib, client: client / gib}
}

// cpu is the processor time that a server's processes used so far, in seconds.
func cpu(t *testing.T, server *process) float64 {
	t.Helper()
	const tick = 100 // sysconf(_SC_CLK_TCK) of every Linux that Go runs on
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, path := range paths {
		_, rest, _ := strings.Cut(read(path), ") ") // behind the name; a process may have ended
		f := strings.Fields(rest)
		if len(f) > 12 && f[2] == strconv.Itoa(server.cmd.Process.Pid) { // its process group
			sum += (float(t, f[11]) + float(t, f[12])) / tick
		}
	}
	return sum
}

func float(t *testing.T, s string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func medianOf(samples []sample, value func(sample) float64) float64 {
	var v []float64
	for _, s := range samples {
		v = append(v, value(s))
	}
	return median(v)
}

// number is rounded to what its noise leaves.
func number(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
