package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/scheduler"
	"pratique/store"
)

var now = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

func open(t *testing.T, path string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestOpenMakesPrivateFiles(t *testing.T) {
	// Characters that mean something in a URI or to SQLite.
	path := filepath.Join(t.TempDir(), "a dir?mode=memory&x=%41#f", "state.db")
	db := open(t, path)
	if err := db.SetTagList(t.Context(), pratique.Ref{Registry: "r", Repo: "x"}, []string{"a"}, now); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(path)), "*", "*"))
	if err != nil || len(files) < 3 {
		t.Fatalf("files %q, %v: want the database, its journal and its lock", files, err)
	}
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", filepath.Base(f), st.Mode())
		}
	}
}

// spoil runs statements on a file that nobody has open.
func spoil(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	ctx := context.Background()
	raw := func(path string, statements ...string) error {
		db, err := sql.Open("sqlite", path)
		if err != nil {
			return err
		}
		for _, s := range statements {
			if _, err := db.Exec(s); err != nil {
				return errors.Join(err, db.Close())
			}
		}
		return db.Close()
	}
	ours := func(path string) error {
		db, err := sqlite.Open(ctx, path)
		if err != nil {
			return err
		}
		for i := range 20 {
			var tags []string
			for j := range 200 { // does not compress
				tags = append(tags, digest.FromString(fmt.Sprint(i, j)).Encoded())
			}
			err = errors.Join(err, db.SetTagList(ctx, pratique.Ref{Registry: "r", Repo: fmt.Sprint("repo", i)}, tags, now))
		}
		return errors.Join(err, db.Close())
	}
	tests := []struct {
		name string
		make func(path string) error
		want string
	}{
		{"empty file", func(p string) error { return os.WriteFile(p, nil, 0o600) }, "is damaged"},
		{"text", func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("not a database ", 1000)), 0o600) }, "is damaged"},
		{"directory", func(p string) error { return os.Mkdir(p, 0o700) }, "is not a file"},
		{"another program's database", func(p string) error { return raw(p, "CREATE TABLE t (x)", "PRAGMA user_version = 1") }, "not Pratique's"},
		{"newer schema", func(p string) error { return errors.Join(ours(p), raw(p, "PRAGMA user_version = 99")) }, "has schema 99, this version of Pratique knows up to"},
		{"cut short", func(p string) error { return errors.Join(ours(p), os.Truncate(p, 8192)) }, "cut short"},
		{"a page of zeros", func(p string) error {
			if err := ours(p); err != nil {
				return err
			}
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(make([]byte, 16384), 40960)
			return errors.Join(err, f.Close())
		}, "is damaged"},
		{"journal without its file", func(p string) error { return os.WriteFile(p+"-wal", []byte("x"), 0o600) }, "journal"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			if err := test.make(path); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(path)
			db, err := sqlite.Open(ctx, path)
			if err == nil {
				db.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %q, want the path and %q", err, test.want)
			}
			if after, _ := os.ReadFile(path); string(before) != string(after) {
				t.Error("the file was changed")
			}
			// Refused for the same reason again: nothing was silently repaired.
			if db, err := sqlite.Open(ctx, path); err == nil {
				db.Close()
				t.Error("opened the second time")
			}
		})
	}
}

func TestOpenAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	open(t, path)
	if _, err := sqlite.Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second Open: %v", err)
	}
}

