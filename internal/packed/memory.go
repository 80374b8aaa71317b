package packed

import (
	"container/list"
	"sync"
)

// Memory keeps parts, those used last, with the records that they share, up to a
// number of bytes. Safe for concurrent use.
type Memory[C, R comparable] struct {
	mu      sync.Mutex
	gen     uint64 // counts Forget
	limit   int
	size    int
	parts   map[C]*list.Element // of kept
	recent  *list.List          // the one used last in front
	records map[R]*shared
}

type kept[C, R comparable] struct {
	id C
	*Part[R]
}

type shared struct {
	*Record
	size, users int
}

// NewMemory returns an empty one of so many bytes.
func NewMemory[C, R comparable](limit int) *Memory[C, R] {
	return &Memory[C, R]{limit: limit, parts: make(map[C]*list.Element), recent: list.New(), records: make(map[R]*shared)}
}

// Find puts what is kept of some chunks in their places of out, and returns the
// others, and with what Keep must be called.
func (j *Memory[C, R]) Find(ids []C, out []*Part[R]) (missing []C, gen uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, id := range ids {
		if e := j.parts[id]; e != nil {
			j.recent.MoveToFront(e)
			out[i] = e.Value.(kept[C, R]).Part
			continue
		}
		missing = append(missing, id)
	}
	return missing, j.gen
}

// Records puts the records that are kept of some components into out, and returns the
// others.
func (j *Memory[C, R]) Records(rows []R, out map[R]*Record) (missing []R) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range rows {
		if s := j.records[r]; s != nil {
			out[r] = s.Record
		} else {
			missing = append(missing, r)
		}
	}
	return missing
}

// Keep keeps a part that was made of what Find of the generation did not find,
// unless anything was forgotten since.
func (j *Memory[C, R]) Keep(id C, p *Part[R], gen uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.parts[id] != nil || gen != j.gen || p.size > j.limit/8 {
		return
	}
	j.parts[id] = j.recent.PushFront(kept[C, R]{id, p})
	j.size += p.size
	for _, h := range p.held {
		s := j.records[h.row]
		if s == nil {
			s = &shared{Record: h.Record, size: h.Cost()}
			j.records[h.row] = s
			j.size += s.size
		}
		s.users++
	}
	for j.size > j.limit {
		j.drop(j.recent.Back())
	}
}

func (j *Memory[C, R]) drop(e *list.Element) {
	k := j.recent.Remove(e).(kept[C, R])
	delete(j.parts, k.id)
	j.size -= k.size
	for _, h := range k.held {
		s := j.records[h.row]
		if s.users--; s.users == 0 {
			delete(j.records, h.row)
			j.size -= s.size
		}
	}
}

// Forget drops the parts with any component of which something else is said now, and what was read
// before is not kept any more.
func (j *Memory[C, R]) Forget(changed func(R) bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.gen++
	for e := j.recent.Front(); e != nil; {
		next := e.Next()
		for _, r := range e.Value.(kept[C, R]).Components {
			if changed(r) {
				j.drop(e)
				break
			}
		}
		e = next
	}
}

// Reset forgets everything.
func (j *Memory[C, R]) Reset() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.gen++
	for e := j.recent.Back(); e != nil; e = j.recent.Back() {
		j.drop(e)
	}
}
