package worker_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"pratique"
	"pratique/scanner/worker"
	"pratique/scanner/worker/workertest"
)

// Small layers that take much. The registry lives, the layer fails or is
// incomplete, and a clean layer is analysed afterwards.
func TestBombs(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	tests := map[string]struct {
		files  []file
		config worker.Config
		want   []pratique.State
		say    string
	}{
		// A package is several times larger in memory than in the database.
		"memory": {
			files:  []file{{name: "var/lib/dpkg/status", content: manyPackages(300_000)}},
			config: worker.Config{Memory: 128 << 20},
			want:   []pratique.State{pratique.StateFailed}, say: "memory limit of 128 MiB exceeded",
		},
		"time": {
			files:  []file{{name: "var/lib/dpkg/status", content: manyPackages(300_000)}},
			config: worker.Config{Memory: 4 << 30, Timeout: 300 * time.Millisecond},
			want:   []pratique.State{pratique.StateFailed}, say: "not finished within 300ms",
		},
		"jars in jars": {
			files:  debian(file{name: "opt/bomb-1.0.jar", content: nested(t, 3, 80<<20)}),
			config: worker.Config{TempDisk: 64 << 20},
			// A file above the limit is an error to the jar parser, which drops what lies in it.
			want: []pratique.State{pratique.StateFailed}, say: "file too large",
		},
		"uncompressed": {
			files:  []file{{name: "zeros", content: strings.Repeat("\x00", 64<<20)}},
			config: worker.Config{Uncompressed: 32 << 20},
			want:   []pratique.State{pratique.StateFailed}, say: "larger than 33554432 bytes uncompressed",
		},
		"inventory": {
			files: many(3000, func(i int) file {
				return file{name: fmt.Sprintf("n/node_modules/%s%d/package.json", strings.Repeat("a", 200), i), content: fmt.Sprintf(`{"name":"a%d","version":"1.0.0"}`, i)}
			}),
			config: worker.Config{Reply: 64 << 10},
			want:   []pratique.State{pratique.StateFailed}, say: "at most 65536 are read",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := realPool(t, tt.config)
			b := gzipped(t, layer(t, tt.files...))
			inv, err := p.Layer(t.Context(), describe(b), bytes.NewReader(b))
			if err != nil || !slices.Contains(tt.want, inv.State()) {
				t.Fatalf("state %v, want %v: %+v, %v", inv.State(), tt.want, inv.Problems, err)
			}
			if !slices.ContainsFunc(inv.Problems, func(p pratique.Problem) bool { return strings.Contains(p.Message, tt.say) }) {
				t.Errorf("no problem says %q: %+v", tt.say, inv.Problems)
			}
		})
	}
}

// A disk that is full in truth, not by budget: the analyzer's temporary files
// cannot be written and nothing may count as analysed.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", dir).CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("mount: %v: %s: run as root", err, out)
		}
		t.Skipf("mount: %v: %s: run as root", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", dir).Run() })
	p, err := worker.NewPool(t.Context(), worker.Config{Path: workertest.Binary(t), TempDir: dir, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	for name, f := range map[string]file{
		"rpm":  {name: "var/lib/rpm/Packages", content: strings.Repeat("x", 4<<20)},
		"dpkg": {name: "var/lib/dpkg/status", content: strings.Repeat(dpkgOf, 4<<20/len(dpkgOf))},
		"jar":  {name: "opt/a-1.0.jar", content: nested(t, 3, 3<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			b := gzipped(t, layer(t, debian(f)...))
			inv, err := p.Layer(t.Context(), describe(b), bytes.NewReader(b))
			// Failed and not incomplete: the disk's fault must not be stored as the layer's.
			if err != nil || inv.State() != pratique.StateFailed {
				t.Errorf("state %v: %+v, %v", inv.State(), inv.Problems, err)
			}
		})
	}
}

// Killed from outside, as by the kernel when memory is short.
func TestKilled(t *testing.T) {
	p := realPool(t, worker.Config{Spares: -1})
	b := gzipped(t, layer(t, debian()...))
	pr, pw := io.Pipe()
	go func() {
		_, _ = pw.Write(b[:len(b)/2])
		for _, pid := range children(t, worker.BinaryName) {
			if proc, err := os.FindProcess(pid); err == nil {
				_ = proc.Kill()
			}
		}
		_ = pw.Close()
	}()
	inv, err := p.Layer(t.Context(), describe(b), pr)
	if err != nil || inv.State() != pratique.StateFailed || !strings.Contains(inv.Problems[0].Message, "killed") {
		t.Errorf("%+v, %v", inv, err)
	}
}

func many(n int, f func(int) file) []file {
	var out []file
	for i := range n {
		out = append(out, f(i))
	}
	return out
}

func manyPackages(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "Package: p%d\nStatus: install ok installed\nVersion: 1.0-1\nArchitecture: amd64\n\n", i)
	}
	return b.String()
}

// nested is a jar in n jars, each of which unpacks to size bytes more: an
// archive may begin with anything, and zeros deflate to nothing.
func nested(t *testing.T, n, size int) string {
	t.Helper()
	inner := jar(t)
	for range n {
		inner = zipped(t, "lib/a-1.0.jar", append(make([]byte, size), inner...))
	}
	return inner
}
