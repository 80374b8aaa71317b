//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pratique/tools/images"
)

// openNode is a client whose configuration leads to the upstream whenever
// Pratique does not serve, as mirrors are mostly written.
type openNode struct {
	Client
	// reached is what it asked the upstream itself since the record was emptied.
	reached func() []string
}

// openNodes are the clients that ask by HEAD first. Those that take minutes to
// build are tried with E2E_CLIENTS=all, by `make clients`. A client that
// takes a refusal for content asks, last of all, the upstream for a blob of that
// name: guesses is set.
var openNodes = []struct {
	name    string
	start   func(testing.TB, *Pratique, *Upstream) openNode
	slow    bool
	guesses bool
}{
	{name: "containerd 1.6", guesses: true, start: func(t testing.TB, p *Pratique, u *Upstream) openNode {
		return openNode{StartContainerd(t, openHosts(p, u)).CRI(), byContainerd(u)}
	}},
	{name: "containerd 1.7", guesses: true, slow: true, start: func(t testing.TB, p *Pratique, u *Upstream) openNode {
		return openNode{startContainerd(t, binary(t, "containerd17"), containerdConfig1, openHosts(p, u)).CRI(), byContainerd(u)}
	}},
	{name: "containerd 2", start: func(t testing.TB, p *Pratique, u *Upstream) openNode {
		return openNode{startContainerd(t, binary(t, "containerd2"), containerdConfig2, openHosts(p, u)).CRI(), byContainerd(u)}
	}},
	{name: "docker 29", slow: true, start: startDocker},
}

// byContainerd lists what containerd, and not Pratique, asked of u.
func byContainerd(u *Upstream) func() []string {
	return func() []string {
		var out []string
		for _, r := range u.Requests() {
			if strings.Contains(r.Agent, "containerd") {
				out = append(out, r.String())
			}
		}
		return out
	}
}

// TestOpenMirror: with the bare HEAD, a node whose mirror is left open gets
// nothing past Pratique: not what is refused, not what is not decided, not what
// it has in its own store since it was allowed.
func TestOpenMirror(t *testing.T) {
	t.Parallel()
	for _, node := range openNodes {
		if node.slow && os.Getenv("E2E_CLIENTS") != "all" {
			continue
		}
		t.Run(node.name, func(t *testing.T) {
			u := StartUpstream(t)
			closed := func(t *testing.T, n openNode) {
				t.Helper()
				for _, r := range n.reached() {
					if node.guesses && strings.Contains(r, " /v2/demo/") && strings.Contains(r, "/blobs/sha256:") && strings.Contains(r, " 404 ") {
						continue
					}
					t.Errorf("reached the upstream: %s", r)
				}
			}
			p := StartPratique(t, u, Options{})
			n := node.start(t, p, u)
			for _, c := range []pullCase{
				{name: "refused image by tag", sample: images.Vulnerable, refused: true},
				{name: "refused image by digest", sample: images.Vulnerable, digest: true, refused: true},
				{name: "refused index by tag", sample: images.AllRefused, refused: true},
			} {
				t.Run(c.name, func(t *testing.T) {
					u.Forget()
					r := c.check(t, n, u)
					closed(t, n)
					if !strings.Contains(r.output, refusal) {
						t.Errorf("it does not say why: %s", r.output)
					}
					shown(t, node.name, "open mirror, "+c.name, r.output, p, u)
				})
			}
			t.Run("not decided", func(t *testing.T) { openUndecided(t, u, node.start, closed) })
			t.Run("cached on the node", func(t *testing.T) { openCached(t, u, node.start, closed) })
			t.Run("upstream that serves manifests as blobs", func(t *testing.T) {
				other := manifestsAsBlobs(t, u)
				n := node.start(t, StartPratique(t, other, Options{}), other)
				u.Forget()
				for _, digest := range []bool{false, true, true} { // again, with what the first left behind
					if r := n.Pull(t, pullCase{sample: images.Vulnerable, digest: digest}.reference(t, u), "amd64"); r.exit == 0 {
						t.Errorf("by digest %v: pulled:\n%s", digest, r.output)
					}
				}
				for _, r := range u.Requests() {
					if strings.Contains(r.Agent, "containerd") && r.Blob() && r.Status < 400 {
						t.Errorf("content from the upstream: %s", r)
					}
				}
			})
			t.Run("refusal.head 403 does not hold it", func(t *testing.T) {
				// The control: without the bare HEAD the same set-up is a hole.
				n := node.start(t, StartPratique(t, u, Options{Head: "403"}), u)
				u.Forget()
				r := n.Pull(t, images.Vulnerable, "amd64")
				if served := r.exit == 0; len(n.reached()) == 0 || served == (node.name == "docker 29") { // its Docker Hub is out of reach
					t.Errorf("exit %d, from the upstream %v: this client is closed by itself now; say so in %s", r.exit, n.reached(), document)
				}
			})
		})
	}
}

