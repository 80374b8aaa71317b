package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// smallBlob is the size up to which a requester waits for the whole blob: its
// readers would get nothing before the digest is verified anyway, and a failure
// can still be told with a status.
const smallBlob = 32 << 10

// Blob returns a blob, starting or joining its transfer when it is not stored.
// Whoever calls has decided that the client may have it. A HEAD of a blob that a
// manifest describes starts nothing.
func (c *Cache) Blob(ctx context.Context, r Request) (Blob, error) {
	b, err := c.blob(ctx, r)
	err = again(err)
	switch {
	case err != nil:
		c.metrics.request(cacheBlob, resultError)
	case b.Hit:
		c.metrics.request(cacheBlob, resultHit)
	default:
		c.metrics.request(cacheBlob, resultMiss)
	}
	return b, err
}

func (c *Cache) blob(ctx context.Context, r Request) (Blob, error) {
	d := r.Ref.Digest
	up, err := c.upstream(r.Ref)
	if err != nil {
		return Blob{}, err
	}
	from := origin{key: r.Ref.Repository(), repo: r.Ref.Repo, up: up}
	size, err := c.blobs.Stat(ctx, d)
	if err == nil {
		return Blob{Digest: d, Size: size, Hit: true, Open: func(offset int64) (io.ReadCloser, error) {
			return c.open(ctx, from, d, size, offset)
		}, Redirect: c.elsewhere(d, size)}, nil
	}
	if !errors.Is(err, pratique.ErrNotFound) {
		return Blob{}, c.storage(err)
	}
	want, err := c.sizeOf(ctx, r.Ref, d)
	if err != nil {
		return Blob{}, err
	}
	if want > c.cfg.MaxBlobSize {
		return Blob{}, c.tooLarge(d, want)
	}
	if r.Head && want >= 0 {
		return Blob{Digest: d, Size: want, Open: func(offset int64) (io.ReadCloser, error) {
			return c.open(ctx, from, d, want, offset)
		}}, nil
	}
	t, err := c.transfer(ctx, from, d, want)
	if err != nil {
		return Blob{}, err
	}
	return Blob{Digest: d, Size: t.size, Open: func(offset int64) (io.ReadCloser, error) {
		return t.body(ctx, from, offset)
	}}, nil
}

// errEvicted: the blob was stored, and was removed to make room before it could be
// opened.
var errEvicted = errors.New("removed to make room")

// again tells a client to ask again for what the upstream could not give now: that
// a manifest names the blob is known here.
func again(err error) error {
	var e *Error
	if !Down(err) || !errors.As(err, &e) || e.RetryAfter > 0 {
		return err
	}
	later := *e // others are told the same
	later.RetryAfter = 5 * time.Second
	return &later
}

// maxFetches is how often one reader has a blob fetched that is gone as soon as it
// is stored: twice when it was removed to make room, more when the storage loses it.
const maxFetches = 3

// open returns a reader over the stored blob, or behind its transfer. What is
// stored may be removed to make room at any time until it is open: then it is
// fetched again, and held until it is.
func (c *Cache) open(ctx context.Context, from origin, d digest.Digest, want, offset int64) (io.ReadCloser, error) {
	release, err := c.blobs.Hold(ctx, d)
	if err != nil {
		return nil, c.storage(err)
	}
	defer release()
	for range maxFetches {
		body, _, err := c.blobs.Open(ctx, d, offset)
		if err == nil {
			return body, nil
		}
		if !errors.Is(err, pratique.ErrNotFound) {
			return nil, c.storage(err)
		}
		t, err := c.transfer(ctx, from, d, want)
		if err != nil {
			return nil, again(err)
		}
		if body, err = t.reader(ctx, offset); !errors.Is(err, errEvicted) {
			return body, err
		}
		// A transfer from before the hold, whose blob is gone again: until it is over
		// no other can begin.
		if err := wait(ctx, t.done); err != nil {
			return nil, err
		}
	}
	return nil, again(Unavailable(http.StatusBadGateway, "%s is gone whenever it was stored", d))
}

