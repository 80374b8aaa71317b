package sqlite

import (
	"context"
	"database/sql"
	"time"

	"pratique"
	"pratique/scheduler"
)

// Push implements scheduler.Queue.
func (db *DB) Push(ctx context.Context, ref pratique.Ref, p scheduler.Priority, now time.Time) error {
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		// A dead job is not open: a new one takes its place, at the queue's end.
		if _, err := tx.ExecContext(ctx, `DELETE FROM jobs WHERE digest = ? AND dead = 1`, ref.Digest.String()); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO jobs (digest, registry, repository, tag, priority, not_before) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (digest) DO UPDATE SET priority = min(priority, excluded.priority),
				not_before = iif(excluded.priority = ?, min(not_before, excluded.not_before), not_before)`,
			ref.Digest.String(), ref.Registry, ref.Repo, ref.Tag, int(p), nanos(now), int(scheduler.PriorityPull))
		return err
	}), "push job %s", ref)
}

// Take implements scheduler.Queue.
func (db *DB) Take(ctx context.Context, now time.Time, lease time.Duration) (scheduler.Job, error) {
	var j scheduler.Job
	// Most polls find nothing; those do not take the write lock.
	const ready = `SELECT seq FROM jobs WHERE dead = 0 AND not_before <= ?1 AND leased_until <= ?1 ORDER BY priority, seq LIMIT 1`
	var seq int64
	if err := db.row(ctx, ready, []any{nanos(now)}, &seq); err != nil {
		return scheduler.Job{}, annotate(err, "take job")
	}
	err := db.write(ctx, func(tx *sql.Tx) error {
		var before int64
		err := tx.QueryRowContext(ctx, `UPDATE jobs SET leased_until = ?2, lease = lease + 1 WHERE seq = (`+ready+`)
			RETURNING digest, registry, repository, tag, priority, attempts, not_before, error, lease`, nanos(now), nanos(now.Add(lease))).
			Scan(&j.Ref.Digest, &j.Ref.Registry, &j.Ref.Repo, &j.Ref.Tag, &j.Priority, &j.Attempts, &before, &j.Error, &j.Lease)
		j.NotBefore = at(before)
		return found(err)
	})
	if err != nil {
		return scheduler.Job{}, annotate(err, "take job")
	}
	return j, nil
}

// Renew implements scheduler.Queue.
func (db *DB) Renew(ctx context.Context, j scheduler.Job, until time.Time) error {
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		return held(tx.ExecContext(ctx, `UPDATE jobs SET leased_until = ? WHERE digest = ? AND lease = ? AND dead = 0`, nanos(until), j.Ref.Digest.String(), j.Lease))
	}), "renew job %s", j.Ref)
}

// Finish implements scheduler.Queue.
func (db *DB) Finish(ctx context.Context, j scheduler.Job, failure error, retryAt time.Time) error {
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		if failure == nil {
			return held(tx.ExecContext(ctx, `DELETE FROM jobs WHERE digest = ? AND lease = ? AND dead = 0`, j.Ref.Digest.String(), j.Lease))
		}
		return held(tx.ExecContext(ctx, `UPDATE jobs SET attempts = attempts + 1, error = ?, not_before = ?, leased_until = 0, dead = ? WHERE digest = ? AND lease = ? AND dead = 0`,
			failure.Error(), nanos(retryAt), retryAt.IsZero(), j.Ref.Digest.String(), j.Lease))
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
