package schedulertest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique"
	"pratique/scheduler"
)

// Controlled is a queue that people can look into and hold back.
type Controlled interface {
	scheduler.Queue
	scheduler.Jobs
	scheduler.Pauses
}

// Jobs checks an implementation of scheduler.Jobs and scheduler.Pauses.
func Jobs[Q Controlled](t *testing.T, fresh func(t *testing.T) (open func() Q)) {
	tests := map[string]func(t *testing.T, open func() Q){
		"List": listed[Q], "Filter": filtered[Q], "RetryOne": retryOne[Q], "RetryAll": retryAll[Q], "RetryEarly": retryEarly[Q], "Forget": forgotten[Q],
		"Pause": paused[Q], "PauseLeases": pausedLeases[Q], "PauseRefused": pauseRefused[Q],
	}
	for name, f := range tests {
		t.Run(name, func(t *testing.T) { f(t, fresh(t)) })
	}
}

// jobs are as lines: NAME STATE ATTEMPTS ERROR.
func jobs(t *testing.T, q scheduler.Jobs, query scheduler.JobQuery, now time.Time) []string {
	t.Helper()
	if query.Limit == 0 {
		query.Limit = 100
	}
	records, err := q.Jobs(t.Context(), query, now)
	mustBe(t, err)
	if records == nil {
		t.Error("a list that is nil")
	}
	var out []string
	for _, r := range records {
		if r.OpenedAt.IsZero() || (r.State == scheduler.JobDead) == r.DiedAt.IsZero() {
			t.Errorf("%s %s: opened %v, died %v", r.Ref, r.State, r.OpenedAt, r.DiedAt)
		}
		out = append(out, fmt.Sprint(r.Ref.Repo[len("library/"):], " ", r.State, " ", r.Attempts, " ", r.Error))
	}
	return out
}

func wantJobs(t *testing.T, q scheduler.Jobs, query scheduler.JobQuery, now time.Time, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, jobs(t, q, query, now)); d != "" {
		t.Errorf("jobs (-want +got):\n%s", d)
	}
}

// kill makes a dead job.
func kill(t *testing.T, q scheduler.Queue, name string, p scheduler.Priority, why string) {
	t.Helper()
	mustBe(t, q.Push(t.Context(), ref(name), p, clock))
	j := wantTake(t, q, clock, name)
	mustBe(t, q.Finish(t.Context(), j, errors.New(why), time.Time{}))
}

// wantDead checks the count.
func wantDead(t *testing.T, q scheduler.Jobs, want int) {
	t.Helper()
	n, err := q.DeadJobs(t.Context())
	mustBe(t, err)
	if n != want {
		t.Errorf("%d dead jobs, want %d", n, want)
	}
}

// some has a job in every state but paused.
func some(t *testing.T, q Controlled) {
	t.Helper()
	kill(t, q, "dead1", scheduler.PriorityPull, "gone")
	kill(t, q, "dead2", scheduler.PrioritySchedule, "broken")
	ctx := t.Context()
	mustBe(t, q.Push(ctx, ref("failed"), scheduler.PriorityWebhook, clock))
	mustBe(t, q.Finish(ctx, wantTake(t, q, clock, "failed"), errors.New("down"), clock.Add(time.Hour)))
	mustBe(t, q.Push(ctx, ref("held"), scheduler.PriorityDatabase, clock))
	wantTake(t, q, clock, "held")
	mustBe(t, q.Push(ctx, ref("scheduled"), scheduler.PrioritySchedule, clock))
	mustBe(t, q.Push(ctx, ref("pulled"), scheduler.PriorityPull, clock))
}

func listed[Q Controlled](t *testing.T, open func() Q) {
	q := open()
	wantJobs(t, q, scheduler.JobQuery{}, clock)
	some(t, q)
	wantJobs(t, q, scheduler.JobQuery{}, clock,
		"held running 0 ", "pulled waiting 0 ", "failed retry 1 down", "scheduled waiting 0 ", "dead2 dead 1 broken", "dead1 dead 1 gone")
	wantJobs(t, q, scheduler.JobQuery{Limit: 2}, clock, "held running 0 ", "pulled waiting 0 ")
	wantJobs(t, q, scheduler.JobQuery{State: scheduler.JobRunning}, clock.Add(2*lease)) // it ran out
	wantDead(t, q, 2)
	q = open() // the dead survive
	wantJobs(t, q, scheduler.JobQuery{State: scheduler.JobDead}, clock, "dead2 dead 1 broken", "dead1 dead 1 gone")
	wantDead(t, q, 2)
}

