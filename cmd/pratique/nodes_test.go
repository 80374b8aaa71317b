package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"pratique/nodes"
)

func TestNodesConfigCommandLine(t *testing.T) {
	for _, tc := range []struct {
		args string
		code int
		want string
	}{
		{"nodes", 1, "nodes needs one of: config, doctor"},
		{"nodes config", 1, "--runtime and --server are needed"},
		{"nodes config --runtime podmann --server http://p", 1, "want one of containerd, crio"},
		{"nodes config --runtime podman --server p:5000", 1, "want http://HOST"},
		{"nodes config --runtime podman --server http://p --upstream 10.0.0.5:5000", 1, "write 10.0.0.5:5000=KEY"},
		{"nodes config --runtime podman --server http://p --upstream docker.io --config x.yaml", 1, "not both"},
		{"nodes config --runtime podman --server http://p --ca /does/not/exist", 1, "/does/not/exist"},
		{"nodes config --runtime podman --server http://p x", 1, `unexpected argument "x"`},
		{"nodes config --runtime podman --server http://p", 0, "-- etc/containers/registries.conf.d/zz-pratique.conf --\n"},
		{"nodes config --runtime podman --server http://p --form mirror", 0, "blocked = true"},
		{"nodes config --runtime crio --server http://p --upstream 10.0.0.5:5000=lab", 0, `location = "p/lab"`},
		{"nodes config --runtime containerd --server http://p", 0, "-- etc/containerd/certs.d/_default/hosts.toml --\n"},
		{"nodes doctor", 1, "--runtime and --server are needed"},
		{"nodes doctor --runtime podman --server http://p --canary :x", 1, "--canary"},
		{"nodes doctor x --runtime podman", 1, "unexpected argument"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			got := runCommand(t, "", strings.Fields(tc.args)...)
			if got.code != tc.code || !strings.Contains(got.out+got.errout, tc.want) {
				t.Errorf("exit %d, want %d with %q\nstdout: %s\nstderr: %s", got.code, tc.code, tc.want, got.out, got.errout)
			}
		})
	}
}

func TestNodesConfigFromPratiquesOwn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pratique.yaml")
	text := "upstreams:\n  docker.io: {url: https://registry-1.docker.io}\n  lab: {url: \"http://10.0.0.5:5000\", private: true}\n  ghcr.io: {url: https://ghcr.io}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got := runCommand(t, "", "nodes", "config", "--runtime", "podman", "--server", "http://p:5000", "--config", file)
	for _, want := range []string{
		"prefix = \"docker.io\"\nlocation = \"p:5000/docker.io\"", "prefix = \"registry-1.docker.io\"\nlocation = \"p:5000/docker.io\"",
		"prefix = \"ghcr.io\"\nlocation = \"p:5000/ghcr.io\"", "prefix = \"10.0.0.5:5000\"\nlocation = \"p:5000/lab\"",
	} {
		if got.code != 0 || !strings.Contains(got.out, want) {
			t.Errorf("exit %d, want %q in\n%s%s", got.code, want, got.out, got.errout)
		}
	}
	if n := strings.Count(got.out, "[[registry]]"); n != 5 {
		t.Errorf("%d entries, want 5:\n%s", n, got.out)
	}
}