// TestOpenAfterDeathWhileMaking: the file is made under another name.
func TestOpenAfterDeathWhileMaking(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	for _, name := range []string{".new", ".new-wal", ".new-shm"} {
		if err := os.WriteFile(path+name, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open(t, path)
	if _, err := os.Stat(path + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("leftover: %v", err)
	}
}

// TestReleasesLeases: one process at a time has the file, so whoever held a
// lease when it is opened is dead.
func TestReleasesLeases(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, ctx := open(t, path), t.Context()
	ref := pratique.Ref{Registry: "r", Repo: "x", Digest: digest.FromString("x")}
	if err := db.Push(ctx, ref, scheduler.PriorityPull, now); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Take(ctx, now, time.Hour); err != nil {
		t.Fatal(err)
	}
	db.Close()
	db = open(t, path)
	if _, err := db.Take(ctx, now, time.Hour); err != nil {
		t.Errorf("job of a dead holder: %v", err)
	}
}

const childEnv = "PRATIQUE_TEST_STATE"

// TestKill kills a process that writes, without warning, and looks for what it
// said was written.
func TestKill(t *testing.T) {
	if path := os.Getenv(childEnv); path != "" {
		child(path)
	}
	path := filepath.Join(t.TempDir(), "state.db")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for round := range 5 {
		cmd := exec.Command(exe, "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), childEnv+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Each line is a number whose writes had returned.
		buf, text := make([]byte, 4096), ""
		for strings.Count(text, "\n") < 20+10*round {
			n, err := out.Read(buf)
			if err != nil {
				t.Fatalf("child ended: %v, said %q", err, text)
			}
			text += string(buf[:n])
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		db := open(t, path)
		for line := range strings.Lines(text) {
			n, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil || !strings.HasSuffix(line, "\n") {
				continue
			}
			total++
			verifyChild(t, db, n)
		}
		db.Close()
	}
	if total < 100 {
		t.Errorf("only %d writes looked at", total)
	}
}

func child(path string) {
	ctx := context.Background()
	db, err := sqlite.Open(ctx, path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for n := os.Getpid() * 100000; ; n++ {
		if err := writeChild(ctx, db, n); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

func numbered(n int) (pratique.Ref, pratique.Image) {
	d := digest.FromString(fmt.Sprint("image", n))
	layer := pratique.Descriptor{Digest: digest.FromString(fmt.Sprint("layer", n)), Size: int64(n)}
	return pratique.Ref{Registry: "r", Repo: "x", Digest: d},
		pratique.Image{Digest: d, Kind: pratique.KindImage, Layers: []pratique.Descriptor{layer}}
}

func writeChild(ctx context.Context, db *sqlite.DB, n int) error {
	ref, img := numbered(n)
	if err := db.Link(ctx, ref, img, now); err != nil {
		return err
	}
	if err := db.Push(ctx, ref, scheduler.PriorityPull, now); err != nil {
		return err
	}
	if err := db.PutInventory(ctx, img.Layers[0].Digest, "k", pratique.Inventory{Analyzer: "k", Size: int64(n)}); err != nil {
		return err
	}
	c := pratique.Component{Name: fmt.Sprint("c", n)}
	if err := db.PutImage(ctx, img.Digest, []pratique.Component{c}, []pratique.Occurrence{{Component: c.ID()}}); err != nil {
		return err
	}
	e := pratique.Engine{Version: "v0.74.0", Database: img.Digest, DatabaseAt: now}
	if err := db.Begin(ctx, e); err != nil {
		return err
	}
	if _, err := db.PutMatches(ctx, e, now, map[pratique.ComponentID][]pratique.Vulnerability{c.ID(): {{ID: "CVE-1"}}}); err != nil {
		return err
	}
	_, err := db.PutReport(ctx, pratique.Report{Image: img.Digest, State: pratique.StateScanned, ScannedAt: now})
	if err != nil {
		return err
	}
	return db.Record(ctx, []store.Pull{{Ref: ref, At: now, Outcome: pratique.OutcomeAllow}})
}

func verifyChild(t *testing.T, db *sqlite.DB, n int) {
	t.Helper()
	ctx := t.Context()
	ref, img := numbered(n)
	_, err := db.Holders(ctx, ref, img.Layers[0].Digest)
	inv, err2 := db.Inventory(ctx, img.Layers[0].Digest, "k")
	_, _, err3 := db.Occurrences(ctx, img.Digest)
	r, err4 := db.Report(ctx, img.Digest)
	_, _, err5 := db.Served(ctx, img.Digest)
	if err := errors.Join(err, err2, err3, err4, err5); err != nil || inv.Size != int64(n) || r.State != pratique.StateScanned {
		t.Errorf("write %d that had returned is lost: %v, %d, %s", n, err, inv.Size, r.State)
	}
}
