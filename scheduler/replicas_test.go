package scheduler_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/scheduler"
	"pratique/store"
)

var (
	errAway = fmt.Errorf("%w: connection refused", store.ErrUnreachable)

	// told is a scheduler that nothing but messages wakes.
	told = scheduler.Config{Shared: true, Poll: time.Hour, ReportPoll: time.Hour}
)

// TestChanged: a pull is released when another process stored the report.
func TestChanged(t *testing.T) {
	a, b := ref("a"), ref("b")
	hang := func(l *lab) {
		l.scanner.scan = func(ctx context.Context, _ pratique.Ref, _ int) error { <-ctx.Done(); return ctx.Err() }
	}
	// elsewhere keeps this process from scanning: another holds the jobs.
	elsewhere := func(l *lab) { l.queue.onTake = func() error { return pratique.ErrNotFound } }
	waits := func(l *lab, ref pratique.Ref) (done chan time.Duration) {
		done = make(chan time.Duration, 1)
		start := time.Now()
		go func() {
			if r, err := l.await(ref, hold); err != nil || r.State != pratique.StateScanned {
				l.t.Errorf("%s: %s, %v", ref, r.State, err)
			}
			done <- time.Since(start)
		}()
		synctest.Wait()
		return done
	}
	for name, ds := range map[string][]digest.Digest{"told of the image": {b.Digest, a.Digest}, "told that anything may have changed": nil} {
		bubble(name, t, told, elsewhere, func(t *testing.T, l *lab) {
			done := waits(l, a)
			time.Sleep(3 * time.Second)
			l.Changed(ds) // of something else: there is no report yet
			synctest.Wait()
			l.put(pratique.Report{Image: a.Digest, State: pratique.StateScanned})
			for range 100 {
				l.Changed(ds)
			}
			if after := <-done; after != 3*time.Second {
				t.Errorf("released after %v", after)
			}
		})
	}
	bubble("another image", t, told, elsewhere, func(t *testing.T, l *lab) {
		l.put(pratique.Report{Image: b.Digest, State: pratique.StateScanned})
		done := make(chan error, 1)
		go func() { _, err := l.await(a, hold); done <- err }()
		synctest.Wait()
		l.Changed([]digest.Digest{b.Digest})
		if err := <-done; !errors.Is(err, pratique.ErrPending) {
			t.Errorf("%v, want that it is pending", err)
		}
	})
	bubble("nobody waits", t, told, elsewhere, func(t *testing.T, l *lab) {
		looked := false
		l.reports.onGet = func() { looked = true }
		l.Changed(nil)
		l.Changed([]digest.Digest{a.Digest})
		synctest.Wait()
		if looked {
			t.Error("a report was read")
		}
	})
	bubble("the poll is behind it", t, scheduler.Config{Shared: true}, elsewhere, func(t *testing.T, l *lab) {
		done := waits(l, a)
		l.put(pratique.Report{Image: a.Digest, State: pratique.StateScanned})
		if after := <-done; after > 5*time.Second {
			t.Errorf("released after %v", after)
		}
	})
	// The report of the own attempt is stored before the attempt ends, and who waits is
	// told how it ended: an upstream's answer is more than the failed report.
	failing := told
	failing.MaxAttempts = 1
	bubble("an attempt of one's own", t, failing, func(l *lab) {
		l.scanner.scan = func(context.Context, pratique.Ref, int) error {
			time.Sleep(time.Second)
			return answer{404, 0}
		}
		l.queue.onFinish = func() error { // after the failed report was stored
			l.Changed([]digest.Digest{a.Digest})
			time.Sleep(time.Second)
			return nil
		}
	}, func(t *testing.T, l *lab) {
		if _, err := l.await(a, hold); !errors.As(err, new(answer)) {
			t.Errorf("%v, want the upstream's answer", err)
		}
	})
	bubble("a job that another process has just done", t, told, func(l *lab) {
		l.queue.onPush = func() error { // it ended after this pull looked
			l.reports.mu.Lock()
			defer l.reports.mu.Unlock()
			l.reports.m[a.Digest] = pratique.Report{Image: a.Digest, State: pratique.StateScanned, ScannedAt: time.Now().Add(time.Second)}
			return nil
		}
	}, func(t *testing.T, l *lab) {
		if r, err := l.await(a, hold); err != nil || r.State != pratique.StateScanned || l.scanner.count(a.Digest) != 0 {
			t.Errorf("%s, %v after %d scans", r.State, err, l.scanner.count(a.Digest))
		}
		if _, open := l.queue.open(a.Digest); open {
			t.Error("the job is open still")
		}
	})
	bubble("a stop while it waits", t, told, hang, func(t *testing.T, l *lab) {
		ended := make(chan struct{})
		go func() { defer close(ended); _, _ = l.await(a, hold) }()
		synctest.Wait()
		l.stop()
		l.Changed(nil) // nobody looks any more, and nobody blocks
		l.Changed(nil)
		<-ended
	})
}

