// Package rungroup runs the parts of a process together: they start in the
// order in which they were added, and stop in the reverse of it, one after the
// other, so that nothing is stopped while something above it still uses it.
//
// It knows nothing of what the parts do.
package rungroup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Part is one start/stop pair. Run may be nil for a part that only has to be
// closed, Stop for one that ends with the context of its Run.
type Part struct {
	Name string
	// Run works until ctx ends or Stop makes it return. Returning before either
	// ends the group; nil is "finished" and does not.
	Run func(ctx context.Context) error
	// Stop ends the part in good order within ctx.
	Stop func(ctx context.Context) error
	// Limit is what Stop may take. If zero, the group's Limit.
	Limit time.Duration
}

// Group is a list of parts. The zero Group is ready for use; it is not for
// concurrent use and runs once.
type Group struct {
	// Limit is what one part may take to stop. If zero, 10 seconds.
	Limit time.Duration
	// Log receives what starts and stops. If nil, nothing is logged.
	Log *slog.Logger

	parts []Part
}

// Add appends parts.
func (g *Group) Add(parts ...Part) { g.parts = append(g.parts, parts...) }

// ended is how a part's Run came back.
type ended struct {
	name string
	err  error
}

// Run starts every part, waits until ctx ends or a part fails, and stops them
// all, last added first. It returns the failure that ended it and those of
// stopping, or nil. Every goroutine it started has returned, or its part is
// named in the error.
func (g *Group) Run(ctx context.Context) error {
	if g.Log == nil {
		g.Log = slog.New(slog.DiscardHandler)
	}
	// The parts outlive ctx on purpose: its end is the signal to stop, and each
	// is then stopped in its turn.
	base := context.WithoutCancel(ctx)
	running := make([]running, len(g.parts))
	failed := make(chan ended, len(g.parts))
	for i, p := range g.parts {
		running[i] = start(base, p, failed)
	}
	var cause error
	select {
	case <-ctx.Done():
		g.Log.InfoContext(base, "stopping", "cause", context.Cause(ctx).Error())
	case e := <-failed:
		cause = fmt.Errorf("%s: %w", e.name, e.err)
		g.Log.ErrorContext(base, "stopping", "cause", cause.Error())
	}
	errs := []error{cause}
	for i := len(running) - 1; i >= 0; i-- {
		errs = append(errs, g.stop(base, g.parts[i], running[i]))
	}
	return errors.Join(errs...)
}

// Close stops the parts without having run them, last added first: for a start
// that failed half-way.
func (g *Group) Close(ctx context.Context) error {
	if g.Log == nil {
		g.Log = slog.New(slog.DiscardHandler)
	}
	var errs []error
	for i := len(g.parts) - 1; i >= 0; i-- {
		errs = append(errs, g.stop(ctx, g.parts[i], running{cancel: func() {}}))
	}
	return errors.Join(errs...)
}

// running is a started part. done is nil when it has no Run.
type running struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func start(base context.Context, p Part, failed chan<- ended) running {
	ctx, cancel := context.WithCancel(base)
	r := running{cancel: cancel}
	if p.Run == nil {
		return r
	}
	r.done = make(chan struct{})
	go func() {
		defer close(r.done)
		err := p.Run(ctx)
		if err != nil && ctx.Err() == nil {
			failed <- ended{p.Name, err}
		}
	}()
	return r
}

// stop ends one part: Stop first, which may need its Run, then Run's context.
func (g *Group) stop(base context.Context, p Part, r running) error {
	limit := p.Limit
	if limit == 0 {
		limit = g.Limit
	}
	if limit == 0 {
		limit = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(base, limit)
	defer cancel()
	var err error
	if p.Stop != nil {
		err = p.Stop(ctx)
	}
	r.cancel()
	if r.done != nil {
		select {
		case <-r.done:
		case <-ctx.Done():
			// One more moment for a Run that Stop used up the time of.
			select {
			case <-r.done:
			case <-time.After(time.Second):
				err = errors.Join(err, errors.New("did not end"))
			}
		}
	}
	if err != nil {
		err = fmt.Errorf("stopping %s: %w", p.Name, err)
		g.Log.WarnContext(base, "part did not stop cleanly", "part", p.Name, "error", err.Error())
		return err
	}
	g.Log.DebugContext(base, "stopped", "part", p.Name)
	return nil
}
