package redis

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

// leaseChannel carries names of leases that were released.
const leaseChannel = "freed"

var _ store.Leases = (*DB)(nil)

// leases are those of this process, and who waits for one.
type leases struct {
	mu      sync.Mutex
	held    map[*lease]struct{}
	waiting map[string]map[chan struct{}]struct{}
}

// lease is one that this process holds.
type lease struct {
	db    *DB
	name  string
	token string
	ttl   time.Duration

	ctx    context.Context //nolint:containedctx // what a lease is: a span of time
	cancel context.CancelCauseFunc
	done   chan struct{}
	once   sync.Once
}

// Lease implements store.Leases. The holder's clock and Redis' count: the lease is
// lost here, at the latest, when it has run out there.
func (db *DB) Lease(ctx context.Context, name string, ttl time.Duration) (store.Lease, error) {
	token := db.cfg.Replica + " " + randomName()
	began := time.Now()
	err := db.rdb.SetArgs(ctx, db.key("lease", name), token, redis.SetArgs{Mode: "NX", TTL: ttl}).Err()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, store.ErrHeld
	case err != nil:
		return nil, err
	}
	l := &lease{db: db, name: name, token: token, ttl: ttl, done: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	db.leases.add(l)
	go l.keep(began) //nolint:contextcheck // giving it back takes a time of its own
	return l, nil
}

// Context implements store.Lease.
func (l *lease) Context() context.Context { return l.ctx }

// Release implements store.Lease.
func (l *lease) Release() {
	l.once.Do(func() {
		l.cancel(context.Canceled)
		<-l.done
		l.db.leases.remove(l)
		ctx, cancel := context.WithTimeout(context.Background(), l.db.cfg.Timeout)
		defer cancel()
		// If it fails, the lease runs out.
		_ = scriptRelease.Run(ctx, l.db.rdb, []string{l.db.key("lease", l.name)}, l.token, l.db.channel(leaseChannel), l.name).Err()
	})
}

// keep renews the lease until it is released or lost. It counts from before each
// renewal was sent, so that it ends here before it ends there.
func (l *lease) keep(since time.Time) {
	defer close(l.done)
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-time.After(l.ttl / 3):
		}
		began := time.Now()
		ctx, cancel := context.WithDeadline(l.ctx, since.Add(l.ttl))
		held, err := scriptRenew.Run(ctx, l.db.rdb, []string{l.db.key("lease", l.name)}, l.token, l.ttl.Milliseconds()).Int()
		cancel()
		switch {
		case err == nil && held == 1:
			since = began
		case err == nil, time.Since(since) >= l.ttl:
			l.cancel(store.ErrLost)
			return
		}
	}
}

// Freed implements store.Leases.
func (db *DB) Freed(name string) (freed <-chan struct{}, end func()) {
	c := make(chan struct{}, 1)
	ls := &db.leases
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.waiting == nil {
		ls.waiting = make(map[string]map[chan struct{}]struct{})
	}
	if ls.waiting[name] == nil {
		ls.waiting[name] = make(map[chan struct{}]struct{})
	}
	ls.waiting[name][c] = struct{}{}
	return c, func() {
		ls.mu.Lock()
		defer ls.mu.Unlock()
		delete(ls.waiting[name], c)
		if len(ls.waiting[name]) == 0 {
			delete(ls.waiting, name)
		}
	}
}

// told wakes who waits for a lease that was released.
func (ls *leases) told(name string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for c := range ls.waiting[name] {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (ls *leases) add(l *lease) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.held == nil {
		ls.held = make(map[*lease]struct{})
	}
	ls.held[l] = struct{}{}
}

func (ls *leases) remove(l *lease) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	delete(ls.held, l)
}

// stop ends the leases that are held, without a word to Redis: they run out there.
func (ls *leases) stop() {
	ls.mu.Lock()
	held := make([]*lease, 0, len(ls.held))
	for l := range ls.held {
		held = append(held, l)
	}
	ls.mu.Unlock()
	for _, l := range held {
		l.cancel(store.ErrLost)
		<-l.done
	}
}

func isMissing(err error) bool { return errors.Is(err, pratique.ErrNotFound) }