func filtered[Q Controlled](t *testing.T, open func() Q) {
	q := open()
	some(t, q)
	for state, want := range map[scheduler.JobState]string{
		scheduler.JobRunning: "held running 0 ", scheduler.JobRetry: "failed retry 1 down", scheduler.JobWaiting: "pulled waiting 0 ", scheduler.JobDead: "dead2 dead 1 broken",
	} {
		wantJobs(t, q, scheduler.JobQuery{State: state, Limit: 1}, clock, want)
	}
	wantJobs(t, q, scheduler.JobQuery{Image: ref("dead1").Digest}, clock, "dead1 dead 1 gone")
	wantJobs(t, q, scheduler.JobQuery{Image: ref("failed").Digest, State: scheduler.JobRetry}, clock, "failed retry 1 down")
	wantJobs(t, q, scheduler.JobQuery{Image: ref("failed").Digest, State: scheduler.JobDead}, clock)
	wantJobs(t, q, scheduler.JobQuery{Image: ref("none").Digest}, clock)
	if _, err := q.Jobs(t.Context(), scheduler.JobQuery{State: "asleep", Limit: 1}, clock); !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("an unknown state: %v, want pratique.ErrInvalid", err)
	}
}

func retryOne[Q Controlled](t *testing.T, open func() Q) {
	q, ctx := open(), t.Context()
	kill(t, q, "a", scheduler.PriorityPull, "gone")
	kill(t, q, "b", scheduler.PrioritySchedule, "gone")
	if n, err := q.RetryJobs(ctx, ref("a").Digest, clock); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, name := range []string{"a", "none"} { // a is open, and nothing keeps it
		if n, err := q.RetryJobs(ctx, ref(name).Digest, clock); n != 0 || !errors.Is(err, pratique.ErrNotFound) {
			t.Errorf("%s: %d, %v, want pratique.ErrNotFound", name, n, err)
		}
	}
	q = open()
	wantDead(t, q, 1)
	j := wantTake(t, q, clock, "a")
	if j.Attempts != 0 || j.Error != "" || j.Priority != scheduler.PriorityWebhook || j.Ref != ref("a") {
		t.Errorf("%+v, want a new job, and that nobody waits for it", j)
	}
	wantTake(t, q, clock, "")
	mustBe(t, q.Push(ctx, ref("b"), scheduler.PriorityPull, clock)) // what is pulled is dead no more
	wantDead(t, q, 0)
}

func retryAll[Q Controlled](t *testing.T, open func() Q) {
	q, ctx := open(), t.Context()
	const many = 250 // more than a batch of any implementation
	for i := range many {
		mustBe(t, q.Push(ctx, of("many", i), scheduler.PrioritySchedule, clock))
	}
	for range many {
		j, _ := take(t, q, clock)
		mustBe(t, q.Finish(ctx, j, errors.New("gone"), time.Time{}))
	}
	wantDead(t, q, many)
	if n, err := q.RetryJobs(ctx, "", clock); n != many || err != nil {
		t.Errorf("%d, %v, want %d", n, err, many)
	}
	wantDead(t, q, 0)
	wantLen(t, q, map[scheduler.Priority]int{scheduler.PrioritySchedule: many})
	if n, err := q.RetryJobs(ctx, "", clock); n != 0 || err != nil {
		t.Errorf("with none dead: %d, %v", n, err)
	}
}

func retryEarly[Q Controlled](t *testing.T, open func() Q) {
	q, ctx := open(), t.Context()
	some(t, q)
	if _, err := q.RetryJobs(ctx, ref("held").Digest, clock); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("one that runs: %v, want pratique.ErrNotFound", err)
	}
	if n, err := q.RetryJobs(ctx, ref("failed").Digest, clock); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	j, err := q.Take(ctx, clock, lease, scheduler.PriorityWebhook)
	mustBe(t, err)
	if j.Ref != ref("failed") || j.Attempts != 1 {
		t.Errorf("took %+v, want the one that failed, at once", j)
	}
}

