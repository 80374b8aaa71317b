package database_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scanner/database"
)

// TestRun: the kept database is open at once, what appears under the path is
// adopted without being asked for, nonsense in between changes nothing, and Run
// ends with its context.
func TestRun(t *testing.T) {
	defer goleak.VerifyNone(t)
	path := filepath.Join(t.TempDir(), "db.tar.gz")
	put := func(raw []byte) {
		t.Helper()
		if err := os.WriteFile(path+".tmp", raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".tmp", path); err != nil {
			t.Fatal(err)
		}
	}
	s := newSetup(t, database.Config{Path: path, Refresh: 20 * time.Millisecond})
	put(archive(t, "old")) // before Run: after a failure it waits longer than a test should
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var ended error
	wg.Go(func() { ended = s.Run(ctx) })
	wait := func(what string, ok func(database.Status) bool) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for !ok(s.Status()) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: still %+v", what, s.Status())
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	wait("first", func(st database.Status) bool { return st.UpdatedAt.Equal(oldAt) })
	put([]byte("this is not an archive at all"))
	wait("nonsense", func(st database.Status) bool { return st.LastError != "" && st.UpdatedAt.Equal(oldAt) })
	cancel()
	wg.Wait()
	if !errors.Is(ended, context.Canceled) {
		t.Errorf("Run ended with %v", ended)
	}
}

// TestRunWithoutSources waits for imports and ends with its context.
func TestRunWithoutSources(t *testing.T) {
	s := newSetup(t, database.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	s.mustImport(t, archive(t, "new"))
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run ended with %v", err)
	}
	if st := s.Status(); st.LastError != "" {
		t.Errorf("status %+v", st)
	}
}

// TestSwapUnderLoad: while databases are swapped fifty times, every answer is
// that of one of the two generations, whole, and names the right one.
func TestSwapUnderLoad(t *testing.T) {
	s := newSetup(t, database.Config{})
	cs := []pratique.Component{probe()}
	for _, name := range []string{"alpha", "beta"} { // more than one batch of more than one kind
		for _, kind := range []string{"npm", "debian"} {
			c := probe()
			c.Name = name
			if kind == "npm" {
				c = pratique.Component{Context: pratique.Context{Class: pratique.ClassLanguage, Type: "node-pkg"}, Name: "lodash", Version: "4.17.4"}
			}
			cs = append(cs, c)
		}
	}
	count := func(vs [][]pratique.Vulnerability) (n int) {
		for _, v := range vs {
			n += len(v)
		}
		return n
	}
	legitimate := make(map[digest.Digest]int)
	for _, g := range []string{"old", "new", "old"} {
		if _, err := s.Import(t.Context(), bytes.NewReader(archive(t, g)), true); err != nil {
			t.Fatal(err)
		}
		found, e, err := s.matcher.Match(t.Context(), cs)
		if err != nil {
			t.Fatal(err)
		}
		legitimate[e.Database] = count(found)
	}
	if len(legitimate) != 2 {
		t.Fatalf("generations %v", legitimate)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[digest.Digest]int)
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				found, e, err := s.matcher.Match(t.Context(), cs)
				if err != nil {
					t.Error(err)
					return
				}
				if want, ok := legitimate[e.Database]; !ok || count(found) != want {
					t.Errorf("%d findings from %s, legitimate are %v", count(found), e.Database, legitimate)
				}
				mu.Lock()
				seen[e.Database]++
				mu.Unlock()
			}
		})
	}
	var dirs [2]string
	for i, g := range []string{"old", "new"} {
		dirs[i] = t.TempDir()
		for _, f := range read(t, archive(t, g)) {
			if err := os.WriteFile(filepath.Join(dirs[i], f.name), f.body, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	byGeneration := make([]digest.Digest, 2)
	for d := range legitimate {
		i := 0
		if d == s.adopted[1].Database {
			i = 1
		}
		byGeneration[i] = d
	}
	for i := range 50 {
		if err := s.matcher.Adopt(t.Context(), dirs[i%2], byGeneration[i%2]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	close(stop)
	wg.Wait()
	if len(seen) != 2 {
		t.Errorf("answers by generation: %v", seen)
	}
}

// TestJava: the jar index goes through the same steps.
func TestJava(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(testdata, "database", "java.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "java.tar.gz")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	d := database.NewJava(database.Config{Dir: t.TempDir(), Path: path, Now: func() time.Time { return now }})
	if dir, ok := d.Dir(); ok || d.Version() != "" {
		t.Errorf("before: %s, %s", dir, d.Version())
	}
	if err := d.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir, ok := d.Dir()
	if _, err := os.Stat(filepath.Join(dir, "trivy-java.db")); !ok || err != nil || d.Version() == "" {
		t.Errorf("after: %s, %t, %s, %v", dir, ok, d.Version(), err)
	}
	fs := read(t, raw)
	for name, bad := range map[string][]byte{
		"truncated":             pack(t, file{name: "trivy-java.db", body: cut(fs[0].body, len(fs[0].body)-4096)}, metadata(t, 1, now)),
		"not SQLite":            pack(t, file{name: "trivy-java.db", body: bytes.Repeat([]byte("x"), 8192)}, metadata(t, 1, now)),
		"empty":                 pack(t, file{name: "trivy-java.db"}, metadata(t, 1, now)),
		"schema 2":              pack(t, fs[0], metadata(t, 2, now)),
		"the other kind":        archive(t, "new"),
		"older than it stands":  pack(t, fs[0], metadata(t, 1, oldAt)),
		"from a future of ours": pack(t, fs[0], metadata(t, 1, now.Add(1000*time.Hour))),
	} {
		if _, err := d.Import(t.Context(), bytes.NewReader(bad), false); !errors.Is(err, pratique.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if again, ok := d.Dir(); !ok || again != dir {
			t.Errorf("%s: %s stands, want %s", name, again, dir)
		}
	}
}
