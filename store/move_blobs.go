package store

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"pratique"
)

// CopiedBlobs is how far CopyBlobs is.
type CopiedBlobs struct {
	Blobs, Bytes int64 // copied, each verified by its digest
	Present      int64 // were there with the same size
	// Damaged are not what their digest says, and were not copied: whoever wants one
	// has it fetched anew.
	Damaged []digest.Digest
}

// copiesAtOnce is how many blobs are copied at the same time.
const copiesAtOnce = 8

// CopyBlobs copies the blobs that to does not have. It may be interrupted anywhere and
// called again. progress, if not nil, is told after each, by one goroutine at a time.
func CopyBlobs(ctx context.Context, from, to *Blobs, progress func(CopiedBlobs)) (CopiedBlobs, error) {
	if progress == nil {
		progress = func(CopiedBlobs) {}
	}
	var mu sync.Mutex
	var done CopiedBlobs
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(copiesAtOnce)
	err := from.Walk(ctx, func(d digest.Digest, size int64, _ time.Time) error {
		group.Go(func() error {
			copied, err := copyBlob(ctx, from, to, d, size)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, ErrMismatch):
				done.Damaged = append(done.Damaged, d)
			case err != nil:
				return err
			case copied:
				done.Blobs, done.Bytes = done.Blobs+1, done.Bytes+size
			default:
				done.Present++
			}
			progress(done)
			return nil
		})
		return ctx.Err()
	})
	if failed := group.Wait(); failed != nil { // it is what ended the walk
		err = failed
	}
	slices.Sort(done.Damaged)
	return done, err
}

func copyBlob(ctx context.Context, from, to *Blobs, d digest.Digest, size int64) (copied bool, err error) {
	there, err := to.Stat(ctx, d)
	if err == nil && there == size {
		return false, nil
	}
	if err != nil && !errors.Is(err, pratique.ErrNotFound) {
		return false, err
	}
	r, _, err := from.Open(ctx, d, 0)
	if err != nil {
		return false, err
	}
	defer r.Close()
	s, err := to.Create(ctx, d, size)
	if err != nil {
		return false, err
	}
	if _, err := io.Copy(s, r); err != nil {
		s.Abort(err)
		return false, err
	}
	return true, s.Commit(ctx)
}
