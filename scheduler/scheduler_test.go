package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"pratique"
	"pratique/scheduler"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const hold = 25 * time.Second

var errDisk = errors.New("disk full")

// bubble runs a test with a clock of its own.
func bubble(name string, t *testing.T, cfg scheduler.Config, prepare func(*lab), f func(*testing.T, *lab)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, cfg, prepare)
			synctest.Wait()
			f(t, l)
			l.stop()
		})
	})
}

func TestAwait(t *testing.T) {
	a := ref("a")
	scan := func(f func(ctx context.Context, ref pratique.Ref, n int) error) func(*lab) {
		return func(l *lab) { l.scanner.scan = f }
	}
	slow := func(d time.Duration) func(*lab) {
		return scan(func(ctx context.Context, _ pratique.Ref, _ int) error {
			select {
			case <-time.After(d):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}
	bubble("a push wakes the workers at once", t, scheduler.Config{}, nil, func(t *testing.T, l *lab) {
		time.Sleep(time.Hour) // the workers sleep
		start := time.Now()
		r, err := l.await(a, hold)
		if err != nil || r.State != pratique.StateScanned || time.Since(start) > 0 {
			t.Errorf("%s, %v after %v", r.State, err, time.Since(start))
		}
	})
	bubble("an idle queue is not polled much", t, scheduler.Config{}, nil, func(t *testing.T, l *lab) {
		_, before := l.queue.counts()
		time.Sleep(time.Hour)
		if _, after := l.queue.counts(); after-before > 3600/15+1 {
			t.Errorf("%d looks in an hour", after-before)
		}
	})
	bubble("many wait for one scan", t, scheduler.Config{}, slow(10500*time.Millisecond), func(t *testing.T, l *lab) {
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				if r, err := l.await(a, hold); err != nil || r.State != pratique.StateScanned {
					t.Errorf("%s, %v", r.State, err)
				}
			})
		}
		wg.Wait()
		if pushes, _ := l.queue.counts(); pushes > 3 || l.scanner.count(a.Digest) != 1 {
			t.Errorf("%d pushes, %d scans", pushes, l.scanner.count(a.Digest))
		}
	})
	bubble("the wait ends, the scan goes on", t, scheduler.Config{}, slow(time.Minute), func(t *testing.T, l *lab) {
		if _, err := l.await(a, hold); !errors.Is(err, pratique.ErrPending) {
			t.Errorf("error %v, want one wrapping pratique.ErrPending", err)
		}
		time.Sleep(time.Minute)
		if r, err := l.await(a, hold); err != nil || r.State != pratique.StateScanned || l.scanner.count(a.Digest) != 1 {
			t.Errorf("%s, %v after %d scans", r.State, err, l.scanner.count(a.Digest))
		}
	})
	bubble("a client that left before it began has opened a scan", t, scheduler.Config{}, nil, func(t *testing.T, l *lab) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _ = l.Await(ctx, a)
		synctest.Wait()
		if l.scanner.count(a.Digest) != 1 {
			t.Error("no scan")
		}
	})
	bubble("a scan that ends while the pull enters", t, scheduler.Config{}, nil, func(t *testing.T, l *lab) {
		l.reports.onGet = func() { // after the first look has found nothing
			l.reports.m[a.Digest] = pratique.Report{Image: a.Digest, State: pratique.StateScanned}
		}
		start := time.Now()
		if r, err := l.await(a, hold); err != nil || r.State != pratique.StateScanned || time.Since(start) > 0 {
			t.Errorf("%s, %v after %v", r.State, err, time.Since(start))
		}
	})
	bubble("another process scans", t, scheduler.Config{}, slow(time.Hour), func(t *testing.T, l *lab) {
		go func() {
			time.Sleep(3500 * time.Millisecond)
			l.put(pratique.Report{Image: a.Digest, State: pratique.StateScanned})
		}()
		start := time.Now()
		if _, err := l.await(a, hold); err != nil || time.Since(start) > 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
	bubble("a job that the queue lost is opened again", t, scheduler.Config{}, func(l *lab) {
		l.queue.onPush = func() error {
			if l.queue.pushes == 1 {
				l.queue.jobs = nil
				l.queue.onTake = func() error { l.queue.jobs, l.queue.onTake = nil, nil; return nil }
			}
			return nil
		}
	}, func(t *testing.T, l *lab) {
		if r, err := l.await(a, hold); err != nil || r.State != pratique.StateScanned {
			t.Errorf("%s, %v", r.State, err)
		}
	})
	bubble("the queue refuses", t, scheduler.Config{}, func(l *lab) { l.queue.onPush = func() error { return errDisk } }, func(t *testing.T, l *lab) {
		if _, err := l.await(a, hold); !errors.Is(err, errDisk) {
			t.Errorf("error %v", err)
		}
		l.queue.mu.Lock()
		l.queue.onPush = nil
		l.queue.mu.Unlock()
		if _, err := l.await(a, hold); err != nil { // at once, not after the pause between pushes
			t.Errorf("afterwards %v", err)
		}
	})
	bubble("no digest", t, scheduler.Config{}, nil, func(t *testing.T, l *lab) {
		if _, err := l.await(pratique.Ref{Registry: "docker.io", Repo: "x", Tag: "v1"}, hold); !errors.Is(err, pratique.ErrInvalid) {
			t.Errorf("error %v", err)
		}
	})
	bubble("an upstream's answer is told, and the scan tried again", t, scheduler.Config{}, scan(func(_ context.Context, _ pratique.Ref, n int) error {
		if n <= 2 {
			return fmt.Errorf("layer: %w", answer{status: 502})
		}
		return nil
	}), func(t *testing.T, l *lab) {
		start := time.Now()
		_, err := l.await(a, hold)
		var said answer
		if !errors.As(err, &said) || said.status != 502 || errors.Is(err, pratique.ErrPending) || time.Since(start) > 0 {
			t.Errorf("error %v after %v, want the upstream's at once", err, time.Since(start))
		}
		// A client that tries again at once does not hit the upstream: it waits for
		// the next attempt, and is told how that ended.
		pushes, _ := l.queue.counts()
		if _, err = l.await(a, hold); !errors.As(err, &said) || l.scanner.count(a.Digest) != 2 {
			t.Errorf("error %v after %d scans", err, l.scanner.count(a.Digest))
		}
		if after, _ := l.queue.counts(); after != pushes {
			t.Errorf("%d more pushes", after-pushes)
		}
		if r, err := l.await(a, hold); err != nil || r.State != pratique.StateScanned || time.Since(start) > 4*time.Second {
			t.Errorf("%s, %v after %v", r.State, err, time.Since(start))
		}
	})
	bubble("a failure of ours is waited out", t, scheduler.Config{}, scan(func(_ context.Context, _ pratique.Ref, n int) error {
		if n == 1 {
			return errDisk
		}
		return nil
	}), func(t *testing.T, l *lab) {
		start := time.Now()
		r, err := l.await(a, hold)
		if err != nil || r.State != pratique.StateScanned || time.Since(start) > 2*time.Second {
			t.Errorf("%s, %v after %v", r.State, err, time.Since(start))
		}
	})
	bubble("a failure of ours is named when the wait ends", t, scheduler.Config{MaxAttempts: 100}, scan(func(context.Context, pratique.Ref, int) error { return errDisk }), func(t *testing.T, l *lab) {
		_, err := l.await(a, hold)
		if !errors.Is(err, pratique.ErrPending) || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("error %v", err)
		}
	})
	bubble("an internal status is not an upstream's answer", t, scheduler.Config{}, scan(func(_ context.Context, _ pratique.Ref, n int) error {
		if n == 1 {
			return answer{status: 500}
		}
		return nil
	}), func(t *testing.T, l *lab) {
		if _, err := l.await(a, hold); err != nil {
			t.Errorf("error %v", err)
		}
	})
	bubble("Retry-After is obeyed", t, scheduler.Config{}, scan(func(_ context.Context, _ pratique.Ref, n int) error {
		if n == 1 {
			return answer{status: 429, after: time.Minute}
		}
		return nil
	}), func(t *testing.T, l *lab) {
		_, _ = l.await(a, hold)
		time.Sleep(59 * time.Second)
		if n := l.scanner.count(a.Digest); n != 1 {
			t.Errorf("%d scans before Retry-After", n)
		}
		time.Sleep(2 * time.Second)
		if n := l.scanner.count(a.Digest); n != 2 {
			t.Errorf("%d scans after Retry-After", n)
		}
	})
	bubble("urgency", t, scheduler.Config{Workers: 1}, slow(time.Second), func(t *testing.T, l *lab) {
		for i := range 20 {
			if err := l.Request(t.Context(), ref(fmt.Sprint("r", i))); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Request(t.Context(), a); err != nil { // asked for by a HEAD, then pulled
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := l.await(a, hold); err != nil || time.Since(start) > 2*time.Second {
			t.Errorf("the pull waits behind requests: %v after %v", err, time.Since(start))
		}
	})
}

func TestGivenUp(t *testing.T) {
	a := ref("a")
	always := func(err error) func(*lab) {
		return func(l *lab) { l.scanner.scan = func(context.Context, pratique.Ref, int) error { return err } }
	}
	cfg := scheduler.Config{MaxAttempts: 3}
	bubble("a failed report stands", t, cfg, always(errDisk), func(t *testing.T, l *lab) {
		r, err := l.await(a, hold)
		if err != nil || r.State != pratique.StateFailed || len(r.Problems) != 1 || r.Problems[0].Source != scheduler.SourceScan || !r.Problems[0].Fatal || !strings.Contains(r.Problems[0].Message, "disk full") {
			t.Fatalf("%+v, %v", r, err)
		}
		if _, open := l.queue.open(a.Digest); open || l.scanner.count(a.Digest) != 3 {
			t.Errorf("job open %v after %d scans", open, l.scanner.count(a.Digest))
		}
		// It stands, and soon nobody tries again.
		if r, err = l.Report(t.Context(), a.Digest); err != nil || r.State != pratique.StateFailed {
			t.Errorf("%s, %v", r.State, err)
		}
		time.Sleep(59 * time.Second)
		_, _ = l.Report(t.Context(), a.Digest)
		_, _ = l.await(a, hold)
		synctest.Wait()
		if n := l.scanner.count(a.Digest); n != 3 {
			t.Errorf("%d scans within RetryFailed", n)
		}
		// After RetryFailed, whoever asks opens a scan behind it.
		synctest.Wait()
		l.scanner.scan = nil
		time.Sleep(2 * time.Second)
		pushes, _ := l.queue.counts()
		for range 100 {
			if r, err := l.Report(t.Context(), a.Digest); err != nil || r.State == pratique.StateUnknown {
				t.Fatalf("%s, %v: the last report stands", r.State, err)
			}
		}
		synctest.Wait()
		if r, _ := l.Report(t.Context(), a.Digest); r.State != pratique.StateScanned {
			t.Errorf("then %s", r.State)
		}
		if after, _ := l.queue.counts(); after-pushes > 2 {
			t.Errorf("%d pushes", after-pushes)
		}
	})
	bubble("and again fails", t, cfg, always(errDisk), func(t *testing.T, l *lab) {
		first, _ := l.await(a, hold)
		time.Sleep(2 * time.Minute)
		if r, err := l.await(a, hold); err != nil || !r.ScannedAt.Equal(first.ScannedAt) {
			t.Errorf("%v, %v: the last report stands meanwhile", r.ScannedAt, err)
		}
		time.Sleep(10 * time.Second)
		r, err := l.await(a, hold)
		if err != nil || r.State != pratique.StateFailed || !r.ScannedAt.After(first.ScannedAt) || l.scanner.count(a.Digest) != 6 {
			t.Errorf("%+v, %v after %d scans: want the failure's age to begin again", r, err, l.scanner.count(a.Digest))
		}
	})
	bubble("those who wait are told what the upstream said", t, scheduler.Config{MaxAttempts: 1}, always(answer{status: 404}), func(t *testing.T, l *lab) {
		_, err := l.await(a, hold)
		var said answer
		if !errors.As(err, &said) {
			t.Errorf("error %v", err)
		}
		if r, err := l.await(a, hold); err != nil || r.State != pratique.StateFailed {
			t.Errorf("then %s, %v", r.State, err)
		}
	})
	bubble("a report that did not fail stands", t, cfg, always(errDisk), func(t *testing.T, l *lab) {
		l.put(pratique.Report{Image: a.Digest, State: pratique.StateScanned})
		if err := l.Request(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if r, err := l.Report(t.Context(), a.Digest); err != nil || r.State != pratique.StateScanned || l.scanner.count(a.Digest) != 3 {
			t.Errorf("%s, %v after %d scans", r.State, err, l.scanner.count(a.Digest))
		}
	})
	bubble("the image's own failure is not tried again", t, cfg, nil, func(t *testing.T, l *lab) {
		l.put(pratique.Report{Image: a.Digest, State: pratique.StateFailed, Problems: []pratique.Problem{{Source: "diffid", Fatal: true}}})
		time.Sleep(time.Hour)
		_, _ = l.await(a, hold)
		_, _ = l.Report(t.Context(), a.Digest)
		synctest.Wait()
		if n := l.scanner.count(a.Digest); n != 0 {
			t.Errorf("%d scans", n)
		}
	})
	bubble("an image that kills its worker every time", t, cfg, func(l *lab) {
		l.scanner.scan = func(ctx context.Context, ref pratique.Ref, _ int) error {
			_, err := l.reports.PutReport(ctx, pratique.Report{
				Image: ref.Digest, State: pratique.StateFailed, ScannedAt: time.Now(), FirstSeen: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
				Problems: []pratique.Problem{{Source: "worker", Fatal: true}, {Source: scheduler.SourceScan, Fatal: true}},
				Engine:   pratique.Engine{DatabaseAt: time.Now().Add(time.Hour)}, // stands against the fake scanner's own
			})
			return err
		}
	}, func(t *testing.T, l *lab) {
		for range 2 * 24 * 60 { // pulled every minute for two days
			if r, err := l.await(a, hold); err != nil || r.State != pratique.StateFailed {
				t.Fatalf("%s, %v", r.State, err)
			}
			time.Sleep(time.Minute)
		}
		if n := l.scanner.count(a.Digest); n < 45 || n > 60 { // 1, 2, 4, … minutes, then hourly
			t.Errorf("%d scans", n)
		}
	})
	bubble("the failed report cannot be stored", t, scheduler.Config{MaxAttempts: 1}, func(l *lab) {
		always(errDisk)(l)
		l.reports.onPut = func() error { return errDisk }
	}, func(t *testing.T, l *lab) {
		if _, err := l.await(a, hold); !errors.Is(err, pratique.ErrPending) {
			t.Errorf("error %v", err)
		}
		if j, open := l.queue.open(a.Digest); !open || j.Attempts < 1 || j.Attempts > 6 {
			t.Errorf("open %v, %+v: want it open, and not hurried without pause", open, j)
		}
	})
	bubble("without a database nothing is given up", t, scheduler.Config{MaxAttempts: 2}, always(fmt.Errorf("match: %w", pratique.ErrNoDatabase)), func(t *testing.T, l *lab) {
		if _, err := l.await(a, hold); !errors.Is(err, pratique.ErrPending) || !strings.Contains(err.Error(), "no vulnerability database") {
			t.Errorf("error %v", err)
		}
		time.Sleep(time.Hour)
		if _, err := l.Report(t.Context(), a.Digest); !errors.Is(err, pratique.ErrNotFound) {
			t.Errorf("a report stands: %v", err)
		}
		synctest.Wait()
		l.scanner.scan = nil
		if r, err := l.await(a, hold); err != nil || r.State != pratique.StateScanned {
			t.Errorf("afterwards %s, %v", r.State, err)
		}
	})
	bubble("back-off", t, scheduler.Config{MaxAttempts: 1000}, always(errDisk), func(t *testing.T, l *lab) {
		l.request(a)
		time.Sleep(30 * time.Second)
		if n := l.scanner.count(a.Digest); n < 5 || n > 6 { // 1+2+4+8+16
			t.Errorf("%d scans in half a minute", n)
		}
		time.Sleep(24 * time.Hour)
		if n := l.scanner.count(a.Digest); n < 288 || n > 340 { // every five minutes
			t.Errorf("%d scans in a day", n)
		}
	})
}

func TestWork(t *testing.T) {
	a := ref("a")
	bubble("a long scan keeps its lease", t, scheduler.Config{Lease: time.Minute}, func(l *lab) {
		l.scanner.scan = func(context.Context, pratique.Ref, int) error { time.Sleep(20 * time.Minute); return nil }
	}, func(t *testing.T, l *lab) {
		l.request(a)
		time.Sleep(21 * time.Minute)
		if n := l.scanner.count(a.Digest); n != 1 {
			t.Errorf("scanned %d times", n)
		}
		if _, open := l.queue.open(a.Digest); open {
			t.Error("job open")
		}
	})
	bubble("a lease that went to another ends the scan", t, scheduler.Config{Lease: time.Minute}, func(l *lab) {
		l.scanner.scan = func(ctx context.Context, _ pratique.Ref, n int) error {
			if n > 1 {
				return nil
			}
			l.queue.mu.Lock()
			l.queue.jobs[0].Lease = 4711
			l.queue.mu.Unlock()
			<-ctx.Done()
			return context.Cause(ctx)
		}
	}, func(t *testing.T, l *lab) {
		l.request(a)
		time.Sleep(30 * time.Second)
		j, open := l.queue.open(a.Digest)
		if !open || j.Attempts != 0 || j.Lease != 4711 {
			t.Errorf("the other's job was touched: %v %+v", open, j)
		}
	})
	bubble("renewal fails for a while", t, scheduler.Config{Lease: time.Minute}, func(l *lab) {
		n := 0
		l.queue.onRenew = func() error {
			if n++; n%2 == 1 {
				return errDisk
			}
			return nil
		}
		l.scanner.scan = func(ctx context.Context, _ pratique.Ref, _ int) error { time.Sleep(5 * time.Minute); return ctx.Err() }
	}, func(t *testing.T, l *lab) {
		l.request(a)
		time.Sleep(6 * time.Minute)
		if n := l.scanner.count(a.Digest); n != 1 {
			t.Errorf("scanned %d times", n)
		}
	})
	bubble("a scan that never ends", t, scheduler.Config{Timeout: 10 * time.Minute, MaxAttempts: 2}, func(l *lab) {
		l.scanner.scan = func(ctx context.Context, _ pratique.Ref, _ int) error { <-ctx.Done(); return errors.New("interrupted") }
	}, func(t *testing.T, l *lab) {
		l.request(a)
		time.Sleep(21 * time.Minute)
		r, err := l.Report(t.Context(), a.Digest)
		if err != nil || r.State != pratique.StateFailed || !strings.Contains(r.Problems[0].Message, "not finished after 10m") {
			t.Errorf("%+v, %v", r, err)
		}
	})
	bubble("a panic is a failed attempt", t, scheduler.Config{}, func(l *lab) {
		l.scanner.scan = func(_ context.Context, _ pratique.Ref, n int) error {
			if n == 1 {
				panic("boom")
			}
			return nil
		}
	}, func(t *testing.T, l *lab) {
		if r, err := l.await(a, hold); err != nil || r.State != pratique.StateScanned {
			t.Errorf("%s, %v", r.State, err)
		}
	})
	bubble("finished but not persisted", t, scheduler.Config{Lease: time.Minute}, func(l *lab) {
		l.queue.onFinish = func() error { l.queue.onFinish = nil; return errDisk }
	}, func(t *testing.T, l *lab) {
		if _, err := l.await(a, hold); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if _, open := l.queue.open(a.Digest); open || l.scanner.count(a.Digest) != 2 {
			t.Errorf("open %v after %d scans: want it done again when the lease ended", open, l.scanner.count(a.Digest))
		}
	})
	bubble("the queue fails for a while", t, scheduler.Config{}, func(l *lab) {
		n := 0
		l.queue.onTake = func() error {
			if n++; n < 5 {
				return errDisk
			}
			return nil
		}
	}, func(t *testing.T, l *lab) {
		if _, err := l.await(a, hold); err != nil {
			t.Error(err)
		}
	})
	bubble("no more at once than workers", t, scheduler.Config{Workers: 3, PullWorkers: -1}, func(l *lab) {
		running, most := 0, 0
		l.scanner.scan = func(context.Context, pratique.Ref, int) error {
			l.queue.mu.Lock()
			running++
			most = max(most, running)
			if most > 3 {
				t.Errorf("%d scans at once", most)
			}
			l.queue.mu.Unlock()
			time.Sleep(time.Second)
			l.queue.mu.Lock()
			running--
			l.queue.mu.Unlock()
			return nil
		}
	}, func(t *testing.T, l *lab) {
		start := time.Now()
		for i := range 9 {
			l.request(ref(fmt.Sprint(i)))
		}
		for i := range 9 {
			if _, err := l.await(ref(fmt.Sprint(i)), hold); err != nil {
				t.Error(err)
			}
		}
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("took %v, want three rounds of a second", d)
		}
	})
	bubble("stopped in the middle of a scan", t, scheduler.Config{Lease: time.Minute}, func(l *lab) {
		l.scanner.scan = func(ctx context.Context, _ pratique.Ref, n int) error {
			if n == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
	}, func(t *testing.T, l *lab) {
		l.request(a)
		synctest.Wait()
		l.stop()
		j, open := l.queue.open(a.Digest)
		if !open || j.Attempts != 0 {
			t.Errorf("open %v, %+v: want the job untouched", open, j)
		}
		l.run()
		time.Sleep(2 * time.Minute)
		if r, err := l.Report(t.Context(), a.Digest); err != nil || r.State != pratique.StateScanned {
			t.Errorf("the next run: %s, %v", r.State, err)
		}
	})
}
