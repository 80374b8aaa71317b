package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/scheduler"
	"pratique/store"
)

// dumpsQueue is found by dump.go.
func (db *DB) dumpsQueue() dumps {
	return dumps{
		store.KindJobs:  {db.dumpJobs, db.loadJobs},
		store.KindQueue: {db.dumpQueue, db.loadQueue},
		store.KindRuns:  {db.dumpRuns, db.loadRuns},
	}
}

// dumpOne yields a record for each field of one hash of the queue, sorted.
func (db *DB) dumpOne(ctx context.Context, name, after string, record func(field, value string) (store.Record, error)) iter.Seq2[store.Record, error] {
	return db.dumpFields(ctx, db.key(queuePart, name), after, record)
}

func (db *DB) dumpJobs(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return db.dumpOne(ctx, "jobs", after, func(field, value string) (store.Record, error) {
		var d jobDoc
		if err := json.Unmarshal([]byte(value), &d); err != nil {
			return store.Record{}, fmt.Errorf("job %s: %w", field, err)
		}
		r, err := d.record(digest.Digest(field))
		if err != nil {
			return store.Record{}, err
		}
		turn, err1 := strconv.ParseInt(d.Turn, 10, 64)
		number, err2 := strconv.ParseInt(d.Number, 10, 64)
		if err1 != nil || err2 != nil {
			return store.Record{}, fmt.Errorf("job %s: turn %q, number %q", field, d.Turn, d.Number)
		}
		return store.NewRecord(store.KindJobs, field, store.DumpedJob{
			Ref: r.Ref, Priority: int(r.Priority), Attempts: r.Attempts, NotBefore: r.NotBefore, Error: r.Error,
			OpenedAt: r.OpenedAt, Dead: d.Died != "", DiedAt: r.DiedAt, Turn: turn, Seq: number,
		})
	})
}

// loadJobs stores jobs that nobody holds.
func (db *DB) loadJobs(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.DumpedJob](rs)
	if err != nil {
		return err
	}
	for i, v := range docs {
		p, err := priority(scheduler.Priority(v.Priority))
		if err == nil && (v.Turn < 0 || v.Seq < 0) {
			err = fmt.Errorf("%w place %d, %d", pratique.ErrInvalid, v.Turn, v.Seq)
		}
		if err != nil {
			return fmt.Errorf("job %s: %w", rs[i].Key, err)
		}
		died := ""
		if v.Dead {
			died = jobTime(v.DiedAt)
		}
		doc, err := json.Marshal(jobDoc{
			Registry: v.Ref.Registry, Repository: v.Ref.Repo, Tag: v.Ref.Tag, Priority: p, Attempts: v.Attempts, Before: jobTime(v.NotBefore), Error: v.Error,
			Until: jobTime(time.Time{}), Opened: jobTime(v.OpenedAt), Died: died, Turn: fmt.Sprintf("%016d", v.Turn), Number: fmt.Sprintf("%016d", v.Seq),
		})
		if err == nil {
			err = scriptLoadJob.Run(ctx, db.rdb, db.queueKeys(), rs[i].Key, doc).Err()
		}
		if err != nil {
			return fmt.Errorf("job %s: %w", rs[i].Key, err)
		}
	}
	return nil
}

func (db *DB) dumpQueue(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		v, err := db.queueDoc(ctx)
		if err != nil {
			yield(store.Record{}, err)
			return
		}
		if after == "" && len(v.Paused)+len(v.Turns) > 0 {
			yield(store.NewRecord(store.KindQueue, "queue", v))
		}
	}
}

// queueNumber is the field of jobs.turns that is no priority.
const queueNumber = "number"

func (db *DB) queueDoc(ctx context.Context) (store.DumpedQueue, error) {
	v := store.DumpedQueue{Paused: map[int]time.Time{}, Turns: map[int]int64{}}
	paused, err := db.Paused(ctx)
	if err != nil {
		return v, err
	}
	for p, since := range paused {
		v.Paused[int(p)] = since
	}
	turns, err := db.rdb.HGetAll(ctx, db.key(queuePart, "jobs.turns")).Result()
	if err != nil {
		return v, err
	}
	for field, text := range turns {
		if field == queueNumber {
			continue // follows from the jobs
		}
		p, err1 := strconv.Atoi(field)
		n, err2 := strconv.ParseInt(text, 10, 64)
		if err1 != nil || err2 != nil {
			return v, fmt.Errorf("turn %q of priority %q", text, field)
		}
		v.Turns[p] = n
	}
	return v, nil
}

func (db *DB) loadQueue(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.DumpedQueue](rs)
	if err != nil {
		return err
	}
	pauses, turns := db.key(queuePart, "jobs.paused"), db.key(queuePart, "jobs.turns")
	for _, v := range docs {
		old, err := db.queueDoc(ctx)
		if err != nil {
			return err
		}
		_, err = db.rdb.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.Del(ctx, pauses)
			for p := range old.Turns {
				pipe.HDel(ctx, turns, strconv.Itoa(p))
			}
			for p, since := range v.Paused {
				pipe.HSet(ctx, pauses, strconv.Itoa(p), jobTime(since))
			}
			for p, n := range v.Turns {
				pipe.HSet(ctx, turns, strconv.Itoa(p), n)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (db *DB) dumpRuns(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return db.dumpOne(ctx, "runs", after, func(name, value string) (store.Record, error) {
		var d runDoc
		if err := json.Unmarshal([]byte(value), &d); err != nil {
			return store.Record{}, fmt.Errorf("run of schedule %s: %w", name, err)
		}
		return store.NewRecord(store.KindRuns, name, store.DumpedRun{
			Spec: d.Spec, Base: at(d.Base), StartedAt: at(d.Started), EndedAt: at(d.Ended), Unfinished: d.Unfinished, Outcome: d.Outcome, Note: d.Note,
		})
	})
}

func (db *DB) loadRuns(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.DumpedRun](rs)
	if err != nil {
		return err
	}
	for i, v := range docs {
		err := db.PutRun(ctx, scheduler.Run{
			Name: rs[i].Key, Spec: v.Spec, Base: v.Base, StartedAt: v.StartedAt, EndedAt: v.EndedAt,
			Unfinished: v.Unfinished, Outcome: scheduler.Outcome(v.Outcome), Note: v.Note,
		})
		if err != nil {
			return err
		}
	}
	return nil
}
