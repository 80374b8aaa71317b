package store

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrHeld says that another process holds the lease.
var ErrHeld = errors.New("held by another process")

// ErrLost ends the context of a lease that could not be kept.
var ErrLost = errors.New("lease lost")

// Leases let one of several processes do what is to be done once: fetch a blob,
// fetch a database, send events. Implementations: internal/redis; Alone for a
// process that shares its state with nobody.
//
// A lease is advice, as every lease is: a process that was stopped for longer than
// its lease may believe for a moment that it still has it. What is done under one
// must be right when it is done twice.
type Leases interface {
	// Lease takes name until it is released or the process is gone for ttl: it is
	// renewed in the background, at a third of it. ErrHeld when somebody has it, this
	// process included.
	Lease(ctx context.Context, name string, ttl time.Duration) (Lease, error)
	// Freed returns a channel that holds a word when name was released, and a function
	// that ends that. It is a hint: the lease of a process that died, or a word that
	// was lost, is found out only by looking again.
	Freed(name string) (freed <-chan struct{}, end func())
}

// Lease is held.
type Lease interface {
	// Context ends with ErrLost as its cause when the lease is not held any more.
	Context() context.Context
	// Release gives it back. It may be called more than once.
	Release()
}

// leadPoll is how often Lead looks whether a lease is free whose end nobody told.
const leadPoll = time.Second

// Lead calls work whenever this process is the one that holds name; work's context
// ends when it no longer is. When work returns nil although it is, and when ctx
// ends, Lead returns nil; an error of work's ends it too, unless the lease was lost.
func Lead(ctx context.Context, leases Leases, name string, ttl time.Duration, work func(ctx context.Context) error) error {
	freed, end := leases.Freed(name)
	defer end()
	for ctx.Err() == nil {
		lease, err := leases.Lease(ctx, name, ttl)
		if err == nil {
			err = hold(ctx, lease, work)
			if err == nil || !errors.Is(err, ErrLost) {
				return err
			}
		}
		select { // held, lost, or not to be had: later
		case <-ctx.Done():
		case <-freed:
		case <-time.After(leadPoll):
		}
	}
	return nil
}

func hold(ctx context.Context, lease Lease, work func(ctx context.Context) error) error {
	defer lease.Release()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(lease.Context(), func() { cancel(context.Cause(lease.Context())) })() //nolint:contextcheck // both end it
	err := work(ctx)
	if errors.Is(context.Cause(ctx), ErrLost) {
		return errors.Join(ErrLost, err)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Alone are the leases of a process that shares its state with nobody. The zero
// Alone is ready for use.
type Alone struct {
	mu    sync.Mutex
	held  map[string]bool
	freed map[string]map[chan struct{}]struct{}
}

var _ Leases = (*Alone)(nil)

// Lease implements Leases.
func (a *Alone) Lease(ctx context.Context, name string, _ time.Duration) (Lease, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if a.held[name] {
		return nil, ErrHeld
	}
	if a.held == nil {
		a.held = make(map[string]bool)
	}
	a.held[name] = true
	return &ownLease{release: sync.OnceFunc(func() { a.release(name) })}, nil
}

func (a *Alone) release(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.held, name)
	for c := range a.freed[name] {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Freed implements Leases.
func (a *Alone) Freed(name string) (freed <-chan struct{}, end func()) {
	c := make(chan struct{}, 1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.freed == nil {
		a.freed = make(map[string]map[chan struct{}]struct{})
	}
	if a.freed[name] == nil {
		a.freed[name] = make(map[chan struct{}]struct{})
	}
	a.freed[name][c] = struct{}{}
	return c, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.freed[name], c)
		if len(a.freed[name]) == 0 {
			delete(a.freed, name)
		}
	}
}

type ownLease struct{ release func() }

func (l *ownLease) Context() context.Context { return context.Background() }
func (l *ownLease) Release()                 { l.release() }
