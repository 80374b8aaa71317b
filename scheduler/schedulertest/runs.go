package schedulertest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique/scheduler"
)

// Runs checks an implementation of scheduler.Runs.
func Runs[R scheduler.Runs](t *testing.T, fresh func(t *testing.T) (open func() R)) {
	open := fresh(t)
	r, ctx := open(), t.Context()
	want := func(want map[string]scheduler.Run) {
		t.Helper()
		got, err := r.LastRuns(ctx)
		mustBe(t, err)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("runs (-want +got):\n%s", d)
		}
	}
	want(map[string]scheduler.Run{})
	a := scheduler.Run{Name: "a", Spec: "@daily", Base: clock}
	b := scheduler.Run{
		Name: "b", Spec: "0 2 * * *", Base: clock, StartedAt: clock.Add(time.Second), EndedAt: clock.Add(time.Minute),
		Unfinished: 2, Outcome: scheduler.OutcomeFailed, Note: "disk full",
	}
	mustBe(t, r.PutRun(ctx, a))
	mustBe(t, r.PutRun(ctx, b))
	want(map[string]scheduler.Run{"a": a, "b": b})
	b = scheduler.Run{Name: "b", Spec: "0 3 * * *", Base: clock.Add(time.Hour)}
	mustBe(t, r.PutRun(ctx, b)) // replaced as a whole
	r = open()
	want(map[string]scheduler.Run{"a": a, "b": b})
}
