package sqlite

import (
	"context"
	"math"
	"strconv"
	"time"

	"pratique"
	"pratique/store"
)

func (db *DB) pageServed(ctx context.Context, after string) ([]store.Record, error) {
	return db.records(ctx, store.KindServed, `SELECT digest, first_at, last_at FROM served WHERE digest > ? ORDER BY digest LIMIT ?`, []any{after, dumpPage}, func(scan func(...any) error) (string, any, error) {
		var key string
		var first, last int64
		err := scan(&key, &first, &last)
		return key, store.DumpedServed{First: at(first), Last: at(last)}, err
	})
}

func (db *DB) loadServed(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(key string, v *store.DumpedServed) error {
		return tx.exec(ctx, `INSERT OR REPLACE INTO served (digest, first_at, last_at) VALUES (?, ?, ?)`, key, nanos(v.First), nanos(v.Last))
	})
}

// pagePulls is one minute.
func (db *DB) pagePulls(ctx context.Context, after string) ([]store.Record, error) {
	from := int64(math.MinInt64)
	if after != "" {
		minute, err := strconv.ParseInt(after, 10, 64)
		if err != nil {
			return nil, err
		}
		from = time.Unix(minute+60, 0).UnixNano()
	}
	var first int64
	err := db.row(ctx, `SELECT at FROM pulls WHERE at >= ? ORDER BY at LIMIT 1`, []any{from}, &first)
	if err != nil {
		if isNotFound(err) {
			return nil, nil
		}
		return nil, err
	}
	minute := store.MinuteOf(time.Unix(0, first))
	var v store.DumpedPulls
	err = db.rows(ctx, `SELECT p.at, c.address, r.registry, r.name, a.tag, a.digest, a.outcome, a.verdict, a.head
		FROM pulls p CROSS JOIN asked a ON a.id = p.asked CROSS JOIN repositories r ON r.id = a.repository CROSS JOIN clients c ON c.id = p.client
		WHERE p.at >= ? AND p.at < ? ORDER BY p.at, p.id`,
		[]any{time.Unix(minute, 0).UnixNano(), time.Unix(minute+60, 0).UnixNano()}, func(scan func(...any) error) error {
			var p store.Pull
			var when int64
			var outcome string
			if err := scan(&when, &p.Client, &p.Ref.Registry, &p.Ref.Repo, &p.Ref.Tag, &p.Ref.Digest, &outcome, &p.Verdict, &p.Head); err != nil {
				return err
			}
			p.At = at(when)
			err := p.Outcome.UnmarshalText([]byte(outcome))
			v.Pulls = append(v.Pulls, p)
			return err
		})
	if err != nil {
		return nil, err
	}
	r, err := store.NewRecord(store.KindPulls, strconv.FormatInt(minute, 10), v)
	return []store.Record{r}, err
}

func (db *DB) loadPulls(ctx context.Context, tx *prepared, rs []store.Record) error {
	r := recorder{tx: tx.Tx, repositories: map[string]int64{}, asked: map[store.Pull]int64{}, clients: map[string]int64{}}
	return loadEach(rs, func(key string, v *store.DumpedPulls) error {
		minute, err := strconv.ParseInt(key, 10, 64)
		if err != nil {
			return err
		}
		if err := tx.exec(ctx, `DELETE FROM pulls WHERE at >= ? AND at < ?`, time.Unix(minute, 0).UnixNano(), time.Unix(minute+60, 0).UnixNano()); err != nil {
			return err
		}
		for _, p := range v.Pulls {
			asked, err := r.ask(ctx, p)
			if err != nil {
				return err
			}
			client, err := remember(r.clients, p.Client, func() (int64, error) {
				return intern(ctx, tx.Tx, `SELECT id FROM clients WHERE address = ?`, `INSERT INTO clients (address) VALUES (?)`, p.Client)
			})
			if err != nil {
				return err
			}
			if err := tx.exec(ctx, `INSERT INTO pulls (at, asked, client) VALUES (?, ?, ?)`, nanos(p.At), asked, client); err != nil {
				return err
			}
		}
		return nil
	})
}

func (db *DB) pageVerdicts(ctx context.Context, after string) ([]store.Record, error) {
	return docs[store.Judged](db, store.KindVerdicts, `SELECT name, doc FROM verdicts WHERE name > ? ORDER BY name LIMIT ?`)(ctx, after)
}

func (db *DB) loadVerdicts(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(key string, v *store.Judged) error {
		doc, err := db.encode(v)
		if err != nil {
			return err
		}
		return tx.exec(ctx, `INSERT OR REPLACE INTO verdicts (name, at, doc) VALUES (?, ?, ?)`, key, nanos(v.At), doc)
	})
}

func (db *DB) pageExceptions(ctx context.Context, after string) ([]store.Record, error) {
	return docs[pratique.Exception](db, store.KindExceptions, `SELECT name, doc FROM exceptions WHERE name > ? ORDER BY name LIMIT ?`)(ctx, after)
}

