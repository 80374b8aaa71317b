package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique/store"
)

var (
	_ store.Outbox   = (*DB)(nil)
	_ store.EventLog = (*DB)(nil)
	_ store.Marks    = (*DB)(nil)
	_ store.TagMoves = (*DB)(nil)
	_ store.Pullers  = (*DB)(nil)
)

// Append implements store.Outbox.
func (db *DB) Append(ctx context.Context, es []store.Addressed, ms []store.Mark) error {
	docs := make([][]byte, len(es))
	for i, e := range es {
		var err error
		if docs[i], err = db.encode(e.Event); err != nil {
			return annotate(err, "event %s", e.ID)
		}
	}
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		if err := appendEvents(ctx, tx, es, docs); err != nil {
			return err
		}
		return putMarks(ctx, tx, ms)
	}), "append events")
}

func appendEvents(ctx context.Context, tx *sql.Tx, es []store.Addressed, docs [][]byte) error {
	if len(es) == 0 {
		return nil
	}
	events, err := tx.PrepareContext(ctx, `INSERT INTO events (id, at, type, cause, doc) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`)
	if err != nil {
		return err
	}
	defer events.Close()
	deliveries, err := tx.PrepareContext(ctx, `INSERT INTO deliveries (event, sink, sequence, state, attempts, not_before, settled_at, error)
			VALUES (?, ?, ?, '', 0, 0, 0, '') ON CONFLICT DO NOTHING`)
	if err != nil {
		return err
	}
	defer deliveries.Close()
	for i, e := range es {
		if err := appendEvent(ctx, events, deliveries, e, docs[i]); err != nil {
			return err
		}
	}
	return nil
}

func appendEvent(ctx context.Context, events, deliveries *sql.Stmt, e store.Addressed, doc []byte) error {
	res, err := events.ExecContext(ctx, e.ID, nanos(e.At), e.Type, e.Cause, doc)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err // it is there: the same fact
	}
	seq, err := res.LastInsertId()
	if err != nil {
		return err
	}
	for _, sink := range e.Sinks {
		if _, err := deliveries.ExecContext(ctx, seq, sink, e.Order); err != nil {
			return err
		}
	}
	return nil
}

func putMarks(ctx context.Context, tx *sql.Tx, ms []store.Mark) error {
	if len(ms) == 0 {
		return nil
	}
	put, err := tx.PrepareContext(ctx, `INSERT INTO marks (name, due, doc) VALUES (?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET due = excluded.due, doc = excluded.doc`)
	if err != nil {
		return err
	}
	defer put.Close()
	for _, m := range ms {
		if _, err := put.ExecContext(ctx, m.Key, nanos(m.Due), append([]byte{}, m.Doc...)); err != nil {
			return err
		}
	}
	return nil
}

// Pending implements store.Outbox.
func (db *DB) Pending(ctx context.Context, sink string, now time.Time, limit int) ([]store.Delivery, error) {
	var out []store.Delivery
	err := db.rows(ctx, `SELECT e.doc, d.attempts, d.not_before, d.error FROM deliveries d JOIN events e ON e.seq = d.event
		WHERE d.sink = ?1 AND d.state = '' AND d.not_before <= ?2
		AND NOT EXISTS (SELECT 1 FROM deliveries b WHERE b.sink = ?1 AND b.state = '' AND b.sequence = d.sequence AND b.event < d.event)
		ORDER BY d.event LIMIT ?3`, []any{sink, nanos(now), limit}, func(scan func(...any) error) error {
		d := store.Delivery{Sink: sink}
		var doc []byte
		var before int64
		if err := scan(&doc, &d.Attempts, &before, &d.Error); err != nil {
			return err
		}
		d.NotBefore = at(before)
		if err := db.decode(doc, &d.Event); err != nil {
			return err
		}
		out = append(out, d)
		return nil
	})
	if err != nil {
		return nil, annotate(err, "events for %s", sink)
	}
	return out, nil
}

// Settle implements store.Outbox.
func (db *DB) Settle(ctx context.Context, ds []store.Delivery) error {
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		settle, err := tx.PrepareContext(ctx, `UPDATE deliveries SET state = ?, attempts = ?, not_before = ?, settled_at = ?, error = ?
			WHERE event = (SELECT seq FROM events WHERE id = ?) AND sink = ? AND state = ''`)
		if err != nil {
			return err
		}
		defer settle.Close()
		for _, d := range ds {
			if _, err := settle.ExecContext(ctx, string(d.State), d.Attempts, nanos(d.NotBefore), nanos(d.Settled), d.Error, d.Event.ID, d.Sink); err != nil {
				return err
			}
		}
		return nil
	}), "settle events")
}

