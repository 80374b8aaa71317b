package redis

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique/internal/sqlite"
	"pratique/scheduler"
	"pratique/store"
)

// TestQueueDump: the queue of SQLite goes on in Redis where it was, and comes back the
// same; loaded twice it is there once.
func TestQueueDump(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		ctx := t.Context()
		from, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "state.db"))
		must(t, err)
		t.Cleanup(func() { _ = from.Close() })
		for i := range 12 {
			ref := job(fmt.Sprint("repo", i%3))
			ref.Digest = job(fmt.Sprint(i)).Digest
			must(t, from.Push(ctx, ref, scheduler.Priority(i%2), noon.Add(time.Duration(i))))
		}
		for i, failure := range []error{errors.New("down"), errors.New("gone"), nil} {
			j, err := from.Take(ctx, noon, time.Minute)
			must(t, err)
			at := noon.Add(time.Minute)
			if i == 1 {
				at = time.Time{}
			}
			must(t, from.Finish(ctx, j, failure, at))
		}
		must(t, from.Pause(ctx, []scheduler.Priority{scheduler.PrioritySchedule}, noon))
		must(t, from.PutRun(ctx, scheduler.Run{Name: "nightly", Spec: "@daily", Base: noon, StartedAt: noon, Unfinished: 1, Outcome: scheduler.OutcomeFailed, Note: "disk full"}))

		to := newWorld(t, url).replica()
		must(t, to.Push(ctx, job("5"), scheduler.PrioritySchedule, noon)) // in place of what is there
		wantTaken(t, to, noon, time.Minute, "5")
		for range 2 {
			for _, kind := range []store.Kind{store.KindJobs, store.KindQueue, store.KindRuns} {
				rs := records(t, from, kind)
				if len(rs) == 0 {
					t.Errorf("no %s", kind)
				}
				must(t, to.Load(ctx, kind, rs))
				if d := cmp.Diff(rs, records(t, to, kind)); d != "" {
					t.Errorf("%s (-from +to):\n%s", kind, d)
				}
			}
			sound(t, to)
		}
		for r, err := range to.Dump(ctx, store.KindJobs, records(t, to, store.KindJobs)[9].Key) {
			if must(t, err); r.Key != records(t, to, store.KindJobs)[10].Key {
				t.Errorf("after the tenth comes %s", r.Key)
			}
		}
		p := &pair{t: t, queues: [2]queueOf{from, to}, now: noon}
		for range 15 {
			p.now = p.now.Add(10 * time.Second)
			p.both("take", func(_ int, q queueOf) string {
				j, err := q.Take(ctx, p.now, time.Hour)
				return fmt.Sprint(said(err), j.Ref, j.Attempts, j.NotBefore)
			})
			p.both("look", func(_ int, q queueOf) string { return p.look(ctx, q) })
		}
	})
}

func records(t *testing.T, d store.Dumper, kind store.Kind) (rs []store.Record) {
	t.Helper()
	for r, err := range d.Dump(t.Context(), kind, "") {
		must(t, err)
		rs = append(rs, r)
	}
	return rs
}
