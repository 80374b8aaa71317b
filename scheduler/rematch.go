package scheduler

import (
	"context"
	"errors"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"pratique"
)

// DatabaseChanged says that another vulnerability database is in use: every
// report made with an earlier one is renewed in the background, while it
// stands. It returns at once. A change during the renewal starts it again; what
// was renewed already costs one look then.
func (s *Scheduler) DatabaseChanged(context.Context) { notify(s.database) }

// rematchLoop renews reports when the database moved. It begins with a pass of
// its own: the last process may have died in the middle of one, and which
// reports it had not reached is told by their Engine.
func (s *Scheduler) rematchLoop(ctx context.Context) {
	notify(s.database)
	failures := 0
	for {
		select {
		case <-s.database:
		case <-ctx.Done():
			return
		}
		err := s.rematchAll(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil, errors.Is(err, pratique.ErrNoDatabase):
			failures = 0 // with no database there is nothing to do before the next change
			continue
		}
		s.cfg.Log.WarnContext(ctx, "reports not renewed, will be tried again; the last ones stand", "error", err)
		if !sleep(ctx, s.delay(failures, err)) {
			return
		}
		failures++
		notify(s.database)
	}
}

// rematchAll renews every report. It goes on after a failure and returns one of
// them: one broken image must not keep the others old.
func (s *Scheduler) rematchAll(ctx context.Context) error {
	s.metrics.rematching.Set(1)
	defer s.metrics.rematching.Set(0)
	var g errgroup.Group
	g.SetLimit(s.cfg.Rematches)
	var noDatabase atomic.Bool
	var failed error
	for image, err := range s.reports.ReportedImages(ctx) {
		if err != nil {
			failed = err
			break
		}
		if ctx.Err() != nil || noDatabase.Load() {
			break
		}
		g.Go(func() error {
			_, err := s.scanner.Rematch(ctx, image)
			switch {
			case err == nil:
				s.metrics.rematches.WithLabelValues("done").Inc()
			case errors.Is(err, pratique.ErrNoDatabase):
				noDatabase.Store(true)
			case ctx.Err() == nil:
				s.metrics.rematches.WithLabelValues("failed").Inc()
			}
			return err
		})
	}
	return errors.Join(failed, g.Wait())
}
