package match_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	trivylog "github.com/aquasecurity/trivy/pkg/log"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"pratique"
	"pratique/scanner/match"
)

func openssl() pratique.Component {
	return pratique.Component{
		Context: pratique.Context{Class: pratique.ClassOS, Type: "debian", Name: "12.15"},
		Name:    "libssl3", Version: "3.0.11-1~deb12u2", SrcName: "openssl", SrcVersion: "3.0.11-1~deb12u2",
	}
}

func lodash() pratique.Component {
	return pratique.Component{Context: pratique.Context{Class: pratique.ClassLanguage, Type: "node-pkg"}, Name: "lodash", Version: "4.17.4"}
}

func change(t *testing.T, dir string, fn func(tx *bolt.Tx) error) {
	t.Helper()
	b, err := bolt.Open(filepath.Join(dir, "trivy.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Update(fn); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestNeverEmpty: what cannot be answered is an error for all components, never
// an empty list for some.
func TestNeverEmpty(t *testing.T) {
	ask := []pratique.Component{openssl(), lodash()}
	record := func(t *testing.T, id, value string) string {
		dir := unpack(t, "new")
		change(t, dir, func(tx *bolt.Tx) error { return tx.Bucket([]byte("vulnerability")).Put([]byte(id), []byte(value)) })
		return dir
	}
	for _, c := range []struct {
		name       string
		dir        func(t *testing.T) string
		components []pratique.Component
		want       error // nil: any
	}{
		{"no database", func(*testing.T) string { return "" }, ask, pratique.ErrNoDatabase},
		{"a class that is none", func(t *testing.T) string { return unpack(t, "new") },
			append(ask, pratique.Component{Name: "x"}), pratique.ErrInvalid},
		{"a supplier that is none", func(t *testing.T) string { return unpack(t, "new") },
			append(ask, pratique.Component{Context: pratique.Context{Class: pratique.ClassOS, Type: "debian", Name: "12", Supplier: "somebody"}, Name: "x"}), pratique.ErrInvalid},
		{"a record that is no JSON", func(t *testing.T) string { return record(t, "CVE-2019-10744", "{") }, ask, nil},
		{"a record of another shape", func(t *testing.T) string { return record(t, "CVE-2019-10744", `{"Severity":{}}`) }, ask, nil},
		{"a severity that is none", func(t *testing.T) string {
			return record(t, "CVE-2019-10744", `{"VendorSeverity":{"osv":99}}`)
		}, ask, nil},
		{"an advisory that is no JSON", func(t *testing.T) string {
			dir := unpack(t, "new")
			change(t, dir, func(tx *bolt.Tx) error {
				return tx.Bucket([]byte("debian 12")).Bucket([]byte("openssl")).Put([]byte("CVE-2026-1"), []byte("{"))
			})
			return dir
		}, ask, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := matcher(t, c.dir(t))
			found, e, err := m.Match(t.Context(), c.components)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if found != nil || e != (pratique.Engine{}) {
				t.Errorf("an error came with %v of %+v", found, e)
			}
		})
	}
}

// TestNoRecord: an advisory whose vulnerability has no record is a finding of
// unknown severity.
func TestNoRecord(t *testing.T) {
	dir := unpack(t, "new")
	change(t, dir, func(tx *bolt.Tx) error { return tx.Bucket([]byte("vulnerability")).Delete([]byte("CVE-2019-10744")) })
	found, _, err := matcher(t, dir).Match(t.Context(), []pratique.Component{lodash()})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range found[0] {
		if v.ID == "CVE-2019-10744" {
			if v.Severity != pratique.SeverityUnknown || v.Fixed == "" {
				t.Errorf("%+v", v)
			}
			return
		}
	}
	t.Error("the finding is gone")
}

// TestTruncatedUnderUs: the file shrinks while it is mapped, so that reading it
// is SIGBUS. The process lives, Match errs, and another database heals it.
func TestTruncatedUnderUs(t *testing.T) {
	dir := unpack(t, "new")
	m := matcher(t, dir)
	want, _, err := m.Match(t.Context(), []pratique.Component{openssl(), lodash()})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "trivy.db"), 8192); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		found, _, err := m.Match(t.Context(), []pratique.Component{openssl(), lodash()})
		if !errors.Is(err, match.ErrFault) || found != nil {
			t.Fatalf("got %v, %v", found, err)
		}
	}
	if err := m.Adopt(t.Context(), unpack(t, "new"), digest.FromString("healed")); err != nil {
		t.Fatal(err)
	}
	got, _, err := m.Match(t.Context(), []pratique.Component{openssl(), lodash()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after healing (-want +got):\n%s", diff)
	}
}

