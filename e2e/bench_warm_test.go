//go:build e2e && bench

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
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
	name string
	url  func(w work) string
}

// work is one thing that is asked of each peer.
type work struct {
	name    string
	img     benchImage
	path    string
	clients int
	file    string // what nginx serves instead; empty: nginx has no such thing
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
	distribution, nginx := b.startDistributionProxy(b.upstream.Addr), startNginx(t, static)
	on := func(addr, prefix string) func(work) string {
		return func(w work) string { return "http://" + addr + "/v2/" + prefix + w.img.repo + w.path }
	}
	peers := []peer{
		{"Pratique", on(quiet.Registry, "docker.io/")},
		{"Pratique, access log on", on(logging.Registry, "docker.io/")},
		{"distribution 3.1.2, proxy", on(distribution, "")},
		{"nginx, sendfile", func(w work) string {
			if w.file == "" {
				return ""
			}
			return "http://" + nginx + "/" + w.file
		}},
	}
	works := []work{
		{"manifest by digest", small, "/manifests/" + small.digest, 16, "manifest"},
		{"manifest by tag", small, "/manifests/1.0", 16, ""},
		{"blob of 2 MiB", small, "/blobs/" + small.layers[0], 16, "2m"},
		{"blob of 200 MiB, 4 clients", large, "/blobs/" + large.layers[0], 4, "200m"},
	}
	for _, w := range works { // warm: fetched, scanned, decided; the manifest first
		manifest := w
		manifest.path = "/manifests/" + w.img.digest
		for _, p := range peers {
			for _, w := range []work{manifest, w} {
				if url := p.url(w); url != "" {
					mustServe(t, url)
				}
			}
		}
	}
	results := make([][][]float64, len(works))
	for i, w := range works {
		results[i] = make([][]float64, len(peers))
		for range rounds {
			for j, p := range peers {
				if url := p.url(w); url != "" {
					results[i][j] = append(results[i][j], wrk(t, url, w.clients))
				}
			}
		}
	}
	b.printf("### Warm\n\nRequests per second, `wrk -t1`, 16 clients unless it says otherwise, medians of %d rounds of %s in turn.\n\n", rounds, duration)
	b.printf("| | Pratique | with its access log | distribution's proxy | nginx | ÷ distribution | ÷ nginx |\n|---|---|---|---|---|---|---|\n")
	for i, w := range works {
		ours, logged, theirs := median(results[i][0]), median(results[i][1]), median(results[i][2])
		static, share := "", ""
		if results[i][3] != nil {
			n := median(results[i][3])
			static, share = number(n), fmt.Sprintf("%.2f", ours/n)
		}
		b.printf("| %s | %s | %s | %s | %s | **%.2f** | %s |\n", w.name, number(ours), number(logged), number(theirs), static, ours/theirs, share)
	}
	b.printf("\nMemory (RSS) after that: Pratique %d MiB, distribution's proxy %d MiB.\n\n", rss(t, quiet.server)>>20, rss(t, b.distribution)>>20)
	quiet.Stop()
	logging.Stop()
	b.distribution.stop()
}

// startNginx serves a folder with what Debian's nginx has for that.
func startNginx(t *testing.T, static string) string {
	t.Helper()
	dir, addr := workdir(t, "nginx"), freeAddr(t)
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
	startProcess(t, "nginx", exec.Command(nginx, "-c", config)).waitFor(t, answers("http://"+addr+"/manifest"))
	return addr
}

func mustServe(t *testing.T, url string) {
	t.Helper()
	if _, _, err := fetch(http.DefaultClient, url); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
}

var (
	perSecond = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	failures  = regexp.MustCompile(`Non-2xx or 3xx responses|Socket errors: connect [1-9]|read [1-9]|write [1-9]`)
)

// wrk asks url for a while and returns requests per second.
func wrk(t *testing.T, url string, clients int) float64 {
	t.Helper()
	r := run(t, exec.Command("wrk", "-t1", "-c"+strconv.Itoa(clients), "-d"+duration.String(), "--timeout", "30s", "-H", "Accept: "+accept, url))
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

// number is rounded to what its noise leaves.
func number(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
