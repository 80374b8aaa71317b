package database_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scanner/database"
)

// TestRollback: back to the one before, which stays whatever the source offers
// until that is newer, and survives restarts.
func TestRollback(t *testing.T) {
	src := newSource(t)
	s := newSetup(t, database.Config{Sources: []string{src.ref}})
	if _, err := s.Rollback(t.Context()); !errors.Is(err, pratique.ErrNotFound) {
		t.Fatalf("without a database: %v", err)
	}
	check := func(want digest.Digest) {
		t.Helper()
		if err := s.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, d := s.answer(t.Context(), t); d != want && want != "" {
			t.Fatalf("%s answers, want %s", d, want)
		}
	}
	src.push(t, artifact(t, archive(t, "old"), layerType))
	check("")
	older := s.Status().Digest
	if _, err := s.Rollback(t.Context()); !errors.Is(err, pratique.ErrNotFound) {
		t.Fatalf("without another database: %v", err)
	}
	src.push(t, artifact(t, archive(t, "new"), layerType))
	check("")
	newer := s.Status().Digest

	st, err := s.Rollback(t.Context())
	if err != nil || st.Digest != older || st.Previous != newer || st.RolledBack != newer || !st.RolledBackAt.Equal(now) {
		t.Fatalf("%v, %+v", err, st)
	}
	want := []pratique.Engine{
		{Version: "v0.74.0", Database: older, DatabaseAt: oldAt},
		{Version: "v0.74.0", Database: newer, DatabaseAt: newAt},
		{Version: "v0.74.0", Database: older, DatabaseAt: oldAt},
	}
	if diff := cmp.Diff(want, s.adopted); diff != "" {
		t.Errorf("OnAdopt (-want +got):\n%s", diff)
	}
	src.take()
	check(older)
	if diff := cmp.Diff([]string{"GET /v2/", "HEAD manifest"}, src.take()); diff != "" {
		t.Errorf("what was rolled back from is fetched again (-want +got):\n%s", diff)
	}
	if st := s.Status(); st.LastError != "" || st.Sources[0].LastError != "" {
		t.Errorf("an operator's choice is told as an error: %+v", st)
	}
	// The same content as another artifact.
	fs := read(t, archive(t, "new"))
	src.push(t, artifact(t, pack(t, fs[1], fs[0]), layerType))
	check(older)
	if _, err := s.Rollback(t.Context()); !errors.Is(err, database.ErrRolledBack) {
		t.Errorf("twice: %v", err)
	}

	// A restart forgets nothing.
	if err := s.matcher.Close(); err != nil {
		t.Fatal(err)
	}
	s = newSetup(t, database.Config{Dir: s.dir, Sources: []string{src.ref}})
	check(older)
	if st := s.Status(); st.RolledBack != newer {
		t.Errorf("after a restart: %+v", st)
	}
	// One that lies between the two does not open the door to the other.
	between := artifact(t, edit(t, "old", newAt.Add(-time.Hour), func(string) {}), layerType)
	src.push(t, between)
	check("")
	middle := s.Status().Digest
	if middle == older || middle == newer {
		t.Fatalf("%s stands", middle)
	}
	src.push(t, artifact(t, archive(t, "new"), layerType))
	check(middle)
	if _, err := s.UndoRollback(t.Context()); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("undoing what is not kept: %v", err)
	}
	// Nor does rolling back from that one.
	if _, err := s.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(older)
	src.push(t, between)
	check(older)
	// A newer one ends it.
	src.push(t, artifact(t, edit(t, "new", newAt.Add(time.Hour), func(string) {}), layerType))
	check("")
	if st := s.Status(); !st.UpdatedAt.Equal(newAt.Add(time.Hour)) || st.RolledBack != "" {
		t.Errorf("a newer one is not adopted: %+v", st)
	}
}

