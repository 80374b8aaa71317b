//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// marker is in the environment of every process that a test starts, so that
// those left behind can be found.
const marker = "PRATIQUE_E2E"

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "e2e: containerd and podman unpack images as root: run as root")
		os.Exit(1)
	}
	os.Setenv(marker, fmt.Sprint(os.Getpid()))
	code := m.Run()
	if left := leftovers(5 * time.Second); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "e2e: processes left running:\n%s\n", strings.Join(left, "\n"))
		code = 1
	}
	os.Exit(code)
}

// leftovers lists processes that carry this run's marker after giving them some
// time to end.
func leftovers(patience time.Duration) []string {
	want := []byte(marker + "=" + os.Getenv(marker) + "\x00")
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		var left []string
		environs, _ := filepath.Glob("/proc/[0-9]*/environ")
		for _, e := range environs {
			raw, err := os.ReadFile(e)
			if err != nil || !bytes.Contains(raw, want) || filepath.Dir(e) == fmt.Sprintf("/proc/%d", os.Getpid()) {
				continue
			}
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(e), "cmdline"))
			left = append(left, filepath.Base(filepath.Dir(e))+" "+string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// binary is the path of a program that `make e2e` built.
func binary(t testing.TB, name string) string {
	t.Helper()
	p, err := filepath.Abs(filepath.Join("..", "bin", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("%v: run `make e2e`, which builds it", err)
	}
	return p
}

// root is the repository's folder.
func root(t testing.TB) string {
	t.Helper()
	p, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// workdir is a folder with a short name (sockets have at most 107 characters)
// that is removed with the test.
func workdir(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pratique-"+name+"-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove %s: %v", dir, err)
		}
	})
	return dir
}
