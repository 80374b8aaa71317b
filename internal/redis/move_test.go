package redis

import (
	"path/filepath"
	"testing"

	"pratique/internal/sqlite"
	"pratique/store/storetest"
)

// freshTarget is fresh for a state that is moved.
func freshTarget(url string) func(t *testing.T) func() *DB {
	return func(t *testing.T) func() *DB {
		w := newWorld(t, url)
		w.config.Moving = true
		return w.reopened()
	}
}

// freshFile is fresh for the state of one process.
func freshFile(t *testing.T) func() *sqlite.DB {
	path := filepath.Join(t.TempDir(), "state.db")
	var db *sqlite.DB
	closed := func() {
		if db != nil {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(func() { closed() })
	return func() *sqlite.DB {
		t.Helper()
		closed()
		var err error
		if db, err = sqlite.OpenTarget(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		return db
	}
}

func TestDump(t *testing.T) {
	modes(t, func(t *testing.T, url string) { storetest.Dump(t, fresh(url), fresh(url)) })
}

// TestDumpOfFile: what SQLite holds is the same in Redis, and goes on as it would have.
func TestDumpOfFile(t *testing.T) {
	modes(t, func(t *testing.T, url string) { storetest.Dump(t, freshFile, fresh(url)) })
}

func TestMove(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		t.Run("FromFile", func(t *testing.T) { t.Parallel(); storetest.Move(t, freshFile, freshTarget(url)) })
		t.Run("Here", func(t *testing.T) { t.Parallel(); storetest.Move(t, freshTarget(url), freshTarget(url)) })
		t.Run("IntoFile", func(t *testing.T) { t.Parallel(); storetest.Move(t, freshTarget(url), freshFile) })
	})
}
