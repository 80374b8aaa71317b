package sqlite_test

import (
	"path/filepath"
	"testing"

	"pratique/internal/sqlite"
	"pratique/store"
	"pratique/store/storetest"
)

func TestDump(t *testing.T) { storetest.Dump(t, fresh, fresh) }
func TestMove(t *testing.T) { storetest.Move(t, freshTarget, freshTarget) }

// freshTarget is fresh for a state that is moved.
func freshTarget(t *testing.T) func() *sqlite.DB {
	return freshBy(t, sqlite.OpenTarget)
}

// TestMoving: nobody uses a state that is not whole.
func TestMoving(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := sqlite.OpenTarget(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.NoteMove(t.Context(), store.Move{Source: "somewhere"}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err := sqlite.Open(t.Context(), path); err == nil {
		_ = db.Close()
		t.Fatal("a state that another is moved to is opened as if it were whole")
	}
	if db, err = sqlite.OpenTarget(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if err := db.EndMove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = sqlite.Open(t.Context(), path); err != nil {
		t.Fatalf("after the move: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
