package scheduler

import (
	"context"
	"errors"

	"pratique"
)

// Workers are shared out between pulls that wait and the background: each has some
// that the other cannot take. So a waiting pull finds a worker however much is to
// be done in the background, and the background goes on, slowly, however many pull.
// Within the background the less urgent get every fourth turn for the same reason.

// share is how many workers are busy with what.
type share struct{ pulls, background int }

// favour is how often the less urgent of the background goes first.
const favour = 4

// vacancies returns the priorities for which a worker is free, the most urgent first.
func (s *Scheduler) vacancies() []Priority {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Priority
	if s.busy.pulls+s.busy.background >= s.cfg.Workers {
		return nil
	}
	if s.busy.pulls < s.cfg.Workers-s.cfg.BackgroundWorkers {
		out = append(out, PriorityPull)
	}
	if s.busy.background < s.cfg.Workers-s.cfg.PullWorkers {
		out = append(out, Background()...)
	}
	return out
}

// occupy and leaveWorker count the worker that has the job.
func (s *Scheduler) occupy(j Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy.add(j, 1)
	s.metrics.busy(s.busy)
}

func (s *Scheduler) leaveWorker(j Job) {
	s.mu.Lock()
	s.busy.add(j, -1)
	s.metrics.busy(s.busy)
	s.mu.Unlock()
	s.wake()
}

func (b *share) add(j Job, n int) {
	if j.Priority == PriorityPull {
		b.pulls += n
		return
	}
	b.background += n
}

// take leases the next job among those for which there is room. taken counts the
// jobs of the background that it took, and is Run's alone.
func (s *Scheduler) take(ctx context.Context, room []Priority, taken *int) (Job, error) {
	now := s.cfg.Now()
	if room[len(room)-1] == PriorityPull || *taken%favour != favour-1 {
		j, err := s.queue.Take(ctx, now, s.cfg.Lease, room...)
		if err == nil && j.Priority != PriorityPull {
			*taken++
		}
		return j, err
	}
	// A turn of the less urgent: database and schedule in turns, behind pulls.
	first, second := PrioritySchedule, PriorityDatabase
	if *taken/favour%2 == 1 {
		first, second = second, first
	}
	order := [][]Priority{{first}, {second}, room}
	if room[0] == PriorityPull {
		order = append([][]Priority{{PriorityPull}}, order...)
	}
	for _, only := range order {
		j, err := s.queue.Take(ctx, now, s.cfg.Lease, only...)
		if errors.Is(err, pratique.ErrNotFound) {
			continue
		}
		if err == nil && j.Priority != PriorityPull {
			*taken++
		}
		return j, err
	}
	*taken++ // nothing at all: an empty queue is looked at once, not four times
	return Job{}, pratique.ErrNotFound
}
