package scheduler

import (
	"context"
	"time"
)

// forgetDead keeps the jobs that were given up from becoming ever more.
func (s *Scheduler) forgetDead(ctx context.Context) {
	if s.cfg.Jobs == nil {
		return
	}
	for {
		if err := s.cfg.Jobs.ForgetJobs(ctx, s.cfg.Now().Add(-s.cfg.KeepDead), s.cfg.MaxDead); err != nil && ctx.Err() == nil {
			s.cfg.Log.ErrorContext(ctx, "old dead jobs not removed, will be tried again", "error", err)
		}
		if !sleep(ctx, time.Hour) {
			return
		}
	}
}
