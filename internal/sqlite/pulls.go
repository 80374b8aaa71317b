package sqlite

import (
	"context"
	"database/sql"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Record implements store.Pulls. The batch is durable when it returns, like
// everything here: it is written off the request path, so one sync a batch is
// cheap enough to need no weaker kind of table.
//
// The stamps move of what was not served before, or was served earlier than was
// known: from then on it may have a grace.
func (db *DB) Record(ctx context.Context, ps []store.Pull) error {
	var r recorder
	defer func() { db.stamps.Changed(r.first...) }()
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		r = recorder{tx: tx, repositories: map[string]int64{}, asked: map[store.Pull]int64{}, clients: map[string]int64{}}
		for _, p := range ps {
			if err := r.record(ctx, p); err != nil {
				return err
			}
		}
		return nil
	}), "pulls")
}

// recorder writes one batch. It remembers the ids of what repeats.
type recorder struct {
	tx           *sql.Tx
	repositories map[string]int64
	asked        map[store.Pull]int64 // without client and time
	clients      map[string]int64
	first        []digest.Digest // served then, as far as is known, for the first time
}

func (r *recorder) record(ctx context.Context, p store.Pull) error {
	asked, err := r.ask(ctx, p)
	if err != nil {
		return err
	}
	client, err := remember(r.clients, p.Client, func() (int64, error) {
		return intern(ctx, r.tx, `SELECT id FROM clients WHERE address = ?`, `INSERT INTO clients (address) VALUES (?)`, p.Client)
	})
	if err != nil {
		return err
	}
	if _, err := r.tx.ExecContext(ctx, `INSERT INTO pulls (at, asked, client) VALUES (?, ?, ?)`, nanos(p.At), asked, client); err != nil {
		return err
	}
	if p.Outcome == pratique.OutcomeDeny || p.Ref.Digest == "" {
		return nil
	}
	var first int64
	err = r.tx.QueryRowContext(ctx, `INSERT INTO served (digest, first_at, last_at) VALUES (?1, ?2, ?2)
		ON CONFLICT (digest) DO UPDATE SET first_at = min(first_at, excluded.first_at), last_at = max(last_at, excluded.last_at) RETURNING first_at`,
		p.Ref.Digest.String(), nanos(p.At)).Scan(&first)
	if first == nanos(p.At) {
		r.first = append(r.first, p.Ref.Digest)
	}
	return err
}

func (r *recorder) ask(ctx context.Context, p store.Pull) (int64, error) {
	p.Client, p.At = "", time.Time{}
	return remember(r.asked, p, func() (int64, error) {
		repo, err := remember(r.repositories, p.Ref.Repository(), func() (int64, error) { return repository(ctx, r.tx, p.Ref) })
		if err != nil {
			return 0, err
		}
		return intern(ctx, r.tx,
			`SELECT id FROM asked WHERE repository = ? AND tag = ? AND digest = ? AND outcome = ? AND verdict = ? AND head = ?`,
			`INSERT INTO asked (repository, tag, digest, outcome, verdict, head) VALUES (?, ?, ?, ?, ?, ?)`,
			repo, p.Ref.Tag, p.Ref.Digest.String(), p.Outcome.String(), p.Verdict, p.Head)
	})
}

func remember[K comparable](m map[K]int64, k K, find func() (int64, error)) (int64, error) {
	if id, ok := m[k]; ok {
		return id, nil
	}
	id, err := find()
	if err == nil {
		m[k] = id
	}
	return id, err
}

// Served implements store.Pulls.
func (db *DB) Served(ctx context.Context, image digest.Digest) (first, last time.Time, err error) {
	var f, l int64
	if err := db.row(ctx, `SELECT first_at, last_at FROM served WHERE digest = ?`, []any{image.String()}, &f, &l); err != nil {
		return time.Time{}, time.Time{}, annotate(err, "pulls of %s", image)
	}
	return at(f), at(l), nil
}

// pullsPage is how many pulls Pulls reads at once; no statement is open between
// pages.
const pullsPage = 4096

// Pulls implements store.PullLog. What repeats is read once for a sequence, and
// the pulls share its strings.
func (db *DB) Pulls(ctx context.Context, since time.Time) iter.Seq2[store.Pull, error] {
	return func(yield func(store.Pull, error) bool) {
		r := reader{db: db, asked: map[int64]store.Pull{}, clients: map[int64]string{}}
		from, after := nanos(since), int64(-1)
		for {
			page, err := r.page(ctx, from, after)
			if err != nil {
				yield(store.Pull{}, annotate(err, "pulls"))
				return
			}
			for _, row := range page {
				p, there := r.asked[row.asked]
				client, known := r.clients[row.client]
				if !there || !known {
					continue
				}
				p.Client, p.At = client, at(row.at)
				if !yield(p, nil) {
					return
				}
			}
			if len(page) < pullsPage {
				return
			}
			from, after = page[len(page)-1].at, page[len(page)-1].id
		}
	}
}

