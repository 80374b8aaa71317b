package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/web"
)

func TestCommandLine(t *testing.T) {
	for _, tc := range []struct {
		args string
		code int
		want string // in either output
	}{
		{"", 1, "Usage: pratique COMMAND"},
		{"help", 0, "db import"},
		{"--help", 0, "db import"},
		{"help check", 0, "Exit code: 0 allowed or warned, 3 refused"},
		{"check --help", 0, "pratique check nginx:1.27"},
		{"check -h", 0, "--wait duration"},
		{"help db", 0, "pratique db import --force"},
		{"help db import", 0, "oras pull"},
		{"help chekc", 1, "did you mean `check`?"},
		{"chekc nginx", 1, "did you mean `check`?"},
		{"db imprt x", 1, "did you mean `import`?"},
		{"db", 1, "db needs one of: status, import"},
		{"db --force", 1, "db needs one of"},
		{"--server x check", 1, "the command comes before its flags"},
		{"check", 1, "check needs REF"},
		{"check a b", 1, `unexpected argument "b"`},
		{"check nginx --sever x", 1, "did you mean `--server`?"},
		{"check nginx -o yaml", 1, "want table or json"},
		{"check nginx --wait soon", 1, "wait"},
		{"check nginx --server ftp://x", 1, "is not an address"},
		{"images extra", 1, `unexpected argument "extra"`},
		{"db import", 1, "db import needs PATH"},
		{"db import /does/not/exist", 1, "/does/not/exist"},
		{"version", 0, "trivy"},
		{"--version", 0, "pratique"},
		{"version -o json", 0, `"trivy": "`},
	} {
		t.Run(tc.args, func(t *testing.T) {
			got := runCommand(t, "", strings.Fields(tc.args)...)
			if got.code != tc.code || !strings.Contains(got.out+got.errout, tc.want) {
				t.Errorf("exit %d, want %d with %q\nstdout: %s\nstderr: %s", got.code, tc.code, tc.want, got.out, got.errout)
			}
			if tc.code == 0 && got.errout != "" {
				t.Errorf("stderr of a success: %s", got.errout)
			}
			if tc.code != 0 && got.out != "" {
				t.Errorf("stdout of an error: %s", got.out)
			}
		})
	}
}

func TestEveryCommandHasHelpWithExamples(t *testing.T) {
	for _, cmd := range commands() {
		if cmd.short == "" || cmd.long == "" || len(cmd.example) == 0 {
			t.Errorf("%s: help is incomplete", cmd.name)
		}
		for _, line := range strings.Split(cmd.long, "\n") {
			if utf8.RuneCountInString(line) > 120 {
				t.Errorf("%s: help is wider than 120 columns: %s", cmd.name, line)
			}
		}
	}
}

func TestFlagsMayStandAnywhere(t *testing.T) {
	server := vulnerable().start(t)
	want := runCommand(t, server, "check", "-o", "json", "lab/bad:1")
	if want.code != exitRefused {
		t.Fatalf("exit %d: %s", want.code, want.errout)
	}
	for _, args := range []string{"check lab/bad:1 -o json", "check --wait 1s lab/bad:1 -o=json", "check -o json -- lab/bad:1", "check --o json lab/bad:1"} {
		if got := runCommand(t, server, strings.Fields(args)...); got != want {
			t.Errorf("%s: %+v", args, got)
		}
	}
}

