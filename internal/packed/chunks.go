package packed

import (
	"crypto/sha256"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// NewChunk is the occurrences of one layer in an image, in their order, before they
// are stored.
type NewChunk struct {
	Hash       string // of all the rest
	Layer      digest.Digest
	Components []pratique.ComponentID // distinct, in order of first use
	Records    []byte                 // packed: how many, then index of component and occurrence each
}

// Run is a number of occurrences in a row from one chunk of a list.
type Run struct{ Chunk, Length int }

// Split makes chunks of occurrences, by layer in order of first use, and says how
// they interleave: runs of a chunk's index and a number of occurrences; nil when
// the chunks follow one another.
func Split(os []pratique.Occurrence) ([]NewChunk, []Run, error) {
	type part struct {
		NewChunk
		index map[pratique.ComponentID]int
		n     int
		body  Packer
	}
	var parts []*part
	byLayer := make(map[digest.Digest]int)
	var runs []Run
	for i := range os {
		o := &os[i]
		at, known := byLayer[o.Layer]
		if !known {
			at = len(parts)
			byLayer[o.Layer] = at
			parts = append(parts, &part{NewChunk: NewChunk{Layer: o.Layer}, index: make(map[pratique.ComponentID]int)})
		}
		if n := len(runs); n > 0 && runs[n-1].Chunk == at {
			runs[n-1].Length++
		} else {
			runs = append(runs, Run{at, 1})
		}
		p := parts[at]
		c, known := p.index[o.Component]
		if !known {
			c = len(p.Components)
			p.index[o.Component] = c
			p.Components = append(p.Components, o.Component)
		}
		p.n++
		p.body.Uint(c)
		p.body.Occurrence(o)
	}
	out := make([]NewChunk, len(parts))
	for i, p := range parts {
		named := NewPacker()
		named.Str(p.Layer.String())
		for _, id := range p.Components {
			h, err := Hash(id)
			if err != nil {
				return nil, nil, err
			}
			named.Raw(h)
		}
		var records Packer
		records.Uint(p.n)
		records.Raw(p.body.b)
		named.Raw(records.b)
		sum := sha256.Sum256(named.b)
		p.Hash, p.Records = string(sum[:HashSize]), records.b
		out[i] = p.NewChunk
	}
	if len(runs) == len(parts) {
		runs = nil
	}
	return out, runs, nil
}

// Weave puts what the chunks of a list have into the image's order.
func Weave[T any](parts [][]T, runs []Run) ([]T, error) {
	if len(runs) == 0 {
		return slices.Concat(parts...), nil
	}
	var out []T
	for _, r := range runs {
		if r.Length > len(parts[r.Chunk]) {
			return nil, ErrDamaged
		}
		out = append(out, parts[r.Chunk][:r.Length]...)
		parts[r.Chunk] = parts[r.Chunk][r.Length:]
	}
	return out, nil
}

// Roster is which chunks an image has, and since when each is in force there. C is
// how a backend names chunks.
type Roster[C comparable] struct {
	Chunks []Listed[C]
	Runs   []Run
}

// Listed is a chunk of a Roster.
type Listed[C comparable] struct {
	ID    C
	Since time.Time
}

// PackRoster writes a roster; id writes the name of a chunk.
func PackRoster[C comparable](p *Packer, l Roster[C], id func(*Packer, C)) {
	p.Uint(len(l.Chunks))
	for _, c := range l.Chunks {
		id(p, c.ID)
		p.At(c.Since)
	}
	p.Uint(len(l.Runs))
	for _, r := range l.Runs {
		p.Uint(r.Chunk)
		p.Uint(r.Length)
	}
}

// UnpackRoster reads what PackRoster wrote.
func UnpackRoster[C comparable](u *Unpacker, id func(*Unpacker) C) (l Roster[C], err error) {
	l.Chunks = make([]Listed[C], u.Count())
	for i := range l.Chunks {
		l.Chunks[i] = Listed[C]{id(u), u.At()}
	}
	l.Runs = make([]Run, u.Count())
	for i := range l.Runs {
		l.Runs[i] = Run{u.Uint(), u.Uint()}
		if l.Runs[i].Chunk < 0 || l.Runs[i].Chunk >= len(l.Chunks) {
			return Roster[C]{}, ErrDamaged
		}
	}
	if u.bad {
		return Roster[C]{}, ErrDamaged
	}
	return l, nil
}

// Same reports whether two rosters are of the same occurrences.
func (l Roster[C]) Same(o Roster[C]) bool {
	return slices.EqualFunc(l.Chunks, o.Chunks, func(a, b Listed[C]) bool { return a.ID == b.ID }) && slices.Equal(l.Runs, o.Runs)
}

// IDs are the names of its chunks.
func (l Roster[C]) IDs() []C {
	out := make([]C, len(l.Chunks))
	for i, c := range l.Chunks {
		out[i] = c.ID
	}
	return out
}

// Since is when its chunks came into force.
func (l Roster[C]) Since() []time.Time {
	out := make([]time.Time, len(l.Chunks))
	for i, c := range l.Chunks {
		out[i] = c.Since
	}
	return out
}

// Chunk is a chunk as stored. R is how a backend names components there.
type Chunk[R comparable] struct {
	Layer      digest.Digest
	Components []R
	records    Unpacker
}

// PackChunk packs a chunk whose components are named rows.
func PackChunk[R comparable](p *Packer, c *NewChunk, rows []R, row func(*Packer, R)) {
	p.Str(c.Layer.String())
	p.Uint(len(rows))
	for _, r := range rows {
		row(p, r)
	}
	p.Raw(c.Records)
}

// UnpackChunk reads what PackChunk wrote.
func UnpackChunk[R comparable](u *Unpacker, row func(*Unpacker) R) (*Chunk[R], error) {
	out := &Chunk[R]{Layer: digest.Digest(u.Str())}
	out.Components = make([]R, u.Count())
	for i := range out.Components {
		out.Components[i] = row(u)
	}
	out.records = *u
	if u.bad {
		return nil, ErrDamaged
	}
	return out, nil
}

// Each calls f for the occurrences of the components that want says, with the
// component's index and the occurrence's place in the chunk.
func (c *Chunk[R]) Each(want func(component int) bool, f func(component, seq int, o pratique.Occurrence)) error {
	u := c.records
	n := u.Count()
	for i := range n {
		at := u.Uint()
		if at < 0 || at >= len(c.Components) {
			return ErrDamaged
		}
		if !want(at) {
			for range 4 {
				u.Skip()
			}
			continue
		}
		o := u.Occurrence()
		o.Layer = c.Layer
		f(at, i, o)
	}
	return u.Err()
}