// TestRollbackEnds: what an operator asks for by hand counts more than what was
// asked for before.
func TestRollbackEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(t *testing.T, s *setup) error
	}{
		{"by an import", func(t *testing.T, s *setup) error {
			_, err := s.Import(t.Context(), bytes.NewReader(archive(t, "new")), false)
			return err
		}},
		{"by undoing it", func(t *testing.T, s *setup) error {
			_, err := s.UndoRollback(t.Context())
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSetup(t, database.Config{})
			older := s.mustImport(t, archive(t, "old")).Digest
			newer := s.mustImport(t, archive(t, "new")).Digest
			if _, err := s.UndoRollback(t.Context()); !errors.Is(err, pratique.ErrNotFound) {
				t.Errorf("nothing to undo: %v", err)
			}
			if _, err := s.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := c.end(t, s); err != nil {
				t.Fatal(err)
			}
			st := s.Status()
			if _, d := s.answer(t.Context(), t); d != newer || st.Digest != newer || st.Previous != older || st.RolledBack != "" {
				t.Errorf("%s answers: %+v", d, st)
			}
			if len(s.adopted) != 4 {
				t.Errorf("adopted %v", s.adopted)
			}
		})
	}
}

// TestRollbackFails: a previous database that is damaged, or that cannot be
// opened, changes nothing, now and after a restart.
func TestRollbackFails(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir string, previous digest.Digest, a *failing)
		want  error
	}{
		{"damaged", func(t *testing.T, dir string, previous digest.Digest, _ *failing) {
			truncated(t, 1, 2)(filepath.Join(dir, previous.Encoded(), "trivy.db"))
		}, pratique.ErrInvalid},
		{"gone", func(t *testing.T, dir string, previous digest.Digest, _ *failing) {
			if err := os.RemoveAll(filepath.Join(dir, previous.Encoded())); err != nil {
				t.Fatal(err)
			}
		}, os.ErrNotExist},
		{"not opened", func(_ *testing.T, _ string, _ digest.Digest, a *failing) { a.err = os.ErrPermission }, os.ErrPermission},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &failing{}
			cfg := database.Config{Dir: t.TempDir(), Now: func() time.Time { return now }}
			d := database.New(cfg, a)
			var st database.Status
			for _, g := range []string{"old", "new"} {
				var err error
				if st, err = d.Import(t.Context(), bytes.NewReader(archive(t, g)), false); err != nil {
					t.Fatal(err)
				}
			}
			c.spoil(t, cfg.Dir, st.Previous, a)
			after, err := d.Rollback(t.Context())
			if !errors.Is(err, c.want) || after.Digest != st.Digest || after.RolledBack != "" {
				t.Errorf("%v, %+v", err, after)
			}
			a.err = nil
			d = database.New(cfg, a)
			if err := d.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			if again := d.Status(); again.Digest != st.Digest || again.RolledBack != "" {
				t.Errorf("after a restart: %+v", again)
			}
		})
	}
}

// crashing copies the directory at the moment at which it is told to switch.
type crashing struct {
	dir, to string // to: empty, nothing is copied
	err     error
}

func (c *crashing) Adopt(context.Context, string, digest.Digest) error {
	if c.to != "" {
		c.err = os.CopyFS(c.to, os.DirFS(c.dir))
	}
	return c.err
}

// TestRollbackCrash: a process that dies while it switches restarts with what was
// asked for, back and forth.
func TestRollbackCrash(t *testing.T) {
	dir := t.TempDir()
	a := &crashing{dir: dir}
	d := database.New(database.Config{Dir: dir, Now: func() time.Time { return now }}, a)
	var st database.Status
	for _, g := range []string{"old", "new"} {
		var err error
		if st, err = d.Import(t.Context(), bytes.NewReader(archive(t, g)), false); err != nil {
			t.Fatal(err)
		}
	}
	restarted := func() database.Status {
		t.Helper()
		again := database.New(database.Config{Dir: a.to, Now: func() time.Time { return now }}, &failing{})
		if err := again.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		return again.Status()
	}
	a.to = filepath.Join(t.TempDir(), "back")
	if _, err := d.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := restarted(); got.Digest != st.Previous || got.Previous != st.Digest || got.RolledBack != st.Digest {
		t.Errorf("back: %+v", got)
	}
	a.to = filepath.Join(t.TempDir(), "forth")
	if _, err := d.UndoRollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := restarted(); got.Digest != st.Digest || got.Previous != st.Previous || got.RolledBack != "" {
		t.Errorf("forth: %+v", got)
	}
}
