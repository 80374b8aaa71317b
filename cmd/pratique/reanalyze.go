package main

import (
	"context"
	"errors"
	"iter"
	"log/slog"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scheduler"
	"pratique/store"
)

// reanalysis has content read again that other analyzers, or another Java database,
// may read otherwise, in the background and at the lowest priority.
type reanalysis struct {
	scans   *scheduler.Scheduler
	rescans *scheduler.Rescanner
	state   state
	blobs   *store.Blobs
	key     func() string
	java    <-chan struct{} // another Java database is in use
	log     *slog.Logger
}

// signalTo leaves a word in c, unless one is there.
func signalTo(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// markProgram is the mark that names the analyzers that everything was read with.
const markProgram = "analyzer"

// run begins with what an upgrade, or a Java database that came while another process
// ran, left to be done.
func (r *reanalysis) run(ctx context.Context) error {
	r.tell(ctx, "analyzer", r.upgraded(ctx))
	for {
		r.tell(ctx, "java database", r.scans.Reanalyze(ctx, r.key(), r.cached(ctx, r.rescans.Holding(ctx, "jar"))))
		select {
		case <-r.java:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// upgraded has everything read again, if it was read by another program.
func (r *reanalysis) upgraded(ctx context.Context) error {
	key := r.key()
	program := scheduler.Program(key)
	mark, err := r.state.Mark(ctx, markProgram)
	switch {
	case errors.Is(err, pratique.ErrNotFound):
	case err != nil:
		return err
	case string(mark.Doc) == program:
		return nil
	default:
		if err := r.scans.Reanalyze(ctx, key, r.cached(ctx, r.state.ReportedImages(ctx))); err != nil {
			return err
		}
	}
	// Only now: a process that dies before it begins again, and what was read again
	// by then costs one look.
	return r.state.Append(ctx, nil, []store.Mark{{Key: markProgram, Doc: []byte(program)}})
}

// cached are those of the images whose layers are here: nothing is fetched only to be
// read again. The others are read again behind the pull that meets them.
func (r *reanalysis) cached(ctx context.Context, images iter.Seq2[digest.Digest, error]) iter.Seq2[digest.Digest, error] {
	return func(yield func(digest.Digest, error) bool) {
		for d, err := range images {
			if err == nil && !r.here(ctx, d) {
				continue
			}
			if !yield(d, err) {
				return
			}
		}
	}
}

func (r *reanalysis) here(ctx context.Context, image digest.Digest) bool {
	img, err := r.state.Image(ctx, image)
	if err != nil {
		return false
	}
	for _, l := range img.Layers {
		if _, err := r.blobs.Stat(ctx, l.Digest); err != nil {
			return false
		}
	}
	return true
}

func (r *reanalysis) tell(ctx context.Context, cause string, err error) {
	if err != nil && ctx.Err() == nil {
		r.log.ErrorContext(ctx, "images not all analysed again; the others are when they are pulled, or after the next start", "cause", cause, "error", err)
	}
}
