package scheduler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"time"

	"pratique"
	"pratique/store"
)

// answered is an error that a client should see as an answer: an upstream's, in
// the words of the proxy, which this package does not import (proxy.Error).
type answered interface {
	error
	Status() int
}

// delayed is an error that says when to try again (proxy.Error; 0 = unsaid).
type delayed interface {
	error
	Delay() time.Duration
}

// upstream reports whether err is an upstream's answer.
func upstream(err error) bool {
	var a answered
	return errors.As(err, &a) && a.Status() != http.StatusInternalServerError
}

// work does one attempt at a job and closes it or leaves it open for the next.
func (s *Scheduler) work(ctx context.Context, j Job) {
	s.begun(j)
	defer s.left(j)
	if r, ok := s.settled(ctx, j); ok {
		ctx, cancel := writing(ctx)
		defer cancel()
		s.close(ctx, j, nil, time.Time{}, "done", outcome{report: r})
		return
	}
	start := time.Now()
	r, err := s.attempt(ctx, j)
	if err != nil && ctx.Err() != nil {
		// We are being stopped: not the job's fault, not an attempt. It stays
		// leased; whoever comes next knows that we are dead.
		return
	}
	s.metrics.seconds.Observe(time.Since(start).Seconds())
	ctx, cancel := writing(ctx)
	defer cancel()
	switch {
	case err == nil:
		s.close(ctx, j, nil, time.Time{}, "done", outcome{report: r})
	case errors.Is(err, pratique.ErrNoDatabase):
		// Nothing is wrong with the image or its upstream, and every image waits
		// for the same: never given up.
		s.retry(ctx, j, err, s.cfg.Now().Add(noDatabaseFactor*s.cfg.Backoff))
	case errors.Is(err, store.ErrUnreachable): // nor when it is our own state
		s.retry(ctx, j, err, s.cfg.Now().Add(s.delay(0, err)))
	case j.Attempts+1 >= s.cfg.MaxAttempts:
		s.giveUp(ctx, j, err)
	default:
		s.retry(ctx, j, err, s.cfg.Now().Add(s.delay(j.Attempts, err)))
	}
}

// For so long is tried to write how an attempt ended: while the state is away, and
// when we are being stopped. After that the lease runs out, and it is done again.
const (
	writeLong  = 5 * time.Minute
	writeShort = 30 * time.Second
)

// writing is a context for what must be written of an attempt, also when we are being
// stopped.
func writing(ctx context.Context) (context.Context, context.CancelFunc) {
	w, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeLong)
	stop := context.AfterFunc(ctx, func() {
		sleep(w, writeShort)
		cancel()
	})
	return w, func() { stop(); cancel() }
}

// noDatabaseFactor times Backoff is between two looks for a database.
const noDatabaseFactor = 2

func (s *Scheduler) retry(ctx context.Context, j Job, cause error, at time.Time) {
	s.cfg.Log.WarnContext(ctx, "scan failed, will be tried again", "image", j.Ref, "attempt", j.Attempts+1, "at", at, "error", cause)
	s.close(ctx, j, cause, at, "retry", outcome{err: cause})
}

// giveUp leaves a failed report, so that clients are told, and closes the job.
// In this order: a crash in between means one attempt more, never an image that
// nobody scans and nobody explains.
func (s *Scheduler) giveUp(ctx context.Context, j Job, cause error) {
	r, err := s.fail(ctx, j, cause)
	if err != nil {
		s.cfg.Log.ErrorContext(ctx, "failed report cannot be stored", "image", j.Ref, "error", err)
		s.retry(ctx, j, cause, s.cfg.Now().Add(s.cfg.MaxBackoff))
		return
	}
	s.cfg.Log.ErrorContext(ctx, "scan given up", "image", j.Ref, "attempts", j.Attempts+1, "error", cause)
	o := outcome{report: r}
	if upstream(cause) { // those who wait now are told what the upstream said
		o = outcome{err: cause}
	}
	s.close(ctx, j, cause, time.Time{}, "dead", o)
}

