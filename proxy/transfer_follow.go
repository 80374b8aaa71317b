package proxy

import (
	"context"
	"errors"
	"io"
	"time"

	"pratique/store"
)

// leaseLife is how long a blob that a replica was fetching when it died is waited
// for.
const leaseLife = 10 * time.Second

// followFailures of looks at the storage, one after the other, do not end the wait.
const followFailures = 3

// errLeft ends a transfer that only waited for another replica's when nobody waited
// for it any more.
var errLeft = errors.New("nobody waits for it any more")

// lead does the transfer unless another replica does, which is then waited for. What
// replicas lose by a lease that is none (lost, or Redis away) is a second request to
// the upstream: bytes are verified wherever they come from.
func (t *transfer) lead(ctx context.Context) error {
	// It may have been stored between the requester's look and the start.
	if ok, err := t.stored(ctx); ok || err != nil {
		return err
	}
	if ok, err := t.turn(ctx); ok || err != nil {
		return err
	}
	return t.pull(ctx)
}

// turn waits until it is this replica's turn to fetch the blob, or reports that it
// is stored.
func (t *transfer) turn(ctx context.Context) (stored bool, err error) {
	leases := t.cache.cfg.Leases
	if leases == nil {
		return false, nil
	}
	name := "blob/" + t.digest.String()
	lease, err := leases.Lease(ctx, name, leaseLife)
	if errors.Is(err, store.ErrHeld) {
		return t.follow(ctx, leases, name)
	}
	return t.take(ctx, lease, err)
}

// take is what follows an answer about the lease that is not ErrHeld.
func (t *transfer) take(ctx context.Context, lease store.Lease, err error) (stored bool, _ error) {
	switch {
	case ctx.Err() != nil:
		if err == nil {
			lease.Release()
		}
		return false, context.Cause(ctx)
	case err != nil:
		// Redis is away. To wait for it would be an outage of blobs as well.
		t.cache.cfg.Log.DebugContext(ctx, "No lease to be had; the blob is fetched without", "digest", t.digest, "err", err)
		return false, nil
	}
	t.lease = lease
	return t.stored(ctx) // whoever had the lease before may just have stored it
}

// release gives the lease back, after the blob is stored or has failed. If that is
// not heard, the lease runs out.
func (t *transfer) release() {
	if t.lease != nil {
		t.lease.Release()
	}
}

// follow waits for the blob that another replica fetches. When that is over without
// the blob, because it failed or the replica died, this one fetches.
func (t *transfer) follow(ctx context.Context, leases store.Leases, name string) (stored bool, err error) {
	c := t.cache
	freed, end := leases.Freed(name)
	defer end()
	poll := time.NewTicker(c.cfg.FollowPoll)
	defer poll.Stop()
	hold := time.NewTimer(c.cfg.FollowHold)
	defer hold.Stop()
	seen := time.Now() // when another replica was known to fetch it
	for failures := 0; ; {
		// First without waiting: it may have been released before Freed was asked for.
		ok, err := t.stored(ctx)
		if ok {
			c.metrics.transfers.WithLabelValues("followed").Inc()
			return true, nil
		}
		if failures++; err == nil {
			failures = 0
		} else if failures > followFailures {
			return false, err
		}
		lease, err := leases.Lease(ctx, name, leaseLife)
		switch {
		case errors.Is(err, store.ErrHeld):
			seen = time.Now()
		case errors.Is(err, store.ErrUnreachable) && time.Since(seen) < leaseLife:
			// The other replica goes on, or is dead in at most so long.
		default:
			return t.take(ctx, lease, err)
		}
		select {
		case <-freed:
		case <-poll.C:
			if t.leave() {
				return false, errLeft
			}
		case <-hold.C:
			if t.size >= 0 {
				t.answer()
			}
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// leave takes the transfer from those that run if all who asked for it have left:
// what another replica does needs nobody here.
func (t *transfer) leave() bool {
	ts := &t.cache.transfers
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, left := range t.askers {
		if left() == nil {
			return false
		}
	}
	delete(ts.running, t.digest)
	return true
}

// lateBody is the body of a blob that another replica still fetches.
type lateBody struct {
	ctx      context.Context //nolint:containedctx // a reader's, as spools have it
	transfer *transfer
	from     origin
	offset   int64
	body     io.ReadCloser
}

// Read implements io.Reader: it waits until there is something.
func (b *lateBody) Read(p []byte) (int, error) {
	if b.body == nil {
		if err := b.open(); err != nil {
			return 0, err
		}
	}
	return b.body.Read(p)
}

func (b *lateBody) open() error {
	t := b.transfer
	if err := wait(b.ctx, t.begun); err != nil {
		return err
	}
	body, err := t.body(b.ctx, b.from, b.offset)
	if err != nil {
		return err
	}
	b.body = body
	return nil
}

// Close implements io.Closer.
func (b *lateBody) Close() error {
	if b.body == nil {
		return nil
	}
	return b.body.Close()
}
