package configs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"pratique"
	"pratique/policy"
	"pratique/policy/cases"
)

// shippedPolicies are the names of policies/*.yaml.
func shippedPolicies(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("policies/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	names := make([]string, len(paths))
	for i, path := range paths {
		names[i] = strings.TrimSuffix(filepath.Base(path), ".yaml")
	}
	return names
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestPolicies runs the cases of every policy that ships. `pratique policy test
// --update configs/policies` rewrites what they want.
func TestPolicies(t *testing.T) {
	for _, name := range shippedPolicies(t) {
		t.Run(name, func(t *testing.T) {
			archive := txtar.Parse(read(t, "policies/testdata/"+name+".txtar"))
			results, err := cases.Run(archive, cases.Config{Read: func(path string) ([]byte, error) {
				if path != "../"+name+".yaml" {
					t.Errorf("the cases of %s test %s", name, path)
				}
				return os.ReadFile(filepath.Join("policies/testdata", path))
			}})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range results {
				if !r.Held() {
					t.Errorf("%s: %v (-want +got)\n%s", r.Name, r.Err, r.Diff)
				}
			}
		})
	}
}

// TestPoliciesDoWhatTheySeemTo: no rule of a policy that ships is without effect.
func TestPoliciesDoWhatTheySeemTo(t *testing.T) {
	for _, name := range shippedPolicies(t) {
		warnings, err := policy.Lint(policy.File{Name: name + ".yaml", Data: read(t, "policies/"+name+".yaml")})
		if err != nil || len(warnings) > 0 {
			t.Errorf("%v %v", warnings, err)
		}
	}
}

// TestCommentedRulesLoad: what a comment offers to be uncommented is a rule.
func TestCommentedRulesLoad(t *testing.T) {
	for _, name := range shippedPolicies(t) {
		var text strings.Builder
		found := 0
		inside := false
		for line := range strings.Lines(string(read(t, "policies/"+name+".yaml"))) {
			switch {
			case strings.HasPrefix(line, "  # - name: "):
				inside = true
				found++
			case !strings.HasPrefix(line, "  #   "):
				inside = false
			}
			if inside {
				line = strings.Replace(line, "# ", "", 1)
			}
			text.WriteString(line)
		}
		if found == 0 {
			t.Errorf("%s offers no rule for a pinned pause image", name)
		}
		pinned := strings.ReplaceAll(text.String(), "sha256:…", cases.Image.String())
		set, err := policy.Load(policy.File{Name: name + ".yaml", Data: []byte(pinned)})
		if err != nil {
			t.Fatal(err)
		}
		// Never scanned, and found to be as bad as can be: these bytes start all the same.
		facts, err := cases.Read(name, []byte("ref: registry.k8s.io/pause@"+cases.Image.String()+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		if v := set.Decide(facts); v.Outcome == pratique.OutcomeDeny {
			t.Errorf("%s: the pinned pause image is refused: %s", name, cases.Render(v))
		}
		facts.Ref.Registry = "docker.io"
		if v := set.Decide(facts); v.Outcome != pratique.OutcomeDeny && name != "audit" {
			t.Errorf("%s: it is let through from elsewhere: %s", name, cases.Render(v))
		}
	}
}
