// Package scheduler decides who is scanned when.
//
// It owns the queue's workers, retries, the requests that wait for a scan, and
// what has to be matched again when the vulnerability database moved (Rescanner).
// It answers the gate: which report stands, and wait until one does. It does not
// scan (scanner), and it judges nothing (policy).
//
// The last report stands while a new one is made, and when making it fails. A
// scan that cannot be done ends as a failed report that says why, so that a
// client is told instead of being asked to come again for ever; it is tried
// again when somebody pulls the image later.
package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/store"
)

// SourceScan is the Source of the Problem in a report that failed because of us
// or the upstream, not because of the image: such a report is tried again.
const SourceScan = "scan"

// Catalog finds an image by its digest; store implementations have it.
type Catalog interface {
	// Known returns the manifest with one of the references that lead to it; none
	// is pratique.ErrNotFound.
	Known(ctx context.Context, image digest.Digest) (store.Known, error)
}

// Config adjusts a Scheduler.
type Config struct {
	// Workers is how many scans run at once. Most of a scan is waiting for
	// transfers; how many layers are analysed at once is limited by the analyzer.
	// If zero, 16.
	Workers int
	// PullWorkers is how many of the workers only pulls that wait may have; negative
	// is none. If zero, a quarter, at least one of two.
	PullWorkers int
	// BackgroundWorkers is how many of the workers pulls may not have, so that what
	// nobody waits for goes on; negative is none. If zero, one of two or more.
	BackgroundWorkers int
	// Lease is how long a job is held without being renewed; it is renewed at a
	// third of it. If zero, 1 minute.
	Lease time.Duration
	// Timeout ends a scan that takes longer; it counts as a failed attempt. If
	// zero, 30 minutes.
	Timeout time.Duration
	// MaxAttempts is after how many failed attempts a job is given up. If zero, 6:
	// with the delays of Backoff, half a minute.
	MaxAttempts int
	// Backoff is the delay before the second attempt; it doubles up to
	// MaxBackoff, and a tenth of it is random. If zero, 1 second and 5 minutes.
	Backoff, MaxBackoff time.Duration
	// RetryFailed is how old a report that failed because of us must be before a
	// pull opens a new scan behind it. An image that keeps failing, such as one
	// that kills its worker every time, waits as long again as it has been known,
	// up to MaxRetryFailed. If zero, 1 minute and 1 hour.
	RetryFailed, MaxRetryFailed time.Duration
	// Shared says that other processes work at the same queue, and keep their reports
	// in the same place. They are to be connected: Wake when one of them opened a job,
	// Changed when one of them stored a report. The polls are behind that.
	Shared bool
	// Poll is how often the queue is looked at when nothing wakes the workers:
	// for leases that ran out and jobs opened by other processes. If zero, 15
	// seconds, or 2 when it is shared.
	Poll time.Duration
	// ReportPoll is how often a waiting pull looks for a report made by another
	// process. If zero, 1 second, or 3 when it is shared.
	ReportPoll time.Duration
	// Catalog tells through which repository an image is to be had, so that Report
	// can have a scan that failed because of us tried again. If nil, the reports'
	// store, when it is one; else only Await and Request can.
	Catalog Catalog
	// Jobs is the queue for housekeeping and metrics. If nil, the queue, when it is
	// one; else what died is kept.
	Jobs Jobs
	// KeepDead is how long jobs that were given up are kept, and MaxDead how many. If
	// zero, 30 days and 10,000.
	KeepDead time.Duration
	MaxDead  int
	// Analyzer is the key of the analyzers in use. An image that another version read
	// is read again at the lowest priority when it is pulled. If nil, it is not.
	Analyzer func() string
	// Now is the clock of jobs and reports. If nil, time.Now.
	Now func() time.Time
	// Log receives failed attempts. If nil, slog.Default().
	Log *slog.Logger
	// Metrics receives pratique_scheduler_*. If nil, none are registered.
	Metrics prometheus.Registerer
}

