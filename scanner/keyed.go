package scanner

import (
	"context"
	"sync"

	"github.com/opencontainers/go-digest"
)

// keyed is a lock per digest. The zero value is ready.
type keyed struct {
	mu   sync.Mutex
	held map[digest.Digest]*holder
}

type holder struct {
	token chan struct{} // holds one value while locked
	users int           // holders and waiters; the last one forgets the key
}

// lock waits for d until ctx ends; the caller must call unlock once.
func (k *keyed) lock(ctx context.Context, d digest.Digest) (unlock func(), err error) {
	k.mu.Lock()
	if k.held == nil {
		k.held = make(map[digest.Digest]*holder)
	}
	h := k.held[d]
	if h == nil {
		h = &holder{token: make(chan struct{}, 1)}
		k.held[d] = h
	}
	h.users++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if h.users--; h.users == 0 {
			delete(k.held, d)
		}
	}
	select {
	case h.token <- struct{}{}:
		return func() { <-h.token; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}
