package scheduler

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

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
	Lease     int64     // names this holding of the job; opaque
}

// Queue is a durable set of open jobs, at most one per digest.
// Implementations: internal/sqlite, internal/redis.
type Queue interface {
	// Push opens a job. One that is open already for the digest is kept; its
	// priority is raised to p and its NotBefore lowered to now if p is PriorityPull.
	Push(ctx context.Context, ref pratique.Ref, p Priority, now time.Time) error
	// Take leases the most urgent job that nobody holds until now+lease: one of a
	// priority in only, if any are given, and of none that is paused (Pauses). Within
	// a priority repositories take turns: however many jobs a repository opened, one
	// of another that is opened later waits for about one of each repository, and for
	// the older ones of its own. A job that failed goes to the end of its
	// repository's. None is pratique.ErrNotFound. A job whose lease ran out, or whose
	// holder is known to be dead, is taken again.
	Take(ctx context.Context, now time.Time, lease time.Duration, only ...Priority) (Job, error)
	// Renew moves the end of the job's lease to until. A job that is closed, or
	// whose lease was taken by another, is pratique.ErrNotFound.
	Renew(ctx context.Context, j Job, until time.Time) error
	// Finish closes the job, or with a non-nil failure keeps it open until
	// retryAt, its attempts counted; a zero retryAt closes it as dead: the digest
	// may be pushed again, as a new job without attempts. A job that is closed,
	// or whose lease was taken by another, is pratique.ErrNotFound and left alone.
	Finish(ctx context.Context, j Job, failure error, retryAt time.Time) error
	// Len counts open jobs by priority.
	Len(ctx context.Context) (map[Priority]int, error)
}

// Scanner does the work.
type Scanner interface {
	// Scan brings the image's report up to date and returns it as stored. A scan
	// that could not be done because of the image is a report (failed,
	// incomplete); an error means that trying again may help (upstream down,
	// disk full, no database).
	Scan(ctx context.Context, ref pratique.Ref) (pratique.Report, error)
	// Rematch renews the report of an image that has one with the database in use
	// now and returns what stands then; no content is read. A report that was
	// made with that database already, or that matching cannot change, stands.
	Rematch(ctx context.Context, image digest.Digest) (pratique.Report, error)
}