func (c Config) withDefaults() Config {
	or := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	if c.Workers <= 0 {
		c.Workers = 16
	}
	if c.PullWorkers == 0 && c.Workers > 1 {
		c.PullWorkers = max(1, c.Workers/4)
	}
	if c.BackgroundWorkers == 0 && c.Workers > 1 {
		c.BackgroundWorkers = 1
	}
	c.PullWorkers, c.BackgroundWorkers = max(c.PullWorkers, 0), max(c.BackgroundWorkers, 0)
	if c.MaxDead <= 0 {
		c.MaxDead = 10_000
	}
	or(&c.KeepDead, 30*24*time.Hour)
	if c.MaxAttempts <= 0 {
		c.MaxAttempts = 6
	}
	or(&c.Lease, time.Minute)
	or(&c.Timeout, 30*time.Minute)
	or(&c.Backoff, time.Second)
	or(&c.MaxBackoff, 5*time.Minute)
	or(&c.RetryFailed, time.Minute)
	or(&c.MaxRetryFailed, time.Hour)
	if c.Shared {
		or(&c.Poll, 2*time.Second)
		or(&c.ReportPoll, 3*time.Second)
	}
	or(&c.Poll, 15*time.Second)
	or(&c.ReportPoll, time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Scheduler scans what is asked for. Its methods are safe for concurrent use.
// Scans make progress only while Run runs.
type Scheduler struct {
	queue   Queue
	scanner Scanner
	reports store.Reports
	cfg     Config
	metrics metrics

	wakeUp chan struct{} // holds one value when the queue may have a job
	look   chan struct{} // holds one value when moved has one
	away   outage

	mu      sync.Mutex
	waiting map[digest.Digest]map[*waiter]struct{} // pulls, by image
	retries map[digest.Digest]time.Time            // when a failed job of this process is due again
	asked   map[digest.Digest]request              // what need not be pushed again just now, by image
	mine    map[digest.Digest]int                  // attempts that this process makes now
	moved   map[digest.Digest]struct{}             // awaited images that may have a report
	busy    share
}

// New returns a Scheduler that does nothing before Run.
func New(queue Queue, scanner Scanner, reports store.Reports, cfg Config) *Scheduler {
	if cfg.Catalog == nil {
		cfg.Catalog, _ = reports.(Catalog)
	}
	s := &Scheduler{
		queue: queue, scanner: scanner, reports: reports, cfg: cfg.withDefaults(),
		wakeUp:  make(chan struct{}, 1),
		look:    make(chan struct{}, 1),
		waiting: make(map[digest.Digest]map[*waiter]struct{}),
		retries: make(map[digest.Digest]time.Time),
		asked:   make(map[digest.Digest]request),
		mine:    make(map[digest.Digest]int),
		moved:   make(map[digest.Digest]struct{}),
	}
	s.away.log = s.cfg.Log
	if s.cfg.Jobs == nil {
		s.cfg.Jobs, _ = queue.(Jobs)
	}
	pauses, _ := queue.(Pauses)
	s.metrics = newMetrics(s.cfg.Metrics, queue, s.cfg.Jobs, pauses)
	return s
}

// Run scans until ctx ends, then waits for running scans, whose jobs stay open.
// It returns nil when ctx ended.
func (s *Scheduler) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.forgotten(ctx) })
	wg.Go(func() { s.forgetDead(ctx) })
	wg.Go(func() { s.watch(ctx) })
	taken, failures := 0, 0
	for ctx.Err() == nil {
		room := s.vacancies()
		if len(room) == 0 {
			select {
			case <-s.wakeUp: // by a worker that is free again, or for nothing
			case <-ctx.Done():
			}
			continue
		}
		j, err := s.take(ctx, room, &taken)
		if err == nil || errors.Is(err, pratique.ErrNotFound) {
			failures = 0
			s.away.over(ctx)
		}
		if err == nil {
			s.occupy(j)
			wg.Go(func() {
				defer s.leaveWorker(j)
				s.work(ctx, j)
			})
			continue
		}
		if ctx.Err() != nil {
			break
		}
		pause := s.idle()
		if !errors.Is(err, pratique.ErrNotFound) {
			s.away.began(ctx, err)
			pause = backoff(s.cfg.Backoff, maxAway, failures)
			failures++
		}
		idle := time.NewTimer(pause)
		select {
		case <-s.wakeUp:
		case <-idle.C:
		case <-ctx.Done():
		}
		idle.Stop()
	}
	return nil
}

// maxAway is how long a queue that does not answer is left alone at most.
const maxAway = 5 * time.Second

// idle is how long an empty queue need not be looked at, if nothing wakes us.
func (s *Scheduler) idle() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	d := s.cfg.Poll
	for _, due := range s.retries {
		if wait := due.Sub(now); wait > 0 {
			d = min(d, wait)
		}
	}
	return d
}

func (s *Scheduler) wake() { notify(s.wakeUp) }

// Wake has the queue looked at: what was paused or dead may be taken again.
func (s *Scheduler) Wake() { s.wake() }

// notify leaves a token in c, unless one is there.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sleep reports whether it was not cut short by ctx.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
