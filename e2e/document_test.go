//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// document is where people read what their client shows; it is the golden file
// of these tests. UPDATE_DOCS=1 writes what is shown now into it.
const document = "docs/clients.md"

// versions are those that the document was made with. Another version may word
// its part otherwise; then only Pratique's part is compared.
var versions = map[string][]string{
	"crane":      {"crane", "version"},
	"skopeo":     {"skopeo", "--version"},
	"podman":     {"podman", "--version"},
	"containerd": {"containerd", "--version"},
	"ctr":        {"ctr", "--version"},
	// those of TestOpenMirror
	"containerd 1.6": {"containerd", "--version"},
	"containerd 1.7": {"containerd17", "--version"},
	"containerd 2":   {"containerd2", "--version"},
	"docker 29":      {"dockerd", "--version"},
}

var (
	documentLock sync.Mutex
	ansi         = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")
	progress     = regexp.MustCompile(`(?m)^.*(resolved +\||resolving +\||done +\||waiting +\||downloading +\||elapsed: ).*\n`)
	logTime      = regexp.MustCompile(`time="[^"]*"`)
	craneTime    = regexp.MustCompile(`(?m)^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d `)
	// What moves with the database, the policy and the words of the refusal.
	verdict = regexp.MustCompile(`(verdict )[0-9a-f]{12}`)
	echo    = regexp.MustCompile(`(blobs/)sha256:[0-9a-f]{64}`)
	moment  = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d UTC`)
	// crane prints the structured detail too, in Go's own notation and with times.
	detail = regexp.MustCompile(`; map\[.*\]`)
	// ctr warns now and then while it takes a refusal for content.
	warning = regexp.MustCompile(`(?m)^.*(?:level=warning|msg="active check failed").*\n`)
)

// shown compares what a client showed with the block of the document named
// "client: what".
func shown(t *testing.T, client, what, output string, p *Pratique, u *Upstream) {
	t.Helper()
	got := strings.ReplaceAll(output, "\r", "\n")
	got = ansi.ReplaceAllString(got, "")
	got = progress.ReplaceAllString(got, "")
	got = logTime.ReplaceAllString(got, `time="..."`)
	got = craneTime.ReplaceAllString(got, "")
	got = verdict.ReplaceAllString(got, "${1}0123456789ab")
	got = moment.ReplaceAllString(got, "2026-01-02 03:04 UTC")
	got = echo.ReplaceAllString(got, "${1}sha256:...")
	got = detail.ReplaceAllString(got, "; map[...]")
	got = warning.ReplaceAllString(got, "")
	got = strings.ReplaceAll(got, p.Registry, "proxy:5000")
	got = strings.ReplaceAll(got, u.Addr, "upstream:7001")
	lines := strings.Split(got, "\n")
	kept := lines[:0]
	for _, l := range lines {
		if l = strings.TrimRight(l, " \t"); l != "" {
			kept = append(kept, l)
		}
	}
	got = strings.Join(kept, "\n")

	documentLock.Lock()
	defer documentLock.Unlock()
	path := filepath.Join("..", document)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprintf("<!-- shown by %s: %s -->\n```text\n", client, what)
	before, rest, found := strings.Cut(string(raw), head)
	want, after, closed := strings.Cut(rest, "\n```\n")
	if !found || !closed {
		t.Fatalf("%s has no block %q", document, head)
	}
	if got == want {
		return
	}
	if os.Getenv("UPDATE_DOCS") == "1" {
		if err := os.WriteFile(path, []byte(before+head+got+"\n```\n"+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if v := version(client); !strings.Contains(string(raw), v) {
		t.Logf("%s is %q, which %s does not know; it shows\n%s", client, v, document, got)
		return
	}
	t.Errorf("%s shows (UPDATE_DOCS=1 writes it into %s)\n%s\nwhere the document says\n%s", client, document, got, want)
}

// version is the first line that a client says of itself.
func version(client string) string {
	args := versions[client]
	name := args[0]
	if built := filepath.Join("..", "bin", name); exists(built) {
		name = built
	}
	out, err := exec.Command(name, args[1:]...).Output()
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
