package sqlite

import (
	"context"
	"time"

	"pratique/store"
)

func (db *DB) pageJobs(ctx context.Context, after string) ([]store.Record, error) {
	return db.records(ctx, store.KindJobs, `SELECT digest, registry, repository, tag, priority, attempts, not_before, error, opened_at, dead, died_at, turn, seq
		FROM jobs WHERE digest > ? ORDER BY digest LIMIT ?`, []any{after, dumpPage}, func(scan func(...any) error) (string, any, error) {
		var v store.DumpedJob
		var before, opened, died int64
		err := scan(&v.Ref.Digest, &v.Ref.Registry, &v.Ref.Repo, &v.Ref.Tag, &v.Priority, &v.Attempts, &before, &v.Error, &opened, &v.Dead, &died, &v.Turn, &v.Seq)
		v.NotBefore, v.OpenedAt, v.DiedAt = at(before), at(opened), at(died)
		return v.Ref.Digest.String(), v, err
	})
}

func (db *DB) loadJobs(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(key string, v *store.DumpedJob) error {
		// One that never failed may be taken at once; waits keeps it in line.
		var waits int64
		if v.Attempts > 0 && !v.Dead {
			waits = nanos(v.NotBefore)
		}
		var seq any
		if v.Seq > 0 {
			seq = v.Seq
		}
		return tx.exec(ctx, `INSERT OR REPLACE INTO jobs (seq, digest, registry, repository, tag, priority, attempts, not_before, error, dead, turn, waits, opened_at, died_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			seq, key, v.Ref.Registry, v.Ref.Repo, v.Ref.Tag, v.Priority, v.Attempts, nanos(v.NotBefore), v.Error, v.Dead, v.Turn, waits, nanos(v.OpenedAt), nanos(v.DiedAt))
	})
}

func (db *DB) pageQueue(ctx context.Context, after string) ([]store.Record, error) {
	if after != "" {
		return nil, nil
	}
	v := store.DumpedQueue{Paused: map[int]time.Time{}, Turns: map[int]int64{}}
	err := db.rows(ctx, `SELECT priority, since FROM pauses`, nil, func(scan func(...any) error) error {
		var p int
		var since int64
		err := scan(&p, &since)
		v.Paused[p] = at(since)
		return err
	})
	if err == nil {
		err = db.rows(ctx, `SELECT priority, turn FROM turns`, nil, func(scan func(...any) error) error {
			var p int
			var turn int64
			err := scan(&p, &turn)
			v.Turns[p] = turn
			return err
		})
	}
	if err != nil || len(v.Paused)+len(v.Turns) == 0 {
		return nil, err
	}
	r, err := store.NewRecord(store.KindQueue, "queue", v)
	return []store.Record{r}, err
}

func (db *DB) loadQueue(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(_ string, v *store.DumpedQueue) error {
		for _, gone := range []string{`DELETE FROM pauses`, `DELETE FROM turns`} {
			if err := tx.exec(ctx, gone); err != nil {
				return err
			}
		}
		for p, since := range v.Paused {
			if err := tx.exec(ctx, `INSERT INTO pauses (priority, since) VALUES (?, ?)`, p, nanos(since)); err != nil {
				return err
			}
		}
		for p, turn := range v.Turns {
			if err := tx.exec(ctx, `INSERT INTO turns (priority, turn) VALUES (?, ?)`, p, turn); err != nil {
				return err
			}
		}
		return nil
	})
}

func (db *DB) pageRuns(ctx context.Context, after string) ([]store.Record, error) {
	return db.records(ctx, store.KindRuns, `SELECT name, spec, base, started_at, ended_at, unfinished, outcome, note FROM schedule_runs WHERE name > ? ORDER BY name LIMIT ?`,
		[]any{after, dumpPage}, func(scan func(...any) error) (string, any, error) {
			var name string
			var base, started, ended int64
			var v store.DumpedRun
			err := scan(&name, &v.Spec, &base, &started, &ended, &v.Unfinished, &v.Outcome, &v.Note)
			v.Base, v.StartedAt, v.EndedAt = at(base), at(started), at(ended)
			return name, v, err
		})
}

func (db *DB) loadRuns(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(name string, v *store.DumpedRun) error {
		return tx.exec(ctx, `INSERT OR REPLACE INTO schedule_runs (name, spec, base, started_at, ended_at, unfinished, outcome, note) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			name, v.Spec, nanos(v.Base), nanos(v.StartedAt), nanos(v.EndedAt), v.Unfinished, v.Outcome, v.Note)
	})
}

func (db *DB) pageDatabases(ctx context.Context, after string) ([]store.Record, error) {
	return db.records(ctx, store.KindDatabases, `SELECT kind, version, database, doc FROM wanted WHERE kind > ? ORDER BY kind LIMIT ?`, []any{after, dumpPage}, func(scan func(...any) error) (string, any, error) {
		var kind string
		var v store.WantedDatabase
		err := scan(&kind, &v.Version, &v.Database, &v.Doc)
		return kind, v, err
	})
}

func (db *DB) loadDatabases(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(kind string, v *store.WantedDatabase) error {
		return tx.exec(ctx, `INSERT OR REPLACE INTO wanted (kind, version, database, doc) VALUES (?, ?, ?, ?)`, kind, v.Version, v.Database.String(), append([]byte{}, v.Doc...))
	})
}
