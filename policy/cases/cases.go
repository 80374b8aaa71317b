// Package cases reads and runs cases of policies: facts as a person writes them,
// and the verdict wanted for them. It is how the policies that ship are tested,
// those that operators write (`pratique policy test`), and package policy itself.
//
// It owns the words of a case (docs/policy.md tells them) and how a verdict is
// written. It reads no file: what an archive names is asked of its caller.
package cases

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/tools/txtar"

	"pratique"
	"pratique/internal/strictyaml"
	"pratique/policy"
)

// separator stands between the facts of a case and the verdict wanted.
const separator = "---\n"

// Config is what Run may be told.
type Config struct {
	// Read returns the policy that a member refers to as @NAME. If nil, such a
	// member is a mistake.
	Read func(name string) ([]byte, error)
	// Update writes what was got into the archive, in place of what was wanted.
	Update bool
}

// Result is what became of one case.
type Result struct {
	Name string // of the archive's member
	// Diff is how what was wanted (-) and what was got (+) differ, line by line;
	// empty when the case holds.
	Diff string
	// Updated is whether Config.Update changed the member.
	Updated bool
	// Err says that the case could not be run.
	Err error
}

// Held reports whether the case came out as wanted.
func (r Result) Held() bool { return r.Err == nil && r.Diff == "" }

// ErrEmpty means that an archive asks for nothing.
var ErrEmpty = errors.New("no cases in it")

// Run runs an archive. Its members called *.yaml are the policies, in force
// together: their text, or @NAME. The member "error" is the text that loading them
// must end with; otherwise each other member is a case, its facts above a line "---"
// and the verdict wanted below. The error is about the archive as a whole: its
// policies do not load, though no member says so.
func Run(archive *txtar.Archive, cfg Config) ([]Result, error) {
	set, loadErr, err := load(archive, cfg.Read)
	if err != nil {
		return nil, err
	}
	var out []Result
	for i := range archive.Files {
		f := &archive.Files[i]
		switch {
		case isPolicy(f.Name):
		case f.Name == "error":
			out = append(out, compare(f, nil, f.Data, fmt.Sprintln(loadErr), cfg.Update))
		case loadErr != nil:
			return nil, loadErr
		default:
			out = append(out, runCase(set, f, cfg.Update))
		}
	}
	if len(out) == 0 {
		return nil, ErrEmpty
	}
	return out, nil
}

func isPolicy(member string) bool { return strings.HasSuffix(member, ".yaml") }

// load compiles the archive's policies; loadErr is what is wrong with them, err
// why they could not be had.
func load(archive *txtar.Archive, read func(string) ([]byte, error)) (set *policy.Set, loadErr, err error) {
	var files []policy.File
	for _, f := range archive.Files {
		if !isPolicy(f.Name) {
			continue
		}
		file := policy.File{Name: f.Name, Data: f.Data}
		if name, ok := strings.CutPrefix(strings.TrimSpace(string(f.Data)), "@"); ok && !strings.Contains(name, "\n") {
			if read == nil {
				return nil, nil, fmt.Errorf("%s: @%s: files cannot be named here", f.Name, name)
			}
			if file.Data, err = read(name); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", f.Name, err)
			}
			file.Name = name
		}
		files = append(files, file)
	}
	set, loadErr = policy.Load(files...)
	return set, loadErr, nil
}

func runCase(set *policy.Set, f *txtar.File, update bool) Result {
	given, want, ok := bytes.Cut(f.Data, []byte(separator))
	switch {
	case ok && len(given) > 0 && given[len(given)-1] != '\n':
		ok = false
	case !ok && update && !bytes.Contains(f.Data, []byte("---")):
		given, ok = f.Data, true // a case just begun
	}
	if !ok {
		return Result{Name: f.Name, Err: errors.New(`no line "---" between facts and verdict`)}
	}
	facts, err := Read(f.Name, given)
	if err != nil {
		return Result{Name: f.Name, Err: err}
	}
	v := set.Decide(facts)
	if strings.TrimSpace(string(want)) == v.Outcome.String() {
		return Result{Name: f.Name} // who wants the outcome alone gets no reasons forced upon
	}
	return compare(f, append(given[:len(given):len(given)], separator...), want, Render(v), update)
}

// compare holds what was wanted against what was got, and if asked to writes the
// latter, below what was given.
func compare(f *txtar.File, given, want []byte, got string, update bool) Result {
	out := Result{Name: f.Name}
	switch {
	case string(want) == got:
	case update:
		f.Data, out.Updated = slices.Concat(given, []byte(got)), true
	default:
		out.Diff = diff(string(want), got)
	}
	return out
}

// Read makes facts of what a case writes above its line "---"; file stands in
// errors, which name line and column.
func Read(file string, data []byte) (policy.Facts, error) {
	var d Facts
	if _, err := strictyaml.Decode(file, data, &d); err != nil {
		return policy.Facts{}, err
	}
	f, err := d.Policy()
	if err != nil {
		return policy.Facts{}, fmt.Errorf("%s: %w", file, err)
	}
	return f, nil
}

// Render writes a verdict as cases want it: the outcome, a line for each reason
// with the ids of its findings, a line for each thing lifted, and until when the
// verdict stands.
func Render(v pratique.Verdict) string {
	var b strings.Builder
	fmt.Fprintln(&b, v.Outcome)
	for _, r := range v.Reasons {
		fmt.Fprintf(&b, "%s %s/%s: %s", r.Action, r.Policy, r.Rule, r.Message)
		for i := range r.Findings {
			fmt.Fprintf(&b, " %s", r.Findings[i].ID)
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

// diff writes lines that only want has with "-", those that only got has with "+".
func diff(want, got string) string {
	a, b := strings.SplitAfter(want, "\n"), strings.SplitAfter(got, "\n")
	common := make([][]int, len(a)+1) // longest common run of lines from here on
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var out strings.Builder
	line := func(mark, s string) {
		if s != "" {
			out.WriteString(mark + strings.TrimSuffix(s, "\n") + "\n")
		}
	}
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			line(" ", a[i])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			line("-", a[i])
			i++
		default:
			line("+", b[j])
			j++
		}
	}
	return out.String()
}
