package sqlite_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/scheduler"
)

// crowd opens n jobs: nine tenths of one repository, the rest of a thousand others.
func crowd(tb testing.TB, db *sqlite.DB, n int) {
	tb.Helper()
	sqlite.Batched(tb, db, n, func(push func(pratique.Ref, scheduler.Priority) error, i int) error {
		repo := "lab/huge"
		if i%10 == 9 {
			repo = fmt.Sprint("lab/small", i/10%1000)
		}
		return push(pratique.Ref{Registry: "docker.io", Repo: repo, Tag: "v1", Digest: digest.FromString(fmt.Sprint(i))}, scheduler.Priority(1+i%3))
	})
}

// BenchmarkTake takes and finishes among 100,000 open jobs: all ready, or nearly all
// waiting for their next attempt because an upstream is down.
func BenchmarkTake(b *testing.B) {
	for _, state := range []string{"ready", "waiting"} {
		b.Run(state, func(b *testing.B) {
			db, ctx := benchDB(b), b.Context()
			crowd(b, db, 100_000)
			if state == "waiting" {
				sqlite.Exec(b, db, `UPDATE jobs SET not_before = ?1, waits = ?1, attempts = 1`, now.Add(time.Hour).UnixNano())
			}
			sqlite.Exec(b, db, `PRAGMA synchronous = OFF`) // the lookup, not the disk
			i := 0
			for b.Loop() {
				ref := pratique.Ref{Registry: "docker.io", Repo: fmt.Sprint("own", i), Digest: digest.FromString(fmt.Sprint("own", i))}
				i++
				if err := db.Push(ctx, ref, scheduler.PriorityWebhook, now); err != nil {
					b.Fatal(err)
				}
				j, err := db.Take(ctx, now, time.Minute)
				if err != nil {
					b.Fatal(err)
				}
				if err := db.Finish(ctx, j, nil, time.Time{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("nothing to take", func(b *testing.B) {
		db, ctx := benchDB(b), b.Context()
		crowd(b, db, 100_000)
		sqlite.Exec(b, db, `UPDATE jobs SET not_before = ?1, waits = ?1, attempts = 1`, now.Add(time.Hour).UnixNano())
		for b.Loop() {
			if _, err := db.Take(ctx, now, time.Minute); !errors.Is(err, pratique.ErrNotFound) {
				b.Fatal(err)
			}
		}
	})
}

// TestTakeIsIndexed: finding the next job reads no more of a long queue than of a
// short one.
func TestTakeIsIndexed(t *testing.T) {
	db := open(t, t.TempDir()+"/state.db")
	for _, plan := range sqlite.TakePlans(t, db) {
		if !plan.Indexed {
			t.Errorf("%s\n%s", plan.Query, plan.Text)
		}
	}
}
