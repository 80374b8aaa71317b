package policy_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"pratique/internal/strictyaml"
	"pratique/policy"
	"pratique/policy/cases"
)

// TestManual: the examples of docs/policy.md are true, and no key of a case is
// untold.
func TestManual(t *testing.T) {
	data, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	manual := string(data)
	_, example, _ := strings.Cut(manual, "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	if _, err := policy.Load(policy.File{Name: "docs/policy.md", Data: []byte(example)}); err != nil {
		t.Error(err)
	}
	_, archive, _ := strings.Cut(manual, "```text\n")
	archive, _, _ = strings.Cut(archive, "```")
	results, err := cases.Run(txtar.Parse([]byte(archive)), cases.Config{Read: func(string) ([]byte, error) {
		return []byte(strings.Replace(example, "name: production", "name: house", 1)), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if !r.Held() {
			t.Errorf("%s: %v\n%s", r.Name, r.Err, r.Diff)
		}
	}
	for _, doc := range []any{cases.Facts{}, cases.Exception{}, cases.Statement{}, cases.Product{}} {
		for _, f := range strictyaml.Fields(reflect.TypeOf(doc)) {
			if !strings.Contains(manual, "`"+f.Name+"`") {
				t.Errorf("%T: the manual does not tell of %s", doc, f.Name)
			}
		}
	}
}
