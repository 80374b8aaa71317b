package scheduler

import (
	"context"
	"time"

	"pratique"
)

// Priority orders jobs; the lower number goes first.
type Priority int

// Priorities of scans.
const (
	PriorityPull     Priority = 0 // somebody waits
	PriorityWebhook  Priority = 1
	PriorityDatabase Priority = 2
	PrioritySchedule Priority = 3
)

// Job asks for the scan of one image manifest. Ref.Digest identifies it; the
// repository says through which upstream its bytes are to be had.
type Job struct {
	Ref       pratique.Ref
	Priority  Priority
	Attempts  int       // finished attempts so far
	NotBefore time.Time // earliest start, after a failed attempt
	Error     string    // of the last attempt
}

// Queue is a durable set of open jobs, at most one per digest.
// Implementations: internal/sqlite, internal/redis.
type Queue interface {
	// Push opens a job. One that is open already for the digest is kept; its
	// priority is raised to p and its NotBefore lowered to now if p is PriorityPull.
	Push(ctx context.Context, ref pratique.Ref, p Priority, now time.Time) error
	// Take leases the most urgent job that nobody holds (oldest first within a
	// priority) until now+lease. None is pratique.ErrNotFound. A job whose lease
	// ran out is taken again.
	Take(ctx context.Context, now time.Time, lease time.Duration) (Job, error)
	// Finish closes the job, or with a non-nil failure keeps it open until
	// retryAt, its attempts counted; a zero retryAt closes it as dead.
	Finish(ctx context.Context, j Job, failure error, retryAt time.Time) error
	// Len counts open jobs by priority.
	Len(ctx context.Context) (map[Priority]int, error)
}

// Scanner does the work of a job.
type Scanner interface {
	// Scan brings the image's report up to date and returns it as stored. A scan
	// that could not be done because of the image is a report (failed,
	// incomplete); an error means that trying again may help (upstream down,
	// disk full, no database).
	Scan(ctx context.Context, ref pratique.Ref) (pratique.Report, error)
}
