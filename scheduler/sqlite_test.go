package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/scheduler"
)

// stateScanner stores reports in the real state file. Scans of the first
// process never end.
type stateScanner struct {
	db    *sqlite.DB
	stuck chan digest.Digest // nil: scans end
}

func (s stateScanner) Scan(ctx context.Context, ref pratique.Ref) (pratique.Report, error) {
	if s.stuck != nil {
		s.stuck <- ref.Digest
		<-ctx.Done()
		return pratique.Report{}, ctx.Err()
	}
	return s.db.PutReport(ctx, pratique.Report{Image: ref.Digest, State: pratique.StateScanned, ScannedAt: time.Now()})
}

func (s stateScanner) Rematch(ctx context.Context, d digest.Digest) (pratique.Report, error) {
	return s.db.Report(ctx, d)
}

// TestRestart: jobs that a process held, and those that waited, are done by the
// next one at once.
func TestRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	const jobs, workers = 30, 4
	run := func(stuck chan digest.Digest, during func(*scheduler.Scheduler, *sqlite.DB)) {
		t.Helper()
		db, err := sqlite.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		s := scheduler.New(db, stateScanner{db, stuck}, db, scheduler.Config{Workers: workers, PullWorkers: -1, Catalog: db, Log: slog.New(slog.DiscardHandler)})
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		during(s, db)
		cancel()
		if err := errors.Join(<-done, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	stuck := make(chan digest.Digest, jobs)
	run(stuck, func(s *scheduler.Scheduler, _ *sqlite.DB) {
		for i := range jobs {
			if err := s.Request(t.Context(), ref(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		for range workers {
			<-stuck
		}
	})
	run(nil, func(s *scheduler.Scheduler, db *sqlite.DB) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for i := range jobs {
			wg.Go(func() {
				if r, err := s.Await(ctx, ref(fmt.Sprint(i))); err != nil || r.State != pratique.StateScanned {
					t.Errorf("job %d: %s, %v", i, r.State, err)
				}
			})
		}
		wg.Wait()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			n, err := db.Len(t.Context())
			if err == nil && len(n) == 0 {
				break
			}
			if err != nil || time.Now().After(deadline) {
				t.Errorf("open jobs %v, %v", n, err)
				break
			}
		}
	})
}