// TestOutage: the state is away for minutes.
func TestOutage(t *testing.T) {
	a := ref("a")
	// lines counts what is logged.
	lines := func(l *lab, cfg scheduler.Config) (text func() string, s *scheduler.Scheduler) {
		var mu sync.Mutex
		var b bytes.Buffer
		cfg.Log = slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return b.Write(p)
		}), nil))
		l.stop()
		cfg.Metrics = prometheus.NewPedanticRegistry()
		l.Scheduler = scheduler.New(l.queue, l.scanner, l.reports, cfg)
		l.run()
		return func() string {
			mu.Lock()
			defer mu.Unlock()
			return b.String()
		}, l.Scheduler
	}
	away := func(l *lab, err error) {
		l.queue.mu.Lock()
		defer l.queue.mu.Unlock()
		f := func() error { return err }
		l.queue.onPush, l.queue.onTake, l.queue.onRenew, l.queue.onFinish = f, f, f, f
	}
	bubble("workers", t, scheduler.Config{}, nil, func(t *testing.T, l *lab) {
		logged, _ := lines(l, scheduler.Config{})
		synctest.Wait()
		away(l, errAway)
		_, before := l.queue.counts()
		time.Sleep(10 * time.Minute)
		if _, after := l.queue.counts(); after-before > 130 {
			t.Errorf("asked %d times in ten minutes", after-before)
		}
		if n := strings.Count(logged(), "\n"); n != 1 {
			t.Errorf("%d lines, want 1:\n%s", n, logged())
		}
		away(l, nil)
		time.Sleep(10 * time.Second) // it goes on by itself
		if r, err := l.await(a, hold); err != nil || r.State != pratique.StateScanned {
			t.Errorf("afterwards: %s, %v", r.State, err)
		}
		if n := strings.Count(logged(), "\n"); n != 2 || !strings.Contains(logged(), "answers again") {
			t.Errorf("%d lines, want that it answers again:\n%s", n, logged())
		}
	})
	bubble("the end of a scan", t, scheduler.Config{}, func(l *lab) {
		l.scanner.scan = func(context.Context, pratique.Ref, int) error {
			away(l, errAway)
			time.Sleep(2 * time.Minute) // no lease is renewed
			return nil
		}
	}, func(t *testing.T, l *lab) {
		logged, s := lines(l, scheduler.Config{})
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		r, err := s.Await(ctx, a)
		if err != nil || r.State != pratique.StateScanned || time.Since(start) > 2*time.Minute {
			t.Errorf("%s, %v after %v: the report stands, who waits is told at once", r.State, err, time.Since(start))
		}
		time.Sleep(2 * time.Minute)
		if _, open := l.queue.open(a.Digest); !open {
			t.Fatal("the job is closed, though nothing answered")
		}
		away(l, nil)
		time.Sleep(10 * time.Second)
		if _, open := l.queue.open(a.Digest); open || l.scanner.count(a.Digest) != 1 {
			t.Errorf("open %v after %d scans, want that it was closed without another", open, l.scanner.count(a.Digest))
		}
		if n := strings.Count(logged(), "\n"); n != 2 {
			t.Errorf("%d lines, want one that it is away, and one that it is back:\n%s", n, logged())
		}
	})
	bubble("the end of a scan, left to the lease", t, scheduler.Config{}, func(l *lab) {
		l.scanner.scan = func(_ context.Context, _ pratique.Ref, n int) error {
			if n == 1 {
				away(l, errAway)
			}
			return nil
		}
	}, func(t *testing.T, l *lab) {
		_, _ = l.await(a, hold)
		time.Sleep(time.Hour)
		away(l, nil)
		time.Sleep(time.Minute)
		if _, open := l.queue.open(a.Digest); open || l.scanner.count(a.Digest) != 2 {
			t.Errorf("open %v after %d scans, want one more", open, l.scanner.count(a.Digest))
		}
	})
	bubble("a stop", t, scheduler.Config{}, func(l *lab) {
		l.scanner.scan = func(context.Context, pratique.Ref, int) error { away(l, errAway); return nil }
	}, func(t *testing.T, l *lab) {
		_, _ = l.await(a, hold)
		start := time.Now()
		l.stop()
		if d := time.Since(start); d > 40*time.Second {
			t.Errorf("stopped after %v", d)
		}
	})
	bubble("scans that need the state", t, scheduler.Config{MaxAttempts: 2}, func(l *lab) {
		l.scanner.scan = func(_ context.Context, _ pratique.Ref, n int) error {
			if n < 6 {
				return fmt.Errorf("store inventory: %w", errAway)
			}
			return nil
		}
	}, func(t *testing.T, l *lab) {
		if r, err := l.await(a, hold); err != nil || r.State != pratique.StateScanned {
			t.Errorf("%s, %v: want that it is not given up", r.State, err)
		}
	})
	bubble("a pull that waits meanwhile", t, told, func(l *lab) {
		l.scanner.scan = func(context.Context, pratique.Ref, int) error { time.Sleep(15 * time.Second); return nil }
	}, func(t *testing.T, l *lab) {
		_, s := lines(l, scheduler.Config{Shared: true})
		go func() {
			time.Sleep(time.Second)
			away(l, errAway)
			time.Sleep(10 * time.Second)
			away(l, nil)
		}()
		ctx, cancel := context.WithTimeout(context.Background(), hold)
		defer cancel()
		if r, err := s.Await(ctx, a); err != nil || r.State != pratique.StateScanned {
			t.Errorf("%s, %v", r.State, err)
		}
	})
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestCronLeaders: of two processes now one and now the other does what is due, each
// going on from what the other noted.
func TestCronLeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRuns{runs: map[string]scheduler.Run{}}
		start := time.Now()
		var mu sync.Mutex
		var began []string
		block := true
		process := func(name string) *scheduler.Cron {
			c := scheduler.NewCron(f, scheduler.CronConfig{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewPedanticRegistry()})
			err := c.Use(t.Context(), []scheduler.Task{{Name: "t", Spec: "hourly", Times: every(time.Hour), Do: func(ctx context.Context) (string, error) {
				mu.Lock()
				began = append(began, fmt.Sprint(name, " ", time.Since(start).Round(time.Minute)))
				wait := block
				mu.Unlock()
				if wait {
					<-ctx.Done()
					return "half", ctx.Err()
				}
				return "well", nil
			}}})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		a, b := process("a"), process("b")
		lead := func(c *scheduler.Cron, until time.Duration) {
			ctx, cancel := context.WithCancelCause(t.Context())
			done := make(chan error, 1)
			go func() { done <- c.Run(ctx) }()
			time.Sleep(until - time.Since(start))
			synctest.Wait()
			cancel(store.ErrLost)
			stopped := time.Now()
			if err := <-done; err != nil || time.Since(stopped) > 0 {
				t.Errorf("%v after %v", err, time.Since(stopped))
			}
		}
		lead(a, 90*time.Minute) // begins at one hour, and is cut short
		if r := f.runs["t"]; r.Outcome != scheduler.OutcomeStopped {
			t.Errorf("noted as %+v, want stopped", r)
		}
		if err := b.Begin("t"); !errors.Is(err, scheduler.ErrElsewhere) {
			t.Errorf("%v, want scheduler.ErrElsewhere", err)
		}
		if err := b.Refresh(t.Context()); err != nil || b.Status()[0].Last.Outcome != scheduler.OutcomeStopped {
			t.Errorf("%v, %+v: want what a noted", err, b.Status()[0].Last)
		}
		mu.Lock()
		block = false
		mu.Unlock()
		lead(b, 100*time.Minute) // does it again, a minute after it began to lead
		lead(a, 110*time.Minute) // knows that b did it
		f.mu.Lock()
		f.fail = errAway // the state is away when it begins to lead
		f.mu.Unlock()
		go func() {
			time.Sleep(3 * time.Minute)
			f.mu.Lock()
			defer f.mu.Unlock()
			f.fail = nil
		}()
		lead(b, 130*time.Minute)
		lead(a, 190*time.Minute)
		if d := cmp.Diff([]string{"a 1h0m0s", "b 1h31m0s", "b 2h0m0s", "a 3h0m0s"}, began); d != "" {
			t.Errorf("began (-want +got):\n%s", d)
		}
	})
}

