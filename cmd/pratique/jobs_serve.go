package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique/scheduler"
	"pratique/web"
)

// jobs is the queue as the admin API wants it. It implements web.Jobs.
type jobs struct {
	queue interface {
		scheduler.Queue
		scheduler.Jobs
		scheduler.Pauses
	}
	wake func() // has the queue and the schedules looked at
}

// Jobs implements web.Jobs.
func (j jobs) Jobs(ctx context.Context, q web.JobQuery) (web.JobList, error) {
	out := web.JobList{Jobs: []web.Job{}, Open: map[string]int{}}
	records, err := j.queue.Jobs(ctx, scheduler.JobQuery{Image: q.Image, State: scheduler.JobState(q.State), Limit: q.Limit}, time.Now())
	if err != nil {
		return web.JobList{}, err
	}
	for _, r := range records {
		one := web.Job{
			Ref: r.Ref.String(), Digest: r.Ref.Digest, State: string(r.State), Priority: r.Priority.String(), Attempts: r.Attempts,
			Opened: instant(r.OpenedAt), Died: instant(r.DiedAt), Error: r.Error,
		}
		if r.State == scheduler.JobRetry || r.State == scheduler.JobPaused && r.Attempts > 0 {
			one.Next = instant(r.NotBefore)
		}
		out.Jobs = append(out.Jobs, one)
	}
	open, err := j.queue.Len(ctx)
	if err != nil {
		return web.JobList{}, err
	}
	for p := scheduler.PriorityPull; p <= scheduler.PrioritySchedule; p++ {
		out.Open[p.String()] = open[p]
	}
	if out.Dead, err = j.queue.DeadJobs(ctx); err != nil {
		return web.JobList{}, err
	}
	paused, err := j.paused(ctx)
	out.Paused = paused.Paused
	return out, err
}

// RetryJobs implements web.Jobs.
func (j jobs) RetryJobs(ctx context.Context, image digest.Digest) (int, error) {
	n, err := j.queue.RetryJobs(ctx, image, time.Now())
	j.wake()
	return n, err
}

// PauseJobs implements web.Jobs.
func (j jobs) PauseJobs(ctx context.Context, names []string) (web.Pauses, error) {
	ps, err := priorities(names)
	if err == nil {
		err = j.queue.Pause(ctx, ps, time.Now())
	}
	if err != nil {
		return web.Pauses{}, err
	}
	return j.paused(ctx)
}

// ResumeJobs implements web.Jobs.
func (j jobs) ResumeJobs(ctx context.Context, names []string) (web.Pauses, error) {
	ps, err := priorities(names)
	if err == nil {
		err = j.queue.Resume(ctx, ps)
	}
	if err != nil {
		return web.Pauses{}, err
	}
	j.wake()
	return j.paused(ctx)
}

func priorities(names []string) ([]scheduler.Priority, error) {
	if len(names) == 0 {
		return scheduler.Background(), nil
	}
	var out []scheduler.Priority
	for _, name := range names {
		p, err := scheduler.ParsePriority(name)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func (j jobs) paused(ctx context.Context) (web.Pauses, error) {
	out := web.Pauses{Paused: []web.Pause{}}
	paused, err := j.queue.Paused(ctx)
	for _, p := range slices.Sorted(maps.Keys(paused)) {
		out.Paused = append(out.Paused, web.Pause{Priority: p.String(), Since: paused[p]})
	}
	return out, err
}

// probe shows what is paused. That does not make the
// process unready: pulls go on.
func (j jobs) probe() web.Probe {
	return web.Probe{Name: "queue", Check: func(context.Context) error { return nil }, Note: func() string {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		paused, err := j.paused(ctx)
		if err != nil || len(paused.Paused) == 0 {
			return "" // a state that does not answer has a probe of its own
		}
		var words []string
		for _, p := range paused.Paused {
			words = append(words, fmt.Sprintf("%s since %s", p.Priority, p.Since.Format(time.RFC3339)))
		}
		return "paused: " + strings.Join(words, ", ") + "; `pratique jobs resume` lets it go on"
	}}
}