func (db *DB) loadExceptions(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(key string, v *pratique.Exception) error {
		doc, err := db.encode(v)
		if err != nil {
			return err
		}
		return tx.exec(ctx, `INSERT OR REPLACE INTO exceptions (name, created, doc) VALUES (?, ?, ?)`, key, nanos(v.Created), doc)
	})
}

func (db *DB) pageAttestations(ctx context.Context, after string) ([]store.Record, error) {
	return docs[pratique.Attestations](db, store.KindAttestations, `SELECT digest, doc FROM attestations WHERE digest > ? ORDER BY digest LIMIT ?`)(ctx, after)
}

func (db *DB) loadAttestations(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(key string, v *pratique.Attestations) error {
		doc, err := db.encode(v)
		if err != nil {
			return err
		}
		return tx.exec(ctx, `INSERT OR REPLACE INTO attestations (digest, doc) VALUES (?, ?)`, key, doc)
	})
}

func (db *DB) pagePushes(ctx context.Context, after string) ([]store.Record, error) {
	return docs[store.Push](db, store.KindPushes, `SELECT name, doc FROM pushes WHERE name > ? ORDER BY name LIMIT ?`)(ctx, after)
}

func (db *DB) loadPushes(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(key string, v *store.Push) error {
		doc, err := db.encode(v)
		if err != nil {
			return err
		}
		return tx.exec(ctx, `INSERT OR REPLACE INTO pushes (name, at, doc) VALUES (?, ?, ?)`, key, nanos(v.At), doc)
	})
}

func (db *DB) pageMarks(ctx context.Context, after string) ([]store.Record, error) {
	return db.records(ctx, store.KindMarks, `SELECT name, due, doc FROM marks WHERE name > ? ORDER BY name LIMIT ?`, []any{after, dumpPage}, func(scan func(...any) error) (string, any, error) {
		var m store.Mark
		var due int64
		err := scan(&m.Key, &due, &m.Doc)
		m.Due = at(due)
		return m.Key, m, err
	})
}

func (db *DB) loadMarks(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(_ string, m *store.Mark) error { return putMarks(ctx, tx.Tx, []store.Mark{*m}) })
}

func (db *DB) pageEvents(ctx context.Context, after string) ([]store.Record, error) {
	place := int64(-1)
	if after != "" {
		if err := db.row(ctx, `SELECT seq FROM events WHERE id = ?`, []any{after}, &place); err != nil {
			return nil, annotate(err, "event %s", after)
		}
	}
	var found []store.EventRecord
	var seqs []int64
	err := db.rows(ctx, `SELECT seq, doc FROM events WHERE seq > ? ORDER BY seq LIMIT ?`, []any{place, dumpPage}, func(scan func(...any) error) error {
		var seq int64
		var doc []byte
		if err := scan(&seq, &doc); err != nil {
			return err
		}
		var r store.EventRecord
		err := db.decode(doc, &r.Event)
		found, seqs = append(found, r), append(seqs, seq)
		return err
	})
	out := make([]store.Record, len(found))
	for i := range found {
		if err == nil {
			err = db.deliveries(ctx, seqs[i], &found[i])
		}
		if err == nil {
			v := store.DumpedEvent{Event: found[i].Event}
			for _, d := range found[i].Deliveries {
				v.Deliveries = append(v.Deliveries, store.DumpedDelivery{Sink: d.Sink, State: d.State, Attempts: d.Attempts, NotBefore: d.NotBefore, Settled: d.Settled, Error: d.Error})
			}
			out[i], err = store.NewRecord(store.KindEvents, v.Event.ID, v)
		}
	}
	return out, err
}

func (db *DB) loadEvents(ctx context.Context, tx *prepared, rs []store.Record) error {
	return loadEach(rs, func(_ string, v *store.DumpedEvent) error {
		e := &v.Event
		doc, err := db.encode(e)
		if err != nil {
			return err
		}
		var seq int64
		if err := tx.row(ctx, `INSERT INTO events (id, at, type, cause, doc) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET at = excluded.at, type = excluded.type, cause = excluded.cause, doc = excluded.doc RETURNING seq`,
			[]any{e.ID, nanos(e.At), e.Type, e.Cause, doc}, &seq); err != nil {
			return err
		}
		if err := tx.exec(ctx, `DELETE FROM deliveries WHERE event = ?`, seq); err != nil {
			return err
		}
		for _, d := range v.Deliveries {
			if err := tx.exec(ctx, `INSERT INTO deliveries (event, sink, sequence, state, attempts, not_before, settled_at, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
				seq, d.Sink, e.Order, string(d.State), d.Attempts, nanos(d.NotBefore), nanos(d.Settled), d.Error); err != nil {
				return err
			}
		}
		return nil
	})
}
