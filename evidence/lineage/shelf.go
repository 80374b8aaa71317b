package lineage

import "container/list"

// shelf is a bounded map that forgets what was used longest ago. It is not safe
// for concurrent use.
type shelf[K comparable, V any] struct {
	limit int
	items map[K]*list.Element
	order *list.List // of *book, most recent first
}

type book[K comparable, V any] struct {
	key   K
	value V
}

func newShelf[K comparable, V any](limit int) *shelf[K, V] {
	return &shelf[K, V]{limit: limit, items: make(map[K]*list.Element), order: list.New()}
}

func (s *shelf[K, V]) get(k K) (V, bool) {
	e, ok := s.items[k]
	if !ok {
		var zero V
		return zero, false
	}
	s.order.MoveToFront(e)
	return e.Value.(*book[K, V]).value, true
}

func (s *shelf[K, V]) put(k K, v V) {
	if e, ok := s.items[k]; ok {
		e.Value.(*book[K, V]).value = v
		s.order.MoveToFront(e)
		return
	}
	s.items[k] = s.order.PushFront(&book[K, V]{k, v})
	for len(s.items) > s.limit {
		last := s.order.Back()
		delete(s.items, last.Value.(*book[K, V]).key)
		s.order.Remove(last)
	}
}

// set changes the value of k, if it is there, and not its place.
func (s *shelf[K, V]) set(k K, v V) {
	if e, ok := s.items[k]; ok {
		e.Value.(*book[K, V]).value = v
	}
}

// all are the values, those used most recently first.
func (s *shelf[K, V]) all() []V {
	out := make([]V, 0, len(s.items))
	for e := s.order.Front(); e != nil; e = e.Next() {
		out = append(out, e.Value.(*book[K, V]).value)
	}
	return out
}
