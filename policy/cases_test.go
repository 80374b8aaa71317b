package policy_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"pratique/configs"
	"pratique/policy"
	"pratique/policy/cases"
)

// TestCases runs testdata/*.txtar: see package cases. `@default` stands for the
// policy that ships.
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
			results, err := cases.Run(archive, cases.Config{Read: shipped, Update: *policy.Update})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range results {
				if r.Err != nil {
					t.Errorf("%s: %v", r.Name, r.Err)
				} else if r.Diff != "" {
					t.Errorf("%s: verdict (-want +got):\n%s", r.Name, r.Diff)
				}
			}
			if *policy.Update {
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func shipped(name string) ([]byte, error) {
	if name != "default" {
		return nil, errors.New("cases here name no files")
	}
	return configs.DefaultPolicy, nil
}
