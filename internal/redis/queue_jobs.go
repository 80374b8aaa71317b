package redis

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/scheduler"
)

// Where a member of a sorted set of the queue has its digest, see scripts.go.
const (
	inOpen = 1 + 16 + 16
	inHeld = 1 + 20 + 16 + 16
	inDead = 20 + 16
)

// listed is how many jobs are read at once.
const listed = 500

// lister lists jobs as they were when it met them: they move meanwhile, so one may be
// met twice, or not at all.
type lister struct {
	db     *DB
	query  scheduler.JobQuery
	now    string
	paused map[scheduler.Priority]time.Time
	seen   map[digest.Digest]bool
	out    []scheduler.JobRecord
}

// Jobs implements scheduler.Jobs.
func (db *DB) Jobs(ctx context.Context, q scheduler.JobQuery, now time.Time) ([]scheduler.JobRecord, error) {
	out, err := db.jobs(ctx, q, now)
	if err != nil {
		return nil, fmt.Errorf("jobs: %w", err)
	}
	return out, nil
}

func (db *DB) jobs(ctx context.Context, q scheduler.JobQuery, now time.Time) ([]scheduler.JobRecord, error) {
	if q.State != "" {
		if err := q.State.Validate(); err != nil {
			return nil, err
		}
	}
	paused, err := db.Paused(ctx)
	if err != nil {
		return nil, err
	}
	l := &lister{db: db, query: q, now: jobTime(now), paused: paused, seen: make(map[digest.Digest]bool), out: []scheduler.JobRecord{}}
	switch {
	case q.Image != "":
		err = l.read(ctx, []string{q.Image.String()}, nil)
	default:
		err = l.all(ctx)
	}
	return l.out, err
}

func (l *lister) all(ctx context.Context) error {
	state := l.query.State
	if state == "" || state == scheduler.JobRunning {
		if err := l.held(ctx); err != nil {
			return err
		}
	}
	if state == "" || state != scheduler.JobRunning && state != scheduler.JobDead {
		if err := l.open(ctx); err != nil {
			return err
		}
	}
	if state == "" || state == scheduler.JobDead {
		return l.dead(ctx)
	}
	return nil
}

func (l *lister) full() bool { return len(l.out) >= l.query.Limit }

// held are few: as many as there are workers.
func (l *lister) held(ctx context.Context) error {
	members, err := l.db.rdb.ZRange(ctx, l.db.key(queuePart, "jobs.held"), 0, -1).Result()
	if err != nil {
		return err
	}
	// In the order of the other lists: priority, turn and number.
	place := func(m string) string { return m[:1] + m[21:] }
	slices.SortFunc(members, func(a, b string) int { return cmp.Compare(place(a), place(b)) })
	return l.read(ctx, cut(members, inHeld), func(d jobDoc) bool { return d.Until > l.now })
}

// open are those that nobody holds now.
func (l *lister) open(ctx context.Context) error {
	from := "-"
	for !l.full() {
		members, err := l.db.rdb.ZRangeByLex(ctx, l.db.key(queuePart, "jobs.open"), &redis.ZRangeBy{Min: from, Max: "+", Count: listed}).Result()
		if err != nil || len(members) == 0 {
			return err
		}
		if err := l.read(ctx, cut(members, inOpen), func(d jobDoc) bool { return d.Until <= l.now && d.Died == "" }); err != nil {
			return err
		}
		from = "(" + members[len(members)-1]
	}
	return nil
}

// dead are those given up, latest first.
func (l *lister) dead(ctx context.Context) error {
	to := "+"
	for !l.full() {
		members, err := l.db.rdb.ZRevRangeByLex(ctx, l.db.key(queuePart, "jobs.dead"), &redis.ZRangeBy{Min: "-", Max: to, Count: listed}).Result()
		if err != nil || len(members) == 0 {
			return err
		}
		if err := l.read(ctx, cut(members, inDead), func(d jobDoc) bool { return d.Died != "" }); err != nil {
			return err
		}
		to = "(" + members[len(members)-1]
	}
	return nil
}

func cut(members []string, prefix int) []string {
	out := make([]string, len(members))
	for i, m := range members {
		out[i] = m[prefix:]
	}
	return out
}