// TestAdoptRefuses: Adopt has a last look of its own, and the standing database
// survives it.
func TestAdoptRefuses(t *testing.T) {
	broken := func(fn func(t *testing.T, dir string)) func(t *testing.T) string {
		return func(t *testing.T) string {
			dir := unpack(t, "new")
			fn(t, dir)
			return dir
		}
	}
	file := func(name string, content []byte) func(t *testing.T) string {
		return broken(func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	for name, dir := range map[string]func(t *testing.T) string{
		"nothing there":  func(t *testing.T) string { return t.TempDir() },
		"no metadata":    broken(func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, "metadata.json")) }),
		"schema 1":       file("metadata.json", []byte(`{"Version":1,"UpdatedAt":"2026-11-22T06:00:00Z"}`)),
		"metadata":       file("metadata.json", []byte(`{`)),
		"empty file":     file("trivy.db", nil),
		"not a database": file("trivy.db", bytes.Repeat([]byte("x"), 1<<16)),
		"truncated": broken(func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "trivy.db"), 16384); err != nil {
				t.Fatal(err)
			}
		}),
		"no advisories": broken(func(t *testing.T, dir string) {
			change(t, dir, func(tx *bolt.Tx) error {
				var roots [][]byte
				if err := tx.ForEach(func(n []byte, _ *bolt.Bucket) error {
					if match.IsAdvisoryRoot(string(n)) {
						roots = append(roots, bytes.Clone(n))
					}
					return nil
				}); err != nil {
					return err
				}
				for _, r := range roots {
					if err := tx.DeleteBucket(r); err != nil {
						return err
					}
				}
				return nil
			})
		}),
		"no vulnerabilities": broken(func(t *testing.T, dir string) {
			change(t, dir, func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("vulnerability")) })
		}),
	} {
		t.Run(name, func(t *testing.T) {
			m := matcher(t, unpack(t, "old"))
			want, before, err := m.Match(t.Context(), []pratique.Component{openssl()})
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Adopt(t.Context(), dir(t), digest.FromString("bad")); err == nil {
				t.Fatal("adopted")
			}
			got, after, err := m.Match(t.Context(), []pratique.Component{openssl()})
			if err != nil || before != after || !cmp.Equal(want, got) {
				t.Errorf("the standing database does not answer as before: %v, %+v", err, after)
			}
		})
	}
}