// OpenBlob implements scanner.Layers: a reader over the stored blob or behind
// its transfer. A stored blob whose size is not the descriptor's means that the
// manifest lies: an error wrapping pratique.ErrInvalid.
func (c *Cache) OpenBlob(ctx context.Context, ref pratique.Ref, d pratique.Descriptor) (io.ReadCloser, error) {
	up, err := c.upstream(ref)
	if err != nil {
		return nil, err
	}
	body, size, err := c.blobs.Open(ctx, d.Digest, 0)
	if errors.Is(err, pratique.ErrNotFound) {
		if d.Size > c.cfg.MaxBlobSize {
			return nil, c.tooLarge(d.Digest, d.Size)
		}
		from := origin{key: ref.Repository(), repo: ref.Repo, up: up}
		t, err := c.transfer(ctx, from, d.Digest, d.Size)
		if err != nil {
			return nil, err
		}
		if t.size >= 0 && t.size != d.Size {
			return nil, sizeLie(d, t.size)
		}
		return t.body(ctx, from, 0)
	} else if err != nil {
		return nil, c.storage(err)
	}
	if size != d.Size {
		return nil, errors.Join(sizeLie(d, size), body.Close())
	}
	return body, nil
}

func sizeLie(d pratique.Descriptor, size int64) error {
	return fmt.Errorf("%w descriptor: blob %s has %d bytes, the manifest says %d", pratique.ErrInvalid, d.Digest, size, d.Size)
}

// tooLarge refuses a blob by its size, which is a lower bound when the upstream
// did not say it.
func (c *Cache) tooLarge(d digest.Digest, size int64) error {
	return Errorf(CodeDenied, "%w size of blob %s: %d bytes, at most %d are fetched (cache.maxBlobSize)", pratique.ErrInvalid, d, size, c.cfg.MaxBlobSize)
}

// origin is where a blob may come from.
type origin struct {
	key  string // upstream/repository
	repo string
	up   Upstream
}

// transfer is one blob on its way from an upstream, whoever waits for it.
type transfer struct {
	cache  *Cache
	digest digest.Digest
	want   int64 // what a manifest says, -1 if none does

	// Guarded by transfers.mu. Everybody who joins adds his own repository: what
	// one upstream does not have another may.
	sources []origin
	tried   int
	errs    map[string]error // by source
	askers  []func() error   // non-nil when that one has left

	ready chan struct{} // closed with the first byte, at the end, or when a follower's hold is over; then:
	size  int64         // is set; -1: not known
	fixed bool          // of the writer: ready is closed, so that size stays

	begun chan struct{} // closed with the first byte or at the end; then these are set:
	spool *store.Spool  // nil when the blob was stored already, or on failure
	err   error

	done   chan struct{} // closed when it is over, then:
	result error

	lease store.Lease // of the writer: nil without one
}

// transfers are those that run, at most one per digest.
//
// Nothing here bounds their number: each upstream does for itself, so that a
// slow one keeps nobody waiting but its own.
type transfers struct {
	mu      sync.Mutex
	running map[digest.Digest]*transfer
}

// transfer joins or starts the transfer of d and waits until its first byte may
// be read or it has failed.
func (c *Cache) transfer(ctx context.Context, from origin, d digest.Digest, want int64) (*transfer, error) {
	for {
		t, err := c.join(ctx, from, d, want)
		if err != nil {
			return nil, err
		}
		if want >= 0 && t.want >= 0 && t.want != want {
			// Two manifests disagree about the size of one digest, so one of them
			// lies; its transfer will fail and must not take this one along.
			if err := wait(ctx, t.done); err != nil {
				return nil, err
			}
			if t.result == nil && t.size != want {
				return nil, sizeLie(pratique.Descriptor{Digest: d, Size: want}, t.size)
			}
			continue
		}
		if err := wait(ctx, t.ready); err != nil {
			return nil, err
		}
		select {
		case <-t.begun:
		default: // another replica fetches it: the body waits for the end of that
			return t, nil
		}
		if t.err == nil && t.size >= 0 && t.size <= smallBlob {
			if err := wait(ctx, t.done); err != nil {
				return nil, err
			}
			if t.result != nil {
				return nil, t.errorOf(from, t.result)
			}
		}
		if t.err != nil {
			return nil, t.errorOf(from, t.err)
		}
		return t, nil
	}
}