// vulnerable is a server that knows one image of each kind.
func vulnerable() *fakeServer {
	report := func(state pratique.State, fs ...pratique.Finding) pratique.Report {
		return pratique.Report{State: state, OS: pratique.OS{Family: "debian", Name: "12.5"}, Findings: fs, ScannedAt: scannedAt,
			Engine: pratique.Engine{Database: digest.FromString("db"), DatabaseAt: scannedAt}}
	}
	critical := pratique.Finding{ID: "CVE-2026-0001", Kind: pratique.KindVulnerability, Package: "openssl", Installed: "3.0.1-1", Fixed: "3.0.2-1", Status: "fixed", Severity: pratique.SeverityCritical}
	low := pratique.Finding{ID: "CVE-2026-0002", Kind: pratique.KindVulnerability, Package: "zlib", Installed: "1.2", Status: "affected", Severity: pratique.SeverityLow}
	secret := pratique.Finding{ID: "aws-access-key-id", Kind: pratique.KindSecret, Severity: pratique.SeverityHigh, Path: "/root/.aws/credentials"}
	image := func(name string) pratique.Image {
		return pratique.Image{Digest: digest.FromString(name), Kind: pratique.KindImage}
	}
	deny := pratique.Verdict{ID: "0badc0de0001", Reasons: []pratique.Reason{{
		Policy: "default", Rule: "fixable-critical", Message: "1 fixable CRITICAL vulnerability: CVE-2026-0001 in openssl 3.0.1-1, fixed in 3.0.2-1", Findings: []pratique.Finding{critical},
	}}}
	index := image("index")
	index.Kind = pratique.KindIndex
	index.Children = []pratique.Descriptor{
		{Digest: digest.FromString("clean"), Platform: &pratique.Platform{OS: "linux", Architecture: "amd64"}},
		{Digest: digest.FromString("bad"), Platform: &pratique.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}},
	}
	clean := pratique.Decision{Image: image("clean"), Report: report(pratique.StateScanned), Verdict: pratique.Verdict{ID: "600d", Outcome: pratique.OutcomeAllow}}
	bad := pratique.Decision{Image: image("bad"), Report: report(pratique.StateScanned, low, critical), Verdict: deny}
	warn := pratique.Decision{Image: image("warn"), Report: report(pratique.StateScanned, secret), Verdict: pratique.Verdict{ID: "3333", Outcome: pratique.OutcomeWarn,
		Reasons: []pratique.Reason{{Policy: "default", Rule: "secrets", Action: pratique.OutcomeWarn, Message: "1 secret"}}}}
	return &fakeServer{
		decisions: map[string]pratique.Decision{
			"docker.io/library/nginx:1.27": clean,
			"lab/bad:1":                    bad,
			"lab/warn:1":                   warn,
			"lab/index:1":                  {Image: index, Verdict: pratique.Verdict{ID: "1d3", Outcome: pratique.OutcomeAllow}, Children: []pratique.Decision{clean, bad}},
			"lab/unscanned:1":              {Image: image("unscanned")},
		},
		pending: map[string]int{},
	}
}

func TestCheckExitCodes(t *testing.T) {
	for _, tc := range []struct {
		ref     string
		args    []string
		prepare func(*fakeServer)
		code    int
		stderr  string
	}{
		{ref: "nginx:1.27", code: exitOK},
		{ref: "lab/warn:1", code: exitOK},
		{ref: "lab/bad:1", code: exitRefused},
		{ref: "lab/index:1", code: exitOK},
		{ref: "lab/unscanned:1", args: []string{"--wait", "0s"}, code: exitPending, stderr: "not decided yet"},
		{ref: "lab/bad:1", args: []string{"--wait", "0s"}, prepare: func(f *fakeServer) { f.pending["lab/bad:1"] = 9 }, code: exitPending, stderr: "the scan goes on"},
		{ref: "lab/bad:1", args: []string{"--wait", "30s"}, prepare: func(f *fakeServer) { f.pending["lab/bad:1"] = 1 }, code: exitRefused},
		{ref: "lab/absent:1", code: exitError, stderr: "not found"},
		{ref: "quay.io/a/b", code: exitError, stderr: "configured are: docker.io, lab"},
		{ref: "lab/bad:1", prepare: func(f *fakeServer) { f.fail = fmt.Errorf("disk full") }, code: exitError, stderr: "disk full"},
	} {
		t.Run(tc.ref+strings.Join(tc.args, " "), func(t *testing.T) {
			f := vulnerable()
			if tc.prepare != nil {
				tc.prepare(f)
			}
			got := runCommand(t, f.start(t), append([]string{"check", tc.ref}, tc.args...)...)
			if got.code != tc.code || !strings.Contains(got.errout, tc.stderr) || (tc.stderr == "" && got.errout != "") {
				t.Errorf("exit %d, want %d with %q\nstdout: %s\nstderr: %s", got.code, tc.code, tc.stderr, got.out, got.errout)
			}
			if strings.Contains(got.errout, "\r") {
				t.Errorf("progress on what is no terminal: %q", got.errout)
			}
		})
	}
}

