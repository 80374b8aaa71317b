package exception

import (
	"errors"
	"os"
	"testing"

	"pratique"
)

// FuzzFile: whatever a file holds is a mistake that says so, or exceptions that are
// whole, with an id of their own.
func FuzzFile(f *testing.F) {
	shipped, err := os.ReadFile("../../configs/exceptions.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(shipped)
	for _, text := range []string{
		"exceptions: []", "exceptions: [{}]", "exceptions: [{expires: 9999-12-31}]", "exceptions: [{expires: 2199-12-31}]",
		"exceptions: [{finding: a, digest: x, platform: a/b/c, expires: 2026-01-01T00:00:60Z}]",
		"exceptions: [{finding: a, repository: '[', reason: r, author: a, expires: 2026-01-01, created: 2025-12-31}]",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		read, err := parseFile("f.yaml", raw)
		if err != nil {
			if !errors.Is(err, pratique.ErrInvalid) {
				t.Errorf("error %v does not wrap ErrInvalid", err)
			}
			return
		}
		seen := make(map[string]bool)
		for _, x := range read.entries {
			id := fileID(read, x, 0)
			if seen[id] || x.Expires.IsZero() || x.Reason == "" || (x.Repository == "" && x.Digest == "") {
				t.Errorf("%s: %+v", id, x)
			}
			seen[id] = true
		}
	})
}
