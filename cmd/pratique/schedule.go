package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/evidence/lineage/series"
	"pratique/internal/config"
	"pratique/internal/rungroup"
	"pratique/proxy"
	"pratique/scheduler"
	"pratique/store"
	"pratique/web"
)

// schedules are what is done at set times. It implements web.Schedules.
type schedules struct {
	*scheduler.Cron
	chores *scheduler.Chores
	evict  func(context.Context) (store.Evicted, error)
	full   func(context.Context) (scheduler.Pass, error)
	pauses scheduler.Pauses
}

// decideWait is how long a prefetch waits for one image. The scan goes on after it.
const decideWait = 15 * time.Minute

// newSchedules does what cfg.Schedules says.
func newSchedules(ctx context.Context, cfg config.Config, state state, cache *proxy.Cache, l *live, evict func(context.Context) (store.Evicted, error),
	full func(context.Context) (scheduler.Pass, error), log *slog.Logger, metrics prometheus.Registerer,
) (*schedules, rungroup.Part, error) {
	s := &schedules{
		Cron: scheduler.NewCron(state, scheduler.CronConfig{Pauses: state, Log: log, Metrics: metrics}), evict: evict, full: full, pauses: state,
		chores: &scheduler.Chores{
			Queue: state, Catalog: state, Tags: state,
			Configured: func(key string) bool { _, ok := l.Lookup(key); return ok },
			Revalidate: func(ctx context.Context, ref pratique.Ref) (bool, error) {
				_, moved, err := cache.Revalidate(ctx, ref)
				return moved, err
			},
			List: func(ctx context.Context, ref pratique.Ref) ([]string, error) {
				list, err := cache.Tags(ctx, proxy.Request{Ref: ref, N: -1})
				return list.Tags, err
			},
			Newest: newestTags,
			Decide: func(ctx context.Context, ref pratique.Ref) (pratique.Decision, error) {
				return l.Check(ctx, ref, netip.Addr{}, decideWait)
			},
		},
	}
	if err := s.use(ctx, cfg); err != nil {
		return nil, rungroup.Part{}, err
	}
	return s, rungroup.Part{Name: "schedules", Run: s.Run}, nil
}

// use has the configured schedules kept from now on.
func (s *schedules) use(ctx context.Context, cfg config.Config) error {
	var tasks []scheduler.Task
	for _, name := range slices.Sorted(maps.Keys(cfg.Schedules)) {
		t, err := s.task(name, cfg.Schedules[name])
		if err != nil {
			return fmt.Errorf("schedules.%s: %w", name, err)
		}
		tasks = append(tasks, t)
	}
	return s.Use(ctx, tasks)
}

func (s *schedules) task(name string, cfg config.Schedule) (scheduler.Task, error) {
	times, err := config.ParseCron(cfg.Cron)
	if err != nil {
		return scheduler.Task{}, err
	}
	match, err := pratique.ParsePatterns(cfg.Match)
	if err != nil {
		return scheduler.Task{}, err
	}
	t := scheduler.Task{Name: name, Spec: cfg.Cron, Times: times, What: string(cfg.Do), Match: cfg.Match}
	switch cfg.Do {
	case config.DoRescan:
		t.Do = func(ctx context.Context) (string, error) { return s.chores.Rescan(ctx, match) }
	case config.DoRevalidate:
		t.Do = func(ctx context.Context) (string, error) { return s.chores.RevalidateTags(ctx, match) }
	case config.DoPrefetch:
		t.Do = func(ctx context.Context) (string, error) { return s.chores.Prefetch(ctx, match) }
	case config.DoEvict:
		t.Do = func(ctx context.Context) (string, error) {
			out, err := s.evict(ctx)
			return fmt.Sprintf("%d blobs, %d bytes removed", out.Blobs, out.Bytes), err
		}
	case config.DoFullPass:
		t.Do = func(ctx context.Context) (string, error) {
			p, err := s.full(ctx)
			if errors.Is(err, pratique.ErrNoDatabase) {
				return "nothing to do without a database", nil
			}
			return fmt.Sprintf("%d components matched, %d differed, %d failed", p.Components, p.Differences, p.Failed), err
		}
	default:
		return scheduler.Task{}, fmt.Errorf("%w do: %q", pratique.ErrInvalid, cfg.Do)
	}
	return t, nil
}

// newestTags orders tags as versions, series by series: the newest of each series,
// then the second newest of each, and in the end prereleases and what is no version.
// So many variants of one version leave room for others. `latest` goes first.
func newestTags(tags []string, n int) []string {
	lines := make(map[string][]series.Version)
	var names, rest []string
	for _, tag := range tags {
		v, ok := series.Parse(tag)
		if !ok || v.Prerelease() {
			rest = append(rest, tag)
			continue
		}
		if lines[v.Series()] == nil {
			names = append(names, v.Series())
		}
		lines[v.Series()] = append(lines[v.Series()], v)
	}
	slices.Sort(names)
	most := 0
	for _, name := range names {
		slices.SortStableFunc(lines[name], func(a, b series.Version) int { return b.Compare(a) })
		most = max(most, len(lines[name]))
	}
	var out []string
	if i := slices.Index(rest, "latest"); i >= 0 {
		out, rest = append(out, "latest"), slices.Delete(rest, i, i+1)
	}
	for i := range most {
		for _, name := range names {
			if i < len(lines[name]) {
				out = append(out, lines[name][i].Tag())
			}
		}
	}
	out = append(out, rest...)
	return out[:min(n, len(out))]
}

// Schedules implements web.Schedules.
func (s *schedules) Schedules(ctx context.Context) (web.ScheduleList, error) {
	paused, err := s.pauses.Paused(ctx)
	if err != nil {
		return web.ScheduleList{}, err
	}
	_, held := paused[scheduler.PrioritySchedule]
	out := web.ScheduleList{Schedules: []web.Schedule{}, Paused: held}
	for _, st := range s.Status() {
		one := web.Schedule{Name: st.Name, Cron: st.Spec, Do: st.What, Match: append([]string{}, st.Match...), Running: st.Running, Next: instant(st.Next.UTC())}
		if st.Next.IsZero() {
			one.Next = nil
		}
		if !st.Last.StartedAt.IsZero() {
			one.Last = &web.ScheduleRun{Started: st.Last.StartedAt, Outcome: string(st.Last.Outcome), Note: st.Last.Note}
			if !st.Last.EndedAt.Before(st.Last.StartedAt) {
				one.Last.Ended = instant(st.Last.EndedAt)
			}
		}
		out.Schedules = append(out.Schedules, one)
	}
	return out, nil
}

// BeginSchedule implements web.Schedules.
func (s *schedules) BeginSchedule(_ context.Context, name string) error {
	err := s.Begin(name) //nolint:contextcheck // what is begun goes on after the request, and ends with Run
	if errors.Is(err, scheduler.ErrRunning) {
		return conflict{err}
	}
	return err
}

// conflict is answered with 409.
type conflict struct{ error }

// Status is that of the answer.
func (conflict) Status() int { return http.StatusConflict }

func (c conflict) Unwrap() error { return c.error }
