package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
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
// One that failed because of us and is older than Config.RetryFailed is
// returned too, and a new scan is opened behind it.
func (s *Scheduler) Report(ctx context.Context, image digest.Digest) (pratique.Report, error) {
	r, err := s.reports.Report(ctx, image)
	if err == nil && s.cfg.Catalog != nil && s.stale(r) {
		known, err := s.cfg.Catalog.Known(ctx, image)
		s.again(ctx, known.Ref, err)
	}
	return r, err
}

// Request opens a scan without waiting for it, whether a report stands or not.
// One that was asked for or ended within the last seconds will do.
func (s *Scheduler) Request(ctx context.Context, ref pratique.Ref) error {
	return s.open(ctx, ref, max(PriorityWebhook, hurry(ctx)))
}

// Await returns the standing report. If none stands, it makes sure that a scan
// is open and waits for its end. When an attempt fails because of an upstream,
// it returns that error, wrapped, for the client to be told; the job is tried
// again. When ctx ends first the error wraps pratique.ErrPending and says how
// the last attempt failed, if one did. The scan goes on in both cases.
//
// A standing report that failed because of us is treated as by Report. Behind one
// whose content another version of the analyzers read, a scan is opened that nobody
// waits for.
//
// Who waits in a context that is pratique.Unhurried does not count as a pull: the
// job has its turn with the schedules'.
func (s *Scheduler) Await(ctx context.Context, ref pratique.Ref) (pratique.Report, error) {
	r, err := s.reports.Report(ctx, ref.Digest)
	if err == nil {
		switch {
		case s.stale(r):
			s.again(ctx, ref, nil)
		case s.outdated(r):
			s.refresh(ctx, ref)
		}
		return r, nil
	}
	if !errors.Is(err, pratique.ErrNotFound) {
		return pratique.Report{}, err
	}
	w := s.enter(ref.Digest) // before the job is opened, or its end could be missed
	defer s.leave(ref.Digest, w)
	// A job that ended between the first look and enter left a report; one that ends
	// from here on tells w, also what an upstream said.
	if r, err := s.reports.Report(ctx, ref.Digest); err == nil {
		return r, nil
	}
	if err := s.open(ctx, ref, hurry(ctx)); err != nil {
		return pratique.Report{}, err
	}
	return s.wait(ctx, ref, w)
}

// hurry is the priority of what is awaited.
func hurry(ctx context.Context) Priority {
	if pratique.IsUnhurried(ctx) {
		return PrioritySchedule
	}
	return PriorityPull
}

// wait for the end of an attempt that can be told to the client.
func (s *Scheduler) wait(ctx context.Context, ref pratique.Ref, w *waiter) (pratique.Report, error) {
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
			switch err := s.open(ctx, ref, hurry(ctx)); {
			case errors.Is(err, store.ErrUnreachable):
				// The job is open already, and the state may be back before the pull has to
				// end.
				failed = err
			case err != nil:
				return pratique.Report{}, err
			}
		case <-ctx.Done():
			if failed != nil { // in words only: the gate answers by ErrPending
				return pratique.Report{}, fmt.Errorf("%w: %s: last attempt: %s", pratique.ErrPending, ref, failed.Error())
			}
			return pratique.Report{}, fmt.Errorf("%w: %s", pratique.ErrPending, ref)
		}
	}
}

// stale reports whether a report failed for a reason that may have passed: one
// of ours, long enough ago.
func (s *Scheduler) stale(r pratique.Report) bool {
	if r.State != pratique.StateFailed || !slices.ContainsFunc(r.Problems, func(p pratique.Problem) bool { return p.Source == SourceScan }) {
		return false
	}
	wait := s.cfg.RetryFailed
	if !r.FirstSeen.IsZero() { // a scanner's own report, see Config.RetryFailed
		wait = min(max(wait, r.ScannedAt.Sub(r.FirstSeen)), s.cfg.MaxRetryFailed)
	}
	return s.cfg.Now().Sub(r.ScannedAt) >= wait
}

// again opens a scan behind a stale report. The report stands, so a failure
// here is not the caller's.
func (s *Scheduler) again(ctx context.Context, ref pratique.Ref, err error) {
	if err == nil {
		err = s.open(ctx, ref, hurry(ctx))
	}
	if err != nil {
		s.cfg.Log.ErrorContext(ctx, "failed scan cannot be tried again", "image", ref, "error", err)
	}
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
