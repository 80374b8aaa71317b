package redis

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/redis/redistest"
	"pratique/scheduler"
	"pratique/store"
)

// sharedReports are reports that all replicas of a test see. Whoever stores one tells
// the others over Redis as *DB does.
type sharedReports struct {
	mu sync.Mutex
	m  map[digest.Digest]pratique.Report
}

func (r *sharedReports) Report(_ context.Context, image digest.Digest) (pratique.Report, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rep, ok := r.m[image]; ok {
		return rep, nil
	}
	return pratique.Report{}, pratique.ErrNotFound
}

func (r *sharedReports) PutReport(_ context.Context, rep pratique.Report) (pratique.Report, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.m[rep.Image] = rep
	return rep, nil
}

func (r *sharedReports) ReportedImages(context.Context) iter.Seq2[digest.Digest, error] {
	return func(func(digest.Digest, error) bool) {}
}

// crew is some replicas that scan.
type crew struct {
	w       *world
	reports *sharedReports
	mu      sync.Mutex
	scans   []string // NAME by REPLICA, as they begin
}

func newCrew(t *testing.T, url string) *crew {
	w := newWorld(t, url)
	w.config.Log = slog.New(slog.DiscardHandler)
	w.config.Timeout = time.Second
	return &crew{w: w, reports: &sharedReports{m: map[digest.Digest]pratique.Report{}}}
}

func (c *crew) began() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.scans)
}

// mate is one of a crew.
type mate struct {
	*scheduler.Scheduler
	crew *crew
	name string
	db   *DB
	scan func(ctx context.Context, ref pratique.Ref) error // nil: at once
	stop func()
}

// join adds a replica. Polls come in an hour, so that what happens was told.
func (c *crew) join(name string, workers int, scan func(ctx context.Context, ref pratique.Ref) error) *mate {
	c.w.t.Helper()
	m := &mate{crew: c, name: name, scan: scan}
	var ready sync.WaitGroup // OnJob may come before there is a scheduler
	ready.Add(1)
	m.db = c.w.replica(func(cfg *Config) {
		cfg.OnJob = func() { ready.Wait(); m.Wake() }
		cfg.OnChanged = func(ds []digest.Digest) { ready.Wait(); m.Changed(ds) }
	})
	m.Scheduler = scheduler.New(m.db, m, c.reports, scheduler.Config{
		Workers: workers, PullWorkers: -1, BackgroundWorkers: -1, Shared: true, Poll: time.Hour, ReportPoll: time.Hour, Log: slog.New(slog.DiscardHandler),
	})
	ready.Done()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.w.t.Error(err)
		}
	})
	c.w.t.Cleanup(func() { m.stop() })
	return m
}

// Scan implements scheduler.Scanner.
func (m *mate) Scan(ctx context.Context, ref pratique.Ref) (pratique.Report, error) {
	m.crew.mu.Lock()
	m.crew.scans = append(m.crew.scans, ref.Repo[len("library/"):]+" by "+m.name)
	m.crew.mu.Unlock()
	if m.scan != nil {
		if err := m.scan(ctx, ref); err != nil {
			return pratique.Report{}, err
		}
	}
	r, _ := m.crew.reports.PutReport(ctx, pratique.Report{Image: ref.Digest, State: pratique.StateScanned, ScannedAt: time.Now()})
	return r, m.db.changed(ctx, ref.Digest)
}

// Rematch implements scheduler.Scanner.
func (m *mate) Rematch(ctx context.Context, image digest.Digest) (pratique.Report, error) {
	return m.crew.reports.Report(ctx, image)
}

// awaited waits for a report with a generous limit.
func (m *mate) awaited(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := m.Await(ctx, job(name))
	if err == nil && r.State != pratique.StateScanned {
		err = fmt.Errorf("state %s", r.State)
	}
	return err
}

// TestSchedulersOnce: an image that is pulled at two replicas at once is scanned once,
// and who waits where it is not scanned is released by a message.
func TestSchedulersOnce(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		c := newCrew(t, url)
		all := []*mate{c.join("a", 4, nil), c.join("b", 4, nil)}
		const images = 30
		var wg sync.WaitGroup
		for i := range images {
			for _, m := range all {
				wg.Go(func() {
					if err := m.awaited(fmt.Sprint("image", i)); err != nil {
						t.Errorf("image %d at %s: %v", i, m.name, err)
					}
				})
			}
		}
		wg.Wait()
		if n := len(c.began()); n != images {
			t.Errorf("%d scans of %d images: %v", n, images, c.began())
		}
	})
}

