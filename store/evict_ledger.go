package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// ledger counts the bytes that are kept. It begins with a walk over the store,
// which is right after any crash, and goes on with what arrives and goes. What it
// is told is the state of one blob, so being told twice changes nothing.
type ledger struct {
	mu    sync.Mutex
	known bool // a walk is over
	kept  map[blobKey]entry
	bytes int64
	// walking is what changed since a walk began; nil when none runs.
	walking map[blobKey]entry
	// evicted are blobs that were removed to make room, as far as is remembered.
	evicted   map[blobKey]struct{}
	refetched int64       // bytes of those that came back
	grown     func(int64) // told the bytes kept after every arrival
}

// blobKey is a digest in 32 bytes: most of what a ledger takes is its keys.
type blobKey [32]byte

// entry is one blob; size is negative for one that is gone.
type entry struct {
	size    int64
	arrived int64 // Unix nanoseconds
}

// maxEvicted bounds how many removed blobs are remembered.
const maxEvicted = 100_000

func blobKeyOf(d digest.Digest) blobKey {
	var k blobKey
	if raw := d.Encoded(); len(raw) >= 2*len(k) {
		_, _ = hex.Decode(k[:], []byte(raw[:2*len(k)])) // a valid digest, or no blob has it
	}
	return k
}

// arrived says that a blob is there.
func (l *ledger) arrived(d digest.Digest, size int64, at time.Time) {
	k := blobKeyOf(d)
	l.mu.Lock()
	if _, ok := l.evicted[k]; ok {
		delete(l.evicted, k)
		l.refetched += size
	}
	l.set(k, entry{size, at.UnixNano()})
	grown, bytes, known := l.grown, l.bytes, l.known
	l.mu.Unlock()
	if grown != nil && known {
		grown(bytes)
	}
}

// gone says that a blob is there no longer; to make room, or for another reason.
func (l *ledger) gone(d digest.Digest, evicted bool) {
	k := blobKeyOf(d)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(k, entry{size: -1})
	if !evicted {
		return
	}
	if l.evicted == nil {
		l.evicted = make(map[blobKey]struct{})
	}
	for old := range l.evicted {
		if len(l.evicted) < maxEvicted {
			break
		}
		delete(l.evicted, old)
	}
	l.evicted[k] = struct{}{}
}

// set notes an entry; the caller holds mu.
func (l *ledger) set(k blobKey, e entry) {
	if l.kept == nil {
		l.kept = make(map[blobKey]entry)
	}
	if l.walking != nil {
		l.walking[k] = e
	}
	if old, ok := l.kept[k]; ok {
		l.bytes -= old.size
		delete(l.kept, k)
	}
	if e.size >= 0 {
		l.kept[k] = e
		l.bytes += e.size
	}
}

// find returns the entry of a blob that is kept.
func (l *ledger) find(d digest.Digest) (entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.kept[blobKeyOf(d)]
	return e, ok
}

// totals are the blobs and bytes kept; known is false before the first walk.
func (l *ledger) totals() (blobs int, bytes int64, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.kept), l.bytes, l.known
}

// measure counts anew. One at a time.
func (b *Blobs) measure(ctx context.Context) error {
	b.measuring.Lock()
	defer b.measuring.Unlock()
	l := &b.ledger
	l.mu.Lock()
	l.walking = make(map[blobKey]entry)
	l.mu.Unlock()
	fresh := make(map[blobKey]entry)
	err := b.Walk(ctx, func(d digest.Digest, size int64, modified time.Time) error {
		fresh[blobKeyOf(d)] = entry{size, modified.UnixNano()}
		return nil
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	changed := l.walking
	l.walking = nil
	if err != nil {
		return fmt.Errorf("counting the blobs: %w", err)
	}
	// What changed meanwhile was seen by the walk or not; it is known what it is now.
	for k, e := range changed {
		delete(fresh, k)
		if e.size >= 0 {
			fresh[k] = e
		}
	}
	l.kept, l.bytes, l.known = fresh, 0, true
	for _, e := range fresh {
		l.bytes += e.size
	}
	return nil
}
