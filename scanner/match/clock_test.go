package match_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"pratique"
	"pratique/scanner/match"
)

func TestClock(t *testing.T) {
	end := time.Date(2027, 4, 23, 23, 59, 59, 0, time.UTC) // of Ubuntu 22.04, by Trivy's table
	m := match.New(match.Config{})
	for _, tt := range []struct {
		name       string
		since, now time.Time
		want       []string
	}{
		{"an hour without an end", end.Add(-2 * time.Hour), end.Add(-time.Hour), nil},
		{"the hour of the end", end.Add(-time.Hour), end.Add(time.Hour), []string{"type ubuntu"}},
		{"up to the end itself", end.Add(-time.Second), end, []string{"type ubuntu"}},
		{"from the end on", end, end.Add(time.Hour), nil},
		{"years", end.AddDate(-10, 0, 0), end.AddDate(10, 0, 0), []string{"type ubuntu"}},
		{"backwards", end.Add(time.Hour), end.Add(-time.Hour), nil},
		{"never before", time.Time{}, end, []string{"type ubuntu"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, m.Clock(tt.since, tt.now)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestClockReaders fails when a Trivy upgrade makes another detector look at the
// clock, of which Clock would not know.
func TestClockReaders(t *testing.T) {
	raw, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", "github.com/aquasecurity/trivy/pkg/detector/ospkg").Output()
	if err != nil {
		t.Fatal(err)
	}
	detector := filepath.Dir(strings.TrimSpace(string(raw)))
	var got []string
	for _, dir := range []string{detector, filepath.Join(detector, "..", "scan", "ospkg"), filepath.Join(detector, "..", "scan", "langpkg"), filepath.Join(detector, "..", "vulnerability")} {
		err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			src, err := os.ReadFile(path)
			if err == nil && (strings.Contains(string(src), "clock.Now(") || strings.Contains(string(src), "time.Now(") || strings.Contains(string(src), "time.Since(")) {
				rel, rerr := filepath.Rel(detector, path)
				got, err = append(got, filepath.ToSlash(rel)), rerr
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// version.go says whether a release is supported, which is no match.
	if diff := cmp.Diff([]string{"ospkg/ubuntu/ubuntu.go", "ospkg/version/version.go"}, got); diff != "" {
		t.Errorf("readers of the clock (-known +found):\n%s", diff)
	}
}

// TestClockMatters holds the reason for Clock: the same component, the same
// database, another day, other answers.
func TestClockMatters(t *testing.T) {
	dir := unpack(t, "new")
	change(t, dir, func(tx *bolt.Tx) error {
		for bucket, id := range map[string]string{"ubuntu 22.04": "CVE-2030-1", "ubuntu 22.04-ESM": "CVE-2030-2"} {
			b, err := tx.CreateBucketIfNotExists([]byte(bucket))
			if err == nil {
				b, err = b.CreateBucketIfNotExists([]byte("openssl"))
			}
			if err == nil {
				err = b.Put([]byte(id), []byte(`{"FixedVersion":"9"}`))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	c := pratique.Component{
		Context: pratique.Context{Class: pratique.ClassOS, Type: "ubuntu", Name: "22.04", Extended: true},
		Name:    "openssl", Version: "3.0", SrcName: "openssl", SrcVersion: "3.0",
	}
	end := time.Date(2027, 4, 23, 23, 59, 59, 0, time.UTC)
	for now, want := range map[time.Time]string{end.Add(-time.Second): "CVE-2030-1", end: "CVE-2030-2"} {
		m := match.New(match.Config{Now: func() time.Time { return now }})
		if err := m.Adopt(t.Context(), dir, "sha256:clock"); err != nil {
			t.Fatal(err)
		}
		found, _, err := m.Match(t.Context(), []pratique.Component{c})
		if err != nil || len(found[0]) != 1 || found[0][0].ID != want {
			t.Errorf("at %s: %v, %v, want %s", now, found, err, want)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}
