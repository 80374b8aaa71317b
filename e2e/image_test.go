//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestImage builds the Dockerfile as it stands and runs what comes out. There is
// no registry to take golang: from, so the base is made here: busybox, and a `go`
// that hands out the binaries that are built already.
func TestImage(t *testing.T) {
	t.Parallel()
	dir := workdir(t, "image")
	busybox := need(t, "busybox")
	p := &Podman{need(t, "podman"), dir, "/dev/null"}
	base := filepath.Join(dir, "base")
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(base, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	copyIn := func(from, name string) {
		t.Helper()
		raw, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(name, string(raw), 0o755)
	}
	copyIn(busybox, "bin/busybox")
	for _, applet := range []string{"sh", "mkdir", "cp", "echo", "chmod"} {
		if err := os.Symlink("busybox", filepath.Join(base, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	copyIn(binary(t, "pratique"), "built/pratique")
	copyIn(binary(t, "pratique-analyzer"), "built/pratique-analyzer")
	write("etc/ssl/certs/ca-certificates.crt", "certificates\n", 0o644)
	// go mod download; go build FLAGS -o OUT ./cmd/NAME
	write("bin/go", `#!/bin/sh
[ "$1" = build ] || exit 0
while [ $# -gt 1 ]; do [ "$1" = -o ] && out=$2; shift; done
mkdir -p "${out%/*}" && cp "/built/${1##*/}" "$out"
`, 0o755)
	write("Dockerfile", "FROM scratch\nCOPY . /\nENV PATH=/bin\n", 0o644)

	build := func(name, context string, more ...string) {
		t.Helper()
		args := append([]string{"build", "--isolation", "chroot", "--network", "host", "--no-cache", "-t", name}, more...)
		if r := run(t, p.command(append(args, context)...)); r.exit != 0 {
			t.Fatalf("podman build %s: exit %d\n%s", name, r.exit, r.output)
		}
	}
	build("localhost/base", base)
	build("localhost/pratique", root(t), "--from", "localhost/base")

	r := run(t, p.command("image", "mount", "localhost/pratique"))
	if r.exit != 0 {
		t.Fatalf("mount: %s", r.output)
	}
	fs := strings.TrimSpace(r.stdout)
	defer run(t, p.command("image", "unmount", "localhost/pratique"))
	for name, want := range map[string]string{
		"usr/local/bin/pratique":            "0 0 755",
		"usr/local/bin/pratique-analyzer":   "0 0 755",
		"etc/ssl/certs/ca-certificates.crt": "0 0 644",
		"etc/pratique/pratique.yaml":        "0 0 644",
		"etc/pratique/LICENSE":              "0 0 644",
		"etc/pratique/NOTICE":               "0 0 644",
		"etc/passwd":                        "0 0 644",
		"tmp":                               "0 0 1777",
		"var/lib/pratique":                  "65532 65532 755",
	} {
		out, err := exec.Command("stat", "-c", "%u %g %a", filepath.Join(fs, name)).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("/%s is %q, want %q", name, got, want)
		}
	}
	entries, err := os.ReadDir(fs)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := fmt.Sprint(names); got != "[etc tmp usr var]" {
		t.Errorf("the image holds %s", got)
	}

	// As the image's own user, in its own root, without any network.
	for _, args := range [][]string{
		{"version"},
		{"config", "check", "/etc/pratique/pratique.yaml"},
	} {
		cmd := exec.Command("chroot", append([]string{"--userspec=65532:65532", fs, "/usr/local/bin/pratique"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("pratique %v in the image: %v\n%s", args, err, out)
		}
	}
}
