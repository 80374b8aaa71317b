// Package schedulertest is the conformance suite of scheduler.Queue, and of what is
// beside it (Jobs, Pauses, Runs), run by the tests of every implementation.
package schedulertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scheduler"
)

// Fresh makes an empty queue for one test. What it returns opens it; when called
// again, it closes it first, as if the process had died.
type Fresh func(t *testing.T) (open func() scheduler.Queue)

var clock = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

const lease = time.Minute

// Queue checks an implementation of scheduler.Queue.
func Queue(t *testing.T, fresh Fresh) {
	tests := map[string]func(t *testing.T, open func() scheduler.Queue){
		"Order": order, "UniquePerDigest": unique, "Raise": raise, "Lease": leases, "Retry": retry, "Dead": dead, "Durable": durable, "Concurrent": concurrent, "LostLease": lostLease,
		"Fair": fair, "FairPriorities": fairPriorities, "FairRetries": fairRetries, "Only": only,
	}
	for name, f := range tests {
		t.Run(name, func(t *testing.T) { f(t, fresh(t)) })
	}
}

func ref(name string) pratique.Ref {
	return pratique.Ref{Registry: "docker.io", Repo: "library/" + name, Tag: "v1", Digest: digest.FromString(name)}
}

func mustBe(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// take returns the name of the job taken, "" for none.
func take(t *testing.T, q scheduler.Queue, now time.Time) (scheduler.Job, string) {
	t.Helper()
	j, err := q.Take(t.Context(), now, lease)
	if errors.Is(err, pratique.ErrNotFound) {
		return scheduler.Job{}, ""
	}
	mustBe(t, err)
	return j, j.Ref.Repo[len("library/"):]
}

func wantTake(t *testing.T, q scheduler.Queue, now time.Time, want string) scheduler.Job {
	t.Helper()
	j, got := take(t, q, now)
	if got != want {
		t.Fatalf("took %q, want %q", got, want)
	}
	return j
}

func wantLen(t *testing.T, q scheduler.Queue, want map[scheduler.Priority]int) {
	t.Helper()
	got, err := q.Len(t.Context())
	mustBe(t, err)
	for p, n := range got {
		if n == 0 {
			delete(got, p)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Len (-want +got):\n%s", d)
	}
}

func order(t *testing.T, open func() scheduler.Queue) {
	q, ctx := open(), t.Context()
	wantTake(t, q, clock, "")
	mustBe(t, q.Push(ctx, ref("schedule"), scheduler.PrioritySchedule, clock))
	mustBe(t, q.Push(ctx, ref("pull1"), scheduler.PriorityPull, clock))
	mustBe(t, q.Push(ctx, ref("webhook"), scheduler.PriorityWebhook, clock))
	mustBe(t, q.Push(ctx, ref("pull2"), scheduler.PriorityPull, clock))
	mustBe(t, q.Push(ctx, ref("database"), scheduler.PriorityDatabase, clock))
	wantLen(t, q, map[scheduler.Priority]int{0: 2, 1: 1, 2: 1, 3: 1})
	for _, want := range []string{"pull1", "pull2", "webhook", "database", "schedule", ""} {
		j := wantTake(t, q, clock, want)
		if want != "" && j.Ref != ref(want) {
			t.Errorf("job %+v, want the reference pushed %+v", j.Ref, ref(want))
		}
	}
	wantLen(t, q, map[scheduler.Priority]int{0: 2, 1: 1, 2: 1, 3: 1}) // leased jobs are open
}

func unique(t *testing.T, open func() scheduler.Queue) {
	q, ctx := open(), t.Context()
	mustBe(t, q.Push(ctx, ref("a"), scheduler.PriorityPull, clock))
	other := ref("a")
	other.Repo, other.Tag = "library/alias", "latest"
	mustBe(t, q.Push(ctx, other, scheduler.PriorityPull, clock))
	wantLen(t, q, map[scheduler.Priority]int{0: 1})
	j := wantTake(t, q, clock, "a") // the first stands
	mustBe(t, q.Push(ctx, ref("a"), scheduler.PriorityPull, clock))
	wantTake(t, q, clock, "") // open still, and held
	mustBe(t, q.Finish(ctx, j, nil, time.Time{}))
	wantLen(t, q, map[scheduler.Priority]int{})
	mustBe(t, q.Push(ctx, ref("a"), scheduler.PriorityPull, clock))
	wantTake(t, q, clock, "a")
}

func raise(t *testing.T, open func() scheduler.Queue) {
	q, ctx := open(), t.Context()
	for _, n := range []string{"a", "b"} {
		mustBe(t, q.Push(ctx, ref(n), scheduler.PrioritySchedule, clock))
	}
	mustBe(t, q.Push(ctx, ref("b"), scheduler.PriorityPull, clock))
	mustBe(t, q.Push(ctx, ref("b"), scheduler.PriorityDatabase, clock)) // never lowered
	wantLen(t, q, map[scheduler.Priority]int{0: 1, 3: 1})
	b := wantTake(t, q, clock, "b")
	if b.Priority != scheduler.PriorityPull {
		t.Errorf("priority %d, want that of the pull", b.Priority)
	}

	// A failed job waits; a webhook does not hurry it, a pull does.
	mustBe(t, q.Finish(ctx, b, errors.New("upstream down"), clock.Add(time.Hour)))
	a := wantTake(t, q, clock, "a")
	mustBe(t, q.Finish(ctx, a, nil, time.Time{}))
	now := clock.Add(time.Second)
	wantTake(t, q, now, "")
	mustBe(t, q.Push(ctx, ref("b"), scheduler.PriorityWebhook, now))
	wantTake(t, q, now, "")
	mustBe(t, q.Push(ctx, ref("b"), scheduler.PriorityPull, now))
	b = wantTake(t, q, now, "b")
	if b.Attempts != 1 {
		t.Errorf("%d attempts, want 1: a push does not forget them", b.Attempts)
	}
}

func leases(t *testing.T, open func() scheduler.Queue) {
	q, ctx := open(), t.Context()
	mustBe(t, q.Push(ctx, ref("a"), scheduler.PriorityPull, clock))
	j := wantTake(t, q, clock, "a")
	wantTake(t, q, clock.Add(lease-time.Second), "")
	mustBe(t, q.Renew(ctx, j, clock.Add(2*lease)))
	wantTake(t, q, clock.Add(lease+time.Second), "")
	j2 := wantTake(t, q, clock.Add(2*lease), "a")
	if j2.Attempts != 0 {
		t.Errorf("%d attempts: a lease that ran out is not a finished attempt", j2.Attempts)
	}
}

// lostLease: a worker that was too slow must not disturb the one that took over.
func lostLease(t *testing.T, open func() scheduler.Queue) {
	q, ctx := open(), t.Context()
	mustBe(t, q.Push(ctx, ref("a"), scheduler.PriorityPull, clock))
	slow := wantTake(t, q, clock, "a")
	later := clock.Add(lease)
	heir := wantTake(t, q, later, "a")
	for what, err := range map[string]error{
		"Renew":          q.Renew(ctx, slow, later.Add(time.Hour)),
		"Finish failed":  q.Finish(ctx, slow, errors.New("x"), later),
		"Finish dead":    q.Finish(ctx, slow, errors.New("x"), time.Time{}),
		"Finish success": q.Finish(ctx, slow, nil, time.Time{}),
	} {
		if !errors.Is(err, pratique.ErrNotFound) {
			t.Errorf("%s with a lost lease: %v, want pratique.ErrNotFound", what, err)
		}
	}
	wantTake(t, q, later.Add(lease-time.Second), "") // the heir holds it still
	mustBe(t, q.Renew(ctx, heir, later.Add(2*lease)))
	mustBe(t, q.Finish(ctx, heir, nil, time.Time{}))
	if err := q.Finish(ctx, heir, nil, time.Time{}); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("Finish of a closed job: %v", err)
	}
	// A new job of the same digest is not the old holder's.
	mustBe(t, q.Push(ctx, ref("a"), scheduler.PriorityPull, later))
	if err := q.Finish(ctx, heir, nil, time.Time{}); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("Finish of an earlier job of the digest: %v", err)
	}
	wantLen(t, q, map[scheduler.Priority]int{0: 1})
}

