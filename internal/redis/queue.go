package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/scheduler"
)

// The queue is in one part of the state, so that a script sees all of it: what is
// next is decided between all jobs of all replicas. scripts.go tells how it is laid
// out; repositories take turns as in internal/sqlite. Times are the callers', as the
// contract has it, but for who is alive (queue_alive.go).

var (
	_ scheduler.Queue  = (*DB)(nil)
	_ scheduler.Jobs   = (*DB)(nil)
	_ scheduler.Pauses = (*DB)(nil)
	_ scheduler.Runs   = (*DB)(nil)
)

const queuePart part = "queue"

// queueKeys are the KEYS of every script of the queue.
func (db *DB) queueKeys() []string { return db.queue.keys }

func (db *DB) newQueueKeys() []string {
	names := []string{"jobs", "jobs.open", "jobs.ready", "jobs.later", "jobs.held", "jobs.line", "jobs.dead", "jobs.turns", "jobs.paused", "jobs.tokens", "alive", "heard"}
	for i, n := range names {
		names[i] = db.key(queuePart, n)
	}
	return names
}

// jobDoc is a job as scripts keep it (scripts.go).
type jobDoc struct {
	Registry   string `json:"g"`
	Repository string `json:"r"`
	Tag        string `json:"t"`
	Priority   string `json:"p"`
	Attempts   int    `json:"a"`
	Before     string `json:"b"`
	Error      string `json:"e"`
	Token      string `json:"l"`
	Until      string `json:"u"`
	Opened     string `json:"o"`
	Died       string `json:"x"`
	Turn       string `json:"n"`
	Number     string `json:"q"`
}

// record reads a job; its state is left to the caller.
func (d jobDoc) record(image digest.Digest) (r scheduler.JobRecord, err error) {
	r.Ref = pratique.Ref{Registry: d.Registry, Repo: d.Repository, Tag: d.Tag, Digest: image}
	r.Attempts, r.Error = d.Attempts, d.Error
	p, err := strconv.Atoi(d.Priority)
	if err != nil {
		return r, fmt.Errorf("job %s: priority %q", image, d.Priority)
	}
	r.Priority = scheduler.Priority(p)
	if d.Token != "" {
		if r.Lease, err = strconv.ParseInt(d.Token, 10, 64); err != nil {
			return r, fmt.Errorf("job %s: token %q", image, d.Token)
		}
	}
	for _, t := range []struct {
		to   *time.Time
		text string
	}{{&r.NotBefore, d.Before}, {&r.OpenedAt, d.Opened}, {&r.DiedAt, d.Died}} {
		if t.text == "" {
			continue
		}
		n, err := strconv.ParseInt(t.text, 10, 64)
		if err != nil {
			return r, fmt.Errorf("job %s: time %q", image, t.text)
		}
		*t.to = at(n)
	}
	return r, nil
}

// jobTime is a time as scripts compare it: text of one length. What was before 1970
// is past like 1970.
func jobTime(t time.Time) string { return fmt.Sprintf("%020d", max(nanos(t), 0)) }

// priority is one as scripts compare it: one digit.
func priority(p scheduler.Priority) (string, error) {
	if p < 0 || p > 9 {
		return "", fmt.Errorf("%w priority %d", pratique.ErrInvalid, int(p))
	}
	return strconv.Itoa(int(p)), nil
}

// Push implements scheduler.Queue.
func (db *DB) Push(ctx context.Context, ref pratique.Ref, p scheduler.Priority, now time.Time) error {
	text, err := priority(p)
	if err == nil {
		err = scriptPush.Run(ctx, db.rdb, db.queueKeys(), db.channel(jobChannel), jobTime(now), ref.Digest.String(), ref.Registry, ref.Repo, ref.Tag, text).Err()
	}
	if err != nil {
		return fmt.Errorf("push job %s: %w", ref, err)
	}
	return nil
}

// promoted is how many jobs of a priority whose time has come a Take moves in.
const promoted = 64

// Take implements scheduler.Queue. A job of another process whose lease ran out is
// taken Config.Skew later: the holder's clock may be behind by so much.
func (db *DB) Take(ctx context.Context, now time.Time, lease time.Duration, only ...scheduler.Priority) (scheduler.Job, error) {
	if len(only) == 0 {
		only = append([]scheduler.Priority{scheduler.PriorityPull}, scheduler.Background()...)
	}
	token := strconv.FormatInt(1+rand.Int64N(math.MaxInt64-1), 10) //nolint:gosec // a name, not a secret
	args := []any{token, db.queue.me, jobTime(now), jobTime(now.Add(lease)), jobTime(now.Add(-db.cfg.Skew)), promoted}
	for _, p := range slices.Sorted(slices.Values(only)) {
		text, err := priority(p)
		if err != nil {
			return scheduler.Job{}, fmt.Errorf("take job: %w", err)
		}
		args = append(args, text)
	}
	got, err := scriptTake.Run(ctx, db.rdb, db.queueKeys(), args...).StringSlice()
	if err == nil && len(got) != 2 {
		err = fmt.Errorf("answered with %d words", len(got))
	}
	if err != nil {
		if !errors.Is(err, redis.Nil) {
			db.queue.doubt(token) // it may have been done nevertheless, or be done yet
		}
		return scheduler.Job{}, fmt.Errorf("take job: %w", missing(err))
	}
	var doc jobDoc
	if err := json.Unmarshal([]byte(got[1]), &doc); err != nil {
		return scheduler.Job{}, fmt.Errorf("take job %s: %w", got[0], err)
	}
	r, err := doc.record(digest.Digest(got[0]))
	return r.Job, err
}

// Renew implements scheduler.Queue.
func (db *DB) Renew(ctx context.Context, j scheduler.Job, until time.Time) error {
	n, err := scriptRenewJob.Run(ctx, db.rdb, db.queueKeys(), j.Ref.Digest.String(), strconv.FormatInt(j.Lease, 10), db.queue.me, jobTime(until)).Int()
	return held(n, err, "renew", j)
}

// Finish implements scheduler.Queue.
func (db *DB) Finish(ctx context.Context, j scheduler.Job, failure error, retryAt time.Time) error {
	how, when, text := "done", retryAt, ""
	if failure != nil {
		how, text = "retry", failure.Error()
		if retryAt.IsZero() {
			how, when = "dead", time.Now()
		}
	}
	n, err := scriptFinish.Run(ctx, db.rdb, db.queueKeys(), j.Ref.Digest.String(), strconv.FormatInt(j.Lease, 10), how, jobTime(when), text).Int()
	return held(n, err, "finish", j)
}

// held is pratique.ErrNotFound when a script did not find the job under its token.
func held(n int, err error, what string, j scheduler.Job) error {
	if err == nil && n == 0 {
		err = pratique.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("%s job %s: %w", what, j.Ref, err)
	}
	return nil
}

// Len implements scheduler.Queue.
func (db *DB) Len(ctx context.Context) (map[scheduler.Priority]int, error) {
	var counts [10]*redis.IntCmd
	_, err := db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for p := range counts {
			digit := strconv.Itoa(p)
			counts[p] = pipe.ZLexCount(ctx, db.key(queuePart, "jobs.open"), "["+digit, "("+digit+":")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count jobs: %w", err)
	}
	n := make(map[scheduler.Priority]int)
	for p, c := range counts {
		if c.Val() > 0 {
			n[scheduler.Priority(p)] = int(c.Val())
		}
	}
	return n, nil
}
