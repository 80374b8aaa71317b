package scheduler_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pratique"
	"pratique/scheduler"
)

// tally counts scans by the kind in their repository's name, running and in all.
type tally struct {
	mu                 sync.Mutex
	running, most, all map[string]int
}

func newTally() *tally {
	return &tally{running: map[string]int{}, most: map[string]int{}, all: map[string]int{}}
}

func (y *tally) add(kind string, n int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.running[kind] += n
	y.most[kind] = max(y.most[kind], y.running[kind])
	if n > 0 {
		y.all[kind]++
	}
}

func (y *tally) count(kind string) (most, all int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.most[kind], y.all[kind]
}

func (y *tally) scan(d time.Duration) func(context.Context, pratique.Ref, int) error {
	return func(ctx context.Context, ref pratique.Ref, _ int) error {
		kind := "pull"
		if pratique.IsUnhurried(ctx) {
			kind = "background"
		}
		y.add(kind, 1)
		y.add(ref.Repo, 1)
		time.Sleep(d)
		y.add(kind, -1)
		y.add(ref.Repo, -1)
		return nil
	}
}

func (l *lab) push(kind string, n int, p scheduler.Priority) {
	for i := range n {
		r := ref(fmt.Sprint(kind, i))
		r.Repo = kind
		if err := l.queue.Push(context.Background(), r, p, time.Now()); err != nil {
			l.t.Error(err)
		}
	}
	l.Wake()
}

// TestPullFindsWorker: whatever the background has to do, a pull is scanned at once.
func TestPullFindsWorker(t *testing.T) {
	y := newTally()
	bubble("a thousand scans in the background", t, scheduler.Config{Workers: 8}, func(l *lab) { l.scanner.scan = y.scan(time.Minute) }, func(t *testing.T, l *lab) {
		l.push("lab", 1000, scheduler.PriorityWebhook)
		time.Sleep(90 * time.Second)
		if most, _ := y.count("background"); most != 6 {
			t.Errorf("%d scans in the background, want 6 of 8 workers", most)
		}
		for i := range 2 {
			start := time.Now()
			if _, err := l.await(ref(fmt.Sprint("wanted", i)), 2*time.Minute); err != nil || time.Since(start) != time.Minute {
				t.Errorf("%v after %v, want it scanned at once", err, time.Since(start))
			}
		}
	})
}

// TestBackgroundGoesOn: pulls without end do not stop what nobody waits for, and
// webhooks without end do not stop schedules.
func TestBackgroundGoesOn(t *testing.T) {
	t.Run("under pulls", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			y := newTally()
			l := newLab(t, scheduler.Config{Workers: 4}, func(l *lab) { l.scanner.scan = y.scan(time.Second) })
			l.push("cron", 20, scheduler.PrioritySchedule)
			l.push("pulled", 400, scheduler.PriorityPull)
			time.Sleep(25 * time.Second)
			if most, all := y.count("cron"); most < 1 || all != 20 {
				t.Errorf("%d of 20 scheduled scans while pulls wait", all)
			}
			if _, all := y.count("pulled"); all < 70 || all > 80 {
				t.Errorf("%d pulls in 25 s, want three workers' work", all)
			}
			l.stop()
		})
	})
	t.Run("under webhooks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			y := newTally()
			l := newLab(t, scheduler.Config{Workers: 4}, func(l *lab) { l.scanner.scan = y.scan(time.Second) })
			l.push("hook", 1000, scheduler.PriorityWebhook)
			l.push("cron", 5, scheduler.PrioritySchedule)
			l.push("java", 5, scheduler.PriorityDatabase)
			time.Sleep(20 * time.Second)
			if _, all := y.count("cron"); all != 5 {
				t.Errorf("%d of 5 scheduled scans while webhooks wait", all)
			}
			if _, all := y.count("java"); all != 5 {
				t.Errorf("%d of 5 scans for a database while webhooks wait", all)
			}
			if _, all := y.count("hook"); all < 40 {
				t.Errorf("%d scans for webhooks", all)
			}
			l.stop()
		})
	})
	t.Run("of one worker", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			y := newTally()
			l := newLab(t, scheduler.Config{Workers: 1}, func(l *lab) { l.scanner.scan = y.scan(time.Second) })
			l.push("cron", 2, scheduler.PrioritySchedule)
			l.push("pulled", 2, scheduler.PriorityPull)
			time.Sleep(10 * time.Second)
			if _, all := y.count("cron"); all != 2 {
				t.Errorf("%d of 2", all)
			}
			l.stop()
		})
	})
}

// TestUnhurried: who awaits without hurry has the turn of a schedule.
func TestUnhurried(t *testing.T) {
	y := newTally()
	bubble("behind pulls", t, scheduler.Config{Workers: 4}, func(l *lab) { l.scanner.scan = y.scan(time.Second) }, func(t *testing.T, l *lab) {
		ctx, cancel := context.WithTimeout(pratique.Unhurried(context.Background()), time.Minute)
		defer cancel()
		r, err := l.Await(ctx, ref("prefetched"))
		if _, all := y.count("background"); err != nil || r.State != pratique.StateScanned || all != 1 {
			t.Errorf("%s, %v, %d scans in the background", r.State, err, all)
		}
		if _, err := l.await(ref("pulled"), time.Minute); err != nil {
			t.Error(err)
		}
		if _, all := y.count("pull"); all != 1 {
			t.Errorf("%d pulls", all)
		}
	})
}
