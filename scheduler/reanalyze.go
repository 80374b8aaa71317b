package scheduler

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Pace of a reanalysis: so many of its jobs are open at a time, so that the queue
// holds what somebody wants, and it is looked at so often.
const (
	reanalysesOpen = 8
	reanalysisPoll = 2 * time.Second
)

// Reanalyze opens scans at the lowest priority, a few at a time, of those of the
// images whose content was read otherwise than by the analyzers of this key, and
// returns when the last is open. Their reports stand meanwhile. Images that nobody
// knows a repository of any more are left out, and so are those without a scan that
// read their content: they are scanned anew when they are pulled.
//
// Images may be all (Reports.ReportedImages), or those that hold something
// (Rescanner.Holding): after another Java database, those with jars.
func (s *Scheduler) Reanalyze(ctx context.Context, key string, images iter.Seq2[digest.Digest, error]) error {
	if s.cfg.Catalog == nil {
		return errors.New("reanalysis: no catalog")
	}
	for image, err := range images {
		if err != nil {
			return fmt.Errorf("reanalysis: %w", err)
		}
		r, err := s.reports.Report(ctx, image)
		if errors.Is(err, pratique.ErrNotFound) || err == nil && (!analysed(r) || r.Engine.Analyzer == key) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reanalysis: %w", err)
		}
		known, err := s.cfg.Catalog.Known(ctx, image)
		if errors.Is(err, pratique.ErrNotFound) {
			continue
		}
		if err == nil {
			err = s.lull(ctx)
		}
		if err == nil {
			err = s.open(ctx, known.Ref, PrioritySchedule)
		}
		if err != nil {
			return fmt.Errorf("reanalysis: %w", err)
		}
	}
	return nil
}

// lull waits until few jobs of the lowest priority are open.
func (s *Scheduler) lull(ctx context.Context) error {
	for {
		n, err := s.queue.Len(ctx)
		if err != nil {
			return err
		}
		if n[PrioritySchedule] < reanalysesOpen {
			return nil
		}
		if !sleep(ctx, reanalysisPoll) {
			return context.Cause(ctx)
		}
	}
}

func analysed(r pratique.Report) bool {
	return r.State == pratique.StateScanned || r.State == pratique.StateIncomplete
}

// outdated reports whether a report's content was read by other programs than those
// in use (Config.Analyzer). Another Java database alone is no reason to read an image
// again because it is pulled: those that it concerns are (Reanalyze).
func (s *Scheduler) outdated(r pratique.Report) bool {
	if s.cfg.Analyzer == nil || !analysed(r) || r.Engine.Analyzer == "" {
		return false
	}
	return Program(s.cfg.Analyzer()) != Program(r.Engine.Analyzer)
}

// Program is the part of an analyzer's key before the hash of its options and data
// (scanner/analyze).
func Program(key string) string {
	if i := strings.LastIndexByte(key, '-'); i >= 0 {
		return key[:i]
	}
	return key
}

// refresh opens a scan at the lowest priority behind an outdated report. The report
// stands, so a failure here is not the caller's.
func (s *Scheduler) refresh(ctx context.Context, ref pratique.Ref) {
	if err := s.open(ctx, ref, PrioritySchedule); err != nil {
		s.cfg.Log.ErrorContext(ctx, "image cannot be analysed again", "image", ref, "error", err)
	}
}

// Holding yields the images that hold components of these types (Context.Type), in
// order. An error ends the sequence.
func (r *Rescanner) Holding(ctx context.Context, types ...string) iter.Seq2[digest.Digest, error] {
	return func(yield func(digest.Digest, error) bool) {
		var keys []string
		for _, t := range types {
			keys = append(keys, pratique.TypeKey(t))
		}
		var ids []pratique.ComponentID
		for c, err := range r.fleet.ComponentsByKey(ctx, keys) {
			if err != nil {
				yield("", err)
				return
			}
			ids = append(ids, c.ID())
		}
		images, err := r.imagesWith(ctx, ids)
		if err != nil {
			yield("", err)
			return
		}
		for _, d := range images {
			if !yield(d, nil) {
				return
			}
		}
	}
}