func wait(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// join returns the running transfer of d, with from among its sources, or
// starts one.
func (c *Cache) join(ctx context.Context, from origin, d digest.Digest, want int64) (*transfer, error) {
	c.transfers.mu.Lock()
	defer c.transfers.mu.Unlock()
	if t, ok := c.transfers.running[d]; ok {
		if want < 0 || t.want < 0 || want == t.want {
			t.add(from)
			t.askers = append(t.askers, ctx.Err)
		}
		return t, nil
	}
	asker := ctx.Err
	// It ends with the cache or by the upstream's stall time-out, not with the
	// client that asked first.
	ctx, finish, err := c.tasks.start(ctx)
	if err != nil {
		return nil, err
	}
	t := &transfer{
		cache: c, digest: d, want: want, size: want,
		sources: []origin{from}, errs: make(map[string]error), askers: []func() error{asker},
		ready: make(chan struct{}), begun: make(chan struct{}), done: make(chan struct{}),
	}
	c.transfers.running[d] = t
	go func() {
		defer finish()
		t.run(ctx)
	}()
	return t, nil
}

// add appends a source that is not there yet; the caller holds transfers.mu.
func (t *transfer) add(from origin) {
	for _, s := range t.sources {
		if s.key == from.key {
			return
		}
	}
	t.sources = append(t.sources, from)
}

// next returns the next source to try. When there is none left the transfer is
// no longer among the running, in the same step: who comes now starts anew.
func (t *transfer) next() (origin, bool) {
	ts := &t.cache.transfers
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t.tried == len(t.sources) {
		delete(ts.running, t.digest)
		return origin{}, false
	}
	t.tried++
	return t.sources[t.tried-1], true
}

// errorOf is what a requester is told: its own upstream's error, because
// another's may name a repository that it knows nothing of.
func (t *transfer) errorOf(from origin, err error) error {
	t.cache.transfers.mu.Lock()
	defer t.cache.transfers.mu.Unlock()
	if own, ok := t.errs[from.key]; ok {
		return own
	}
	return err
}

// body is a reader from offset on, behind the transfer or of the stored blob.
func (t *transfer) body(ctx context.Context, from origin, offset int64) (io.ReadCloser, error) {
	select {
	case <-t.begun:
	default:
		return &lateBody{ctx: ctx, transfer: t, from: from, offset: offset}, nil
	}
	if t.err != nil { // it failed after its requesters were answered
		return nil, t.errorOf(from, t.err)
	}
	body, err := t.reader(ctx, offset)
	if errors.Is(err, errEvicted) {
		return t.cache.open(ctx, from, t.digest, t.want, offset)
	}
	return body, err
}

// reader follows a transfer that has begun, or opens the stored blob; errEvicted when
// that is gone again.
func (t *transfer) reader(ctx context.Context, offset int64) (io.ReadCloser, error) {
	if t.spool != nil {
		r, err := t.spool.NewReader(ctx, offset)
		var e *Error
		switch {
		case err == nil || errors.As(err, &e):
			return r, err
		case errors.Is(err, store.ErrMismatch): // the spool found it out before run did
			return nil, wrongBytes(t.digest, err)
		case errors.Is(err, pratique.ErrNotFound):
			return nil, fmt.Errorf("%w: %w", errEvicted, err)
		}
		return nil, t.cache.storage(err)
	}
	body, _, err := t.cache.blobs.Open(ctx, t.digest, offset)
	switch {
	case errors.Is(err, pratique.ErrNotFound):
		return nil, fmt.Errorf("%w: %w", errEvicted, err)
	case err != nil:
		return nil, t.cache.storage(err)
	}
	return body, nil
}
