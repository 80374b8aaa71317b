package policy

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestExpressionManual: the manual lists the facts that there are, and its
// examples load.
func TestExpressionManual(t *testing.T) {
	const path, end = "../docs/expressions.md", "<!-- end of schema -->"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	manual := string(raw)
	before, rest, ok := strings.Cut(manual, "<!-- schema: ")
	comment, rest, ok2 := strings.Cut(rest, "-->\n")
	_, after, ok3 := strings.Cut(rest, end)
	if !ok || !ok2 || !ok3 {
		t.Fatal("the manual has no place for the schema")
	}
	want := before + "<!-- schema: " + comment + "-->\n\n" + ExpressionSchema() + "\n" + end + after
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(want, manual); diff != "" {
		t.Errorf("the manual is not that of the code; rewrite it with -update (-want +got):\n%s", diff)
	}
	_, example, _ := strings.Cut(manual, "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	if _, err := Load(File{Name: "docs/expressions.md", Data: []byte("name: manual\n" + example)}); err != nil {
		t.Error(err)
	}
}