// TestSchedulersPriorities: which replica ever asks, what is urgent goes first.
func TestSchedulersPriorities(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		c := newCrew(t, url)
		gate := make(chan struct{})
		a := c.join("a", 1, func(context.Context, pratique.Ref) error { <-gate; return nil })
		must(t, a.Request(t.Context(), job("first")))
		eventually(t, "a is busy", func() bool { return len(c.began()) == 1 })
		other := c.w.replica()
		for i, name := range []string{"schedule", "database", "webhook", "pull"} {
			must(t, other.Push(t.Context(), job(name), scheduler.Priority(3-i), time.Now()))
		}
		must(t, other.Push(t.Context(), job("schedule"), scheduler.PriorityPull, time.Now())) // raised
		close(gate)
		eventually(t, "all are scanned", func() bool { return len(c.began()) == 5 })
		// Of two that are as urgent, and the first of their repositories, the older goes first.
		want := []string{"first by a", "schedule by a", "pull by a", "webhook by a", "database by a"}
		if got := c.began(); !slices.Equal(got, want) {
			t.Errorf("scanned %v, want %v", got, want)
		}
	})
}

// TestSchedulersTakeover: the scans of a replica that is killed are done by another,
// and its clients find the reports there, as soon as it is found dead (over a cluster:
// TestQueueDeadReplica).
func TestSchedulersTakeover(t *testing.T) {
	t.Parallel()
	redistest.Need(t, "redis-server")
	c := newCrew(t, single())
	a := c.join("a", 2, func(ctx context.Context, _ pratique.Ref) error {
		<-ctx.Done()
		return ctx.Err()
	})
	for _, name := range []string{"one", "two"} {
		must(t, a.Request(t.Context(), job(name)))
	}
	eventually(t, "a scans", func() bool { return len(c.began()) == 2 })
	b := c.join("b", 2, nil)
	waiting := make(chan error, 1)
	go func() { waiting <- b.awaited("one") }()
	a.db.queue.mu.Lock()
	a.db.queue.quiet = true // and no word from now on
	a.db.queue.mu.Unlock()
	a.db.stopQueue()
	killed := time.Now()
	must(t, <-waiting)
	t.Logf("taken over after %v", time.Since(killed))
	eventually(t, "all are scanned", func() bool {
		n, err := b.db.Len(t.Context())
		return err == nil && len(n) == 0
	})
	if n := len(c.began()); n != 4 {
		t.Errorf("%v, want each once more by b", c.began())
	}
}

// TestSchedulersOutage: Redis is killed while a scan runs and a pull waits, and comes
// back: the scan is not done again, nothing is lost, and what is asked for then is
// done.
func TestSchedulersOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	c := newCrew(t, server.URL())
	gate, running := make(chan struct{}), make(chan struct{}, 1)
	a := c.join("a", 1, func(_ context.Context, ref pratique.Ref) error {
		select {
		case running <- struct{}{}:
		default:
		}
		<-gate
		return nil
	})
	for _, name := range []string{"long", "behind"} {
		must(t, a.Request(t.Context(), job(name)))
	}
	<-running
	server.Kill()
	close(gate)
	if err := a.Request(t.Context(), job("other")); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("asked for while Redis is away: %v, want store.ErrUnreachable", err)
	}
	// Its report stands already (they are not in Redis here): who waits has it.
	must(t, a.awaited("long"))
	server.Run()
	must(t, a.awaited("other"))
	must(t, a.awaited("behind"))
	eventually(t, "no job is left", func() bool {
		n, err := a.db.Len(t.Context())
		return err == nil && len(n) == 0
	})
	// The scan of "long" ended with a message that could not be sent, an error that is
	// the state's: it may be done again, and again while Redis starts. All others are
	// done once.
	if got := c.began(); len(got) > 5 {
		t.Errorf("scanned %v", got)
	}
}
