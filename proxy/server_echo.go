package proxy

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Limits of the echoes: a client asks within a second of the refusal.
const (
	echoLife = 5 * time.Minute
	maxEchos = 1024
)

// echoes remember, for a while, the digests of error documents that were the
// answer to a manifest request. containerd 1.x takes such a document for the
// manifest, hashes it and asks for the blob of that digest; answered with the
// same error, the person sees the refusal instead of "not found".
type echoes struct {
	now func() time.Time

	mu     sync.Mutex
	byKey  map[pratique.Ref]echo // by contentKey
	oldest []pratique.Ref        // in order of arrival; a ring of at most maxEchos
}

type echo struct {
	err   *Error
	until time.Time
}

func newEchoes(now func() time.Time) *echoes {
	return &echoes{now: now, byKey: make(map[pratique.Ref]echo)}
}

// add remembers e under the digest of its body, in ref's repository.
func (s *echoes) add(ref pratique.Ref, body []byte, e *Error) {
	key := contentKey(ref, digest.FromBytes(body))
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.byKey[key]; !ok {
		if len(s.oldest) >= maxEchos {
			delete(s.byKey, s.oldest[0])
			s.oldest = s.oldest[1:]
		}
		s.oldest = append(s.oldest, key)
	}
	s.byKey[key] = echo{e, s.now().Add(echoLife)}
}

// find returns the error whose document has ref's digest, nil if there is none.
func (s *echoes) find(ref pratique.Ref) *Error {
	if ref.Digest == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.byKey[contentKey(ref, ref.Digest)]
	if !ok || s.now().After(e.until) {
		return nil
	}
	return e.err
}
