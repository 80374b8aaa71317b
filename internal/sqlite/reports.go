package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/packed"
	"pratique/store"
)

// head is what is stored of a report; the rest is joined when it is read.
type head struct {
	packed.Head
	latest   []byte
	standing []byte
}

const readHead = `SELECT r.doc, r.findings, r.past, r.engine, s.latest, s.standing FROM reports r LEFT JOIN scanned s ON s.digest = r.digest WHERE r.digest = ?`

func (db *DB) head(ctx context.Context, row rower, image digest.Digest) (h head, err error) {
	var doc, findings, past []byte
	if err := row(ctx, readHead, []any{image.String()}, &doc, &findings, &past, &h.Seq, &h.latest, &h.standing); err != nil {
		return head{}, err
	}
	if err := db.decode(doc, &h.Report); err != nil {
		return head{}, err
	}
	if h.Findings, err = db.UnpackFindings(findings); err != nil {
		return head{}, err
	}
	if past != nil {
		err = db.decode(past, &h.Past)
	}
	return h, err
}

// Report implements store.Reports.
func (db *DB) Report(ctx context.Context, image digest.Digest) (pratique.Report, error) {
	for range maxRereads {
		h, err := db.head(ctx, db.row, image)
		if err != nil {
			return pratique.Report{}, annotate(err, "report on %s", image)
		}
		now, err := db.engines(ctx)
		if err != nil {
			return pratique.Report{}, annotate(err, "report on %s", image)
		}
		r, err := db.report(ctx, h, now)
		if !errors.Is(err, errChunkGone) {
			return r, annotate(err, "report on %s", image)
		}
	}
	return pratique.Report{}, annotate(errChunkGone, "report on %s", image)
}

// report joins the report of a head.
func (db *DB) report(ctx context.Context, h head, now engines) (pratique.Report, error) {
	if h.standing == nil || !packed.Joinable(h.State) {
		return h.Report, nil
	}
	l, err := db.unpackRoster(h.standing)
	if err != nil {
		return pratique.Report{}, err
	}
	img, err := db.joinImage(ctx, l)
	if err != nil {
		return pratique.Report{}, err
	}
	return packed.Join(&h.Head, img, now), nil
}

// PutReport implements store.Reports: read, compare and write are one transaction.
func (db *DB) PutReport(ctx context.Context, r pratique.Report) (out pratique.Report, err error) {
	if err := r.State.Validate(); err != nil {
		return pratique.Report{}, annotate(err, "report on %s", r.Image)
	}
	defer db.stamps.Changed(r.Image)
	err = db.write(ctx, func(tx *sql.Tx) error {
		out, err = db.putReport(ctx, tx, r)
		return err
	})
	if err != nil {
		return pratique.Report{}, annotate(err, "report on %s", r.Image)
	}
	return out, nil
}

func (db *DB) putReport(ctx context.Context, tx *sql.Tx, r pratique.Report) (pratique.Report, error) {
	now, err := readEngines(ctx, txRow(tx))
	if err != nil {
		return pratique.Report{}, err
	}
	prev, err := db.head(ctx, txRow(tx), r.Image)
	standing := err == nil
	if isNotFound(err) {
		err = found(tx.QueryRowContext(ctx, `SELECT latest, standing FROM scanned WHERE digest = ?`, r.Image.String()).Scan(&prev.latest, &prev.standing))
	}
	if err != nil && !isNotFound(err) {
		return pratique.Report{}, err
	}
	next := head{Head: packed.Head{Report: r}, latest: prev.latest, standing: prev.standing}
	if next.Seq, err = seqOf(ctx, txRow(tx), now, r.Engine); err != nil {
		return pratique.Report{}, err
	}
	if standing && packed.Later(prev.By(), next.By()) {
		return db.report(ctx, prev, now)
	}
	next.Changes = nil
	next.FirstScanned = store.FirstScanned(prev.Report, r)
	s := settling{db: db, tx: tx, now: now, prev: &prev, next: &next}
	if err := s.settle(ctx); err != nil {
		return pratique.Report{}, err
	}
	if err := s.store(ctx); err != nil {
		return pratique.Report{}, err
	}
	return db.report(ctx, next, now)
}

// settling is one PutReport that replaces what stands.
type settling struct {
	db         *DB
	tx         *sql.Tx
	now        engines
	prev, next *head
}

// settle brings the latest occurrences into force, and carries the clocks.
func (s *settling) settle(ctx context.Context) error {
	next := s.next
	own, named := packed.Own(next.Findings)
	next.Findings = own
	var joined, fresh, later store.Clocks
	if packed.Joinable(next.State) && next.latest != nil {
		var err error
		if joined, fresh, later, err = s.enforce(ctx, named); err != nil {
			return err
		}
		next.SortFindings()
	} else if len(named) > 0 {
		return fmt.Errorf("%w: a finding of component %s, and no such component is in the image", pratique.ErrInvalid, named[0])
	}
	next.Settle(&s.prev.Head, joined, fresh, later)
	return nil
}

