package sqlite_test

import (
	"testing"

	"pratique/scheduler/schedulertest"
)

func TestJobs(t *testing.T) { schedulertest.Jobs(t, fresh) }
func TestRuns(t *testing.T) { schedulertest.Runs(t, fresh) }
