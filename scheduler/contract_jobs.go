package scheduler

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Names of priorities, as people write them.
var priorityNames = [...]string{PriorityPull: "pull", PriorityWebhook: "webhook", PriorityDatabase: "database", PrioritySchedule: "schedule"} //nolint:gochecknoglobals // a constant that the language has no word for

// String is the name.
func (p Priority) String() string {
	if p < 0 || int(p) >= len(priorityNames) {
		return fmt.Sprint("priority ", int(p))
	}
	return priorityNames[p]
}

// ParsePriority reads a name.
func ParsePriority(name string) (Priority, error) {
	if i := slices.Index(priorityNames[:], name); i >= 0 {
		return Priority(i), nil
	}
	return 0, fmt.Errorf("%w priority %q: want pull, webhook, database or schedule", pratique.ErrInvalid, name)
}

// Background are the priorities of work that nobody waits for.
func Background() []Priority { return []Priority{PriorityWebhook, PriorityDatabase, PrioritySchedule} }

// JobState is what a job is doing.
type JobState string

// States of jobs.
const (
	JobWaiting JobState = "waiting" // for its turn
	JobRunning JobState = "running" // held by a worker
	JobRetry   JobState = "retry"   // failed, and waits for its next attempt
	JobPaused  JobState = "paused"  // would be waiting or retried if its priority were not paused
	JobDead    JobState = "dead"    // given up
)

// Validate reports whether s is one of them; the empty state is not.
func (s JobState) Validate() error {
	switch s {
	case JobWaiting, JobRunning, JobRetry, JobPaused, JobDead:
		return nil
	}
	return fmt.Errorf("%w state of a job %q: want waiting, running, retry, paused or dead", pratique.ErrInvalid, string(s))
}

// JobRecord is a job as people see it.
type JobRecord struct {
	Job
	State    JobState
	OpenedAt time.Time
	DiedAt   time.Time // of a dead one, by the implementation's clock
}

// JobQuery chooses jobs for a list.
type JobQuery struct {
	Image digest.Digest // only this one's; "" = all
	State JobState      // only those in it; "" = all
	Limit int           // at most so many
}

// Jobs is the queue for people. Implemented by what implements Queue.
type Jobs interface {
	// Jobs lists jobs as they are at now: those that are held, then those that wait,
	// the most urgent and oldest first, then the dead, latest first. None is an empty
	// list.
	Jobs(ctx context.Context, q JobQuery, now time.Time) ([]JobRecord, error)
	// RetryJobs opens an image's dead job again, as a new one at now, without
	// attempts, at its priority, but at PriorityWebhook instead of PriorityPull; an
	// open one that waits for its next attempt may be taken at once. With an empty
	// digest it opens all dead ones. It returns how many; an image without such a job
	// is pratique.ErrNotFound.
	RetryJobs(ctx context.Context, image digest.Digest, now time.Time) (int, error)
	// DeadJobs counts those given up.
	DeadJobs(ctx context.Context) (int, error)
	// ForgetJobs removes dead jobs that died before a time, and all but the keep
	// latest.
	ForgetJobs(ctx context.Context, before time.Time, keep int) error
}

// Pauses hold priorities back, also after a restart. What runs already goes on.
type Pauses interface {
	// Pause holds priorities back from now on; one that is paused stays as it is.
	// PriorityPull is pratique.ErrInvalid: pulls are never held back.
	Pause(ctx context.Context, ps []Priority, now time.Time) error
	// Resume ends the pause of priorities; those that are not paused stay so.
	Resume(ctx context.Context, ps []Priority) error
	// Paused tells which are, and since when.
	Paused(ctx context.Context) (map[Priority]time.Time, error)
}