// TestRescanLeaders: who leads again does not take for granted what it knew: the one in
// between may have died in the middle, having told nobody.
func TestRescanLeaders(t *testing.T) {
	f := newFleet(64)
	f.use("one", nil)
	a, b := f.rescanner(), f.rescanner()
	lead := func(r *scheduler.Rescanner, until func() bool) {
		t.Helper()
		ctx, lose := context.WithCancelCause(t.Context())
		f.set(func() { f.onAfter = nil })
		if until == nil { // in the middle
			f.set(func() { f.onAfter = func() { lose(store.ErrLost) } })
		}
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		if until == nil {
			until = func() bool { return ctx.Err() != nil }
		}
		for deadline := time.Now().Add(time.Minute); !until() && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		lose(store.ErrLost)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	current := func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.advances > 0
	}
	lead(a, current)
	f.check(t)
	f.forget()
	f.use("two", map[string]string{"p1": "a", "p2": "a"})
	lead(b, nil)
	if len(f.matched) != 2 || len(f.told) != 0 {
		t.Fatalf("matched %v, told %d: want that it ended in between", f.matched, len(f.told))
	}
	lead(a, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.told) > 0
	})
	f.check(t)
	if d := cmp.Diff(images(0, 1, 2), f.told); d != "" {
		t.Errorf("told (-want +got):\n%s", d)
	}
}
