package store

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Stamper tells, without I/O, whether what was read about a digest may have
// changed since: its report, whether it is a manifest known here and through
// which repositories, which manifests name it.
//
// Whoever keeps something in memory takes the stamp before reading and keeps it
// with what was read. While the stamp is the same, reading again would give the
// same. A write changes the stamp before it returns to its caller, whether it
// succeeded or not, so that nobody who knows of it is answered from before it.
type Stamper interface {
	Stamp(d digest.Digest) uint64
}

// TagKey is what the stamp of a tag is asked under, and with an empty Tag that of
// the tag list of ref's repository. It is no digest that content can have.
func TagKey(ref pratique.Ref) digest.Digest {
	return digest.Digest("tag " + ref.Repository() + ":" + ref.Tag)
}

// ExceptionsKey is what the stamp of all exceptions is asked under.
const ExceptionsKey digest.Digest = "exceptions"

// stampShards is how many counters Stamps has, a power of two. Digests share
// them: then a write about one makes what is kept of the other be read again,
// which costs time and is never wrong.
const stampShards = 4096

// Stamps are counters in one process, for a store whose only writer it is. The
// zero Stamps is not ready: use NewStamps. Safe for concurrent use, of constant
// size.
type Stamps struct {
	seed   maphash.Seed
	counts [stampShards]atomic.Uint64
	all    atomic.Uint64
}

// NewStamps returns counters that begin anew.
func NewStamps() *Stamps { return &Stamps{seed: maphash.MakeSeed()} }

var _ Stamper = (*Stamps)(nil)

// Stamp implements Stamper.
func (s *Stamps) Stamp(d digest.Digest) uint64 { return s.count(d).Load() + s.all.Load() } // both only grow

// Changed says that something was written about the digests, or may have been.
func (s *Stamps) Changed(ds ...digest.Digest) {
	for _, d := range ds {
		s.count(d).Add(1)
	}
}

// All says so of every digest.
func (s *Stamps) All() { s.all.Add(1) }

func (s *Stamps) count(d digest.Digest) *atomic.Uint64 {
	return &s.counts[maphash.String(s.seed, string(d))%stampShards]
}
