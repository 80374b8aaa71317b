package store

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// holds are the blobs that somebody is about to open. Where a file that is open
// need not outlive its removal, with all storage drivers but the filesystem's, also
// those that are read or written. Only this process's are known: what another replica
// reads while this one removes it, it has to the end if the object store goes on with
// an answer that it began, as S3 does; what it asks for then is not found, and fetched
// again.
type holds struct {
	mu       sync.Mutex
	held     map[digest.Digest]int
	removing map[digest.Digest]chan struct{} // closed when it is over
}

// hold keeps a blob from being removed until release is called. It waits for a
// removal that has begun.
func (h *holds) hold(ctx context.Context, d digest.Digest) (release func(), err error) {
	for {
		h.mu.Lock()
		over, ok := h.removing[d]
		if !ok {
			if h.held == nil {
				h.held = make(map[digest.Digest]int)
			}
			h.held[d]++
			h.mu.Unlock()
			return sync.OnceFunc(func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				if h.held[d]--; h.held[d] == 0 {
					delete(h.held, d)
				}
			}), nil
		}
		h.mu.Unlock()
		select {
		case <-over:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// remove begins a removal, unless somebody holds the blob or removes it.
func (h *holds) remove(d digest.Digest) (done func(), ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, busy := h.removing[d]; busy || h.held[d] > 0 {
		return nil, false
	}
	if h.removing == nil {
		h.removing = make(map[digest.Digest]chan struct{})
	}
	over := make(chan struct{})
	h.removing[d] = over
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.removing, d)
		close(over)
	}, true
}

// Hold keeps a blob, here or on its way, from being removed to make room, so that
// it can be opened once it is here. It waits for a removal that has begun. The caller
// must call release.
func (b *Blobs) Hold(ctx context.Context, d digest.Digest) (release func(), err error) {
	return b.holds.hold(ctx, d)
}

// heldReader holds its blob until it is closed.
type heldReader struct {
	io.ReadCloser
	release func()
}

func (r heldReader) Close() error {
	defer r.release()
	return r.ReadCloser.Close()
}

// evict removes a blob that did not arrive again since it was chosen: before says
// when that was, arrived when it had arrived, as the storage tells it. It reports
// whether it did. Readers keep what they have open; one who comes now does not find
// it and fetches it again. A crash leaves it there or not: there is nothing in between.
func (b *Blobs) evict(ctx context.Context, d digest.Digest, arrived, before time.Time) (bool, error) {
	done, ok := b.holds.remove(d)
	if !ok {
		return false, nil
	}
	defer done()
	if b.root != "" {
		return b.deleteBefore(ctx, d, before, true)
	}
	path, err := blobPath(d)
	if err != nil {
		return false, err
	}
	info, err := b.driver.Stat(ctx, path)
	if err = wrap(d, err); errors.Is(err, pratique.ErrNotFound) {
		b.gone(d, true)
		return false, nil
	} else if err != nil {
		return false, err
	}
	// Another replica may have stored it anew. By the store's clock on both sides:
	// clocks of replicas are not asked. Between this look and the removal it may still
	// arrive there; then it is fetched once more.
	if !sameTime(info.ModTime(), arrived) {
		return false, nil
	}
	if err := wrap(d, b.driver.Delete(ctx, path)); err != nil && !errors.Is(err, pratique.ErrNotFound) {
		return false, err
	}
	b.gone(d, true)
	return true, nil
}

// sameTime compares two times of one object, of which one may be in whole seconds:
// object stores tell it more exactly in lists than in headers.
func sameTime(a, b time.Time) bool {
	if a.Nanosecond() == 0 || b.Nanosecond() == 0 {
		return a.Unix() == b.Unix()
	}
	return a.Equal(b)
}
