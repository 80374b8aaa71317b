package scheduler

import (
	"context"
	"errors"
	"iter"

	"pratique"
	"pratique/store"
)

// lister lists known images; part of store.Catalog.
type lister interface {
	Images(ctx context.Context) iter.Seq2[store.Known, error]
}

// forgotten opens a scan for every image that is known, can be run, and has no
// report: a process that was killed between the manifest and the job left it so,
// and nobody may ask again. Jobs that are open stay as they are. It runs once,
// and again after a pause when the state did not answer.
func (s *Scheduler) forgotten(ctx context.Context) {
	catalog, ok := s.cfg.Catalog.(lister)
	if !ok {
		return
	}
	for failures := 0; ; failures++ {
		err := s.openForgotten(ctx, catalog)
		if err == nil || ctx.Err() != nil {
			return
		}
		if errors.Is(err, store.ErrUnreachable) {
			s.away.began(ctx, err)
		} else {
			s.cfg.Log.ErrorContext(ctx, "images without a report not all found, will be tried again", "error", err)
		}
		if !sleep(ctx, s.delay(failures, err)) {
			return
		}
	}
}

// openForgotten compares two lists, both in order of digest: every process does this
// at its start, and to read every report, which is a join, would cost a state of a
// million images ten million reads each time. What the second list lacks is asked for,
// so nothing depends on the order.
func (s *Scheduler) openForgotten(ctx context.Context, catalog lister) error {
	next, stop := iter.Pull2(s.reports.ReportedImages(ctx))
	defer stop()
	reported, err, more := next()
	for known, failed := range catalog.Images(ctx) {
		if failed != nil {
			return failed
		}
		for more && err == nil && reported < known.Image.Digest {
			reported, err, more = next()
		}
		if err != nil {
			return err
		}
		if more && reported == known.Image.Digest || !known.Image.Runnable() { // judged without a scan
			continue
		}
		_, err := s.reports.Report(ctx, known.Image.Digest)
		if errors.Is(err, pratique.ErrNotFound) {
			err = s.open(ctx, known.Ref, PrioritySchedule)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
