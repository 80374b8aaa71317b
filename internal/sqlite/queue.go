package sqlite

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"pratique"
	"pratique/scheduler"
)

// Repositories take turns by a number that a job gets when it is opened: the one
// after its repository's last open job, but none that has passed already. Jobs go
// by that number, so the 10,000th of one repository stands behind the first of
// another, and the next is found in an index. A column of its own (waits) keeps
// out of that index what is held or has failed lately: it is moved in when its time
// has come, some at each Take.

// nextTurn is the turn of a job opened now.
const nextTurn = `max(coalesce((SELECT turn FROM turns WHERE priority = ?1), 0),
	coalesce((SELECT max(turn) + 1 FROM jobs WHERE dead = 0 AND priority = ?1 AND registry = ?2 AND repository = ?3), 0))`

// What a Take asks. Each is answered from an index, however long the queue is.
const (
	takeableQuery = `SELECT 1 WHERE ?1 NOT IN (SELECT priority FROM pauses) AND (
			EXISTS (SELECT 1 FROM jobs WHERE dead = 0 AND waits = 0 AND priority = ?1) OR
			EXISTS (SELECT 1 FROM jobs WHERE dead = 0 AND waits <> 0 AND priority = ?1 AND waits <= ?2))`
	promoteQuery = `UPDATE jobs SET waits = 0 WHERE seq IN (
			SELECT seq FROM jobs WHERE dead = 0 AND waits <> 0 AND priority = ? AND waits <= ? ORDER BY waits LIMIT ?)`
	nextQuery = `SELECT seq FROM jobs WHERE dead = 0 AND waits = 0 AND priority = ?1
			AND ?1 NOT IN (SELECT priority FROM pauses) ORDER BY turn, seq LIMIT 1`
)

// promoted is how many jobs of a priority whose time has come a Take moves in.
const promoted = 64

// Push implements scheduler.Queue.
func (db *DB) Push(ctx context.Context, ref pratique.Ref, p scheduler.Priority, now time.Time) error {
	return annotate(db.write(ctx, func(tx *sql.Tx) error { return push(ctx, tx, ref, p, now) }), "push job %s", ref)
}

