package redis

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique/store"
)

// TestRollingUpgrade has a release and the next one side by side on one state: first
// with a step that lets the older go on, then with one that does not.
func TestRollingUpgrade(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		old := w.replica()
		image := digest.FromString("image")
		if err := old.changed(t.Context(), image); err != nil {
			t.Fatal(err)
		}
		var ran atomic.Int32
		additive := step{to: schema + 1, run: func(ctx context.Context, db *DB) error {
			ran.Add(1)
			return db.rdb.Set(ctx, db.key("schema", "added"), "x", 0).Err()
		}}
		next := func(c *Config) { c.later = []step{additive} }

		// Two replicas of the next release start at once; the step is done once.
		var starting sync.WaitGroup
		for range 2 {
			starting.Go(func() {
				cfg := w.config
				next(&cfg)
				db, err := Open(t.Context(), cfg)
				if err != nil {
					t.Error(err)
					return
				}
				_ = db.Close()
			})
		}
		starting.Wait()
		if n := ran.Load(); n != 1 {
			t.Errorf("the step was done %d times", n)
		}
		newer := w.replica(next)
		before := newer.Stamp(image)
		if err := old.changed(t.Context(), image); err != nil {
			t.Errorf("the older release cannot write beside the newer: %v", err)
		}
		eventually(t, "the newer is told what the older wrote", func() bool { return newer.Stamp(image) != before })
		w.replica() // and it may start again: a rollback

		// A step after which the older may not write.
		final := step{to: schema + 2, final: true, run: func(context.Context, *DB) error { return nil }}
		w.replica(func(c *Config) { c.later = []step{additive, final} })
		if _, err := Open(t.Context(), w.config); !errors.Is(err, errOutdated) {
			t.Errorf("the oldest release opens the state: %v", err)
		}
		eventually(t, "the running one ends its use", func() bool {
			err := old.changed(t.Context(), image)
			return errors.Is(err, errOutdated) && errors.Is(err, store.ErrUnreachable)
		})
		eventually(t, "and is not confirmed any more", func() bool { return time.Since(old.Confirmed()) > time.Second })
	})
}

// TestStepInterrupted: a step that failed is done again by the next start.
func TestStepInterrupted(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		w.replica()
		boom := errors.New("boom")
		fail := true
		next := func(c *Config) {
			c.later = []step{{to: schema + 1, run: func(context.Context, *DB) error {
				if fail {
					return boom
				}
				return nil
			}}}
		}
		cfg := w.config
		next(&cfg)
		if _, err := Open(t.Context(), cfg); !errors.Is(err, boom) {
			t.Fatalf("opened: %v", err)
		}
		fail = false
		db := w.replica(next)
		if got := db.rdb.HGet(t.Context(), db.schemaKey(), "version").Val(); got != strconv.Itoa(schema+1) {
			t.Errorf("version %s", got)
		}
	})
}
