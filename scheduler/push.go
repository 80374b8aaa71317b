package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// patience is up to which delay a pull waits for the next attempt of a failed
// job instead of bringing it forward. Clients try a failed pull again at once,
// five times and more: each would hit the upstream and use up an attempt.
const patience = 20 * time.Second

// repeat is how long a push holds for those who ask for the same: a cold image
// that a thousand nodes pull is one job and one write. After it they push again,
// in case that the job was lost.
const repeat = 5 * time.Second

// request is a push that was made, or an attempt that ended, lately.
type request struct {
	at       time.Time
	priority Priority
}

// open makes sure that a job is open, at that priority at least.
func (s *Scheduler) open(ctx context.Context, ref pratique.Ref, p Priority) error {
	if ref.Digest == "" {
		return fmt.Errorf("%w scan of %s: no digest", pratique.ErrInvalid, ref)
	}
	if !s.ask(ctx, ref.Digest, p) {
		return nil
	}
	// The job must not be lost because the client that asked left.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := s.queue.Push(ctx, ref, p, s.cfg.Now()); err != nil {
		s.mu.Lock()
		delete(s.asked, ref.Digest)
		s.mu.Unlock()
		return fmt.Errorf("scan of %s: %w", ref, err)
	}
	s.wake()
	return nil
}

// ask reports whether a push is needed, and notes that it is made.
func (s *Scheduler) ask(ctx context.Context, image digest.Digest, p Priority) bool {
	now := s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if due, ok := s.retries[image]; ok && p == PriorityPull {
		wait := due.Sub(now)
		end, ends := ctx.Deadline()
		if -repeat < wait && wait <= patience && (!ends || wait < time.Until(end)) {
			return false // this process tries again before the pull has to end
		}
	}
	if a, ok := s.asked[image]; ok && a.priority <= p && now.Sub(a.at) < repeat {
		return false
	}
	s.note(image, request{now, p})
	return true
}

// maxAsked is at how many entries asked is swept.
const maxAsked = 4096

// note needs s.mu.
func (s *Scheduler) note(image digest.Digest, r request) {
	if len(s.asked) >= maxAsked {
		for d, a := range s.asked {
			if r.at.Sub(a.at) >= repeat {
				delete(s.asked, d)
			}
		}
	}
	s.asked[image] = r
}

// begun forgets what led to an attempt: whoever asks from now on asks anew.
func (s *Scheduler) begun(j Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.retries, j.Ref.Digest)
	s.mine[j.Ref.Digest]++
}

// left is the end of what begun began, when everybody who waits has been told.
func (s *Scheduler) left(j Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mine[j.Ref.Digest]--; s.mine[j.Ref.Digest] == 0 {
		delete(s.mine, j.Ref.Digest)
	}
}

// ended notes the end of an attempt; a failed job is due at at. It counts as
// asked for just now: a pull that looked just before the report stood must not
// open a second scan, nor many that wait hurry a failing one without pause.
func (s *Scheduler) ended(j Job, at time.Time) {
	s.mu.Lock()
	s.note(j.Ref.Digest, request{s.cfg.Now(), PriorityPull})
	if !at.IsZero() {
		s.retries[j.Ref.Digest] = at
	}
	s.mu.Unlock()
	s.wake() // idle may have to end earlier
}
