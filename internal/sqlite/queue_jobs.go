package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scheduler"
)

// jobState is a job's scheduler.JobState at ?1.
const jobState = `CASE WHEN dead = 1 THEN 'dead' WHEN leased_until > ?1 THEN 'running'
	WHEN priority IN (SELECT priority FROM pauses) THEN 'paused' WHEN not_before > ?1 THEN 'retry' ELSE 'waiting' END`

// Jobs implements scheduler.Jobs.
func (db *DB) Jobs(ctx context.Context, q scheduler.JobQuery, now time.Time) ([]scheduler.JobRecord, error) {
	if q.State != "" {
		if err := q.State.Validate(); err != nil {
			return nil, annotate(err, "jobs")
		}
	}
	out := []scheduler.JobRecord{}
	// The open ones in the order of an index, so that the list of a long queue ends
	// early; the dead in that of theirs.
	for _, part := range []string{
		`dead = 0 AND leased_until > ?1 ORDER BY priority, turn, seq`,
		`dead = 0 AND leased_until <= ?1 ORDER BY priority, turn, seq`,
		`dead = 1 ORDER BY died_at DESC, seq DESC`,
	} {
		err := db.rows(ctx, `SELECT digest, registry, repository, tag, priority, attempts, not_before, error, lease, opened_at, died_at, `+jobState+` AS state
			FROM jobs WHERE (?2 = '' OR digest = ?2) AND (?3 = '' OR `+jobState+` = ?3) AND `+part+` LIMIT ?4`,
			[]any{nanos(now), q.Image.String(), string(q.State), q.Limit - len(out)}, func(scan func(...any) error) error {
				var r scheduler.JobRecord
				var before, opened, died int64
				err := scan(&r.Ref.Digest, &r.Ref.Registry, &r.Ref.Repo, &r.Ref.Tag, &r.Priority, &r.Attempts, &before, &r.Error, &r.Lease, &opened, &died, (*string)(&r.State))
				r.NotBefore, r.OpenedAt, r.DiedAt = at(before), at(opened), at(died)
				out = append(out, r)
				return err
			})
		if err != nil {
			return nil, annotate(err, "jobs")
		}
		if len(out) >= q.Limit {
			break
		}
	}
	return out, nil
}

// reopened is how many dead jobs one transaction opens again.
const reopened = 100

// RetryJobs implements scheduler.Jobs.
func (db *DB) RetryJobs(ctx context.Context, image digest.Digest, now time.Time) (int, error) {
	total := 0
	for {
		n := 0
		err := db.write(ctx, func(tx *sql.Tx) error {
			var err error
			if n, err = reopen(ctx, tx, image, now); err != nil || n > 0 || image == "" {
				return err
			}
			res, err := tx.ExecContext(ctx, `UPDATE jobs SET not_before = ?1, waits = 0 WHERE digest = ?2 AND dead = 0 AND leased_until <= ?1 AND not_before > ?1`, nanos(now), image.String())
			if err := held(res, err); err != nil {
				return err
			}
			n = 1
			return nil
		})
		if err != nil {
			return total, annotate(err, "retry jobs")
		}
		if total += n; n < reopened {
			return total, nil
		}
	}
}

// reopen makes new jobs of dead ones.
func reopen(ctx context.Context, tx *sql.Tx, image digest.Digest, now time.Time) (int, error) {
	rows, err := tx.QueryContext(ctx, `SELECT digest, registry, repository, tag, priority FROM jobs WHERE dead = 1 AND (?1 = '' OR digest = ?1) ORDER BY died_at, seq LIMIT ?2`, image.String(), reopened)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var dead []scheduler.Job
	for rows.Next() {
		var j scheduler.Job
		if err := rows.Scan(&j.Ref.Digest, &j.Ref.Registry, &j.Ref.Repo, &j.Ref.Tag, &j.Priority); err != nil {
			return 0, err
		}
		dead = append(dead, j)
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	for _, j := range dead {
		if err := push(ctx, tx, j.Ref, max(j.Priority, scheduler.PriorityWebhook), now); err != nil {
			return 0, err
		}
	}
	return len(dead), nil
}

// DeadJobs implements scheduler.Jobs.
func (db *DB) DeadJobs(ctx context.Context) (int, error) {
	var n int
	err := db.row(ctx, `SELECT count(*) FROM jobs WHERE dead = 1`, nil, &n)
	return n, annotate(err, "count dead jobs")
}

// ForgetJobs implements scheduler.Jobs.
func (db *DB) ForgetJobs(ctx context.Context, before time.Time, keep int) error {
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM jobs WHERE dead = 1 AND (died_at < ?1 OR seq IN (
			SELECT seq FROM jobs WHERE dead = 1 ORDER BY died_at DESC, seq DESC LIMIT -1 OFFSET ?2))`, nanos(before), keep)
		return err
	}), "forget jobs")
}

// Pause implements scheduler.Pauses.
func (db *DB) Pause(ctx context.Context, ps []scheduler.Priority, now time.Time) error {
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		for _, p := range ps {
			if p <= scheduler.PriorityPull {
				return fmt.Errorf("%w pause: somebody waits for what has the priority %s", pratique.ErrInvalid, p)
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO pauses (priority, since) VALUES (?, ?) ON CONFLICT DO NOTHING`, int(p), nanos(now)); err != nil {
				return err
			}
		}
		return nil
	}), "pause jobs")
}

// Resume implements scheduler.Pauses.
func (db *DB) Resume(ctx context.Context, ps []scheduler.Priority) error {
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		for _, p := range ps {
			if _, err := tx.ExecContext(ctx, `DELETE FROM pauses WHERE priority = ?`, int(p)); err != nil {
				return err
			}
		}
		return nil
	}), "resume jobs")
}

// Paused implements scheduler.Pauses.
func (db *DB) Paused(ctx context.Context) (map[scheduler.Priority]time.Time, error) {
	out := make(map[scheduler.Priority]time.Time)
	err := db.rows(ctx, `SELECT priority, since FROM pauses`, nil, func(scan func(...any) error) error {
		var p scheduler.Priority
		var since int64
		err := scan(&p, &since)
		out[p] = at(since)
		return err
	})
	if err != nil {
		return nil, annotate(err, "paused priorities")
	}
	return out, nil
}

// PutRun implements scheduler.Runs.
func (db *DB) PutRun(ctx context.Context, r scheduler.Run) error {
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO schedule_runs (name, spec, base, started_at, ended_at, unfinished, outcome, note) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			r.Name, r.Spec, nanos(r.Base), nanos(r.StartedAt), nanos(r.EndedAt), r.Unfinished, string(r.Outcome), r.Note)
		return err
	}), "run of schedule %s", r.Name)
}

// LastRuns implements scheduler.Runs.
func (db *DB) LastRuns(ctx context.Context) (map[string]scheduler.Run, error) {
	out := make(map[string]scheduler.Run)
	err := db.rows(ctx, `SELECT name, spec, base, started_at, ended_at, unfinished, outcome, note FROM schedule_runs`, nil, func(scan func(...any) error) error {
		var r scheduler.Run
		var base, started, ended int64
		err := scan(&r.Name, &r.Spec, &base, &started, &ended, &r.Unfinished, (*string)(&r.Outcome), &r.Note)
		r.Base, r.StartedAt, r.EndedAt = at(base), at(started), at(ended)
		out[r.Name] = r
		return err
	})
	if err != nil {
		return nil, annotate(err, "runs of schedules")
	}
	return out, nil
}