func TestNodesConfigWrites(t *testing.T) {
	dir := t.TempDir()
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	write := func(args ...string) result {
		return runCommand(t, "", append([]string{"nodes", "config", "--runtime", "podman", "--server", "http://p:5000", "--dir", dir}, args...)...)
	}
	conf := filepath.Join(dir, "etc/containers/registries.conf.d/zz-pratique.conf")
	auth := filepath.Join(dir, "root/.config/containers/auth.json")

	if got := write(); got.code != 0 || !strings.Contains(got.out, "written    "+conf) {
		t.Fatalf("%+v", got)
	}
	if info, err := os.Stat(conf); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v, want 0644", info.Mode(), err)
	}
	if got := write(); got.code != 0 || !strings.Contains(got.out, "unchanged  "+conf) {
		t.Errorf("again: %+v", got)
	}
	mine := []byte("# mine\n[[registry]]\nprefix = \"docker.io\"\nlocation = \"p:5000/docker.io\"\n")
	if err := os.WriteFile(conf, mine, 0o600); err != nil {
		t.Fatal(err)
	}
	got := write("--username", "u", "--password-file", password)
	if got.code != 1 || !strings.Contains(got.out, "  - # mine\n") || !strings.Contains(got.out, "  + prefix = \"index.docker.io\"\n") ||
		strings.Contains(got.out, "prefix = \"docker.io\"\n") || !strings.Contains(got.errout, "nothing was written") {
		t.Errorf("differing: %+v", got)
	}
	if kept, err := os.ReadFile(conf); err != nil || string(kept) != string(mine) {
		t.Errorf("%v: a differing file became\n%s", err, kept)
	}
	if _, err := os.Stat(auth); err == nil {
		t.Error("half of the files were written")
	}
	if got := write("--force", "--username", "u", "--password-file", password); got.code != 0 {
		t.Errorf("forced: %+v", got)
	}
	if info, err := os.Stat(auth); err != nil || info.Mode() != 0o600 {
		t.Errorf("auth.json: %v, want 0600", err)
	}
	if err := os.WriteFile(password, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := write("--username", "u", "--password-file", password); got.code != 1 || !strings.Contains(got.out, "holds a secret") || strings.Contains(got.out, "auths") {
		t.Errorf("a secret is shown: %+v", got)
	}
	left, err := filepath.Glob(filepath.Join(dir, "etc/containers/registries.conf.d/.*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestCanaryURL: Pratique is asked as the runtime asks it.
func TestCanaryURL(t *testing.T) {
	lab := []nodes.Upstream{{Name: "10.0.0.5:5000", Key: "lab"}, {Name: "docker.io"}}
	for _, tc := range []struct {
		runtime nodes.Runtime
		ref     string
		want    string
	}{
		{nodes.Containerd, "docker.io/team/pratique-canary:1", "http://p/v2/team/pratique-canary/manifests/1?ns=docker.io"},
		{nodes.K3s, "docker.io/pratique-canary", "http://p/v2/library/pratique-canary/manifests/latest?ns=docker.io"},
		{nodes.Talos, "10.0.0.5:5000/pratique-canary:1", "http://p/v2/pratique-canary/manifests/1?ns=10.0.0.5%3A5000"},
		{nodes.Podman, "docker.io/team/pratique-canary:1", "http://p/v2/docker.io/team/pratique-canary/manifests/1"},
		{nodes.CRIO, "10.0.0.5:5000/pratique-canary:1", "http://p/v2/lab/pratique-canary/manifests/1"},
		{nodes.CRIO, "ghcr.io/pratique-canary:1", "http://p/v2/ghcr.io/pratique-canary/manifests/1"},
	} {
		ref, err := name.ParseReference(tc.ref)
		if err != nil {
			t.Fatal(err)
		}
		got := canaryURL(&url.URL{Scheme: "http", Host: "p"}, nodes.Config{Runtime: tc.runtime, Upstreams: lab}, ref).String()
		if got != tc.want {
			t.Errorf("%s %s: asks %s, want %s", tc.runtime, tc.ref, got, tc.want)
		}
	}
}

func TestWithImage(t *testing.T) {
	for _, tc := range []struct{ command, want string }{
		{"podman pull", "podman pull x:1"},
		{"skopeo inspect docker://{}", "skopeo inspect docker://x:1"},
		{"{} {}", "x:1 x:1"},
	} {
		words := strings.Fields(tc.command)
		if diff := cmp.Diff(tc.want, strings.Join(withImage(words, "x:1"), " ")); diff != "" || strings.Join(words, " ") != tc.command {
			t.Errorf("%s (-want +got):\n%s", tc.command, diff)
		}
	}
}

// TestNodesDoctor: Pratique, an upstream and a client, each as it may be.
func TestNodesDoctor(t *testing.T) {
	const canary = "docker.io/team/pratique-canary:1"
	upstream := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(upstream.Close)
	ref, err := name.ParseReference(strings.TrimPrefix(upstream.URL, "http://")+"/team/pratique-canary:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, empty.Image); err != nil {
		t.Fatal(err)
	}
	bare := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(bare.Close)
	front := func(get, head int) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/docker.io/team/pratique-canary/manifests/1" || r.URL.RawQuery != "" {
				t.Errorf("asked %s", r.URL)
			}
			if r.Method == http.MethodHead {
				w.WriteHeader(head)
				return
			}
			w.WriteHeader(get)
			_, _ = fmt.Fprint(w, `{"errors": [{"code": "DENIED", "message": "refused by rule gate/canary"}]}`)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	client := func(exit int, says string) string {
		path := filepath.Join(t.TempDir(), "client")
		script := fmt.Sprintf("#!/bin/sh\n[ \"$1 $2\" = \"pull %s\" ] || exit 9\necho '%s'\nexit %d\n", canary, says, exit)
		if err := os.WriteFile(path, []byte(script), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
		return path + " pull"
	}
	refused := client(1, "403 Forbidden")
	for name, tc := range map[string]struct {
		server, direct, pull string
		open                 bool // break the node's files
		code                 int
		says                 string
	}{
		"closed":                {front(403, 403), upstream.URL, refused, false, 0, "CLOSED"},
		"pulled":                {front(403, 403), upstream.URL, client(0, "done"), false, 3, "OPEN"},
		"files open":            {front(403, 403), upstream.URL, refused, true, 3, "OPEN"},
		"bare HEAD":             {front(403, 200), upstream.URL, refused, false, 4, "NOT PROVEN"},
		"served":                {front(200, 200), upstream.URL, refused, false, 4, "does not refuse this canary"},
		"login":                 {front(401, 401), upstream.URL, refused, false, 4, "--username"},
		"upstream without it":   {front(403, 403), bare.URL, refused, false, 4, "no such image"},
		"upstream gone":         {front(403, 403), "http://127.0.0.1:1", refused, false, 4, "does not answer this node"},
		"Pratique gone":         {"http://127.0.0.1:1", upstream.URL, refused, false, 4, "Pratique does not answer"},
		"client has other pain": {front(403, 403), upstream.URL, client(1, "no daemon"), false, 4, "does not say that it was refused"},
		"no client":             {front(403, 403), upstream.URL, "/does/not/exist", false, 4, "no client"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if got := runCommand(t, "", "nodes", "config", "--runtime", "podman", "--server", tc.server, "--dir", root); got.code != 0 {
				t.Fatalf("%+v", got)
			}
			if tc.open {
				if err := os.Remove(filepath.Join(root, "etc/containers/registries.conf.d/zz-pratique.conf")); err != nil {
					t.Fatal(err)
				}
			}
			args := []string{"nodes", "doctor", "--runtime", "podman", "--server", tc.server, "--direct", tc.direct, "--canary", canary, "--root", root, "--pull", tc.pull}
			got := runCommand(t, "", args...)
			// Words are wrapped to the width of a screen.
			if text := strings.Join(strings.Fields(got.out), " "); got.code != tc.code || !strings.Contains(text, tc.says) {
				t.Errorf("exit %d, want %d and %q:\n%s%s", got.code, tc.code, tc.says, got.out, got.errout)
			}
			var report diagnosis
			got = runCommand(t, "", append(args, "-o", "json")...)
			if err := json.Unmarshal([]byte(got.out), &report); err != nil || got.code != tc.code || report.Canary != canary || len(report.Why) == 0 {
				t.Errorf("%v: exit %d\n%s%s", err, got.code, got.out, got.errout)
			}
			want := map[int]nodes.Outcome{0: nodes.Closed, 3: nodes.Open, 4: nodes.Unproven}[tc.code]
			if diff := cmp.Diff(want, report.Outcome); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
}
