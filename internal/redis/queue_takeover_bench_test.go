package redis

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/redis/redistest"
	"pratique/scheduler"
	"pratique/store/storetest"
)

// BenchmarkTakeover measures what docs/adr/0011-queue.md tells of this queue beside
// others: how long after its holder's death another process has a job, whether a
// holder keeps it over a stop of Redis, and when a repository has its turn behind
// another's thousand jobs.
func BenchmarkTakeover(b *testing.B) {
	processes := func(b *testing.B) (*redistest.Server, *DB, *DB) {
		server := redistest.Start(b, "--appendfsync", "everysec")
		var dbs [2]*DB
		for i := range dbs {
			db, err := Open(b.Context(), Config{URL: server.URL(), Documents: new(storetest.Documents), Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = db.Close() })
			dbs[i] = db
		}
		return server, dbs[0], dbs[1]
	}
	// held opens a job and takes it, with the lease of a scan.
	held := func(b *testing.B, db *DB) scheduler.Job {
		err := db.Push(b.Context(), job(randomName()), scheduler.PriorityPull, time.Now())
		if err != nil {
			b.Fatal(err)
		}
		j, err := db.Take(b.Context(), time.Now(), 10*time.Minute)
		if err != nil {
			b.Fatal(err)
		}
		return j
	}
	b.Run("dead", func(b *testing.B) {
		longest := time.Duration(0)
		for b.Loop() {
			_, a, other := processes(b)
			held(b, a)
			time.Sleep(time.Duration(time.Now().UnixNano() % int64(aliveBeat))) // anywhere between two beats
			a.queue.quiet = true
			a.stopQueue()
			died := time.Now()
			for {
				if _, err := other.Take(b.Context(), time.Now(), time.Minute); err == nil {
					break
				} else if !errors.Is(err, pratique.ErrNotFound) {
					b.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond)
			}
			longest = max(longest, time.Since(died))
		}
		b.ReportMetric(longest.Seconds(), "longest-s")
	})
	b.Run("stopped", func(b *testing.B) {
		for b.Loop() {
			server, a, other := processes(b)
			j := held(b, a)
			server.Pause()
			time.Sleep(10 * time.Second)
			server.Resume()
			for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				if _, err := other.Take(b.Context(), time.Now(), time.Minute); !errors.Is(err, pratique.ErrNotFound) {
					b.Fatalf("the holder lives, and another took its job: %v", err)
				}
			}
			if err := a.Finish(b.Context(), j, nil, time.Time{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("turn", func(b *testing.B) {
		for b.Loop() {
			_, a, other := processes(b)
			for i := range 1000 {
				if err := a.Push(b.Context(), pratique.Ref{Registry: "docker.io", Repo: "lab/huge", Tag: "v1", Digest: digest.FromString(fmt.Sprint(i))}, scheduler.PriorityWebhook, time.Now()); err != nil {
					b.Fatal(err)
				}
			}
			if err := a.Push(b.Context(), job("small"), scheduler.PriorityWebhook, time.Now()); err != nil {
				b.Fatal(err)
			}
			for n := 1; ; n++ {
				j, err := other.Take(b.Context(), time.Now(), time.Minute)
				if err != nil {
					b.Fatal(err)
				}
				if j.Ref == job("small") {
					b.ReportMetric(float64(n), "number")
					break
				}
			}
		}
	})
}