// Events implements store.EventLog.
func (db *DB) Events(ctx context.Context, q store.EventQuery) ([]store.EventRecord, error) {
	var out []store.EventRecord
	var seqs []int64
	query := `SELECT seq, doc FROM events
		WHERE (?1 = '' OR id = ?1) AND (NOT ?2 OR seq IN (SELECT event FROM deliveries WHERE state = 'dead'))
		AND (?4 = '' OR type = ?4) AND ?5 = ''
		ORDER BY seq DESC LIMIT ?3`
	if q.Cause != "" { // by its index: what begins with cause@ lies between @ and A
		query = `SELECT e.seq, e.doc FROM (
			SELECT seq FROM events WHERE cause <> '' AND cause = ?5 UNION SELECT seq FROM events WHERE cause <> '' AND cause >= ?5 || '@' AND cause < ?5 || 'A'
			) c JOIN events e ON e.seq = c.seq
			WHERE (?1 = '' OR e.id = ?1) AND (NOT ?2 OR e.seq IN (SELECT event FROM deliveries WHERE state = 'dead')) AND (?4 = '' OR e.type = ?4)
			ORDER BY e.seq DESC LIMIT ?3`
	}
	err := db.rows(ctx, query, []any{q.ID, q.Dead, q.Limit, q.Type, q.Cause}, func(scan func(...any) error) error {
		var seq int64
		var doc []byte
		var r store.EventRecord
		if err := scan(&seq, &doc); err != nil {
			return err
		}
		if err := db.decode(doc, &r.Event); err != nil {
			return err
		}
		out, seqs = append(out, r), append(seqs, seq)
		return nil
	})
	for i := range out {
		if err == nil {
			err = db.deliveries(ctx, seqs[i], &out[i])
		}
	}
	if err != nil {
		return nil, annotate(err, "events")
	}
	return out, nil
}

// deliveries fills in those of one event.
func (db *DB) deliveries(ctx context.Context, seq int64, r *store.EventRecord) error {
	return db.rows(ctx, `SELECT sink, state, attempts, not_before, settled_at, error FROM deliveries WHERE event = ? ORDER BY sink`, []any{seq}, func(scan func(...any) error) error {
		d := store.Delivery{Event: r.Event}
		var before, settled int64
		if err := scan(&d.Sink, (*string)(&d.State), &d.Attempts, &before, &settled, &d.Error); err != nil {
			return err
		}
		d.NotBefore, d.Settled = at(before), at(settled)
		r.Deliveries = append(r.Deliveries, d)
		return nil
	})
}

// Replay implements store.EventLog.
func (db *DB) Replay(ctx context.Context, id string) (int, error) {
	const reopen = `UPDATE deliveries SET state = '', attempts = 0, not_before = 0, settled_at = 0, error = '' WHERE `
	var n int64
	err := db.write(ctx, func(tx *sql.Tx) error {
		var res sql.Result
		var err error
		if id == "" {
			res, err = tx.ExecContext(ctx, reopen+`state = 'dead'`)
		} else {
			var seq int64
			if err := found(tx.QueryRowContext(ctx, `SELECT seq FROM events WHERE id = ?`, id).Scan(&seq)); err != nil {
				return err
			}
			res, err = tx.ExecContext(ctx, reopen+`event = ? AND state <> ''`, seq)
		}
		if err == nil {
			n, err = res.RowsAffected()
		}
		return err
	})
	return int(n), annotate(err, "replay event %s", id)
}

// Backlogs implements store.EventLog.
func (db *DB) Backlogs(ctx context.Context) (map[string]store.Backlog, error) {
	out := make(map[string]store.Backlog)
	// Two queries, so that each is answered from its partial index.
	count := func(query string, add func(b *store.Backlog, n int)) error {
		return db.rows(ctx, query, nil, func(scan func(...any) error) error {
			var sink string
			var n int
			err := scan(&sink, &n)
			b := out[sink]
			add(&b, n)
			out[sink] = b
			return err
		})
	}
	err := count(`SELECT sink, count(*) FROM deliveries WHERE state = '' GROUP BY sink`, func(b *store.Backlog, n int) { b.Open = n })
	if err == nil {
		err = count(`SELECT sink, count(*) FROM deliveries WHERE state = 'dead' GROUP BY sink`, func(b *store.Backlog, n int) { b.Dead = n })
	}
	if err != nil {
		return nil, annotate(err, "count events")
	}
	return out, nil
}

