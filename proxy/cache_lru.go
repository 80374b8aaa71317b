package proxy

import "sync"

// lru is a bounded memory of what was used last. It is safe for concurrent use;
// get does not allocate.
type lru[K comparable, V any] struct {
	limit  int64
	weight func(V) int64

	mu    sync.Mutex
	total int64
	items map[K]*lruEntry[K, V]
	ends  lruEntry[K, V] // of the ring: next is the most recent, prev the oldest
}

type lruEntry[K comparable, V any] struct {
	prev, next *lruEntry[K, V]
	key        K
	value      V
	weight     int64
}

func newLRU[K comparable, V any](limit int64, weight func(V) int64) *lru[K, V] {
	l := &lru[K, V]{limit: limit, weight: weight, items: make(map[K]*lruEntry[K, V])}
	l.ends.prev, l.ends.next = &l.ends, &l.ends
	return l
}

func (l *lru[K, V]) get(key K) (V, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.items[key]
	if !ok {
		var zero V
		return zero, false
	}
	if l.ends.next != e {
		e.unlink()
		l.first(e)
	}
	return e.value, true
}

// latest returns up to n keys whose values are wanted, the most recent first.
func (l *lru[K, V]) latest(n int, want func(K, V) bool) []K {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []K
	for e := l.ends.next; e != &l.ends && len(out) < n; e = e.next {
		if want(e.key, e.value) {
			out = append(out, e.key)
		}
	}
	return out
}

// forget removes key if its value is unwanted still.
func (l *lru[K, V]) forget(key K, unwanted func(K, V) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.items[key]; ok && unwanted(key, e.value) {
		l.remove(key)
	}
}

// put remembers a value, unless it alone would take more than half of the room.
func (l *lru[K, V]) put(key K, value V) {
	e := &lruEntry[K, V]{key: key, value: value, weight: l.weight(value)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(key)
	if e.weight > l.limit/2 {
		return
	}
	l.items[key] = e
	l.first(e)
	l.total += e.weight
	for l.total > l.limit {
		l.remove(l.ends.prev.key)
	}
}

// remove forgets key; the caller holds mu.
func (l *lru[K, V]) remove(key K) {
	if e, ok := l.items[key]; ok {
		l.total -= e.weight
		e.unlink()
		delete(l.items, key)
	}
}

// first puts an unlinked entry before all others; the caller holds mu.
func (l *lru[K, V]) first(e *lruEntry[K, V]) {
	e.prev, e.next = &l.ends, l.ends.next
	e.prev.next, e.next.prev = e, e
}

func (e *lruEntry[K, V]) unlink() {
	e.prev.next, e.next.prev = e.next, e.prev
}
