package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// waiter is one pull that waits for a report.
type waiter struct {
	done chan outcome // buffered: one value
}

// outcome is how one attempt ended.
type outcome struct {
	report pratique.Report
	err    error
}

// Report returns the standing report of an image; none is pratique.ErrNotFound.
func (s *Scheduler) Report(ctx context.Context, image digest.Digest) (pratique.Report, error) {
	return s.reports.Report(ctx, image)
}

// Request opens a scan without waiting for it, whether a report stands or not.
func (s *Scheduler) Request(ctx context.Context, ref pratique.Ref) error {
	return s.push(ctx, ref, PriorityWebhook)
}

// Await returns the standing report. If none stands, it makes sure that a scan
// is open and waits for its end. When an attempt fails because of an upstream,
// it returns that error, wrapped, for the client to be told; the job is tried
// again. When ctx ends first the error wraps pratique.ErrPending and says how
// the last attempt failed, if one did. The scan goes on in both cases.
//
// A standing report that failed because of us is returned too, and if it is
// older than Config.RetryFailed a new scan is opened behind it.
func (s *Scheduler) Await(ctx context.Context, ref pratique.Ref) (pratique.Report, error) {
	r, err := s.standing(ctx, ref)
	if err == nil || !errors.Is(err, pratique.ErrNotFound) {
		return r, err
	}
	w := s.enter(ref.Digest) // before the job is opened, or its end could be missed
	defer s.leave(ref.Digest, w)
	if s.hurry(ctx, ref.Digest) {
		if err := s.push(ctx, ref, PriorityPull); err != nil {
			return pratique.Report{}, err
		}
	}
	// A job that ended between the first look and enter is closed by now: its
	// report stands.
	if r, err := s.reports.Report(ctx, ref.Digest); err == nil {
		return r, nil
	}
	poll := time.NewTicker(s.cfg.ReportPoll)
	defer poll.Stop()
	var failed error
	for {
		select {
		case o := <-w.done:
			if o.err == nil {
				return o.report, nil
			}
			if failed = o.err; upstream(failed) {
				return pratique.Report{}, fmt.Errorf("scan of %s: %w", ref, failed)
			}
		case <-poll.C:
			if r, err := s.reports.Report(ctx, ref.Digest); err == nil {
				return r, nil
			}
		case <-ctx.Done():
			if failed != nil { // in words only: the gate answers by ErrPending
				return pratique.Report{}, fmt.Errorf("%w: %s: last attempt: %v", pratique.ErrPending, ref, failed)
			}
			return pratique.Report{}, fmt.Errorf("%w: %s", pratique.ErrPending, ref)
		}
	}
}

// standing returns the standing report and sees to it that a failure of ours
// does not stand for ever.
func (s *Scheduler) standing(ctx context.Context, ref pratique.Ref) (pratique.Report, error) {
	r, err := s.reports.Report(ctx, ref.Digest)
	if err != nil {
		return pratique.Report{}, err
	}
	if passing(r) && s.cfg.Now().Sub(r.ScannedAt) >= s.cfg.RetryFailed && s.hurry(ctx, ref.Digest) {
		if err := s.push(ctx, ref, PriorityPull); err != nil {
			s.cfg.Log.ErrorContext(ctx, "failed scan cannot be tried again", "image", ref.Digest, "error", err)
		}
	}
	return r, nil
}

// passing reports whether a report failed for a reason that may pass.
func passing(r pratique.Report) bool {
	if r.State != pratique.StateFailed {
		return false
	}
	for _, p := range r.Problems {
		if p.Source == SourceScan {
			return true
		}
	}
	return false
}

// patience is up to which delay a pull waits for the next attempt of a failed
// job instead of bringing it forward. Clients try a failed pull again at once,
// five times and more: each would hit the upstream and use up an attempt.
const patience = 20 * time.Second

// hurry reports whether a pull of the image must push: not when this process
// will try again soon and the client can wait that long.
func (s *Scheduler) hurry(ctx context.Context, image digest.Digest) bool {
	s.mu.Lock()
	due, ok := s.retries[image]
	s.mu.Unlock()
	if !ok {
		return true
	}
	wait := due.Sub(s.cfg.Now())
	if end, has := ctx.Deadline(); has && time.Until(end) < wait {
		return true
	}
	return wait > patience
}

func (s *Scheduler) enter(image digest.Digest) *waiter {
	w := &waiter{done: make(chan outcome, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[image] == nil {
		s.waiting[image] = make(map[*waiter]struct{})
	}
	s.waiting[image][w] = struct{}{}
	return w
}

func (s *Scheduler) leave(image digest.Digest, w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting[image], w)
	if len(s.waiting[image]) == 0 {
		delete(s.waiting, image)
	}
}

// tell hands an attempt's end to everybody who waits for the image. It never
// blocks: a waiter that has not read the last attempt's end gets the new one.
func (s *Scheduler) tell(image digest.Digest, o outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.waiting[image] {
		select {
		case <-w.done:
		default:
		}
		w.done <- o
	}
}