func retry(t *testing.T, open func() scheduler.Queue) {
	q, ctx := open(), t.Context()
	mustBe(t, q.Push(ctx, ref("a"), scheduler.PriorityPull, clock))
	now := clock
	for i := range 3 {
		j := wantTake(t, q, now, "a")
		if j.Attempts != i {
			t.Errorf("%d attempts, want %d", j.Attempts, i)
		}
		if i > 0 && j.Error != fmt.Sprint("failure ", i-1) {
			t.Errorf("error %q of the last attempt", j.Error)
		}
		next := now.Add(10 * time.Minute)
		mustBe(t, q.Finish(ctx, j, fmt.Errorf("failure %d", i), next))
		wantTake(t, q, next.Add(-time.Nanosecond), "")
		now = next
	}
	wantLen(t, q, map[scheduler.Priority]int{0: 1})
}

func dead(t *testing.T, open func() scheduler.Queue) {
	q, ctx := open(), t.Context()
	mustBe(t, q.Push(ctx, ref("a"), scheduler.PriorityPull, clock))
	mustBe(t, q.Finish(ctx, wantTake(t, q, clock, "a"), errors.New("x"), clock))
	mustBe(t, q.Finish(ctx, wantTake(t, q, clock, "a"), errors.New("x"), time.Time{}))
	wantLen(t, q, map[scheduler.Priority]int{})
	wantTake(t, q, clock.Add(1000*time.Hour), "")
	q = open()
	wantTake(t, q, clock.Add(1000*time.Hour), "")
	mustBe(t, q.Push(ctx, ref("a"), scheduler.PriorityWebhook, clock))
	j := wantTake(t, q, clock, "a")
	if j.Attempts != 0 || j.Error != "" || j.Priority != scheduler.PriorityWebhook {
		t.Errorf("pushed after death: %+v, want a new job", j)
	}
}

