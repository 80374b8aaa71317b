package hook

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Windows within which the same is not taken twice. They save work, no more: what is
// taken again is asked for upstream again, whatever it says and however old it is.
const (
	seenIDs  = 10 * time.Minute
	seenTags = time.Minute
	maxSeen  = 10_000 // of each
)

// seen remembers what a hook told lately. Of a tag only the last counts: one that
// moved to another digest and back moved.
type seen struct {
	now func() time.Time

	mu   sync.Mutex
	ids  map[identity]time.Time
	tags map[string]lastTold
}

// identity is a hash of an id, which may be long.
type identity [sha256.Size]byte

func identify(id string) identity { return sha256.Sum256([]byte(id)) }

// lastTold is what was told of a tag last.
type lastTold struct {
	digest  digest.Digest
	deleted bool
	at      time.Time
}

func newSeen(now func() time.Time) *seen {
	return &seen{now: now, ids: map[identity]time.Time{}, tags: map[string]lastTold{}}
}

// before reports whether e was told already. Without an id and a digest it cannot be
// known: the same tag pushed twice looks the same.
func (s *seen) before(e event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if at, ok := s.ids[identify(e.id)]; ok && e.id != "" && now.Sub(at) < seenIDs {
		return true
	}
	last, ok := s.tags[e.about()]
	return ok && e.ref.Digest != "" && last.digest == e.ref.Digest && last.deleted == e.deleted && now.Sub(last.at) < seenTags
}

// note remembers e.
func (s *seen) note(e event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if e.id != "" {
		trim(s.ids, func(at time.Time) bool { return now.Sub(at) >= seenIDs })
		s.ids[identify(e.id)] = now
	}
	trim(s.tags, func(t lastTold) bool { return now.Sub(t.at) >= seenTags })
	s.tags[e.about()] = lastTold{digest: e.ref.Digest, deleted: e.deleted, at: now}
}

// forget takes back a note: what could not be kept is to be told again.
func (s *seen) forget(e event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ids, identify(e.id))
	delete(s.tags, e.about())
}

// trim makes room for many, now and then: what is old goes, then anything.
func trim[K comparable, V any](m map[K]V, old func(V) bool) {
	if len(m) < maxSeen {
		return
	}
	for k, v := range m {
		if old(v) {
			delete(m, k)
		}
	}
	for k := range m {
		if len(m) <= maxSeen*3/4 {
			return
		}
		delete(m, k)
	}
}
