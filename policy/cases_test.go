package policy

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/tools/txtar"

	"pratique"
	"pratique/configs"
	"pratique/internal/strictyaml"
)

var update = flag.Bool("update", false, "rewrite the wanted parts of testdata/*.txtar")

// factsDocument is how a case writes its facts.
type factsDocument struct {
	Ref      string         `yaml:"ref"`
	State    pratique.State `yaml:"state"`
	Reported string         `yaml:"reported"` // digest the report is about; if empty, the image's
	EOL      bool           `yaml:"eol"`
	OS       string         `yaml:"os"`       // "debian 9"
	Findings []string       `yaml:"findings"` // KIND ID SEVERITY [PACKAGE INSTALLED [FIXED]]
	Problems []string       `yaml:"problems"` // [!]SOURCE MESSAGE; ! = fatal
}

var imageDigest = digest.FromString("image")

func (d factsDocument) facts(t *testing.T) Facts {
	t.Helper()
	f := Facts{
		Image: pratique.Image{Digest: imageDigest, Kind: pratique.KindImage},
		Now:   time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
		Report: pratique.Report{
			Image: imageDigest, State: d.State, EOL: d.EOL,
			Engine:    pratique.Engine{Version: "v0.74.0"},
			ScannedAt: time.Date(2026, 10, 31, 0, 0, 0, 0, time.UTC),
		},
	}
	if d.Reported != "" {
		f.Report.Image = digest.FromString(d.Reported)
	}
	f.Report.OS.Family, f.Report.OS.Name, _ = strings.Cut(d.OS, " ")
	if d.Ref != "" {
		ref, err := pratique.ParseRef(d.Ref)
		if err != nil {
			t.Fatal(err)
		}
		f.Ref = ref
	}
	for _, line := range d.Findings {
		w := append(strings.Fields(line), "", "", "", "", "", "")
		severity := pratique.Severity(w[2])
		if w[2] == "-" {
			severity = ""
		}
		f.Report.Findings = append(f.Report.Findings, pratique.Finding{
			Kind: pratique.Kind(w[0]), ID: w[1], Severity: severity, Package: w[3], Installed: w[4], Fixed: w[5],
		})
	}
	for _, line := range d.Problems {
		source, message, _ := strings.Cut(line, " ")
		source, fatal := strings.CutPrefix(source, "!")
		f.Report.Problems = append(f.Report.Problems, pratique.Problem{Source: source, Message: message, Fatal: fatal})
	}
	return f
}

func render(v pratique.Verdict) string {
	var b strings.Builder
	fmt.Fprintln(&b, v.Outcome)
	for _, r := range v.Reasons {
		fmt.Fprintf(&b, "%s %s/%s: %s", r.Action, r.Policy, r.Rule, r.Message)
		for _, f := range r.Findings {
			fmt.Fprintf(&b, " %s", f.ID)
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

// TestCases runs testdata/*.txtar. In an archive, files named *.yaml are the
// policies (`@default` stands for the shipped one); "error" is what loading
// them must answer; otherwise every other file is a case, its facts above a line
// "---" and the wanted verdict below.
func TestCases(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no cases", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			runArchive(t, archive)
			if *update {
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func runArchive(t *testing.T, archive *txtar.Archive) {
	var files []File
	for _, f := range archive.Files {
		if strings.HasSuffix(f.Name, ".yaml") {
			data := f.Data
			if strings.TrimSpace(string(data)) == "@default" {
				data = configs.DefaultPolicy
			}
			files = append(files, File{Name: f.Name, Data: data})
		}
	}
	set, loadErr := Load(files...)
	cases := 0
	for i := range archive.Files {
		f := &archive.Files[i]
		switch {
		case strings.HasSuffix(f.Name, ".yaml"):
		case f.Name == "error":
			cases++
			got := fmt.Sprintln(loadErr)
			if *update {
				f.Data = []byte(got)
			} else if diff := cmp.Diff(string(f.Data), got); diff != "" {
				t.Errorf("error of Load (-want +got):\n%s", diff)
			}
		case loadErr != nil:
			t.Fatalf("Load: %v", loadErr)
		default:
			cases++
			t.Run(f.Name, func(t *testing.T) { runCase(t, set, f) })
		}
	}
	if cases == 0 {
		t.Error("the archive asks for nothing")
	}
}

func runCase(t *testing.T, set *Set, f *txtar.File) {
	given, want, ok := bytes.Cut(f.Data, []byte("---\n"))
	if !ok {
		t.Fatal("no line ---")
	}
	var d factsDocument
	if _, err := strictyaml.Decode(f.Name, given, &d); err != nil {
		t.Fatal(err)
	}
	if d.State == "unknown" {
		d.State = pratique.StateUnknown
	}
	got := render(set.Decide(d.facts(t)))
	if *update {
		f.Data = fmt.Appendf(nil, "%s---\n%s", given, got)
	} else if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("verdict (-want +got):\n%s", diff)
	}
}