// TestOneHandle: a second Matcher neither takes the database from the first nor
// answers from it.
func TestOneHandle(t *testing.T) {
	first := matcher(t, unpack(t, "old"))
	second := match.New(match.Config{})
	if err := second.Adopt(t.Context(), unpack(t, "new"), digest.FromString("second")); err == nil {
		t.Error("the handle was taken away")
	}
	if _, _, err := second.Match(t.Context(), []pratique.Component{openssl()}); !errors.Is(err, pratique.ErrNoDatabase) {
		t.Errorf("second: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if _, err := first.Engine(); err != nil {
		t.Errorf("first: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := second.Adopt(t.Context(), unpack(t, "new"), digest.FromString("second")); err != nil {
		t.Error(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func TestCancelled(t *testing.T) {
	m := matcher(t, unpack(t, "new"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if found, _, err := m.Match(ctx, []pratique.Component{openssl()}); !errors.Is(err, context.Canceled) || found != nil {
		t.Errorf("got %v, %v", found, err)
	}
}

// TestContextDecides: the same package in two contexts, and in one batch with a
// supplier's package that no context names, has each time its own findings.
func TestContextDecides(t *testing.T) {
	m := matcher(t, unpack(t, "new"))
	inOlder := openssl()
	inOlder.Context.Name = "13.1"
	alone, _, err := m.Match(t.Context(), []pratique.Component{openssl()})
	if err != nil {
		t.Fatal(err)
	}
	stranger := openssl()
	stranger.Name, stranger.Version = "less", "643-1.root.io.1"
	batch, _, err := m.Match(t.Context(), []pratique.Component{stranger, inOlder, openssl(), openssl()})
	if err != nil {
		t.Fatal(err)
	}
	if len(alone[0]) == 0 {
		t.Fatal("no findings to compare")
	}
	for _, i := range []int{2, 3} {
		if diff := cmp.Diff(alone[0], batch[i]); diff != "" {
			t.Errorf("component %d (-alone +in a batch):\n%s", i, diff)
		}
	}
	if cmp.Equal(batch[1], batch[2]) {
		t.Error("Debian 13 and 12 have the same findings")
	}
}

// TestSharedNothing: results of one call are not changed by another, in
// parallel (run with -race).
func TestSharedNothing(t *testing.T) {
	m := matcher(t, unpack(t, "new"))
	var cs []pratique.Component
	for _, img := range images(t) {
		c, _ := img.Inventory.Components()
		cs = append(cs, c...)
	}
	text := func() string {
		found, _, err := m.Match(t.Context(), cs)
		if err != nil {
			t.Error(err)
		}
		raw, err := json.Marshal(found)
		if err != nil {
			t.Error(err)
		}
		return string(raw)
	}
	want := text()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if text() != want {
				t.Error("another answer to the same question")
			}
		})
	}
	wg.Wait()
}

func TestEOL(t *testing.T) {
	at := func(day string) time.Time {
		d, err := time.Parse(time.DateOnly, day)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, c := range []struct {
		os   pratique.OS
		day  string
		want bool
	}{
		{pratique.OS{Family: "debian", Name: "11.11"}, "2026-08-14", false},
		{pratique.OS{Family: "debian", Name: "11.11"}, "2026-08-15", true},
		{pratique.OS{Family: "debian", Name: "12.15"}, "2026-11-23", false},
		{pratique.OS{Family: "alpine", Name: "3.9.2"}, "2026-11-23", true},
		{pratique.OS{Family: "ubuntu", Name: "18.04"}, "2026-11-23", true},
		{pratique.OS{Family: "ubuntu", Name: "18.04", Extended: true}, "2026-11-23", false},
		{pratique.OS{Family: "alma", Name: "9.3"}, "2026-11-23", false},
		{pratique.OS{Family: "debian", Name: "99"}, "2026-11-23", false},
		{pratique.OS{Family: "plan9", Name: "4"}, "2026-11-23", false},
		{pratique.OS{Family: "alpine", Name: "3.9.2", Supplier: "rapidfort"}, "2026-11-23", false}, // patched by its supplier
		{pratique.OS{}, "2026-11-23", false},
	} {
		m := match.New(match.Config{Now: func() time.Time { return at(c.day) }})
		if got, _ := m.EOL(t.Context(), c.os); got != c.want {
			t.Errorf("%+v on %s: %t, want %t", c.os, c.day, got, c.want)
		}
	}
}

// TestTrivyVersion: the constant is the module that is linked.
func TestTrivyVersion(t *testing.T) {
	raw, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^\s*(?:require )?github\.com/aquasecurity/trivy (\S+)`).FindSubmatch(raw)
	if m == nil || string(m[1]) != match.TrivyVersion {
		t.Errorf("go.mod has %q, TrivyVersion is %s", m, match.TrivyVersion)
	}
}

// TestQuiet: Trivy's chatter is debug, its errors and everybody else's messages
// stay what they are.
func TestQuiet(t *testing.T) {
	for _, c := range []struct {
		level slog.Level
		want  []string
	}{
		{slog.LevelInfo, []string{"INFO ours"}},
		{slog.LevelDebug, []string{"DEBUG Detected OS", "INFO ours"}},
	} {
		var buf bytes.Buffer
		h := slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: c.level})
		before := slog.Default()
		slog.SetDefault(slog.New(match.Quiet(h)).With("a", 1).WithGroup("g"))
		match.New(match.Config{}).EOL(t.Context(), pratique.OS{Family: "debian", Name: "12"})
		trivylog.Info("ours: called from here")
		slog.SetDefault(before)
		out := buf.String()
		for _, w := range c.want {
			level, msg, _ := strings.Cut(w, " ")
			if !regexp.MustCompile(`level=` + level + ` msg="?` + msg).MatchString(out) {
				t.Errorf("level %s: no %q in\n%s", c.level, w, out)
			}
		}
		if c.level == slog.LevelInfo && strings.Contains(out, "Detect") {
			t.Errorf("Trivy is heard:\n%s", out)
		}
	}
}

// TestDefaultLogger: linking Trivy leaves a default logger that prints, not the
// one of Trivy's that keeps everything.
func TestDefaultLogger(t *testing.T) {
	if _, ok := slog.Default().Handler().(*trivylog.DeferredHandler); ok {
		t.Error("slog's default is Trivy's")
	}
}

func BenchmarkMatch(b *testing.B) {
	m := matcher(b, unpack(b, "new"))
	var cs []pratique.Component
	seen := make(map[pratique.ComponentID]bool)
	for _, img := range images(b) {
		c, _ := img.Inventory.Components()
		for _, c := range c {
			if id := c.ID(); !seen[id] {
				seen[id] = true
				cs = append(cs, c)
			}
		}
	}
	b.ResetTimer()
	for b.Loop() {
		if _, _, err := m.Match(b.Context(), cs); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(cs)), "µs/component")
}
