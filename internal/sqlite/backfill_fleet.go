package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/packed"
	"pratique/store"
)

// fleetBackfill makes heads, chunks and histories of what schema 3 kept: reports with
// all their findings, occurrences of an image as one document, and matches without a
// history.
//
// The history of a vulnerability begins when a report first had it. Where the clock
// of an image's finding is another than follows from that, the image's past has it,
// and goes on from end, the time of the last report: every FirstSeen and Milestone
// stays.
type fleetBackfill struct {
	ctx  context.Context //nolint:containedctx // of one call
	tx   *prepared
	db   *DB // only for its codec and what joins in memory: it is not open yet
	end  time.Time
	seen map[pratique.ComponentID]map[string]time.Time // component, vulnerability: first seen in any report
	// engines by the name that schema 3 gave them.
	engines map[string]begun
}

func backfillFleet(ctx context.Context, tx *sql.Tx) error {
	docs, err := newCodec()
	if err != nil {
		return err
	}
	b := &fleetBackfill{
		ctx: ctx, tx: prepare(tx), db: &DB{codec: docs}, engines: make(map[string]begun),
		seen: make(map[pratique.ComponentID]map[string]time.Time),
	}
	for _, step := range []func() error{b.readReports, b.putEngines, b.keys, b.matches, b.occurrences, b.reports} {
		if err := step(); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, `DROP TABLE matches_3; DROP TABLE occurrences_3; DROP TABLE databases`)
	return err
}

const eachReport = `SELECT id, 0, doc FROM reports WHERE id > ? ORDER BY id LIMIT 256`

// readReports learns which engines there were and when vulnerabilities were first
// seen.
func (b *fleetBackfill) readReports() error {
	return eachDoc(b.ctx, b.tx.Tx, eachReport, func(_, _ int64, doc []byte) error {
		var r pratique.Report
		if err := b.db.decode(doc, &r); err != nil {
			return fmt.Errorf("report: %w", err)
		}
		if r.ScannedAt.After(b.end) {
			b.end = r.ScannedAt
		}
		if r.Engine.Database != "" {
			b.engines[name3(r.Engine)] = begun{Engine: r.Engine}
		}
		for i := range r.Findings {
			f := &r.Findings[i]
			if f.Kind != pratique.KindVulnerability || f.Component == "" {
				continue
			}
			if b.seen[f.Component] == nil {
				b.seen[f.Component] = make(map[string]time.Time)
			}
			if t, known := b.seen[f.Component][f.ID]; !known || f.FirstSeen.Before(t) {
				b.seen[f.Component][f.ID] = f.FirstSeen
			}
		}
		return nil
	})
}

// name3 is how schema 3 named what decides matches.
func name3(e pratique.Engine) string {
	return digest.FromString(e.Version + " " + e.Database.String()).String()
}

// putEngines begins the engines of all reports, in order of their databases: it is
// the best that is known.
func (b *fleetBackfill) putEngines() error {
	var all []begun
	for _, e := range b.engines {
		all = append(all, e)
	}
	slices.SortFunc(all, func(x, y begun) int { return x.DatabaseAt.Compare(y.DatabaseAt) })
	for _, e := range all {
		var err error
		if e.Seq, err = begin(b.ctx, b.tx.Tx, e.Engine); err != nil {
			return err
		}
		b.engines[name3(e.Engine)] = e
	}
	return nil
}

func (b *fleetBackfill) keys() error {
	return eachDoc(b.ctx, b.tx.Tx, `SELECT id, 0, doc FROM components WHERE id > ? ORDER BY id LIMIT 256`, func(id, _ int64, doc []byte) error {
		var c pratique.Component
		if err := b.db.decode(doc, &c); err != nil {
			return fmt.Errorf("component: %w", err)
		}
		return putKeys(b.ctx, b.tx, id, &c)
	})
}

