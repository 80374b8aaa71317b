//go:build e2e

package e2e

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pratique/tools/images"
)

// TestCheck: exit codes and JSON are contracts with scripts.
func TestCheck(t *testing.T) {
	t.Parallel()
	u := StartUpstream(t)
	p := StartPratique(t, u, Options{})
	tests := map[string]struct {
		args []string
		exit int
		says string
	}{
		"allowed":            {[]string{"check", "docker.io/" + images.Clean}, 0, "ALLOWED"},
		"refused":            {[]string{"check", "docker.io/" + images.Vulnerable}, 3, "REFUSED"},
		"refused index":      {[]string{"check", "lab/" + images.AllRefused}, 3, "REFUSED"},
		"by ns-less name":    {[]string{"check", images.Clean}, 0, "ALLOWED"},
		"unknown image":      {[]string{"check", "docker.io/demo/none:1.0"}, 1, "not"},
		"unknown upstream":   {[]string{"check", "ghcr.io/org/app:1.0"}, 1, "docker.io"},
		"no server":          {[]string{"check", "--server", "http://127.0.0.1:1", "docker.io/" + images.Clean}, 1, "127.0.0.1:1"},
		"nothing to check":   {[]string{"check"}, 1, "REF"},
		"database":           {[]string{"db", "status"}, 0, ""},
		"images":             {[]string{"images"}, 0, ""},
		"configuration":      {[]string{"config", "check", p.config()}, 0, ""},
		"misspelt config":    {[]string{"config", "check", misspelt(t)}, 1, "registry"},
		"version":            {[]string{"version"}, 0, "pratique"},
		"unknown subcommand": {[]string{"chek"}, 1, "check"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r := p.Command(t, tc.args...)
			if r.exit != tc.exit || !strings.Contains(r.output, tc.says) {
				t.Errorf("pratique %s: exit %d, want %d and %q:\n%s", strings.Join(tc.args, " "), r.exit, tc.exit, tc.says, r.output)
			}
		})
	}

	t.Run("json", func(t *testing.T) {
		r := p.Command(t, "check", "-o", "json", "docker.io/"+images.Vulnerable)
		var out struct {
			Ref, Digest string
			Verdict     struct {
				Outcome, ID string
				Reasons     []struct{ Rule string }
			}
			Report struct {
				State    string
				OS       struct{ Family, Name string }
				Findings []struct{ ID, Kind, Package, Installed, Fixed, Severity, Status string }
			}
		}
		if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
			t.Fatalf("%v:\n%s", err, r.stdout)
		}
		if out.Digest != u.Digest(t, images.Vulnerable) || out.Verdict.Outcome != "deny" || out.Verdict.ID == "" ||
			out.Report.State != "scanned" || out.Report.OS.Family != "debian" || len(out.Report.Findings) == 0 || r.exit != 3 {
			t.Errorf("exit %d, %+v", r.exit, out)
		}
	})
}

func misspelt(t testing.TB) string {
	t.Helper()
	path := filepath.Join(workdir(t, "config"), "bad.yaml")
	if err := os.WriteFile(path, []byte("regisrty: {listen: \":5000\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMakeRun: the first command of the README, on ports that are free.
func TestMakeRun(t *testing.T) {
	raw, err := os.ReadFile("../configs/dev.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, port := range []string{"5000", "5001", "7001"} {
		if !strings.Contains(text, "127.0.0.1:"+port) {
			t.Fatalf("configs/dev.yaml has no 127.0.0.1:%s", port)
		}
		text = strings.ReplaceAll(text, "127.0.0.1:"+port, freeAddr(t))
	}
	dir := workdir(t, "run")
	if !strings.Contains(text, "dataDir: var\n") {
		t.Fatal("configs/dev.yaml does not keep its data in var")
	}
	text = strings.ReplaceAll(text, ": var", ": "+filepath.Join(dir, "data"))
	config := filepath.Join(dir, "dev.yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	make := func() result {
		cmd := exec.Command("make", "run", "DEMO_EXIT=1", "CONFIG="+config)
		cmd.Dir = root(t)
		return run(t, cmd)
	}
	r := make()
	if r.exit != 0 || strings.Count(r.output, "\nserved ") != 4 || strings.Count(r.output, "\nrefused ") != 1 || !strings.Contains(r.output, "CVE-") {
		t.Errorf("make run DEMO_EXIT=1: exit %d\n%s", r.exit, r.output)
	}

	_, rest, _ := strings.Cut(text, "url: http://")
	addr, _, _ := strings.Cut(rest, "\n")
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("the port of the sample upstream is not free again: %v", err)
	}
	defer func() { _ = l.Close() }()
	if r := make(); r.exit == 0 || !strings.Contains(r.output, addr+" is taken") {
		t.Errorf("make run with %s taken: exit %d\n%s", addr, r.exit, r.output)
	}
}