// fail stores the failed report of a job that is given up and returns what
// stands: a report that did not fail stays.
func (s *Scheduler) fail(ctx context.Context, j Job, cause error) (pratique.Report, error) {
	standing, err := s.reports.Report(ctx, j.Ref.Digest)
	if err == nil && standing.State != pratique.StateFailed {
		return standing, nil
	}
	if err != nil && !errors.Is(err, pratique.ErrNotFound) {
		return pratique.Report{}, err
	}
	return s.reports.PutReport(ctx, pratique.Report{
		Image: j.Ref.Digest,
		State: pratique.StateFailed,
		Problems: []pratique.Problem{{
			Source: SourceScan, Fatal: true,
			Message: fmt.Sprintf("the scan failed %d times, last: %v", j.Attempts+1, cause),
		}},
		// The standing failure's database, or PutReport would keep that one and
		// its age.
		Engine:    standing.Engine,
		ScannedAt: s.cfg.Now().UTC(),
		FirstSeen: standing.FirstSeen,
	})
}

// attempt scans under the job's lease. A panic is a failed attempt.
func (s *Scheduler) attempt(ctx context.Context, j Job) (r pratique.Report, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Timeout, fmt.Errorf("not finished after %v", s.cfg.Timeout))
	defer cancel()
	ctx, lose := context.WithCancelCause(ctx)
	renewed := make(chan struct{})
	go func() { defer close(renewed); s.renew(ctx, j, lose) }()
	defer func() { lose(nil); <-renewed }()
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.ErrorContext(ctx, "scan panicked", "image", j.Ref, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	pace := ctx // another variable: the lease is renewed with ctx meanwhile
	if j.Priority != PriorityPull {
		pace = pratique.Unhurried(ctx)
	}
	r, err = s.scanner.Scan(pace, j.Ref)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", err, context.Cause(ctx))
	}
	if err == nil && r.Image != j.Ref.Digest {
		err = fmt.Errorf("scanner answered with a report on %q", r.Image)
	}
	return r, err
}

// renew keeps the job's lease until ctx ends. A lease that went to another ends
// the scan; one that cannot be renewed does not: it is tried again soon, and nobody
// else takes a job while the state is away.
func (s *Scheduler) renew(ctx context.Context, j Job, lose context.CancelCauseFunc) {
	for pause := s.cfg.Lease / 3; sleep(ctx, pause); {
		err := s.queue.Renew(ctx, j, s.cfg.Now().Add(s.cfg.Lease))
		pause = s.cfg.Lease / 3
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, pratique.ErrNotFound):
			lose(fmt.Errorf("the job went to another: %w", err))
			return
		case errors.Is(err, store.ErrUnreachable):
			s.away.began(ctx, err)
			pause = s.cfg.Lease / 12
		case err != nil:
			s.cfg.Log.WarnContext(ctx, "lease not renewed", "image", j.Ref, "error", err)
		}
	}
}

// close finishes the job and tells those who wait; while the state is away they are
// told first, and it is tried again until ctx ends. When it fails the lease runs out
// and the job is done again, which changes nothing.
func (s *Scheduler) close(ctx context.Context, j Job, failure error, retryAt time.Time, how string, o outcome) {
	err := s.queue.Finish(ctx, j, failure, retryAt)
	told := false
	for failures := 0; errors.Is(err, store.ErrUnreachable); failures++ {
		s.away.began(ctx, err)
		if !told {
			s.tell(j.Ref.Digest, o)
			told = true
		}
		if !sleep(ctx, backoff(s.cfg.Backoff/10, maxAway, failures)) {
			break
		}
		err = s.queue.Finish(ctx, j, failure, retryAt)
	}
	if err != nil && !errors.Is(err, pratique.ErrNotFound) {
		s.cfg.Log.ErrorContext(ctx, "job not closed", "image", j.Ref, "error", err)
	}
	s.ended(j, retryAt)
	s.metrics.jobs.WithLabelValues(how).Inc()
	if !told {
		s.tell(j.Ref.Digest, o)
	}
}

// delay before the attempt after attempts failed ones and this one.
func (s *Scheduler) delay(attempts int, err error) time.Duration {
	d := s.cfg.Backoff
	for range attempts {
		if d = 2 * d; d >= s.cfg.MaxBackoff {
			break
		}
	}
	d = min(d, s.cfg.MaxBackoff)
	d -= rand.N(d/10 + 1) // so that many that failed together do not come back together
	var a delayed
	if errors.As(err, &a) {
		d = max(d, min(a.Delay(), s.cfg.MaxBackoff))
	}
	return d
}
