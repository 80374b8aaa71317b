package scheduler

import (
	"context"
	"time"
)

// Run is what is known of the runs of one schedule.
type Run struct {
	Name string
	// Spec is the text of its times when it was noted; with another text it counts
	// as new.
	Spec string
	// Base is the time up to which it was run as it should, or since when it is
	// known: what was due after it is due still.
	Base time.Time
	// StartedAt and EndedAt are those of the last run. One that began and did not end,
	// because the process was killed, has an EndedAt before StartedAt.
	StartedAt, EndedAt time.Time
	// Unfinished counts runs in a row that began and did not end.
	Unfinished int
	// Outcome of the last run that ended, Note what it did or why it failed.
	Outcome Outcome
	Note    string
}

// Outcome is how a run ended.
type Outcome string

// Outcomes of runs.
const (
	OutcomeDone    Outcome = "done"
	OutcomeFailed  Outcome = "failed"
	OutcomeStopped Outcome = "stopped" // the process was stopped; it is run again
)

// Runs notes the runs of schedules.
type Runs interface {
	// PutRun replaces what is noted under r.Name.
	PutRun(ctx context.Context, r Run) error
	// LastRuns returns everything that is noted, by name.
	LastRuns(ctx context.Context) (map[string]Run, error)
}
