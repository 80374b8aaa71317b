// Package internal_test holds the module's architecture: who may import whom,
// as data, and the tests that hold the code to it.
package internal_test

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// module is the path of this module; packages below are relative to it, and the
// root package is ".".
const module = "pratique"

// anything stands for "whatever it needs": commands and test tools wire the rest.
const anything = "*"

// mayImport is CONTRIBUTING's package table: a package (or, with a trailing
// slash, every package below a folder that has no line of its own) and what it
// may import of this module. A package without a line may not exist: decide
// what it may know before you write it. Tests are not held to the table, the
// code is.
var mayImport = map[string][]string{
	".":                {},
	"policy":           {".", "internal/strictyaml"},
	"policy/cases":     {".", "internal/strictyaml", "policy"},
	"policy/simulate":  {".", "store"},
	"store":            {"."},
	"scanner":          {".", "store"},
	"scanner/analyze":  {"."},
	"scanner/match":    {"."},
	"scanner/database": {".", "scanner/match"},
	"scanner/worker":   {".", "scanner"},
	"scheduler":        {".", "store"},
	"notify":           {".", "store"},
	"notify/hook":      {".", "store"},
	"proxy":            {".", "policy", "store"},
	"proxy/upstream":   {".", "proxy"},
	"evidence":         {".", "policy", "store"},

	"evidence/exception":      {".", "evidence", "internal/strictyaml", "policy", "store"},
	"evidence/exploit":        {".", "evidence", "internal/strictyaml", "policy", "store"},
	"evidence/trust":          {".", "evidence", "internal/strictyaml", "policy", "store"},
	"evidence/vex":            {".", "evidence", "internal/strictyaml", "policy", "store"},
	"evidence/lineage":        {".", "evidence", "evidence/lineage/series", "policy", "store"},
	"evidence/lineage/series": {"."},

	"web":   {".", "policy", "policy/simulate", "store"},
	"nodes": {"."},

	"internal/sqlite":     {".", "internal/packed", "scheduler", "store"},
	"internal/redis":      {".", "internal/packed", "scheduler", "store"},
	"internal/packed":     {".", "store"},
	"internal/config":     {".", "configs", "internal/strictyaml", "policy"},
	"internal/strictyaml": {},
	"internal/rungroup":   {},

	"internal":              {}, // this test alone
	"configs":               {},
	"configs/demo":          {},
	"cmd/pratique":          {anything},
	"cmd/pratique-analyzer": {anything},

	// Programs that do not ship. Packages named …test (suites and builders that
	// tests share) have no line: they may import anything, and nothing that ships
	// may import them.
	"e2e/":   {anything},
	"tools/": {anything},
}

// analysisHalf tells which of Trivy's packages are its analysis half: 2,700
// packages, 150 MB of memory and every parser of hostile input. Detection needs
// the types alone.
func analysisHalf(pkg string) bool {
	rest, ok := strings.CutPrefix(pkg, "github.com/aquasecurity/trivy/pkg/")
	if !ok {
		return false
	}
	if below, ok := strings.CutPrefix(rest, "fanal/"); ok {
		return below != "types" && below != "image/name"
	}
	for _, heavy := range []string{"artifact", "commands", "db", "flag", "iac", "javadb", "misconf", "oci", "rpc", "scan/local"} {
		if rest == heavy || strings.HasPrefix(rest, heavy+"/") {
			return true
		}
	}
	return false
}

// listed is what `go list` says of one package.
type listed struct {
	ImportPath string
	Imports    []string
}

func TestImportsFollowTheTable(t *testing.T) {
	for _, p := range goList(t, "./...") {
		pkg := relative(p.ImportPath)
		allowed, ok := rule(pkg)
		if !ok {
			t.Errorf("package %s is not in the table: say in mayImport and CONTRIBUTING.md what it may import", pkg)
			continue
		}
		for _, imp := range p.Imports {
			if imp != module && !strings.HasPrefix(imp, module+"/") {
				continue
			}
			imp = relative(imp)
			if !slices.Contains(allowed, anything) && !slices.Contains(allowed, imp) {
				t.Errorf("%s imports %s; it may import %v", pkg, imp, allowed)
			}
			if !isTestOnly(pkg) && isTestOnly(imp) {
				t.Errorf("%s ships, %s is for tests only", pkg, imp)
			}
		}
	}
}