func push(ctx context.Context, tx *sql.Tx, ref pratique.Ref, p scheduler.Priority, now time.Time) error {
	var seq, before, leased int64
	var have scheduler.Priority
	var registry, repo string
	var dead bool
	err := found(tx.QueryRowContext(ctx, `SELECT seq, priority, registry, repository, not_before, leased_until, dead FROM jobs WHERE digest = ?`, ref.Digest.String()).
		Scan(&seq, &have, &registry, &repo, &before, &leased, &dead))
	switch {
	case isNotFound(err):
	case err != nil:
		return err
	case dead: // not open: a new one takes its place, at the queue's end
		if _, err := tx.ExecContext(ctx, `DELETE FROM jobs WHERE seq = ?`, seq); err != nil {
			return err
		}
	default:
		if p < have {
			if _, err := tx.ExecContext(ctx, `UPDATE jobs SET turn = `+nextTurn+`, priority = ?1 WHERE seq = ?4`, int(p), registry, repo, seq); err != nil {
				return err
			}
		}
		if p == scheduler.PriorityPull && before > nanos(now) {
			_, err = tx.ExecContext(ctx, `UPDATE jobs SET not_before = ?1, waits = leased_until WHERE seq = ?2`, nanos(now), seq)
		}
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO jobs (digest, registry, repository, tag, priority, not_before, opened_at, turn) VALUES (?4, ?2, ?3, ?5, ?1, ?6, ?6, `+nextTurn+`)`,
		int(p), ref.Registry, ref.Repo, ref.Digest.String(), ref.Tag, nanos(now))
	return err
}

// Take implements scheduler.Queue.
func (db *DB) Take(ctx context.Context, now time.Time, lease time.Duration, only ...scheduler.Priority) (scheduler.Job, error) {
	if len(only) == 0 {
		only = everyPriority()
	}
	// Most polls find nothing; those do not take the write lock.
	if err := db.takeable(ctx, now, only); err != nil {
		return scheduler.Job{}, annotate(err, "take job")
	}
	var j scheduler.Job
	err := db.write(ctx, func(tx *sql.Tx) error {
		seq, err := next(ctx, tx, now, only)
		if err != nil {
			return err
		}
		var before, turn int64
		err = tx.QueryRowContext(ctx, `UPDATE jobs SET leased_until = ?2, waits = ?2, lease = lease + 1 WHERE seq = ?1
			RETURNING digest, registry, repository, tag, priority, attempts, not_before, error, lease, turn`, seq, nanos(now.Add(lease))).
			Scan(&j.Ref.Digest, &j.Ref.Registry, &j.Ref.Repo, &j.Ref.Tag, &j.Priority, &j.Attempts, &before, &j.Error, &j.Lease, &turn)
		if err != nil {
			return err
		}
		j.NotBefore = at(before)
		_, err = tx.ExecContext(ctx, `INSERT INTO turns (priority, turn) VALUES (?, ?) ON CONFLICT (priority) DO UPDATE SET turn = max(turn, excluded.turn)`, int(j.Priority), turn)
		return err
	})
	if err != nil {
		return scheduler.Job{}, annotate(err, "take job")
	}
	return j, nil
}

func everyPriority() []scheduler.Priority {
	return append([]scheduler.Priority{scheduler.PriorityPull}, scheduler.Background()...)
}

// takeable is pratique.ErrNotFound when there is nothing to take.
func (db *DB) takeable(ctx context.Context, now time.Time, only []scheduler.Priority) error {
	for _, p := range only {
		var one int
		err := db.row(ctx, takeableQuery, []any{int(p), nanos(now)}, &one)
		if !isNotFound(err) {
			return err
		}
	}
	return pratique.ErrNotFound
}

// next finds the job to take.
func next(ctx context.Context, tx *sql.Tx, now time.Time, only []scheduler.Priority) (seq int64, err error) {
	only = slices.Sorted(slices.Values(only))
	for _, p := range only {
		if _, err := tx.ExecContext(ctx, promoteQuery, int(p), nanos(now), promoted); err != nil {
			return 0, err
		}
		err = found(tx.QueryRowContext(ctx, nextQuery, int(p)).Scan(&seq))
		if !isNotFound(err) {
			return seq, err
		}
	}
	return 0, pratique.ErrNotFound
}

// Renew implements scheduler.Queue.
func (db *DB) Renew(ctx context.Context, j scheduler.Job, until time.Time) error {
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		return held(tx.ExecContext(ctx, `UPDATE jobs SET leased_until = ?1, waits = ?1 WHERE digest = ?2 AND lease = ?3 AND dead = 0`, nanos(until), j.Ref.Digest.String(), j.Lease))
	}), "renew job %s", j.Ref)
}

// Finish implements scheduler.Queue.
func (db *DB) Finish(ctx context.Context, j scheduler.Job, failure error, retryAt time.Time) error {
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		d := j.Ref.Digest.String()
		switch {
		case failure == nil:
			return held(tx.ExecContext(ctx, `DELETE FROM jobs WHERE digest = ? AND lease = ? AND dead = 0`, d, j.Lease))
		case retryAt.IsZero():
			return held(tx.ExecContext(ctx, `UPDATE jobs SET attempts = attempts + 1, error = ?, not_before = 0, leased_until = 0, waits = 0, dead = 1, died_at = ? WHERE digest = ? AND lease = ? AND dead = 0`,
				failure.Error(), nanos(time.Now()), d, j.Lease))
		}
		// The priority is the row's: it may have been raised since Take.
		var p int
		var registry, repo string
		err := found(tx.QueryRowContext(ctx, `UPDATE jobs SET attempts = attempts + 1, error = ?1, not_before = ?2, leased_until = 0, waits = ?2
			WHERE digest = ?3 AND lease = ?4 AND dead = 0 RETURNING priority, registry, repository`, failure.Error(), nanos(retryAt), d, j.Lease).Scan(&p, &registry, &repo))
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE jobs SET turn = `+nextTurn+` WHERE digest = ?4`, p, registry, repo, d)
		return err
	}), "finish job %s", j.Ref)
}

// held is pratique.ErrNotFound when a statement met no row: the job was closed,
// or its lease went to another.
func held(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n == 0 {
		err = pratique.ErrNotFound
	}
	return err
}

// releaseLeases is for Open: who held them is dead.
func releaseLeases(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `UPDATE jobs SET leased_until = 0, waits = not_before WHERE leased_until <> 0 AND dead = 0`)
	return err
}

// Len implements scheduler.Queue.
func (db *DB) Len(ctx context.Context) (map[scheduler.Priority]int, error) {
	n := make(map[scheduler.Priority]int)
	err := db.rows(ctx, `SELECT priority, count(*) FROM jobs WHERE dead = 0 GROUP BY priority`, nil, func(scan func(...any) error) error {
		var p scheduler.Priority
		var c int
		if err := scan(&p, &c); err != nil {
			return err
		}
		n[p] = c
		return nil
	})
	if err != nil {
		return nil, annotate(err, "count jobs")
	}
	return n, nil
}
