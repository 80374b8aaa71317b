package exception_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique/evidence/exception"
	"pratique/internal/redis"
	"pratique/internal/redis/redistest"
	"pratique/store/storetest"
)

// TestFilesOfReplicas: replicas that read the same files make each exception once, and
// one whose files or configuration are older undoes nothing of the others.
func TestFilesOfReplicas(t *testing.T) {
	t.Parallel()
	server, docs, dir := redistest.Start(t), new(storetest.Documents), t.TempDir()
	first, second := filepath.Join(dir, "first.yaml"), filepath.Join(dir, "second.yaml")
	replica := func(files ...string) *exception.Exceptions {
		t.Helper()
		db, err := redis.Open(t.Context(), redis.Config{URL: server.URL(), Documents: docs})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return exception.New(db, exception.Config{Files: files})
	}
	write := func(file string, findings ...string) {
		t.Helper()
		text := "exceptions:"
		for _, f := range findings {
			text += fmt.Sprintf("\n  - {finding: %s, repository: \"**\", reason: because, author: ann, expires: %s}", f, time.Now().AddDate(0, 1, 0).Format(time.DateOnly))
		}
		if len(findings) == 0 {
			text += " []"
		}
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reload := func(es ...*exception.Exceptions) {
		t.Helper()
		var wg sync.WaitGroup
		for _, e := range es {
			wg.Go(func() {
				if err := e.Reload(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	// want says which findings are in force, and how many exceptions there ever were.
	want := func(when string, ever int, findings ...string) {
		t.Helper()
		all, err := replica().List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, wanted := map[string]int{}, map[string]int{}
		for _, x := range all {
			if x.Active(time.Now()) {
				got[x.Finding]++
			}
		}
		for _, f := range findings {
			wanted[f] = 1
		}
		if diff := cmp.Diff(wanted, got); diff != "" || len(all) != ever {
			t.Errorf("%s: %d exceptions ever, want %d; in force: %s", when, len(all), ever, diff)
		}
	}

	write(first, "CVE-2020-0001", "CVE-2020-0002")
	a, b, c := replica(first), replica(first), replica(first)
	reload(a, b, c)
	reload(a, b, c)
	want("three at once", 2, "CVE-2020-0001", "CVE-2020-0002")

	// The file changes at one of them before it does at the others.
	write(first, "CVE-2020-0002", "CVE-2020-0003")
	reload(a)
	write(first, "CVE-2020-0001", "CVE-2020-0002")
	reload(b, c)
	want("one has a newer file", 3, "CVE-2020-0002", "CVE-2020-0003")
	write(first, "CVE-2020-0002", "CVE-2020-0003")
	reload(a, b, c)
	want("all have it", 3, "CVE-2020-0002", "CVE-2020-0003")

	// One after the other is started with one file more.
	write(second, "CVE-2020-0004")
	d := replica(first, second)
	reload(d)
	reload(a, b, c)
	reload(d)
	want("one has a newer configuration", 4, "CVE-2020-0002", "CVE-2020-0003", "CVE-2020-0004")

	// And with one less: what it held ends with the first that does not have it.
	write(second, "CVE-2020-0004")
	e := replica(second)
	reload(e)
	reload(a, d, e)
	want("a file is taken away", 4, "CVE-2020-0004")
}
