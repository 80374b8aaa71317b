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
	"golang.org/x/tools/txtar"

	"pratique"
	"pratique/configs"
	"pratique/internal/strictyaml"
)

var update = flag.Bool("update", false, "rewrite the wanted parts of testdata/*.txtar")

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
	for _, l := range v.Lifted {
		fmt.Fprintf(&b, "lifted %s/%s %s %s by %s: %s", l.Policy, l.Rule, l.Finding, l.Package, l.By, l.Why)
		if !l.Until.IsZero() {
			fmt.Fprintf(&b, " until %s", l.Until.Format(time.RFC3339))
		}
		fmt.Fprintln(&b)
	}
	if !v.Until.IsZero() {
		fmt.Fprintln(&b, "until", v.Until.Format(time.RFC3339))
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
	got := render(set.Decide(d.facts(t)))
	if *update {
		f.Data = fmt.Appendf(nil, "%s---\n%s", given, got)
	} else if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("verdict (-want +got):\n%s", diff)
	}
}
