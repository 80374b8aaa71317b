package sqlite_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"pratique/internal/sqlite"
	"pratique/scheduler"
	"pratique/scheduler/schedulertest"
	"pratique/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fresh opens one state file again and again.
func fresh(t *testing.T) func() *sqlite.DB { return freshBy(t, sqlite.Open) }

func freshBy(t *testing.T, opener func(ctx context.Context, path string) (*sqlite.DB, error)) func() *sqlite.DB {
	path := filepath.Join(t.TempDir(), "state.db")
	var db *sqlite.DB
	shut := func() {
		if db != nil {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(shut)
	return func() *sqlite.DB {
		shut()
		var err error
		if db, err = opener(t.Context(), path); err != nil {
			db = nil
			t.Fatal(err)
		}
		return db
	}
}

func TestCatalog(t *testing.T)     { storetest.Catalog(t, fresh) }
func TestLinks(t *testing.T)       { storetest.Links(t, fresh) }
func TestTags(t *testing.T)        { storetest.Tags(t, fresh) }
func TestInventories(t *testing.T) { storetest.Inventories(t, fresh) }
func TestComponents(t *testing.T)  { storetest.Components(t, fresh) }
func TestReports(t *testing.T)     { storetest.Reports(t, fresh) }
func TestFleet(t *testing.T)       { storetest.Fleet(t, fresh) }
func TestNear(t *testing.T)        { storetest.Near(t, fresh) }
func TestPulls(t *testing.T)       { storetest.Pulls(t, fresh) }

func TestPullLog(t *testing.T)      { storetest.PullLog(t, fresh) }
func TestExceptions(t *testing.T)   { storetest.Exceptions(t, fresh) }
func TestLineage(t *testing.T)      { storetest.Lineage(t, fresh) }
func TestAttestations(t *testing.T) { storetest.Attestations(t, fresh) }
func TestOutbox(t *testing.T)       { storetest.Outbox(t, fresh) }
func TestPullers(t *testing.T)      { storetest.Pullers(t, fresh) }
func TestTagMoves(t *testing.T)     { storetest.TagMoves(t, fresh) }

func TestQueue(t *testing.T) {
	schedulertest.Queue(t, func(t *testing.T) func() scheduler.Queue {
		open := fresh(t)
		return func() scheduler.Queue { return open() }
	})
}

// TestLives replays random lives of fleets against reports made one by one;
// PRATIQUE_LIVES is how many.
func TestLives(t *testing.T) {
	rounds := 12
	if n, err := strconv.Atoi(os.Getenv("PRATIQUE_LIVES")); err == nil {
		rounds = n
	}
	storetest.Lives(t, fresh, rounds)
}