// enforce makes the latest occurrences the standing ones and says what histories
// say of the clocks, as store.Settle asks; nothing when nothing changes.
func (s *settling) enforce(ctx context.Context, named []pratique.ComponentID) (joined, fresh, later store.Clocks, err error) {
	var before roster
	if s.prev.standing != nil {
		if before, err = s.db.unpackRoster(s.prev.standing); err != nil {
			return nil, nil, nil, err
		}
	}
	after, err := s.db.unpackRoster(s.next.latest)
	if err != nil {
		return nil, nil, nil, err
	}
	img, err := s.db.joinImage(ctx, after)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := s.matched(ctx, img, named); err != nil {
		return nil, nil, nil, err
	}
	if s.prev.standing != nil && before.Same(after) {
		return nil, nil, nil, nil
	}
	old, err := s.db.joinImage(ctx, before)
	if err != nil {
		return nil, nil, nil, err
	}
	joined, fresh, later = packed.Enforce(before, after, old, img, s.next.ScannedAt)
	s.next.standing = packRoster(after)
	return joined, fresh, later, nil
}

// matched makes sure that every component of the image was matched, and that it has
// those that findings name. Where not all were matched with the report's engine since
// it was begun, the report is that of Current: of it, it is known.
func (s *settling) matched(ctx context.Context, img *image, named []pratique.ComponentID) error {
	var rows []int64
	for _, p := range img.Parts {
		rows = append(rows, p.Components...)
	}
	slices.Sort(rows)
	rows = slices.Compact(rows)
	known, by := 0, 0
	for part := range slices.Chunk(rows, askAtOnce) {
		err := eachOf(ctx, s.tx.QueryContext, `SELECT engine FROM matched WHERE component IN (SELECT value FROM json_each(?))`, part, func(scan func(...any) error) error {
			var engine int64
			err := scan(&engine)
			known++
			if engine == s.next.Seq {
				by++
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if known < len(rows) {
		return fmt.Errorf("%w: %d components of the image were not matched", pratique.ErrInvalid, len(rows)-known)
	}
	if cur := s.now.Current; cur.Seq != 0 && s.next.Seq > cur.Seq && by < len(rows) {
		s.next.Seq = cur.Seq
		cur.Analyzer = s.next.Engine.Analyzer
		s.next.Engine = cur.Engine
	}
	return s.named(ctx, rows, named)
}

func (s *settling) named(ctx context.Context, rows []int64, named []pratique.ComponentID) error {
	named = distinct(named)
	for part := range slices.Chunk(named, askAtOnce) {
		there := make(map[pratique.ComponentID]bool, len(part))
		err := eachOf(ctx, s.tx.QueryContext, `SELECT c.id, c.hash FROM json_each(?) j JOIN components c ON c.hash = unhex(j.value)`, part, func(scan func(...any) error) error {
			var row int64
			var h []byte
			err := scan(&row, &h)
			if _, in := slices.BinarySearch(rows, row); in {
				there[componentID(h)] = true
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, id := range part {
			if !there[id] {
				return fmt.Errorf("%w: a finding of component %s, and no such component is in the image", pratique.ErrInvalid, id)
			}
		}
	}
	return nil
}

// store writes what was settled.
func (s *settling) store(ctx context.Context) error {
	stored := s.next.Report
	stored.Findings = nil
	doc, err := s.db.encode(stored)
	if err != nil {
		return err
	}
	var past []byte
	if len(s.next.Past) > 0 {
		if past, err = s.db.encode(s.next.Past); err != nil {
			return err
		}
	}
	r := &s.next.Report
	_, err = s.tx.ExecContext(ctx, `INSERT INTO reports (digest, state, scanned_at, database_at, doc, findings, past, engine) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (digest) DO UPDATE SET state = excluded.state, scanned_at = excluded.scanned_at, database_at = excluded.database_at,
			doc = excluded.doc, findings = excluded.findings, past = excluded.past, engine = excluded.engine`,
		r.Image.String(), string(r.State), nanos(r.ScannedAt), nanos(r.Engine.DatabaseAt), doc, s.db.PackFindings(r.Findings, packAbove), past, s.next.Seq)
	if err != nil || slices.Equal(s.next.standing, s.prev.standing) {
		return err
	}
	var id int64
	if err := s.tx.QueryRowContext(ctx, `UPDATE scanned SET standing = ? WHERE digest = ? RETURNING id`, s.next.standing, r.Image.String()).Scan(&id); err != nil {
		return err
	}
	if s.prev.standing == nil {
		return nil
	}
	before, err := s.db.unpackRoster(s.prev.standing)
	if err != nil {
		return err
	}
	after, err := s.db.unpackRoster(s.next.standing)
	if err != nil {
		return err
	}
	w := &imageWriter{db: s.db, ctx: ctx, tx: prepare(s.tx)}
	return w.link(id, before.Chunks, after.Chunks)
}

// reportsPage is how many digests ReportedImages reads at once.
const reportsPage = 1024

// ReportedImages implements store.Reports, in order of digest.
func (db *DB) ReportedImages(ctx context.Context) iter.Seq2[digest.Digest, error] {
	return func(yield func(digest.Digest, error) bool) {
		last := ""
		for {
			var page []digest.Digest
			err := db.rows(ctx, `SELECT digest FROM reports WHERE digest > ? ORDER BY digest LIMIT ?`, []any{last, reportsPage}, func(scan func(...any) error) error {
				var d digest.Digest
				err := scan(&d)
				page = append(page, d)
				return err
			})
			if err != nil {
				yield("", annotate(err, "reports"))
				return
			}
			for _, d := range page {
				if !yield(d, nil) {
					return
				}
			}
			if len(page) < reportsPage {
				return
			}
			last = page[len(page)-1].String()
		}
	}
}
