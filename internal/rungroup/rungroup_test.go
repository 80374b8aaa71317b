package rungroup_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"pratique/internal/rungroup"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// diary records what happened, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) write(s string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, s)
}

// part runs until it is told to stop.
func (d *diary) part(name string) rungroup.Part {
	stop := make(chan struct{})
	return rungroup.Part{
		Name: name,
		Run: func(context.Context) error {
			<-stop
			d.write(name + " ended")
			return nil
		},
		Stop: func(context.Context) error {
			d.write("stop " + name)
			close(stop)
			return nil
		},
	}
}

func TestStopsInReverseOneAfterTheOther(t *testing.T) {
	var d diary
	var g rungroup.Group
	g.Add(rungroup.Part{Name: "state", Stop: func(context.Context) error { d.write("stop state"); return nil }})
	g.Add(d.part("scheduler"), d.part("listener"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Run(ctx); err != nil {
		t.Fatal(err)
	}
	want := []string{"stop listener", "listener ended", "stop scheduler", "scheduler ended", "stop state"}
	if diff := cmp.Diff(want, d.lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestContextOfRunEndsAfterStop(t *testing.T) {
	var g rungroup.Group
	ctx, cancel := context.WithCancel(t.Context())
	g.Add(rungroup.Part{Name: "loop", Run: func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		return ctx.Err() // of its own context: no failure
	}})
	if err := g.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestFailureStopsTheOthersAndIsReturned(t *testing.T) {
	boom := errors.New("boom")
	var d diary
	var g rungroup.Group
	g.Add(d.part("state"))
	g.Add(rungroup.Part{Name: "listener", Run: func(context.Context) error { return boom }})
	err := g.Run(t.Context())
	if !errors.Is(err, boom) || !strings.Contains(err.Error(), "listener: boom") {
		t.Errorf("%v", err)
	}
	if !slices.Contains(d.lines, "state ended") {
		t.Errorf("state was not stopped: %v", d.lines)
	}
}

func TestFinishingIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g rungroup.Group
		g.Add(rungroup.Part{Name: "once", Run: func(context.Context) error { return nil }})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		if err := g.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != time.Minute {
			t.Errorf("ended after %s", took)
		}
	})
}

func TestStopIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		g := rungroup.Group{Limit: 3 * time.Second}
		g.Add(d.part("state"))
		g.Add(rungroup.Part{Name: "stuck", Limit: 7 * time.Second, Stop: func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		err := g.Run(ctx)
		if took := time.Since(began); took != 7*time.Second {
			t.Errorf("took %s", took)
		}
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "stopping stuck") {
			t.Errorf("%v", err)
		}
		if !slices.Contains(d.lines, "state ended") {
			t.Error("what is below the stuck part was not stopped")
		}
	})
}

func TestRunThatDoesNotEndIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		g := rungroup.Group{Limit: time.Second}
		g.Add(rungroup.Part{Name: "deaf", Run: func(context.Context) error { <-release; return nil }})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.Run(ctx); err == nil || !strings.Contains(err.Error(), "stopping deaf: did not end") {
			t.Errorf("%v", err)
		}
	})
}

func TestCloseAfterHalfAStart(t *testing.T) {
	var d diary
	var g rungroup.Group
	broken := errors.New("broken")
	for _, name := range []string{"blobs", "state"} {
		g.Add(rungroup.Part{Name: name, Run: func(context.Context) error { t.Error("run"); return nil }, Stop: func(context.Context) error {
			d.write(name)
			return broken
		}})
	}
	if err := g.Close(t.Context()); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if diff := cmp.Diff([]string{"state", "blobs"}, d.lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