// read adds jobs to the list, those that the query and only, if given, choose.
func (l *lister) read(ctx context.Context, images []string, only func(jobDoc) bool) error {
	if len(images) == 0 {
		return nil
	}
	docs, err := l.db.rdb.HMGet(ctx, l.db.key(queuePart, "jobs"), images...).Result()
	if err != nil {
		return err
	}
	for i, text := range docs {
		s, ok := text.(string)
		image := digest.Digest(images[i])
		if !ok || l.seen[image] || l.full() {
			continue // closed meanwhile, listed already, or enough
		}
		var d jobDoc
		if err := json.Unmarshal([]byte(s), &d); err != nil {
			return fmt.Errorf("job %s: %w", image, err)
		}
		if only != nil && !only(d) {
			continue
		}
		r, err := d.record(image)
		if err != nil {
			return err
		}
		if r.State = l.state(d, r.Priority); l.query.State == "" || l.query.State == r.State {
			l.seen[image] = true
			l.out = append(l.out, r)
		}
	}
	return nil
}

func (l *lister) state(d jobDoc, p scheduler.Priority) scheduler.JobState {
	_, paused := l.paused[p]
	switch {
	case d.Died != "":
		return scheduler.JobDead
	case d.Until > l.now:
		return scheduler.JobRunning
	case paused:
		return scheduler.JobPaused
	case d.Before > l.now:
		return scheduler.JobRetry
	}
	return scheduler.JobWaiting
}

// atOnce is how many dead jobs one script opens again or removes.
const atOnce = 100

// RetryJobs implements scheduler.Jobs.
func (db *DB) RetryJobs(ctx context.Context, image digest.Digest, now time.Time) (int, error) {
	total := 0
	for {
		n, err := scriptReopen.Run(ctx, db.rdb, db.queueKeys(), db.channel(jobChannel), jobTime(now), image.String(), atOnce).Int()
		if err == nil && n == 0 && image != "" {
			err = pratique.ErrNotFound
		}
		if err != nil {
			return total, fmt.Errorf("retry jobs: %w", err)
		}
		if total += n; n < atOnce {
			return total, nil
		}
	}
}

// DeadJobs implements scheduler.Jobs.
func (db *DB) DeadJobs(ctx context.Context) (int, error) {
	n, err := db.rdb.ZCard(ctx, db.key(queuePart, "jobs.dead")).Result()
	if err != nil {
		return 0, fmt.Errorf("count dead jobs: %w", err)
	}
	return int(n), nil
}

// ForgetJobs implements scheduler.Jobs.
func (db *DB) ForgetJobs(ctx context.Context, before time.Time, keep int) error {
	for {
		n, err := scriptForget.Run(ctx, db.rdb, db.queueKeys(), jobTime(before), max(keep, 0), atOnce).Int()
		if err != nil {
			return fmt.Errorf("forget jobs: %w", err)
		}
		if n < atOnce {
			return nil
		}
	}
}

// Pause implements scheduler.Pauses.
func (db *DB) Pause(ctx context.Context, ps []scheduler.Priority, now time.Time) error {
	for _, p := range ps {
		if p <= scheduler.PriorityPull {
			return fmt.Errorf("pause jobs: %w pause: somebody waits for what has the priority %s", pratique.ErrInvalid, p)
		}
	}
	_, err := db.rdb.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, p := range ps {
			pipe.HSetNX(ctx, db.key(queuePart, "jobs.paused"), strconv.Itoa(int(p)), jobTime(now))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("pause jobs: %w", err)
	}
	return nil
}

// Resume implements scheduler.Pauses. All processes are told.
func (db *DB) Resume(ctx context.Context, ps []scheduler.Priority) error {
	if len(ps) == 0 {
		return nil
	}
	fields := make([]string, len(ps))
	for i, p := range ps {
		fields[i] = strconv.Itoa(int(p))
	}
	err := db.rdb.HDel(ctx, db.key(queuePart, "jobs.paused"), fields...).Err()
	if err == nil {
		err = db.rdb.Publish(ctx, db.channel(jobChannel), "").Err()
	}
	if err != nil {
		return fmt.Errorf("resume jobs: %w", err)
	}
	return nil
}

// Paused implements scheduler.Pauses.
func (db *DB) Paused(ctx context.Context) (map[scheduler.Priority]time.Time, error) {
	found, err := db.rdb.HGetAll(ctx, db.key(queuePart, "jobs.paused")).Result()
	if err != nil {
		return nil, fmt.Errorf("paused priorities: %w", err)
	}
	out := make(map[scheduler.Priority]time.Time)
	for field, text := range found {
		p, err1 := strconv.Atoi(field)
		since, err2 := strconv.ParseInt(text, 10, 64)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("paused priorities: %q since %q", field, text)
		}
		out[scheduler.Priority(p)] = at(since)
	}
	return out, nil
}
