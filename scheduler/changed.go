package scheduler

import (
	"context"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Changed says that something was written about the digests, or, with nil, may have
// been about any: pulls that wait for a report on one of them are released when
// another process stored it. It returns at once; what moves many times is looked at
// once. Digests that nobody waits for cost nothing.
//
// What another process learned of an upstream is told here only as the report that it
// leaves: its workers alone know the answer in the upstream's words, and those who
// wait elsewhere are asked to come again.
func (s *Scheduler) Changed(ds []digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		return
	}
	if ds == nil {
		ds = slices.Collect(maps.Keys(s.waiting))
	}
	for _, d := range ds {
		// Who waits for an attempt of ours hears how it ended, which is more than what
		// it stored.
		if s.waiting[d] != nil && s.mine[d] == 0 {
			s.moved[d] = struct{}{}
		}
	}
	if len(s.moved) > 0 {
		notify(s.look)
	}
}

// watch looks for the reports that Changed told of. When that fails the waiting pulls
// find them by themselves (Config.ReportPoll).
func (s *Scheduler) watch(ctx context.Context) {
	for {
		select {
		case <-s.look:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		moved := s.moved
		s.moved = make(map[digest.Digest]struct{})
		s.mu.Unlock()
		for d := range moved {
			if r, err := s.reports.Report(ctx, d); err == nil {
				s.tell(d, outcome{report: r})
			}
		}
	}
}

// settled returns the report that makes a job needless: another process ended a scan
// of the image just when the pull that opened the job looked for its report.
func (s *Scheduler) settled(ctx context.Context, j Job) (pratique.Report, bool) {
	if !s.cfg.Shared || j.Priority != PriorityPull {
		return pratique.Report{}, false
	}
	r, err := s.reports.Report(ctx, j.Ref.Digest)
	if err != nil || r.State == pratique.StateFailed {
		return pratique.Report{}, false
	}
	age := s.cfg.Now().Sub(r.ScannedAt) // by two clocks
	return r, -repeat < age && age < repeat
}