func forgotten[Q Controlled](t *testing.T, open func() Q) {
	q, ctx := open(), t.Context()
	for i := range 5 {
		kill(t, q, fmt.Sprint("dead", i), scheduler.PriorityWebhook, "gone")
	}
	mustBe(t, q.Push(ctx, ref("open"), scheduler.PrioritySchedule, clock))
	mustBe(t, q.ForgetJobs(ctx, time.Now().Add(-time.Hour), 3))
	wantJobs(t, q, scheduler.JobQuery{}, clock, "open waiting 0 ", "dead4 dead 1 gone", "dead3 dead 1 gone", "dead2 dead 1 gone")
	mustBe(t, q.ForgetJobs(ctx, time.Now().Add(time.Hour), 3))
	wantJobs(t, q, scheduler.JobQuery{}, clock, "open waiting 0 ")
}

func wantPaused(t *testing.T, q scheduler.Pauses, want map[scheduler.Priority]time.Time) {
	t.Helper()
	got, err := q.Paused(t.Context())
	mustBe(t, err)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("paused (-want +got):\n%s", d)
	}
}

func paused[Q Controlled](t *testing.T, open func() Q) {
	q, ctx := open(), t.Context()
	wantPaused(t, q, map[scheduler.Priority]time.Time{})
	for p := scheduler.PriorityPull; p <= scheduler.PrioritySchedule; p++ {
		mustBe(t, q.Push(ctx, ref(p.String()), p, clock))
	}
	mustBe(t, q.Pause(ctx, []scheduler.Priority{scheduler.PriorityWebhook, scheduler.PrioritySchedule}, clock))
	mustBe(t, q.Pause(ctx, []scheduler.Priority{scheduler.PriorityWebhook}, clock.Add(time.Hour))) // it is
	q = open()                                                                                     // also after a restart
	wantPaused(t, q, map[scheduler.Priority]time.Time{scheduler.PriorityWebhook: clock, scheduler.PrioritySchedule: clock})
	wantJobs(t, q, scheduler.JobQuery{State: scheduler.JobPaused}, clock, "webhook paused 0 ", "schedule paused 0 ")
	wantTake(t, q, clock, "pull")
	wantTake(t, q, clock, "database")
	wantTake(t, q, clock, "")
	if _, err := q.Take(ctx, clock, lease, scheduler.PriorityWebhook); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("asked for by name: %v, want pratique.ErrNotFound", err)
	}
	// A pull lifts its image over the pause.
	mustBe(t, q.Push(ctx, ref("schedule"), scheduler.PriorityPull, clock))
	wantTake(t, q, clock, "schedule")
	mustBe(t, q.Push(ctx, ref("late"), scheduler.PriorityWebhook, clock)) // opened, not lost
	mustBe(t, q.Resume(ctx, scheduler.Background()))
	wantPaused(t, q, map[scheduler.Priority]time.Time{})
	wantTake(t, q, clock, "webhook")
	wantTake(t, q, clock, "late")
	wantTake(t, q, clock, "")
}

// pausedLeases: what runs goes on, and what ran when its holder died waits.
func pausedLeases[Q Controlled](t *testing.T, open func() Q) {
	q, ctx := open(), t.Context()
	for _, name := range []string{"a", "b", "c"} {
		mustBe(t, q.Push(ctx, ref(name), scheduler.PriorityWebhook, clock))
	}
	a, b := wantTake(t, q, clock, "a"), wantTake(t, q, clock, "b")
	wantTake(t, q, clock, "c") // never comes back
	mustBe(t, q.Pause(ctx, scheduler.Background(), clock))
	mustBe(t, q.Renew(ctx, a, clock.Add(2*lease)))
	mustBe(t, q.Finish(ctx, a, nil, time.Time{}))
	mustBe(t, q.Finish(ctx, b, errors.New("down"), clock.Add(time.Second)))
	wantTake(t, q, clock.Add(2*lease), "")
	wantJobs(t, q, scheduler.JobQuery{}, clock.Add(2*lease), "c paused 0 ", "b paused 1 down")
	mustBe(t, q.Resume(ctx, []scheduler.Priority{scheduler.PriorityWebhook}))
	got := []string{}
	for range 3 {
		if _, name := take(t, q, clock.Add(2*lease)); name != "" {
			got = append(got, name)
		}
	}
	if len(got) != 2 {
		t.Errorf("took %v, want c and b", got)
	}
}

func pauseRefused[Q Controlled](t *testing.T, open func() Q) {
	q, ctx := open(), t.Context()
	if err := q.Pause(ctx, []scheduler.Priority{scheduler.PrioritySchedule, scheduler.PriorityPull}, clock); !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("pulls paused: %v, want pratique.ErrInvalid", err)
	}
	wantPaused(t, q, map[scheduler.Priority]time.Time{}) // all or nothing
}
