package proxy

import (
	"container/list"
	"sync"
)

// lru is a bounded memory of what was used last. It is safe for concurrent use.
type lru[K comparable, V any] struct {
	limit  int64
	weight func(V) int64

	mu    sync.Mutex
	total int64
	order *list.List // of entry, most recent first
	items map[K]*list.Element
}

type lruEntry[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](limit int64, weight func(V) int64) *lru[K, V] {
	return &lru[K, V]{limit: limit, weight: weight, order: list.New(), items: make(map[K]*list.Element)}
}

func (l *lru[K, V]) get(key K) (V, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.items[key]
	if !ok {
		var zero V
		return zero, false
	}
	l.order.MoveToFront(e)
	return e.Value.(lruEntry[K, V]).value, true
}

func (l *lru[K, V]) put(key K, value V) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(key)
	l.items[key] = l.order.PushFront(lruEntry[K, V]{key, value})
	l.total += l.weight(value)
	for l.total > l.limit {
		l.remove(l.order.Back().Value.(lruEntry[K, V]).key)
	}
}

func (l *lru[K, V]) drop(key K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(key)
}

// remove forgets key; the caller holds mu.
func (l *lru[K, V]) remove(key K) {
	if e, ok := l.items[key]; ok {
		l.total -= l.weight(e.Value.(lruEntry[K, V]).value)
		l.order.Remove(e)
		delete(l.items, key)
	}
}