// TestOpenMirrorOfNoHead: clients that never ask by HEAD are not held. When this
// fails they have changed, and docs/clients.md is to say so.
func TestOpenMirrorOfNoHead(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	p := StartPratique(t, u, Options{})
	for _, client := range clients {
		if client.name != "skopeo" && client.name != "podman" {
			continue
		}
		t.Run(client.name, func(t *testing.T) {
			c := client.start(t, p)
			path := ""
			switch c := c.(type) {
			case *Skopeo:
				path = c.conf
			case *Podman:
				path = c.conf
			}
			text := fmt.Sprintf("[[registry]]\nprefix = \"docker.io\"\nlocation = %q\ninsecure = true\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n", u.Addr, p.Registry+"/docker.io")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if r := c.Pull(t, images.Vulnerable, "amd64"); r.exit != 0 {
				t.Errorf("exit %d: this client is closed by itself now; say so in %s:\n%s", r.exit, document, r.output)
			}
		})
	}
}

// openUndecided pulls an image whose scan outlasts the hold.
func openUndecided(t *testing.T, u *Upstream, start func(testing.TB, *Pratique, *Upstream) openNode, closed func(*testing.T, openNode)) {
	p := StartPratique(t, u, Options{Hold: 500 * time.Millisecond})
	n := start(t, p, u)
	u.Slow(func(r *http.Request) time.Duration { // towards Pratique alone
		if strings.Contains(r.URL.Path, "/blobs/") && strings.HasPrefix(r.UserAgent(), "pratique/") {
			return time.Minute
		}
		return 0
	})
	t.Cleanup(func() {
		u.Slow(nil)
		u.tap.CloseClientConnections()
	})
	for _, c := range []pullCase{{sample: images.Clean}, {sample: images.Clean, digest: true}, {sample: images.MultiArch}} {
		u.Forget()
		r := n.Pull(t, c.reference(t, u), "amd64")
		if r.exit == 0 || !strings.Contains(r.output, "scan pending") {
			t.Errorf("%s: exit %d, want it told that the scan is pending:\n%s", c.sample, r.exit, r.output)
		}
		closed(t, n)
	}
}

// openCached pulls, by tag and digest, an image that the node has and that is
// refused since.
func openCached(t *testing.T, u *Upstream, start func(testing.TB, *Pratique, *Upstream) openNode, closed func(*testing.T, openNode)) {
	p := StartPratique(t, u, Options{Extra: openPolicy(t)})
	n := start(t, p, u)
	allowed := pullCase{sample: images.Vulnerable}
	allowed.check(t, n, u)
	p.restricted(t)
	for _, digest := range []bool{false, true} {
		u.Forget()
		if r := n.Pull(t, pullCase{sample: images.Vulnerable, digest: digest}.reference(t, u), "amd64"); r.exit == 0 {
			t.Errorf("by digest %v: pulled from the node's own store:\n%s", digest, r.output)
		}
		closed(t, n)
	}
}

// openPolicy is the configuration's line for a policy that refuses nothing that
// was scanned.
func openPolicy(t testing.TB) string {
	t.Helper()
	path := filepath.Join(workdir(t, "policy"), "open.yaml")
	if err := os.WriteFile(path, []byte("name: open\ndefault: allow\nrules:\n  - {name: secrets, secret: {}, action: warn}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("policies: [%q]", path)
}

// restricted starts Pratique anew over the same data with the policy that
// ships.
func (p *Pratique) restricted(t testing.TB) {
	t.Helper()
	p.reconfigure(t, func(text string) string {
		lines := strings.Split(text, "\n")
		for i, l := range lines {
			if strings.HasPrefix(l, "policies:") {
				lines[i] = ""
			}
		}
		return strings.Join(lines, "\n")
	})
}

// reconfigure stops, edits the configuration and starts.
func (p *Pratique) reconfigure(t testing.TB, edit func(string) string) {
	t.Helper()
	p.Stop()
	p.edit(t, edit)
	p.Start(t)
}

func (p *Pratique) edit(t testing.TB, edit func(string) string) {
	t.Helper()
	raw, err := os.ReadFile(p.config())
	if err != nil {
		t.Fatal(err)
	}
	text := edit(string(raw))
	if text == string(raw) {
		t.Fatalf("the edit changes nothing in\n%s", raw)
	}
	if err := os.WriteFile(p.config(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// containerdConfig2 is that of containerd 2.x, where a pull is the transfer
// service's.
const containerdConfig2 = `version = 3
root = %[1]q
state = %[2]q
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.overlayfs", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = %[3]q
[plugins.'io.containerd.cri.v1.runtime']
  disable_cgroup = true
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "native"
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = %[4]q
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = "linux"
  snapshotter = "native"
[plugins.'io.containerd.grpc.v1.cri']
  disable_tcp_service = true
`
