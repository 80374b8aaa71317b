package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/packed"
	"pratique/store"
)

// Matches implements store.Components.
func (db *DB) Matches(ctx context.Context, e pratique.Engine, ids []pratique.ComponentID) (map[pratique.ComponentID][]pratique.Vulnerability, error) {
	ms := make(map[pratique.ComponentID][]pratique.Vulnerability, len(ids))
	now, err := db.engines(ctx)
	if err != nil {
		return nil, annotate(err, "matches")
	}
	seq, err := seqOf(ctx, db.row, now, e)
	if err != nil || seq == 0 {
		return ms, annotate(err, "matches")
	}
	from := seq
	if seq == now.Current.Seq {
		from = 0
	}
	for part := range slices.Chunk(distinct(ids), askAtOnce) {
		err := db.eachMatch(ctx, part, from, seq, func(id pratique.ComponentID, doc []byte) error {
			ms[id] = []pratique.Vulnerability{}
			if doc == nil {
				return nil
			}
			r, err := db.UnpackRecord(doc)
			if err == nil {
				ms[id] = r.Vulnerabilities()
			}
			return err
		})
		if err != nil {
			return nil, annotate(err, "matches")
		}
	}
	return ms, nil
}

// eachMatch reads what was matched with one engine, or with any if from is 0.
func (db *DB) eachMatch(ctx context.Context, ids []pratique.ComponentID, from, seq int64, each func(pratique.ComponentID, []byte) error) error {
	asked, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	return db.rows(ctx, `SELECT c.hash, m.doc FROM json_each(?) j JOIN components c ON c.hash = unhex(j.value)
		JOIN matched d ON d.component = c.id LEFT JOIN matches m ON m.component = c.id WHERE ? = 0 OR d.engine = ?`,
		[]any{string(asked), from, seq}, func(scan func(...any) error) error {
			var h, doc []byte
			if err := scan(&h, &doc); err != nil {
				return err
			}
			return each(componentID(h), doc)
		})
}

func distinct(ids []pratique.ComponentID) []pratique.ComponentID {
	seen := make(map[pratique.ComponentID]bool, len(ids))
	out := make([]pratique.ComponentID, 0, len(ids))
	for _, id := range ids {
		if !seen[id] {
			seen[id] = true
			out = append(out, id)
		}
	}
	return out
}

// putAtOnce is how many components one transaction of PutMatches stores: whoever
// else writes waits for it.
const putAtOnce = 1000