func TestTrivysAnalysisHalfStaysInTheWorker(t *testing.T) {
	for _, p := range goList(t, "./...") {
		pkg := relative(p.ImportPath)
		for _, imp := range p.Imports {
			if analysisHalf(imp) && pkg != "scanner/analyze" && !isTestOnly(pkg) {
				t.Errorf("%s imports %s: only scanner/analyze may", pkg, imp)
			}
			if imp == module+"/scanner/analyze" && pkg != "cmd/pratique-analyzer" {
				t.Errorf("%s imports scanner/analyze: only cmd/pratique-analyzer may", pkg)
			}
		}
	}
	for _, p := range goList(t, "-deps", "./cmd/pratique") {
		if analysisHalf(p.ImportPath) || p.ImportPath == module+"/scanner/analyze" {
			t.Errorf("the server links %s", p.ImportPath)
		}
	}
}

// TestContributingShowsTheTable: what people read is what is enforced.
// strictyaml, a leaf that knows nothing of ours, is not shown as an import.
func TestContributingShowsTheTable(t *testing.T) {
	manual, err := os.ReadFile("../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[string]string)
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$`).FindAllStringSubmatch(string(manual), -1) {
		for _, name := range regexp.MustCompile("`([a-z0-9/-]+)`").FindAllStringSubmatch(row[1], -1) {
			pkg := strings.TrimSuffix(name[1], "/")
			if pkg == module {
				pkg = "."
			}
			shown[pkg] = row[2]
		}
	}
	for line, imports := range mayImport {
		pkg := strings.TrimSuffix(line, "/")
		if slices.Contains(planned, line) || pkg == "internal" || pkg == "configs/demo" {
			continue
		}
		var words []string
		for _, imp := range imports {
			switch imp {
			case ".":
				words = append(words, "root")
			case anything:
				words = append(words, "any")
			case "internal/strictyaml":
			default:
				words = append(words, imp)
			}
		}
		want := strings.Join(words, ", ")
		if want == "" {
			want = "–"
		}
		if shown[pkg] != want {
			t.Errorf("CONTRIBUTING.md says %q of %s, the test %q", shown[pkg], pkg, want)
		}
	}
}

// planned are lines for what DESIGN has for later.
var planned = []string{"internal/redis"}

// TestTableHasNoDeadLines keeps the table from describing what is gone; what
// DESIGN plans for later is exempt.
func TestTableHasNoDeadLines(t *testing.T) {
	have := make(map[string]bool)
	for _, p := range goList(t, "./...") {
		have[relative(p.ImportPath)] = true
	}
	for _, line := range slices.Sorted(maps.Keys(mayImport)) {
		if dir, isFolder := strings.CutSuffix(line, "/"); isFolder {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(have)), func(p string) bool { return below(p, dir) }) && !slices.Contains(planned, line) {
				t.Errorf("the table has a line for %s, which holds no package", line)
			}
			continue
		}
		if !have[line] && !slices.Contains(planned, line) {
			t.Errorf("the table has a line for %s, which does not exist", line)
		}
	}
}

// rule finds the table's line for a package.
func rule(pkg string) ([]string, bool) {
	if strings.HasSuffix(pkg, "test") {
		return []string{anything}, true
	}
	if allowed, ok := mayImport[pkg]; ok {
		return allowed, true
	}
	for dir := pkg; dir != "."; dir = path.Dir(dir) {
		if allowed, ok := mayImport[dir+"/"]; ok {
			return allowed, true
		}
	}
	return nil, false
}

// isTestOnly tells what no shipped package may import.
func isTestOnly(pkg string) bool {
	return strings.HasSuffix(pkg, "test") || below(pkg, "e2e") || below(pkg, "tools")
}

func below(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

func relative(importPath string) string {
	if importPath == module {
		return "."
	}
	return strings.TrimPrefix(importPath, module+"/")
}

// goList asks the go command, with every tag and experiment on that brings
// files in. It compiles nothing.
func goList(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-tags=e2e,bench", "-json=ImportPath,Imports"}, args...)...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "GOEXPERIMENT=jsonv2", "GOFLAGS=-mod=readonly")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) == 0 {
		t.Fatal("go list found no package")
	}
	return pkgs
}
