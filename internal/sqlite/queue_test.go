package sqlite_test

import (
	"testing"

	"pratique/scheduler/schedulertest"
	"pratique/store/storetest"
)

func TestJobs(t *testing.T)   { schedulertest.Jobs(t, fresh) }
func TestTagged(t *testing.T) { storetest.Tagged(t, fresh) }
func TestRuns(t *testing.T)   { schedulertest.Runs(t, fresh) }