// PutMatches implements store.Components.
func (db *DB) PutMatches(ctx context.Context, e pratique.Engine, at time.Time, ms map[pratique.ComponentID][]pratique.Vulnerability) (changed []pratique.ComponentID, err error) {
	if e.Database == "" {
		return nil, fmt.Errorf("matches: %w: the database has no digest", pratique.ErrNoDatabase)
	}
	if err := db.spoken.load(ctx, db); err != nil {
		return nil, annotate(err, "matches")
	}
	ids := make([]pratique.ComponentID, 0, len(ms))
	for id := range ms {
		if _, err := packed.Hash(id); err != nil {
			return nil, annotate(err, "matches")
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for part := range slices.Chunk(ids, putAtOnce) {
		moved, err := db.putMatches(ctx, e, at, part, ms)
		changed = append(changed, moved...)
		if err != nil {
			return changed, annotate(err, "matches")
		}
	}
	return changed, nil
}

func (db *DB) putMatches(ctx context.Context, e pratique.Engine, at time.Time, ids []pratique.ComponentID, ms map[pratique.ComponentID][]pratique.Vulnerability) (changed []pratique.ComponentID, err error) {
	w := matchWriter{db: db, at: asStored(at)}
	err = db.write(ctx, func(tx *sql.Tx) error {
		if err := w.engine(ctx, tx, e); err != nil {
			return err
		}
		return w.put(ctx, prepare(tx), ids, ms)
	})
	if w.begun {
		db.begun.forget()
	}
	// A commit that failed may have happened.
	db.forget(w.rows)
	db.movedStamps(ctx, w.rows)
	if err != nil {
		return nil, err
	}
	return w.changed, nil
}

// asStored is a time as it comes back from the file.
func asStored(t time.Time) time.Time { return at(nanos(t)) }

// matchWriter stores what one engine said of some components in a transaction.
type matchWriter struct {
	db      *DB
	at      time.Time
	seq     int64
	current bool    // seq is what everything is current with
	begun   bool    // now
	rows    []int64 // of changed
	changed []pratique.ComponentID
}

// engine finds the place of e, which must be the latest engine. One that was never
// begun is begun.
func (w *matchWriter) engine(ctx context.Context, tx *sql.Tx, e pratique.Engine) error {
	now, err := readEngines(ctx, txRow(tx))
	if err != nil {
		return err
	}
	if w.seq, err = seqOf(ctx, txRow(tx), now, e); err != nil {
		return err
	}
	switch {
	case w.seq == 0 && !now.Latest.DatabaseAt.After(e.DatabaseAt):
		if err := fenced(ctx, tx, e); err != nil {
			return err
		}
		w.begun = true
		w.seq, err = begin(ctx, tx, e)
		return err
	case w.seq == 0 || w.seq != now.Latest.Seq:
		return store.ErrSuperseded
	}
	w.current = w.seq == now.Current.Seq
	return nil
}

// was is what is stored of a component.
type was struct {
	row     int64
	engine  sql.NullInt64
	first   sql.NullInt64
	history *record
	doc     []byte // of the component, if there is no history
}

func (w *matchWriter) put(ctx context.Context, tx *prepared, ids []pratique.ComponentID, ms map[pratique.ComponentID][]pratique.Vulnerability) error {
	before, err := w.before(ctx, tx, ids)
	if err != nil {
		return err
	}
	for _, id := range ids {
		b := before[id]
		if b == nil {
			return fmt.Errorf("%w: component %s is in no image", pratique.ErrInvalid, id)
		}
		if err := w.one(ctx, tx, id, b, ms[id]); err != nil {
			return err
		}
	}
	return nil
}

func (w *matchWriter) before(ctx context.Context, tx *prepared, ids []pratique.ComponentID) (map[pratique.ComponentID]*was, error) {
	out := make(map[pratique.ComponentID]*was, len(ids))
	err := eachOf(ctx, tx.QueryContext, `SELECT c.id, c.hash, d.engine, d.first_at, m.doc, CASE WHEN m.doc IS NULL THEN c.doc END
		FROM json_each(?) j JOIN components c ON c.hash = unhex(j.value)
		LEFT JOIN matched d ON d.component = c.id LEFT JOIN matches m ON m.component = c.id`, ids, func(scan func(...any) error) error {
		var b was
		var h, doc sql.RawBytes
		if err := scan(&b.row, &h, &b.engine, &b.first, &doc, &b.doc); err != nil {
			return err
		}
		out[componentID(h)] = &b
		if doc == nil {
			return nil
		}
		r, err := w.db.UnpackRecord(doc)
		b.history = r
		return err
	})
	return out, err
}

func (w *matchWriter) one(ctx context.Context, tx *prepared, id pratique.ComponentID, b *was, vs []pratique.Vulnerability) error {
	first := !b.engine.Valid
	next := &record{Component: id}
	var moved bool
	switch {
	case first:
		next.History = store.FirstHistory(vs, w.at)
	case b.history != nil:
		*next = *b.history
		next.History, moved = b.history.Next(vs, w.at)
	default:
		next.History, moved = store.History{First: at(b.first.Int64)}.Next(vs, w.at)
	}
	if moved || first && len(next.Tracks) > 0 {
		if err := w.record(ctx, tx, b, next); err != nil {
			return err
		}
		w.rows = append(w.rows, b.row)
		if moved {
			w.changed = append(w.changed, id)
		}
	}
	// Law 11: what is current needs no mark.
	if !first && !moved && (w.current || b.engine.Int64 == w.seq) {
		return nil
	}
	return tx.exec(ctx, `INSERT INTO matched (component, engine, first_at, found) VALUES (?, ?, ?, ?)
		ON CONFLICT (component) DO UPDATE SET engine = excluded.engine, found = excluded.found`, b.row, w.seq, nanos(next.First), len(next.Tracks) > 0)
}

func (w *matchWriter) record(ctx context.Context, tx *prepared, b *was, next *record) error {
	if b.history == nil {
		var c pratique.Component
		if err := w.db.decode(b.doc, &c); err != nil {
			return err
		}
		next.Name, next.Ecosystem = c.Name, c.Context.Type
	}
	doc, err := w.db.PackRecord(next, packAbove)
	if err != nil {
		return err
	}
	w.db.spoken.add(b.row) // before anybody can read the row
	if err := tx.exec(ctx, `INSERT INTO matches (component, doc) VALUES (?, ?) ON CONFLICT (component) DO UPDATE SET doc = excluded.doc`, b.row, doc); err != nil {
		return err
	}
	gone := make(map[int64]bool)
	if b.history != nil {
		for _, v := range b.history.Vulnerabilities() {
			gone[hash64(v.ID)] = true
		}
	}
	for _, v := range next.Vulnerabilities() {
		h := hash64(v.ID)
		if gone[h] {
			delete(gone, h)
			continue
		}
		if err := tx.exec(ctx, `INSERT INTO component_vulnerabilities (vulnerability, component) VALUES (?, ?) ON CONFLICT DO NOTHING`, h, b.row); err != nil {
			return err
		}
	}
	for h := range gone {
		if err := tx.exec(ctx, `DELETE FROM component_vulnerabilities WHERE vulnerability = ? AND component = ?`, h, b.row); err != nil {
			return err
		}
	}
	return nil
}

// movedStamps moves the stamps of the images that hold components, or of all where
// they are many: to find them would cost more than that what is in memory is read
// again.
func (db *DB) movedStamps(ctx context.Context, rows []int64) {
	const many = 4096
	n := 0
	for part := range slices.Chunk(rows, askAtOnce) {
		err := eachOf(context.WithoutCancel(ctx), db.query, `SELECT s.digest FROM scanned s WHERE s.id IN (SELECT i.image FROM chunk_images i
			WHERE i.chunk IN (SELECT cc.chunk FROM component_chunks cc WHERE cc.component IN (SELECT value FROM json_each(?1))) LIMIT 4096)`, part, func(scan func(...any) error) error {
			var d digest.Digest
			if err := scan(&d); err != nil {
				return err
			}
			n++
			db.stamps.Changed(d)
			return nil
		})
		if err != nil || n >= many {
			db.stamps.All()
			return
		}
	}
}

// spoken says of which components anything was ever said, so that the others need
// not be asked for: a bit each. A set bit promises nothing. The zero value is ready.
type spoken struct {
	mu     sync.RWMutex
	loaded bool
	bits   []uint64
}

func (s *spoken) load(ctx context.Context, db *DB) error {
	s.mu.RLock()
	loaded := s.loaded
	s.mu.RUnlock()
	if loaded {
		return nil
	}
	s.mu.Lock() // add waits: nothing is committed meanwhile that is not read here
	defer s.mu.Unlock()
	if s.loaded {
		return nil
	}
	err := db.rows(ctx, `SELECT component FROM matched WHERE found <> 0`, nil, func(scan func(...any) error) error {
		var row int64
		err := scan(&row)
		s.set(row)
		return err
	})
	s.loaded = err == nil
	return err
}

func (s *spoken) set(row int64) {
	if n := int(row/64) + 1; n > len(s.bits) {
		s.bits = append(s.bits, make([]uint64, n-len(s.bits))...)
	}
	s.bits[row/64] |= 1 << (row % 64)
}

func (s *spoken) add(row int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(row)
}

// of are those of rows of which anything was said.
func (s *spoken) of(rows []int64) []int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]int64, 0, len(rows)/4)
	for _, r := range rows {
		if s.has(r) {
			out = append(out, r)
		}
	}
	return out
}

// has reports whether anything was said of row; whoever set bits before uses it
// alone.
func (s *spoken) has(row int64) bool {
	i := int(row / 64)
	return i < len(s.bits) && s.bits[i]&(1<<(row%64)) != 0
}
