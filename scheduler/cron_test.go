package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/scheduler"
	"pratique/scheduler/schedulertest"
)

// fakeRuns keeps runs in memory.
type fakeRuns struct {
	mu   sync.Mutex
	runs map[string]scheduler.Run
	fail error
}

func (f *fakeRuns) PutRun(_ context.Context, r scheduler.Run) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		f.runs[r.Name] = r
	}
	return f.fail
}

func (f *fakeRuns) LastRuns(context.Context) (map[string]scheduler.Run, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.runs), f.fail
}

func TestFakeRuns(t *testing.T) {
	schedulertest.Runs(t, func(*testing.T) func() *fakeRuns {
		f := &fakeRuns{runs: map[string]scheduler.Run{}}
		return func() *fakeRuns { return f }
	})
}

// every is due at multiples of a duration; 0 is never.
type every time.Duration

func (e every) Next(after time.Time) time.Time {
	if e == 0 {
		return time.Time{}
	}
	return after.Truncate(time.Duration(e)).Add(time.Duration(e))
}

// clockwork is a Cron in a bubble whose task "t" is due each hour.
type clockwork struct {
	*scheduler.Cron
	t     *testing.T
	runs  *fakeRuns
	cfg   scheduler.CronConfig
	mu    sync.Mutex
	began []time.Duration // since the start
	do    func(ctx context.Context) (string, error)
	start time.Time
	stop  func()
}

func newClockwork(t *testing.T, cfg scheduler.CronConfig) *clockwork {
	cfg.Log = slog.New(slog.DiscardHandler)
	return &clockwork{t: t, cfg: cfg, runs: &fakeRuns{runs: map[string]scheduler.Run{}}, start: time.Now()}
}

func (c *clockwork) task(name string, d time.Duration) scheduler.Task {
	return scheduler.Task{Name: name, Spec: d.String(), Times: every(d), Do: func(ctx context.Context) (string, error) {
		c.mu.Lock()
		c.began = append(c.began, time.Since(c.start))
		do := c.do
		c.mu.Unlock()
		if do == nil {
			return "well", nil
		}
		return do(ctx)
	}}
}

// up starts a process.
func (c *clockwork) up(tasks ...scheduler.Task) {
	c.t.Helper()
	c.cfg.Metrics = prometheus.NewPedanticRegistry()
	c.Cron = scheduler.NewCron(c.runs, c.cfg)
	if err := c.Use(c.t.Context(), tasks); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	c.stop = func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	}
}

func (c *clockwork) want(want ...time.Duration) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := cmp.Diff(want, c.began); d != "" {
		c.t.Errorf("began (-want +got):\n%s", d)
	}
	c.began = nil
}

func cronTest(t *testing.T, name string, cfg scheduler.CronConfig, f func(t *testing.T, c *clockwork)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { f(t, newClockwork(t, cfg)) })
	})
}

