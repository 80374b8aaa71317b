package helm

import (
	"os/exec"
	"testing"
)

// run runs a program of the repository.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// checked has `pratique config check` read a file; bin/pratique is built before
// (make deploy-check).
func checked(t *testing.T, name, file, text string) {
	t.Helper()
	if out, err := exec.Command("../../bin/pratique", "config", "check", file).CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s\n%s", name, err, out, text)
	}
}