func durable(t *testing.T, open func() scheduler.Queue) {
	q, ctx := open(), t.Context()
	for _, n := range []string{"waiting", "held", "failed", "done"} {
		mustBe(t, q.Push(ctx, ref(n), scheduler.PriorityWebhook, clock))
	}
	mustBe(t, q.Push(ctx, ref("held"), scheduler.PriorityPull, clock))
	wantTake(t, q, clock, "held")
	w := wantTake(t, q, clock, "waiting")
	mustBe(t, q.Finish(ctx, w, errors.New("x"), clock.Add(time.Second)))
	f := wantTake(t, q, clock, "failed")
	mustBe(t, q.Finish(ctx, f, errors.New("boom"), clock.Add(time.Hour)))
	mustBe(t, q.Finish(ctx, wantTake(t, q, clock, "done"), nil, time.Time{}))
	q = open()
	wantLen(t, q, map[scheduler.Priority]int{0: 1, 1: 2})
	// Whoever held it is dead; at the latest when the lease ends it is taken.
	now := clock.Add(lease)
	for _, n := range []string{"held", "waiting"} {
		mustBe(t, q.Finish(ctx, wantTake(t, q, now, n), nil, time.Time{}))
	}
	wantTake(t, q, now, "")
	j := wantTake(t, q, clock.Add(time.Hour+time.Second), "failed")
	if j.Attempts != 1 || j.Error != "boom" {
		t.Errorf("after reopening: %+v", j)
	}
}

func concurrent(t *testing.T, open func() scheduler.Queue) {
	q := open()
	const jobs, workers = 60, 8
	var mu sync.Mutex
	taken := make(map[digest.Digest]int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { // everybody pushes all of them
			for i := range jobs {
				if err := q.Push(t.Context(), ref(fmt.Sprint("job", i)), scheduler.Priority(i%4), clock); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range workers {
		wg.Go(func() {
			for {
				j, err := q.Take(ctx, clock, lease)
				if errors.Is(err, pratique.ErrNotFound) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				taken[j.Ref.Digest]++
				mu.Unlock()
				if err := q.Finish(ctx, j, nil, time.Time{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(taken) != jobs {
		t.Errorf("%d jobs taken, want %d", len(taken), jobs)
	}
	for d, n := range taken {
		if n != 1 {
			t.Errorf("%s taken %d times", d, n)
		}
	}
}