func TestCron(t *testing.T) {
	const h = time.Hour
	cronTest(t, "at its times", scheduler.CronConfig{}, func(t *testing.T, c *clockwork) {
		c.up(c.task("t", h), c.task("never", 0))
		time.Sleep(3*h + time.Second)
		c.want(h, 2*h, 3*h)
		st := c.Status()
		if len(st) != 2 || !st[0].Next.IsZero() || st[1].Last.Outcome != scheduler.OutcomeDone || st[1].Last.Note != "well" || !st[1].Next.Equal(c.start.Add(4*h)) {
			t.Errorf("%+v", st)
		}
		c.stop()
	})
	cronTest(t, "never two at once", scheduler.CronConfig{}, func(t *testing.T, c *clockwork) {
		c.do = func(context.Context) (string, error) { time.Sleep(150 * time.Minute); return "", nil }
		c.up(c.task("t", h))
		time.Sleep(90 * time.Minute)
		if err := c.Begin("t"); !errors.Is(err, scheduler.ErrRunning) {
			t.Errorf("begun beside itself: %v", err)
		}
		time.Sleep(4*h + 30*time.Minute)
		c.want(h, 4*h) // not at two and three
		c.stop()
	})
	cronTest(t, "missed runs are made up for once", scheduler.CronConfig{}, func(t *testing.T, c *clockwork) {
		c.up(c.task("t", h))
		time.Sleep(time.Minute)
		c.stop()
		time.Sleep(5*h + 30*time.Minute)
		c.up(c.task("t", h))
		time.Sleep(h)
		c.want(5*h+32*time.Minute, 6*h)
		c.stop()
	})
	cronTest(t, "what is new, or due at other times, misses nothing", scheduler.CronConfig{}, func(t *testing.T, c *clockwork) {
		c.up(c.task("t", 12*h))
		time.Sleep(5 * h)
		if err := c.Use(t.Context(), []scheduler.Task{c.task("t", h), c.task("u", 2*h)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*h + time.Minute)
		c.want(6*h, 6*h, 7*h)
		if err := c.Use(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * h)
		c.want()
		c.stop()
	})
	cronTest(t, "a stop cuts short, and it is done again", scheduler.CronConfig{}, func(t *testing.T, c *clockwork) {
		c.do = func(ctx context.Context) (string, error) { <-ctx.Done(); return "half", ctx.Err() }
		c.up(c.task("t", h))
		time.Sleep(h + time.Minute)
		c.stop()
		if r := c.runs.runs["t"]; r.Outcome != scheduler.OutcomeStopped || r.Unfinished != 0 || r.Note != "half" {
			t.Errorf("%+v", r)
		}
		c.do = nil
		c.up(c.task("t", h))
		time.Sleep(2 * time.Minute)
		c.want(h, h+2*time.Minute)
		c.stop()
	})
	cronTest(t, "one that kills the process is not begun at every start", scheduler.CronConfig{}, func(t *testing.T, c *clockwork) {
		base := c.start.UTC()
		c.runs.runs["t"] = scheduler.Run{Name: "t", Spec: h.String(), Base: base.Add(-2 * h), StartedAt: base.Add(-h), Unfinished: 3}
		c.up(c.task("t", h))
		time.Sleep(30 * time.Minute)
		c.want()
		if st := c.Status()[0]; st.Last.Outcome != scheduler.OutcomeFailed {
			t.Errorf("%+v", st)
		}
		time.Sleep(31 * time.Minute)
		c.want(h)
		c.stop()
	})
	cronTest(t, "killed in the middle, it is done again", scheduler.CronConfig{}, func(t *testing.T, c *clockwork) {
		base := c.start.UTC()
		c.runs.runs["t"] = scheduler.Run{Name: "t", Spec: h.String(), Base: base.Add(-2 * h), StartedAt: base.Add(-h), Unfinished: 1}
		c.up(c.task("t", h))
		time.Sleep(2 * time.Minute)
		c.want(time.Minute)
		c.stop()
	})
	cronTest(t, "bounded", scheduler.CronConfig{Timeout: time.Minute}, func(t *testing.T, c *clockwork) {
		c.do = func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }
		c.up(c.task("t", h))
		time.Sleep(h + 2*time.Minute)
		if r := c.Status()[0].Last; r.Outcome != scheduler.OutcomeFailed || r.EndedAt.Sub(r.StartedAt) != time.Minute {
			t.Errorf("%+v", r)
		}
		c.stop()
	})
	cronTest(t, "a panic is a failure", scheduler.CronConfig{}, func(t *testing.T, c *clockwork) {
		c.do = func(context.Context) (string, error) { panic("boom") }
		c.up(c.task("t", h))
		time.Sleep(2*h + time.Second)
		c.want(h, 2*h)
		if r := c.Status()[0].Last; r.Outcome != scheduler.OutcomeFailed || r.Note != "panic: boom" {
			t.Errorf("%+v", r)
		}
		c.stop()
	})
	cronTest(t, "by hand", scheduler.CronConfig{}, func(t *testing.T, c *clockwork) {
		c.do = func(ctx context.Context) (string, error) {
			if !pratique.IsUnhurried(ctx) {
				t.Error("in a hurry")
			}
			return "", errors.New("no")
		}
		c.up(c.task("t", 0))
		time.Sleep(h)
		if err := errors.Join(c.Begin("t")); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		c.want(h)
		if err := c.Begin("none"); !errors.Is(err, pratique.ErrNotFound) {
			t.Error(err)
		}
		c.stop()
		if err := c.Begin("t"); err == nil {
			t.Error("begun while nothing runs")
		}
	})
	cronTest(t, "removed and back while it runs", scheduler.CronConfig{}, func(t *testing.T, c *clockwork) {
		c.do = func(context.Context) (string, error) { time.Sleep(150 * time.Minute); return "", nil }
		c.up(c.task("t", h))
		time.Sleep(h + time.Minute)
		for _, tasks := range [][]scheduler.Task{nil, {c.task("t", h)}} {
			if err := c.Use(t.Context(), tasks); err != nil {
				t.Fatal(err)
			}
			if n := len(c.Status()); n != len(tasks) {
				t.Errorf("%d tasks shown, want %d", n, len(tasks))
			}
		}
		if err := c.Begin("t"); !errors.Is(err, scheduler.ErrRunning) {
			t.Errorf("begun beside itself: %v", err)
		}
		time.Sleep(4 * h)
		c.want(h, 4*h)
		c.stop()
	})
}

