//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Containerd is a containerd with root, state and socket of its own.
type Containerd struct {
	dir, socket, hosts string
}

// closedHosts is the hosts.toml of docs/clients.md for every registry: both
// `server` and the host are Pratique, so there is nowhere else to go.
func closedHosts(p *Pratique) map[string]string {
	return map[string]string{"_default": fmt.Sprintf(`server = "http://%[1]s"
[host."http://%[1]s"]
  capabilities = ["pull", "resolve"]
`, p.Registry)}
}

// openHosts is what most people write: a mirror, and the upstream behind it.
func openHosts(p *Pratique, u *Upstream) map[string]string {
	return map[string]string{"docker.io": fmt.Sprintf(`server = "http://%s"
[host."http://%s"]
  capabilities = ["pull", "resolve"]
`, u.Addr, p.Registry)}
}

// StartContainerd starts Debian's; hosts maps a registry ("docker.io",
// "_default") to the text of its hosts.toml.
func StartContainerd(t testing.TB, hosts map[string]string) *Containerd {
	t.Helper()
	need(t, "ctr")
	return startContainerd(t, need(t, "containerd"), containerdConfig1, hosts)
}

// containerdConfig1 is the configuration of containerd 1.x. The native
// snapshotter needs nothing of the file system below; the others are switched off
// because each probes the machine for itself.
const containerdConfig1 = `version = 2
root = %[1]q
state = %[2]q
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.overlayfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.opt"]
[grpc]
  address = %[3]q
[plugins."io.containerd.grpc.v1.cri"]
  disable_cgroup = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = %[4]q
`

// startContainerd starts the program daemon.
func startContainerd(t testing.TB, daemon, config string, hosts map[string]string) *Containerd {
	t.Helper()
	dir := workdir(t, "cd")
	c := &Containerd{dir: dir, socket: filepath.Join(dir, "cd.sock"), hosts: filepath.Join(dir, "certs.d")}
	for registry, text := range hosts {
		if err := os.MkdirAll(filepath.Join(c.hosts, registry), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(c.hosts, registry, "hosts.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config = fmt.Sprintf(config, filepath.Join(dir, "root"), filepath.Join(dir, "state"), c.socket, c.hosts)
	path := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	server := startProcess(t, "containerd", exec.Command(daemon, "--config", path))
	server.waitFor(t, func() error {
		out, err := exec.Command(binary(t, "criclient"), "-timeout", "2s", c.socket, "status", "none").CombinedOutput()
		if err != nil && string(out) != "no such image: none\n" {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return c
}

// manifest reads from the content store.
func (c *Containerd) manifest(t testing.TB, digest string) ([]byte, bool) {
	return readBlob(t, filepath.Join(c.dir, "root", "io.containerd.content.v1.content", "blobs", "sha256"), digest)
}

// CRI pulls as kubelet does.
func (c *Containerd) CRI() Client { return cri{c} }

// Ctr pulls as a person at the node does.
func (c *Containerd) Ctr() Client { return ctr{c} }

type cri struct{ *Containerd }

// Pull implements Client. CRI knows no platform but the node's.
func (c cri) Pull(t testing.TB, reference, arch string) result {
	t.Helper()
	if arch != runtime.GOARCH {
		t.Fatalf("CRI pulls for the node's own platform, not %s", arch)
	}
	return run(t, exec.Command(binary(t, "criclient"), c.socket, "pull", "docker.io/"+reference))
}

// Manifest implements Client.
func (c cri) Manifest(t testing.TB, digest string) ([]byte, bool) { return c.manifest(t, digest) }

type ctr struct{ *Containerd }

// Pull implements Client.
func (c ctr) Pull(t testing.TB, reference, arch string) result {
	return run(t, exec.Command(need(t, "ctr"), "--address", c.socket, "images", "pull", "--snapshotter", "native",
		"--hosts-dir", c.hosts, "--platform", "linux/"+arch, "docker.io/"+reference))
}

// Manifest implements Client.
func (c ctr) Manifest(t testing.TB, digest string) ([]byte, bool) { return c.manifest(t, digest) }
