package sqlite

import (
	"context"
	"database/sql"
	"iter"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Report implements store.Reports.
func (db *DB) Report(ctx context.Context, image digest.Digest) (pratique.Report, error) {
	var doc []byte
	var r pratique.Report
	err := db.row(ctx, `SELECT doc FROM reports WHERE digest = ?`, []any{image.String()}, &doc)
	if err == nil {
		err = db.decode(doc, &r)
	}
	if err != nil {
		return pratique.Report{}, annotate(err, "report on %s", image)
	}
	return r, nil
}

// PutReport implements store.Reports: read, compare and write are one transaction.
func (db *DB) PutReport(ctx context.Context, r pratique.Report) (pratique.Report, error) {
	if err := r.State.Validate(); err != nil {
		return pratique.Report{}, annotate(err, "report on %s", r.Image)
	}
	defer db.stamps.Changed(r.Image)
	err := db.write(ctx, func(tx *sql.Tx) error {
		var prevDoc, pastDoc []byte
		var prev pratique.Report
		var past []store.Past
		err := found(tx.QueryRowContext(ctx, `SELECT doc, past FROM reports WHERE digest = ?`, r.Image.String()).Scan(&prevDoc, &pastDoc))
		if err == nil {
			err = db.decode(prevDoc, &prev)
		}
		if err == nil && pastDoc != nil {
			err = db.decode(pastDoc, &past)
		}
		if err != nil && !isNotFound(err) {
			return err
		}
		if prev.Engine.DatabaseAt.After(r.Engine.DatabaseAt) {
			r = prev
			return nil
		}
		r.Findings, past = store.Carry(prev, past, r)
		r.FirstScanned = store.FirstScanned(prev, r)
		doc, err := db.encode(r)
		if err != nil {
			return err
		}
		pastDoc = nil
		if len(past) > 0 {
			if pastDoc, err = db.encode(past); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO reports (digest, state, scanned_at, database_at, doc, past) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (digest) DO UPDATE SET state = excluded.state, scanned_at = excluded.scanned_at, database_at = excluded.database_at, doc = excluded.doc, past = excluded.past`,
			r.Image.String(), string(r.State), nanos(r.ScannedAt), nanos(r.Engine.DatabaseAt), doc, pastDoc)
		return err
	})
	if err != nil {
		return pratique.Report{}, annotate(err, "report on %s", r.Image)
	}
	return r, nil
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