// fakePauses holds schedules back.
type fakePauses struct {
	mu     sync.Mutex
	paused map[scheduler.Priority]time.Time
	fail   error
}

func (f *fakePauses) Pause(_ context.Context, ps []scheduler.Priority, now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range ps {
		f.paused[p] = now
	}
	return nil
}

func (f *fakePauses) Resume(_ context.Context, ps []scheduler.Priority) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range ps {
		delete(f.paused, p)
	}
	return nil
}

func (f *fakePauses) Paused(context.Context) (map[scheduler.Priority]time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.paused), f.fail
}

func TestCronPaused(t *testing.T) {
	p := &fakePauses{paused: map[scheduler.Priority]time.Time{}}
	cronTest(t, "what was due is done once when resumed", scheduler.CronConfig{Pauses: p}, func(t *testing.T, c *clockwork) {
		_ = p.Pause(t.Context(), []scheduler.Priority{scheduler.PrioritySchedule}, time.Now())
		c.up(c.task("t", time.Hour))
		time.Sleep(3*time.Hour + 10*time.Minute)
		c.want()
		_ = p.Resume(t.Context(), scheduler.Background())
		c.Wake()
		synctest.Wait()
		c.want(3*time.Hour + 10*time.Minute)
		p.mu.Lock()
		p.fail = errDisk
		p.mu.Unlock()
		time.Sleep(time.Hour)
		c.want() // not known is not "no"
		p.mu.Lock()
		p.fail = nil
		p.mu.Unlock()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if c.mu.Lock(); len(c.began) != 1 {
			t.Error("not begun after the state answered again")
		}
		c.mu.Unlock()
		c.stop()
	})
}

func TestCronState(t *testing.T) {
	cronTest(t, "a state that does not answer", scheduler.CronConfig{}, func(t *testing.T, c *clockwork) {
		c.up(c.task("t", time.Hour))
		synctest.Wait()
		c.runs.mu.Lock()
		c.runs.fail = errDisk
		c.runs.mu.Unlock()
		time.Sleep(2*time.Hour + time.Minute)
		c.want(time.Hour, 2*time.Hour) // it is done all the same
		if err := c.Use(t.Context(), nil); !errors.Is(err, errDisk) || len(c.Status()) != 1 {
			t.Errorf("%v, %s: want the tasks as they were", err, fmt.Sprint(c.Status()))
		}
		c.stop()
	})
}
