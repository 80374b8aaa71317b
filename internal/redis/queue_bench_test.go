package redis

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/redis/redistest"
	"pratique/scheduler"
	"pratique/store/storetest"
)

// BenchmarkQueue opens, takes and finishes jobs, over a server that syncs its
// append-only file each second (the default of Redis) or at every write, with an empty
// queue and with one of 100,000 jobs that nobody takes: nearly all wait for their next
// attempt because an upstream is down. Workers do it one after another, and eight at
// once. "take none" is what an idle worker's look costs.
func BenchmarkQueue(b *testing.B) {
	for _, sync := range []string{"everysec", "always"} {
		for _, crowd := range []int{0, 100_000} {
			b.Run(fmt.Sprintf("sync=%s/crowd=%d", sync, crowd), func(b *testing.B) {
				server := redistest.Start(b, "--appendfsync", sync)
				db, err := Open(b.Context(), Config{URL: server.URL(), Documents: new(storetest.Documents)})
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _ = db.Close() })
				crowded(b, db, crowd)
				b.Run("one", func(b *testing.B) {
					for b.Loop() {
						cycle(b, db)
					}
				})
				b.Run("parallel", func(b *testing.B) {
					b.SetParallelism(4) // of two cores: eight
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							cycle(b, db)
						}
					})
				})
				b.Run("take none", func(b *testing.B) {
					for b.Loop() {
						if _, err := db.Take(b.Context(), noon, time.Minute); !errors.Is(err, pratique.ErrNotFound) {
							b.Fatal(err)
						}
					}
				})
			})
		}
	}
}

// cycle is the life of one job, or of another's.
func cycle(b *testing.B, db *DB) {
	name := randomName()
	ref := pratique.Ref{Registry: "docker.io", Repo: "own/" + name, Tag: "v1", Digest: digest.FromString(name)}
	if err := db.Push(b.Context(), ref, scheduler.PriorityWebhook, noon); err != nil {
		b.Error(err)
	}
	j, err := db.Take(b.Context(), noon, time.Minute)
	if err == nil {
		err = db.Finish(b.Context(), j, nil, time.Time{})
	}
	if err != nil {
		b.Error(err)
	}
}

// crowded opens n jobs that failed: nine tenths of one repository, the rest of a
// thousand others.
func crowded(b *testing.B, db *DB, n int) {
	for i := range n {
		repo := "lab/huge"
		if i%10 == 9 {
			repo = fmt.Sprint("lab/small", i/10%1000)
		}
		ref := pratique.Ref{Registry: "docker.io", Repo: repo, Tag: "v1", Digest: digest.FromString(fmt.Sprint(i))}
		if err := db.Push(b.Context(), ref, scheduler.Priority(1+i%3), noon); err != nil {
			b.Fatal(err)
		}
		j, err := db.Take(b.Context(), noon, time.Minute)
		if err == nil {
			err = db.Finish(b.Context(), j, errors.New("upstream down"), noon.Add(time.Hour))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