// reader is what one sequence has read of what repeats.
type reader struct {
	db      *DB
	asked   map[int64]store.Pull
	clients map[int64]string
}

type pullRow struct{ id, at, asked, client int64 }

// page reads pulls after one, and what they name.
func (r *reader) page(ctx context.Context, from, after int64) ([]pullRow, error) {
	page := make([]pullRow, 0, pullsPage)
	err := r.db.rows(ctx, `SELECT id, at, asked, client FROM pulls WHERE (at, id) > (?, ?) ORDER BY at, id LIMIT ?`, []any{from, after, pullsPage}, func(scan func(...any) error) error {
		var p pullRow
		err := scan(&p.id, &p.at, &p.asked, &p.client)
		page = append(page, p)
		return err
	})
	for _, p := range page {
		if err == nil {
			err = r.learn(ctx, p)
		}
	}
	return page, err
}

// learn reads what a pull names, unless it is gone: then ForgetPulls has removed
// the pull since the page was read.
func (r *reader) learn(ctx context.Context, row pullRow) error {
	if _, ok := r.asked[row.asked]; !ok {
		var p store.Pull
		var outcome string
		err := r.db.row(ctx, `SELECT r.registry, r.name, a.tag, a.digest, a.outcome, a.verdict, a.head
			FROM asked a JOIN repositories r ON r.id = a.repository WHERE a.id = ?`, []any{row.asked},
			&p.Ref.Registry, &p.Ref.Repo, &p.Ref.Tag, &p.Ref.Digest, &outcome, &p.Verdict, &p.Head)
		if err == nil {
			err = p.Outcome.UnmarshalText([]byte(outcome))
		}
		if err == nil {
			r.asked[row.asked] = p
		} else if !isNotFound(err) {
			return err
		}
	}
	if _, ok := r.clients[row.client]; !ok {
		var address string
		err := r.db.row(ctx, `SELECT address FROM clients WHERE id = ?`, []any{row.client}, &address)
		if err == nil {
			r.clients[row.client] = address
		} else if !isNotFound(err) {
			return err
		}
	}
	return nil
}

// RecordVerdicts implements store.PullLog.
func (db *DB) RecordVerdicts(ctx context.Context, js []store.Judged) error {
	docs := make([][]byte, len(js))
	for i, j := range js {
		var err error
		if docs[i], err = db.encode(j); err != nil {
			return annotate(err, "verdict %s", j.Verdict.ID)
		}
	}
	return annotate(db.write(ctx, func(tx *sql.Tx) error {
		for i, j := range js {
			if _, err := tx.ExecContext(ctx, `INSERT INTO verdicts (name, at, doc) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, j.Verdict.ID, nanos(j.At), docs[i]); err != nil {
				return err
			}
		}
		return nil
	}), "verdicts")
}

// Verdict implements store.PullLog.
func (db *DB) Verdict(ctx context.Context, id string) (store.Judged, error) {
	var doc []byte
	var j store.Judged
	err := db.row(ctx, `SELECT doc FROM verdicts WHERE name = ?`, []any{id}, &doc)
	if err == nil {
		err = db.decode(doc, &j)
	}
	if err != nil {
		return store.Judged{}, annotate(err, "verdict %s", id)
	}
	return j, nil
}

// forgetBatch is how many rows ForgetPulls removes in one transaction, so that
// other writes need not wait for all of them.
const forgetBatch = 5000

// ForgetPulls implements store.PullLog. Each step leaves what the next one is to
// remove, and nothing that refers to what is gone: after a crash, calling it
// again goes on.
func (db *DB) ForgetPulls(ctx context.Context, before time.Time) error {
	limit := nanos(before)
	for _, step := range []struct {
		query string
		args  []any
	}{
		{`DELETE FROM pulls WHERE id IN (SELECT id FROM pulls WHERE at < ? ORDER BY at LIMIT ?)`, []any{limit, forgetBatch}},
		{`DELETE FROM verdicts WHERE name IN (SELECT v.name FROM verdicts v WHERE v.at < ?
			AND NOT EXISTS (SELECT 1 FROM asked a JOIN pulls p ON p.asked = a.id WHERE a.verdict = v.name) LIMIT ?)`, []any{limit, forgetBatch}},
		{`DELETE FROM asked WHERE id IN (SELECT a.id FROM asked a WHERE NOT EXISTS (SELECT 1 FROM pulls WHERE asked = a.id) LIMIT ?)`, []any{forgetBatch}},
		{`DELETE FROM clients WHERE id IN (SELECT c.id FROM clients c WHERE NOT EXISTS (SELECT 1 FROM pulls WHERE client = c.id) LIMIT ?)`, []any{forgetBatch}},
	} {
		for removed := int64(forgetBatch); removed == forgetBatch; {
			err := db.write(ctx, func(tx *sql.Tx) error {
				res, err := tx.ExecContext(ctx, step.query, step.args...)
				if err != nil {
					return err
				}
				removed, err = res.RowsAffected()
				return err
			})
			if err != nil {
				return annotate(err, "forget pulls")
			}
		}
	}
	return nil
}