func TestCheckJSONIsTheServersAnswer(t *testing.T) {
	got := runCommand(t, vulnerable().start(t), "check", "-o", "json", "lab/index:1")
	var c web.Check
	dec := json.NewDecoder(strings.NewReader(got.out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		t.Fatalf("%v\n%s", err, got.out)
	}
	if len(c.Children) != 2 || c.Children[1].Platform != "linux/arm64/v8" || c.Children[1].Verdict.Outcome != pratique.OutcomeDeny ||
		len(c.Report.Findings) != 2 || c.Report.Findings[0].ID != "CVE-2026-0001" {
		t.Errorf("%s", got.out)
	}
}

func TestCheckTable(t *testing.T) {
	for ref, want := range map[string]string{
		"lab/bad:1": `image      lab/bad:1
digest     ` + digest.FromString("bad").String() + `
verdict    REFUSED (verdict 0badc0de0001)
  deny     default/fixable-critical: 1 fixable CRITICAL vulnerability: CVE-2026-0001 in openssl
           3.0.1-1, fixed in 3.0.2-1
scan       scanned, debian 12.5, 2026-11-23 12:00 UTC
database   of 2026-11-23 12:00 (` + digest.FromString("db").String()[:19] + `)
findings   1 critical, 0 high, 0 medium, 1 low, 0 unknown; 1 with a fix

SEVERITY  ID             PACKAGE  INSTALLED  FIXED    STATUS
CRITICAL  CVE-2026-0001  openssl  3.0.1-1    3.0.2-1  fixed
LOW       CVE-2026-0002  zlib     1.2        -        affected
`,
		"lab/warn:1": `image      lab/warn:1
digest     ` + digest.FromString("warn").String() + `
verdict    ALLOWED with a warning (verdict 3333)
  warn     default/secrets: 1 secret
scan       scanned, debian 12.5, 2026-11-23 12:00 UTC
database   of 2026-11-23 12:00 (` + digest.FromString("db").String()[:19] + `)
findings   0 critical, 1 high, 0 medium, 0 low, 0 unknown; 0 with a fix

SEVERITY  ID                 PACKAGE                 INSTALLED  FIXED  STATUS
HIGH      aws-access-key-id  /root/.aws/credentials  -          -      secret
`,
		"lab/index:1": `image      lab/index:1
digest     ` + digest.FromString("index").String() + `
verdict    ALLOWED (verdict 1d3)
scan       scanned, debian 12.5, 2026-11-23 12:00 UTC
database   of 2026-11-23 12:00 (` + digest.FromString("db").String()[:19] + `)
findings   1 critical, 0 high, 0 medium, 1 low, 0 unknown; 1 with a fix

PLATFORM        DIGEST               OUTCOME  STATE    C/H/M/L/U
linux/amd64     ` + digest.FromString("clean").String()[:19] + `  allow    scanned  0/0/0/0/0
linux/arm64/v8  ` + digest.FromString("bad").String()[:19] + `  deny     scanned  1/0/0/1/0

SEVERITY  ID             PACKAGE  INSTALLED  FIXED    STATUS
CRITICAL  CVE-2026-0001  openssl  3.0.1-1    3.0.2-1  fixed
LOW       CVE-2026-0002  zlib     1.2        -        affected
`,
		"lab/unscanned:1": `image      lab/unscanned:1
digest     ` + digest.FromString("unscanned").String() + `
verdict    not decided yet
scan       pending
findings   not known
`,
	} {
		t.Run(ref, func(t *testing.T) {
			got := runCommand(t, vulnerable().start(t), "check", ref, "--wait", "0s")
			if diff := cmp.Diff(want, got.out); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckTableShowsEqualLinesOnce(t *testing.T) {
	f := vulnerable()
	d := f.decisions["lab/bad:1"]
	again := d.Report.Findings[1]
	again.Path = "another/place"
	d.Report.Findings = append(d.Report.Findings, again)
	f.decisions["lab/bad:1"] = d
	got := runCommand(t, f.start(t), "check", "lab/bad:1")
	if n := strings.Count(got.out, "\nCRITICAL "); n != 1 || !strings.Contains(got.out, "2 critical") {
		t.Errorf("%d lines of it in\n%s", n, got.out)
	}
}

// TestTablesStayWithinTheirWidth feeds names that an image's maker may choose.
func TestTablesStayWithinTheirWidth(t *testing.T) {
	f := vulnerable()
	hostile := strings.Repeat("very-long-name/", 20) + "\x1b[31mred\nsecond line"
	d := f.decisions["lab/bad:1"]
	d.Report.Findings = nil
	for i := range 60 {
		d.Report.Findings = append(d.Report.Findings, pratique.Finding{
			ID: "GHSA-xxxx-yyyy-" + fmt.Sprint(i), Kind: pratique.KindVulnerability, Package: hostile, Installed: hostile, Fixed: hostile, Status: "will_not_fix", Severity: pratique.SeverityMedium,
		})
	}
	d.Report.Problems = []pratique.Problem{{Source: "dpkg", Message: hostile, Path: hostile}}
	f.decisions["lab/bad:1"] = d
	server := f.start(t)
	for args, want := range map[string]string{
		"check lab/bad:1":       "… and 20 more: --all or -o json shows them",
		"check lab/bad:1 --all": "GHSA-xxxx-yyyy-59",
	} {
		got := runCommand(t, server, strings.Fields(args)...)
		if !strings.Contains(got.out, want) {
			t.Errorf("%s: no %q in\n%s", args, want, got.out)
		}
		if strings.ContainsAny(got.out, "\x1b\r") {
			t.Errorf("%s: an image's name steers the terminal", args)
		}
		for _, line := range strings.Split(got.out, "\n") {
			if utf8.RuneCountInString(line) > defaultWidth {
				t.Errorf("%s: %d columns: %s", args, utf8.RuneCountInString(line), line)
			}
		}
	}
}

func TestImagesFollowsPages(t *testing.T) {
	server := vulnerable().start(t)
	got := runCommand(t, server, "images", "-o", "json")
	var list web.ImageList
	if err := json.Unmarshal([]byte(got.out), &list); err != nil || got.code != 0 {
		t.Fatalf("exit %d, %v, %s", got.code, err, got.errout)
	}
	if len(list.Images) != 1500 || list.Next != "" {
		t.Errorf("%d images, next %q", len(list.Images), list.Next)
	}
	table := runCommand(t, server, "images")
	lines := strings.Split(table.out, "\n")
	want := []string{
		"IMAGE         DIGEST               OUTCOME  STATE    C/H/M/L/U  SCANNED",
		"lab/app:0     sha256:000000000000  allow    scanned  0/1/0/0/0  2026-11-23 12:00",
		"lab/app:1     sha256:000000000000  deny     unknown  -          -",
	}
	if diff := cmp.Diff(want, lines[:3]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDatabaseCommands(t *testing.T) {
	f := vulnerable()
	server := f.start(t)
	file := filepath.Join(t.TempDir(), "db.tar.gz")
	if err := os.WriteFile(file, []byte("tarball"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := runCommand(t, server, "db", "status")
	if want := "database   none: nothing can be decided until one is adopted\nsources    mirror.example/trivy-db:2\nlast error mirror.example: 429\n"; got.out != want {
		t.Errorf("without a database:\n%s", got.out)
	}
	f.refuse = fmt.Errorf("%w database: older than the one in use", pratique.ErrInvalid)
	got = runCommand(t, server, "db", "import", file)
	if got.code != exitError || !strings.Contains(got.errout, "older") || !strings.Contains(got.errout, "--force") || f.imported != nil {
		t.Errorf("refused import: %+v", got)
	}
	got = runCommand(t, server, "db", "import", "--force", file)
	if got.code != exitOK || !f.forced || string(f.imported) != "tarball" || !strings.Contains(got.out, "holds      7 vulnerabilities, 9 advisories") {
		t.Errorf("forced import: %+v, forced %v, imported %q", got, f.forced, f.imported)
	}
	got = runCommand(t, server, "db", "status", "-o", "json")
	var st web.DatabaseStatus
	if err := json.Unmarshal([]byte(got.out), &st); err != nil || st.Database.Source != "import" {
		t.Errorf("%v %s", err, got.out)
	}
}

func TestServerThatDoesNotAnswer(t *testing.T) {
	for name, tc := range map[string]struct{ server, want string }{
		"nobody":            {"http://127.0.0.1:1", "is `pratique serve` running?"},
		"with a password":   {"http://u:secret@127.0.0.1:1", "http://u:xxxxx@127.0.0.1:1"},
		"broken password":   {"http://u:secret%zz@127.0.0.1:1", "is not an address"},
		"no scheme":         {"127.0.0.1:1", "is `pratique serve` running?"},
		"something else":    {notPratique(t), "--server wants the admin address"},
		"not an address":    {"http://", "is not an address"},
		"unreadable scheme": {"unix:///run/x", "is not an address"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, args := range [][]string{{"check", "nginx"}, {"images"}, {"db", "status"}} {
				got := runCommand(t, tc.server, args...)
				if got.code != exitError || !strings.Contains(got.errout, tc.want) || got.out != "" || strings.Contains(got.errout, "secret") {
					t.Errorf("%v: %+v", args, got)
				}
			}
		})
	}
}

func TestCheckGivesUpWithTheContext(t *testing.T) {
	f := vulnerable()
	f.pending["lab/bad:1"] = 1 << 30
	cl, err := newClient(&console{}, f.start(t))
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	_, status, err := cl.checkOnce(t.Context(), "lab/bad:1", time.Second, false)
	if err != nil || status != http.StatusAccepted || time.Since(started) > 5*time.Second {
		t.Errorf("status %d, %v after %s", status, err, time.Since(started))
	}
}