// ForgetEvents implements store.EventLog. It removes a batch at a time, so that
// other writes need not wait for all of them.
func (db *DB) ForgetEvents(ctx context.Context, settled, all time.Time) error {
	for removed := int64(forgetBatch); removed == forgetBatch; {
		err := db.write(ctx, func(tx *sql.Tx) error {
			res, err := tx.ExecContext(ctx, `DELETE FROM events WHERE seq IN (SELECT e.seq FROM events e WHERE e.at < ?1 OR e.at < ?2
				AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event = e.seq AND d.state <> 'done') LIMIT ?3)`, nanos(all), nanos(settled), forgetBatch)
			if err != nil {
				return err
			}
			removed, err = res.RowsAffected()
			return err
		})
		if err != nil {
			return annotate(err, "forget events")
		}
	}
	return nil
}

// Mark implements store.Marks.
func (db *DB) Mark(ctx context.Context, key string) (store.Mark, error) {
	m := store.Mark{Key: key}
	var due int64
	if err := db.row(ctx, `SELECT due, doc FROM marks WHERE name = ?`, []any{key}, &due, &m.Doc); err != nil {
		return store.Mark{}, annotate(err, "mark %s", key)
	}
	m.Due = at(due)
	return m, nil
}

// Marks implements store.Marks.
func (db *DB) Marks(ctx context.Context, keys []string) (map[string]store.Mark, error) {
	out := make(map[string]store.Mark, len(keys))
	list, err := json.Marshal(keys)
	if err != nil {
		return nil, annotate(err, "marks")
	}
	err = db.rows(ctx, `SELECT name, due, doc FROM marks WHERE name IN (SELECT value FROM json_each(?))`, []any{string(list)}, func(scan func(...any) error) error {
		var m store.Mark
		var due int64
		err := scan(&m.Key, &due, &m.Doc)
		m.Due = at(due)
		out[m.Key] = m
		return err
	})
	if err != nil {
		return nil, annotate(err, "marks")
	}
	return out, nil
}

// DueMarks implements store.Marks.
func (db *DB) DueMarks(ctx context.Context, now time.Time, limit int) ([]store.Mark, error) {
	var out []store.Mark
	err := db.rows(ctx, `SELECT name, due, doc FROM marks WHERE due <> 0 AND due <= ? ORDER BY due, name LIMIT ?`, []any{nanos(now), limit}, func(scan func(...any) error) error {
		var m store.Mark
		var due int64
		err := scan(&m.Key, &due, &m.Doc)
		m.Due = at(due)
		out = append(out, m)
		return err
	})
	if err != nil {
		return nil, annotate(err, "due marks")
	}
	return out, nil
}

// TagMoves implements store.TagMoves.
func (db *DB) TagMoves(ctx context.Context, since time.Time) ([]store.TagMove, error) {
	var out []store.TagMove
	err := db.rows(ctx, `SELECT r.registry, r.name, s.tag, s.digest, coalesce(t.digest, ''), s.left_at
		FROM tag_spans s JOIN repositories r ON r.id = s.repository LEFT JOIN tags t ON t.repository = s.repository AND t.tag = s.tag
		WHERE s.left_at <> 0 AND s.left_at >= ? ORDER BY s.left_at, s.id`, []any{nanos(since)}, func(scan func(...any) error) error {
		var m store.TagMove
		var left int64
		err := scan(&m.Ref.Registry, &m.Ref.Repo, &m.Ref.Tag, &m.Ref.Digest, &m.Now, &left)
		m.At = at(left)
		out = append(out, m)
		return err
	})
	if err != nil {
		return nil, annotate(err, "tags that moved")
	}
	return out, nil
}

// PulledBy implements store.Pullers.
func (db *DB) PulledBy(ctx context.Context, image digest.Digest, since time.Time) ([]store.Puller, error) {
	var out []store.Puller
	err := db.rows(ctx, `SELECT c.address, count(*), max(p.at) FROM asked a JOIN pulls p ON p.asked = a.id JOIN clients c ON c.id = p.client
		WHERE a.digest = ? AND a.outcome <> 'deny' AND p.at >= ? GROUP BY c.id ORDER BY max(p.at) DESC, c.address`, []any{image.String(), nanos(since)}, func(scan func(...any) error) error {
		var p store.Puller
		var last int64
		err := scan(&p.Client, &p.Pulls, &last)
		p.Last = at(last)
		out = append(out, p)
		return err
	})
	if err != nil {
		return nil, annotate(err, "pulls of %s", image)
	}
	return out, nil
}