func (b *fleetBackfill) matches() error {
	engines := make(map[int64]int64)
	rows, err := b.tx.QueryContext(b.ctx, `SELECT id, digest FROM databases`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var name string
		if err := rows.Scan(&id, &name); err != nil {
			return err
		}
		engines[id] = b.engines[name].Seq
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return eachDoc(b.ctx, b.tx.Tx, `SELECT c.id, m.database, m.doc FROM components c JOIN matches_3 m ON m.hash = c.hash WHERE c.id > ? ORDER BY c.id LIMIT 256`, func(id, database int64, doc []byte) error {
		var vs []pratique.Vulnerability
		if err := b.db.decode(doc, &vs); err != nil {
			return fmt.Errorf("matches: %w", err)
		}
		return b.match(id, engines[database], vs)
	})
}

func (b *fleetBackfill) match(row, engine int64, vs []pratique.Vulnerability) error {
	if err := b.tx.exec(b.ctx, `INSERT INTO matched (component, engine, first_at, found) VALUES (?, ?, 0, ?)`, row, engine, len(vs) > 0); err != nil || len(vs) == 0 {
		return err
	}
	var doc []byte
	if err := b.tx.row(b.ctx, `SELECT doc FROM components WHERE id = ?`, []any{row}, &doc); err != nil {
		return err
	}
	var c pratique.Component
	if err := b.db.decode(doc, &c); err != nil {
		return err
	}
	next := &record{Component: c.ID(), History: store.FirstHistory(vs, time.Time{})}
	for i := range next.Tracks {
		t := &next.Tracks[i]
		t.Phases[0].At = b.end // in no report yet
		if seen, known := b.seen[next.Component][t.ID]; known {
			t.Phases[0].At = seen
		}
		next.First = latestOf(next.First, t.Phases[0].At) // none of it is a change
	}
	w := matchWriter{db: b.db}
	if err := w.record(b.ctx, b.tx, &was{row: row, doc: doc}, next); err != nil {
		return err
	}
	return b.tx.exec(b.ctx, `UPDATE matched SET first_at = ? WHERE component = ?`, nanos(next.First), row)
}

func latestOf(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (b *fleetBackfill) occurrences() error {
	return eachDoc(b.ctx, b.tx.Tx, `SELECT id, 0, doc FROM occurrences_3 WHERE id > ? ORDER BY id LIMIT 256`, func(id, _ int64, doc []byte) error {
		var os []pratique.Occurrence
		if err := b.db.decode(doc, &os); err != nil {
			return fmt.Errorf("occurrences: %w", err)
		}
		chunks, runs, err := packed.Split(os)
		if err != nil {
			return err
		}
		var image string
		if err := b.tx.row(b.ctx, `SELECT digest FROM occurrences_3 WHERE id = ?`, []any{id}, &image); err != nil {
			return err
		}
		w := &imageWriter{db: b.db, ctx: b.ctx, tx: b.tx, given: make(map[pratique.ComponentID]*pratique.Component)}
		return w.put(digest.Digest(image), chunks, runs)
	})
}

// reports takes out of each report what is joined to it from now on.
func (b *fleetBackfill) reports() error {
	return eachDoc(b.ctx, b.tx.Tx, eachReport, func(id, _ int64, doc []byte) error {
		var prev, next head
		if err := b.db.decode(doc, &prev.Report); err != nil {
			return fmt.Errorf("report: %w", err)
		}
		var past []byte
		if err := b.tx.row(b.ctx, `SELECT past FROM reports WHERE id = ?`, []any{id}, &past); err != nil {
			return err
		}
		if past != nil {
			if err := b.db.decode(past, &prev.Past); err != nil {
				return fmt.Errorf("past: %w", err)
			}
		}
		err := b.tx.row(b.ctx, `SELECT latest FROM scanned WHERE digest = ?`, []any{prev.Image.String()}, &prev.latest)
		if err != nil && !isNotFound(err) {
			return err
		}
		next = prev
		next.Seq = b.engines[name3(prev.Engine)].Seq
		if err := b.join(&prev, &next); err != nil {
			return fmt.Errorf("report on %s: %w", prev.Image, err)
		}
		s := settling{db: b.db, tx: b.tx.Tx, prev: &prev, next: &next}
		return s.store(b.ctx)
	})
}

// join takes the vulnerabilities of components out of a report, if it can be joined.
func (b *fleetBackfill) join(prev, next *head) error {
	if !packed.Joinable(prev.State) || prev.latest == nil {
		return nil
	}
	after, err := b.db.unpackRoster(prev.latest)
	if err != nil {
		return err
	}
	img, rows, err := b.image(after)
	if err != nil {
		return err
	}
	known := 0
	for part := range slices.Chunk(rows, askAtOnce) {
		err := eachOf(b.ctx, b.tx.QueryContext, `SELECT 1 FROM matched WHERE component IN (SELECT value FROM json_each(?))`, part, func(func(...any) error) error {
			known++
			return nil
		})
		if err != nil {
			return err
		}
	}
	if known < len(rows) {
		return nil // kept as it is, until the image is scanned again
	}
	since := prev.FirstScanned
	if since.IsZero() {
		since = prev.ScannedAt
		for i := range prev.Findings {
			if t := prev.Findings[i].FirstSeen; !t.IsZero() && t.Before(since) {
				since = t
			}
		}
	}
	for i := range after.Chunks {
		after.Chunks[i].Since = since
	}
	// As if the report were put anew at end: what is new to the image began then.
	for i := range img.Since {
		img.Since[i] = b.end
	}
	fresh := img.Clocks(func(int) bool { return true })
	img.Since = after.Since()
	later := img.Clocks(func(int) bool { return true })
	next.Findings = slices.DeleteFunc(slices.Clone(prev.Findings), func(f pratique.Finding) bool {
		return f.Kind == pratique.KindVulnerability && f.Component != ""
	})
	at := next.ScannedAt
	next.ScannedAt = b.end
	findings, past := store.Settle(prev.Report, prev.Past, next.Report, nil, fresh, later)
	next.ScannedAt = at
	next.Findings, next.Past, next.standing = findings, past, packRoster(after)
	return nil
}

// image joins a roster from what the transaction sees.
func (b *fleetBackfill) image(l roster) (*image, []int64, error) {
	docs, err := readChunks(b.ctx, b.tx.QueryContext, b.db.codec, l.IDs())
	if err != nil {
		return nil, nil, err
	}
	var rows []int64
	for _, c := range docs {
		rows = append(rows, c.Components...)
	}
	slices.Sort(rows)
	rows = slices.Compact(rows)
	records := make(map[int64]*record)
	if err := readRecords(b.ctx, b.tx.QueryContext, b.db.codec, rows, records); err != nil {
		return nil, nil, err
	}
	parts := make([]*part, len(l.Chunks))
	for i, c := range l.Chunks {
		if parts[i], err = packed.NewPart(docs[c.ID], records); err != nil {
			return nil, nil, err
		}
	}
	return newImage(l, parts), rows, nil
}
