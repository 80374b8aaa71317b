package schedulertest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scheduler"
)

// of is an image of a repository.
func of(repo string, n int) pratique.Ref {
	return pratique.Ref{Registry: "docker.io", Repo: "library/" + repo, Tag: fmt.Sprint("v", n), Digest: digest.FromString(fmt.Sprint(repo, n))}
}

// drain takes and finishes n jobs and returns what they were, such as a1.
func drain(t *testing.T, q scheduler.Queue, now time.Time, n int) []string {
	t.Helper()
	var out []string
	for range n {
		j, name := take(t, q, now)
		if name == "" {
			break
		}
		out = append(out, name+j.Ref.Tag[1:])
		mustBe(t, q.Finish(t.Context(), j, nil, time.Time{}))
	}
	return out
}

// fair: repositories take turns within a priority.
func fair(t *testing.T, open func() scheduler.Queue) {
	q, ctx := open(), t.Context()
	want := func(what string, got []string, want ...string) {
		t.Helper()
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	for i := range 6 {
		mustBe(t, q.Push(ctx, of("a", i), scheduler.PriorityWebhook, clock))
	}
	want("one repository, oldest first", drain(t, q, clock, 2), "a0", "a1")
	mustBe(t, q.Push(ctx, of("b", 0), scheduler.PriorityWebhook, clock))
	q = open() // the order is durable
	mustBe(t, q.Push(ctx, of("b", 1), scheduler.PriorityWebhook, clock))
	mustBe(t, q.Push(ctx, of("c", 0), scheduler.PriorityWebhook, clock))
	got := drain(t, q, clock, 4)
	if i, j := index(got, "b0"), index(got, "c0"); i < 0 || j < 0 {
		t.Errorf("of three repositories came first %v, want one of each among the first four", got)
	}
	rest := slices.Concat(got, drain(t, q, clock, 10))
	for _, pair := range [][2]string{{"a2", "a3"}, {"a3", "a4"}, {"a4", "a5"}, {"b0", "b1"}, {"b1", "a5"}} {
		if index(rest, pair[0]) > index(rest, pair[1]) {
			t.Errorf("%s before %s: %v", pair[1], pair[0], rest)
		}
	}
	if len(rest) != 7 {
		t.Errorf("%v, want all seven that were left", rest)
	}
	// One that comes back again and again has no advantage over one that waits.
	for i := range 4 {
		mustBe(t, q.Push(ctx, of("slow", i), scheduler.PriorityWebhook, clock))
	}
	for i := range 4 {
		mustBe(t, q.Push(ctx, of("fast", i), scheduler.PriorityWebhook, clock))
		drain(t, q, clock, 2)
	}
	want("both are through", drain(t, q, clock, 10))
}

func index(s []string, v string) int {
	for i := range s {
		if s[i] == v {
			return i
		}
	}
	return -1
}

// fairPriorities: a turn counts within a priority only, and one that is raised to
// another stands in line there.
func fairPriorities(t *testing.T, open func() scheduler.Queue) {
	q, ctx := open(), t.Context()
	for i := range 4 {
		mustBe(t, q.Push(ctx, of("a", i), scheduler.PrioritySchedule, clock))
		mustBe(t, q.Push(ctx, of("a", 10+i), scheduler.PriorityPull, clock))
	}
	mustBe(t, q.Push(ctx, of("b", 0), scheduler.PriorityPull, clock))
	mustBe(t, q.Push(ctx, of("a", 3), scheduler.PriorityPull, clock))
	got := drain(t, q, clock, 6)
	if index(got, "b0") > 1 || index(got, "b0") < 0 || index(got, "a3") < 0 || index(got, "a3") < index(got, "a13") {
		t.Errorf("%v, want b0 among the first two, and a3 behind the others of its repository", got)
	}
	if d := cmp.Diff([]string{"a0", "a1", "a2"}, drain(t, q, clock, 6)); d != "" {
		t.Errorf("the rest (-want +got):\n%s", d)
	}
}

// fairRetries: what failed does not push ahead when its time comes.
func fairRetries(t *testing.T, open func() scheduler.Queue) {
	q, ctx := open(), t.Context()
	const many = 12
	for i := range many {
		mustBe(t, q.Push(ctx, of("a", i), scheduler.PriorityWebhook, clock))
	}
	later := clock.Add(time.Minute)
	for range many {
		j, _ := take(t, q, clock)
		mustBe(t, q.Finish(ctx, j, errors.New("upstream down"), later))
	}
	wantTake(t, q, clock, "")
	for i := range 2 {
		mustBe(t, q.Push(ctx, of("b", i), scheduler.PriorityWebhook, later))
	}
	got := drain(t, q, later, 5)
	if index(got, "b0") < 0 || index(got, "b1") < 0 {
		t.Errorf("%v: two images of another repository wait behind those that failed", got)
	}
	if n := len(drain(t, q, later, many)); n != many+2-5 {
		t.Errorf("%d left, want %d", n, many+2-5)
	}
}

// only: a Take may be for some priorities.
func only(t *testing.T, open func() scheduler.Queue) {
	q, ctx := open(), t.Context()
	mustBe(t, q.Push(ctx, ref("schedule"), scheduler.PrioritySchedule, clock))
	mustBe(t, q.Push(ctx, ref("database"), scheduler.PriorityDatabase, clock))
	if _, err := q.Take(ctx, clock, lease, scheduler.PriorityPull); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("%v, want pratique.ErrNotFound: nobody waits", err)
	}
	mustBe(t, q.Push(ctx, ref("pull"), scheduler.PriorityPull, clock))
	j, err := q.Take(ctx, clock, lease, scheduler.PrioritySchedule)
	mustBe(t, err)
	if j.Ref != ref("schedule") {
		t.Errorf("took %s, want that of the priority asked for", j.Ref)
	}
	// In any order they are given: the most urgent first.
	j, err = q.Take(ctx, clock, lease, scheduler.PrioritySchedule, scheduler.PriorityDatabase, scheduler.PriorityPull)
	mustBe(t, err)
	if j.Ref != ref("pull") {
		t.Errorf("took %s, want the most urgent", j.Ref)
	}
	// A lease that ran out is found under the priority of its job.
	if _, err := q.Take(ctx, clock.Add(2*lease), lease, scheduler.PriorityWebhook); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("%v, want pratique.ErrNotFound", err)
	}
	j, err = q.Take(ctx, clock.Add(2*lease), lease, scheduler.PriorityPull)
	mustBe(t, err)
	if j.Ref != ref("pull") {
		t.Errorf("took %s, want the one whose lease ran out", j.Ref)
	}
}
