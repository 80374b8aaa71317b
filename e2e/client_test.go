//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Client pulls as one program does, into a store of its own.
type Client interface {
	// Pull fetches reference ("demo/clean:1.0", "demo/clean@sha256:…", named as on
	// docker.io) for linux/arch through Pratique.
	Pull(t testing.TB, reference, arch string) result
	// Manifest returns the bytes of the manifest with this digest as the client
	// keeps them after a pull, and whether it keeps it.
	Manifest(t testing.TB, digest string) ([]byte, bool)
}

// clients are the programs of the matrix, each started anew by a test. One that
// is nodeOnly pulls for the platform it runs on and no other.
var clients = []struct {
	name     string
	start    func(testing.TB, *Pratique) Client
	nodeOnly bool
}{
	{name: "crane", start: newCrane},
	{name: "skopeo", start: newSkopeo},
	{name: "podman", start: newPodman},
	{name: "containerd", start: func(t testing.TB, p *Pratique) Client { return StartContainerd(t, closedHosts(p)).CRI() }, nodeOnly: true},
	{name: "ctr", start: func(t testing.TB, p *Pratique) Client { return StartContainerd(t, closedHosts(p)).Ctr() }},
}

// Crane talks to the proxy by its own name; it has no mirrors.
type Crane struct {
	binary, dir string
	p           *Pratique
}

func newCrane(t testing.TB, p *Pratique) Client {
	return &Crane{binary(t, "crane"), workdir(t, "crane"), p}
}

// Pull implements Client: an OCI layout is written.
func (c *Crane) Pull(t testing.TB, reference, arch string) result {
	return run(t, exec.Command(c.binary, "pull", "--format=oci", "--platform=linux/"+arch,
		c.p.Registry+"/docker.io/"+reference, c.dir))
}

// Manifest implements Client.
func (c *Crane) Manifest(t testing.TB, digest string) ([]byte, bool) {
	return readBlob(t, filepath.Join(c.dir, "blobs", "sha256"), digest)
}

// Skopeo is led by a registries.conf that rewrites docker.io.
type Skopeo struct {
	binary, dir, conf string
	p                 *Pratique
}

func newSkopeo(t testing.TB, p *Pratique) Client {
	dir := workdir(t, "skopeo")
	return &Skopeo{need(t, "skopeo"), dir, writeRegistries(t, dir, p), p}
}

// Pull implements Client: `skopeo copy` into an OCI layout.
func (c *Skopeo) Pull(t testing.TB, reference, arch string) result {
	cmd := exec.Command(c.binary, "--registries-conf", c.conf, "--override-os", "linux", "--override-arch", arch,
		"copy", "docker://docker.io/"+reference, "oci:"+filepath.Join(c.dir, "layout")+":pulled")
	cmd.Env = append(os.Environ(), "HOME="+c.dir)
	return run(t, cmd)
}

// Manifest implements Client.
func (c *Skopeo) Manifest(t testing.TB, digest string) ([]byte, bool) {
	return readBlob(t, filepath.Join(c.dir, "layout", "blobs", "sha256"), digest)
}

// Podman is led by the same file.
type Podman struct {
	binary, dir, conf string
}

func newPodman(t testing.TB, p *Pratique) Client {
	dir := workdir(t, "podman")
	return &Podman{need(t, "podman"), dir, writeRegistries(t, dir, p)}
}

func (c *Podman) command(args ...string) *exec.Cmd {
	args = append([]string{
		"--root", filepath.Join(c.dir, "root"), "--runroot", filepath.Join(c.dir, "run"),
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none",
	}, args...)
	cmd := exec.Command(c.binary, args...)
	cmd.Env = append(os.Environ(), "HOME="+c.dir, "CONTAINERS_REGISTRIES_CONF="+c.conf, "XDG_RUNTIME_DIR="+c.dir)
	return cmd
}

// Pull implements Client.
func (c *Podman) Pull(t testing.TB, reference, arch string) result {
	return run(t, c.command("pull", "--os", "linux", "--arch", arch, "docker.io/"+reference))
}

// Manifest implements Client.
func (c *Podman) Manifest(t testing.TB, digest string) ([]byte, bool) {
	found, err := filepath.Glob(filepath.Join(c.dir, "root", "vfs-images", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if raw, err := os.ReadFile(f); err == nil && sum(raw) == digest {
			return raw, true
		}
	}
	return nil, false
}

// writeRegistries writes the registries.conf of docs/clients.md: docker.io is
// rewritten, so that no failure leads past Pratique.
func writeRegistries(t testing.TB, dir string, p *Pratique) string {
	t.Helper()
	path := filepath.Join(dir, "registries.conf")
	text := fmt.Sprintf("[[registry]]\nprefix = \"docker.io\"\nlocation = \"%s/docker.io\"\ninsecure = true\n", p.Registry)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func sum(raw []byte) string {
	h := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(h[:])
}

// readBlob reads a digest from a folder of blobs and verifies it.
func readBlob(t testing.TB, dir, digest string) ([]byte, bool) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, strings.TrimPrefix(digest, "sha256:")))
	if err != nil {
		return nil, false
	}
	if sum(raw) != digest {
		t.Fatalf("the client keeps %s for %s", sum(raw), digest)
	}
	return raw, true
}

// digestOf is the digest of an image built by go-containerregistry.
func digestOf(t testing.TB, img v1.Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}
