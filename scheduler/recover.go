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

func (s *Scheduler) openForgotten(ctx context.Context, catalog lister) error {
	for known, err := range catalog.Images(ctx) {
		if err != nil {
			return err
		}
		if !known.Image.Runnable() {
			continue // judged without a scan
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
