package redis

import (
	"testing"

	"pratique/scheduler"
	"pratique/scheduler/schedulertest"
)

func TestQueue(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		schedulertest.Queue(t, func(t *testing.T) func() scheduler.Queue {
			open := fresh(url)(t)
			return func() scheduler.Queue { return open() }
		})
	})
}

func TestJobs(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) { schedulertest.Jobs(t, fresh(url)) })
}

func TestRuns(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) { schedulertest.Runs(t, fresh(url)) })
}
