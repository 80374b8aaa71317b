//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Docker is a dockerd with its images in a containerd of its own, spoken to
// through its API.
type Docker struct {
	*Containerd
	api *http.Client
}

// startDocker starts one with Pratique as registry-mirror, behind which stands
// Docker Hub: it is dialled through a proxy that notes that and goes nowhere.
func startDocker(t testing.TB, p *Pratique, _ *Upstream) openNode {
	t.Helper()
	outside := &noWayOut{}
	proxy := httptest.NewServer(outside)
	t.Cleanup(proxy.Close)

	c := startContainerd(t, binary(t, "containerd2"), containerdConfig2, nil)
	socket, config := filepath.Join(c.dir, "docker.sock"), filepath.Join(c.dir, "daemon.json")
	if err := os.WriteFile(config, []byte(`{"features": {"containerd-snapshotter": true}, "userland-proxy": false}`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t, "dockerd"), "--config-file", config, "--containerd", c.socket, "--host", "unix://"+socket,
		"--data-root", filepath.Join(c.dir, "docker"), "--exec-root", filepath.Join(c.dir, "exec"), "--pidfile", filepath.Join(c.dir, "docker.pid"),
		"--storage-driver", "native", "--iptables=false", "--ip6tables=false", "--bridge=none", "--registry-mirror", "http://"+p.Registry)
	cmd.Env = append(os.Environ(), "HTTPS_PROXY="+proxy.URL, "HTTP_PROXY="+proxy.URL, "OTEL_TRACES_EXPORTER=none")
	server := startProcess(t, "dockerd", cmd)
	d := &Docker{c, &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}}
	t.Cleanup(d.api.CloseIdleConnections)
	server.waitFor(t, func() error {
		res, err := d.api.Get("http://docker/_ping")
		if err != nil {
			return err
		}
		return res.Body.Close()
	})
	return openNode{d, outside.hosts}
}

// Pull implements Client; `docker pull` shows what this returns.
func (d *Docker) Pull(t testing.TB, reference, arch string) result {
	t.Helper()
	name, tag, digest := strings.Cut(reference, "@")
	if !digest {
		name, tag, _ = strings.Cut(reference, ":")
	}
	ctx, cancel := context.WithTimeout(t.Context(), clientTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://docker/images/create?"+url.Values{
		"fromImage": {name}, "tag": {tag}, "platform": {"linux/" + arch},
	}.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	res, err := d.api.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var r result
	for in := json.NewDecoder(res.Body); ; {
		var line struct {
			Message string // an answer that is no stream
			Error   string
		}
		if err := in.Decode(&line); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if text := line.Error + line.Message; text != "" {
			r.exit, r.output = 1, fmt.Sprintf("Error response from daemon: %s\n", text)
		}
	}
	r.took = time.Since(began)
	return r
}

// Manifest implements Client.
func (d *Docker) Manifest(t testing.TB, digest string) ([]byte, bool) { return d.manifest(t, digest) }

// noWayOut is a proxy that leads nowhere and notes where to.
type noWayOut struct {
	mu   sync.Mutex
	seen []string
}

func (n *noWayOut) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	n.seen = append(n.seen, r.Method+" "+r.Host+r.URL.Path)
	n.mu.Unlock()
	http.Error(w, "there is no way out of this test", http.StatusBadGateway)
}

func (n *noWayOut) hosts() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.seen...)
}

// manifestsAsBlobs is u as a registry would be that keeps manifests among the
// blobs and hands them out there.
func manifestsAsBlobs(t testing.TB, u *Upstream) *Upstream {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: u.Addr}
	manifests := map[string]bool{}
	for sample := range u.sample {
		manifests[u.Digest(t, sample)] = true
	}
	s := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		if before, digest, ok := strings.Cut(r.Out.URL.Path, "/blobs/"); ok && manifests[digest] {
			r.Out.URL.Path = before + "/manifests/" + digest
		}
	}})
	t.Cleanup(s.Close)
	return &Upstream{Addr: strings.TrimPrefix(s.URL, "http://"), sample: u.sample}
}
