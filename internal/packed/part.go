package packed

import (
	"cmp"
	"hash/maphash"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Part is a chunk with all that was ever said of its components: what the reports
// of many images share. It is not written to after it was made.
type Part[R comparable] struct {
	Layer      digest.Digest
	Components []R
	held       []holding[R] // what was ever said of them
	places     []*place     // occurrences of those, in the chunk's order
	joint
	pairs []uint64 // hashes of the packages and paths of places, sorted: keys of clocks meet there
	size  int      // without held
}

// holding is a record that a part was made of.
type holding[R comparable] struct {
	row R
	*Record
}

// place is an occurrence of a component of which anything was ever said.
type place struct {
	pratique.Occurrence
	*Record
	seq  int // in its chunk
	part int // of an image, where several are joint as one
}

// joint is the findings at places.
type joint struct {
	items  []item // worst first
	groups []group
	moves  []move // newest first, at most pratique.MaxChanges
}

// item is a finding in the making.
type item struct {
	*place
	*store.Track
	rank  int
	group int
}

// group is all that decides the clock of findings with one key.
type group struct {
	store.Key
	tracks []grouped
}

type grouped struct {
	phases []store.Phase
	part   int
}

// move is a change with the part it is from.
type move struct {
	pratique.FindingChange
	part int
}

var pairSeed = maphash.MakeSeed() //nolint:gochecknoglobals // a constant that the language has no word for

// NewPart joins a chunk with the records of its components. One that has none is of
// a component of which nothing was ever said: it is the caller's to know that it was
// matched.
func NewPart[R comparable](c *Chunk[R], records map[R]*Record) (*Part[R], error) {
	p := &Part[R]{Layer: c.Layer, Components: c.Components}
	for _, row := range c.Components {
		if r := records[row]; r != nil {
			p.held = append(p.held, holding[R]{row, r})
		}
	}
	err := c.Each(func(i int) bool { return records[c.Components[i]] != nil }, func(i, seq int, o pratique.Occurrence) {
		r := records[c.Components[i]]
		o.Component = r.Component
		p.places = append(p.places, &place{Occurrence: o, Record: r, seq: seq})
	})
	if err != nil {
		return nil, err
	}
	p.joint = join(p.places)
	for _, at := range p.places {
		var h maphash.Hash
		h.SetSeed(pairSeed)
		_, _ = h.WriteString(at.Name)
		_ = h.WriteByte(0)
		_, _ = h.WriteString(at.Path)
		p.pairs = append(p.pairs, h.Sum64())
		p.size += 300 + len(at.Installed) + len(at.Path) + len(at.Target) + len(at.PURL)
	}
	slices.Sort(p.pairs)
	p.pairs = slices.Compact(p.pairs)
	p.size += 500 + 16*len(p.Components) + 48*len(p.items) + 200*len(p.groups) + 200*len(p.moves)
	return p, nil
}

// join makes findings of places, in their order, as store.Join does.
func join(places []*place) joint {
	var j joint
	seen := make(map[store.Place]bool)
	groups := make(map[store.Key]int)
	for _, at := range places {
		for i := range at.Tracks {
			t := &at.Tracks[i]
			key := store.Key{Kind: pratique.KindVulnerability, ID: t.ID, Package: at.Name, Path: at.Path}
			g, known := groups[key]
			if !known {
				g = len(j.groups)
				groups[key] = g
				j.groups = append(j.groups, group{Key: key})
			}
			j.groups[g].tracks = append(j.groups[g].tracks, grouped{t.Phases, at.part})
			for _, c := range t.Changes(at.First, time.Time{}) {
				c.Package, c.Installed = at.Name, at.Installed
				j.moves = append(j.moves, move{c, at.part})
			}
			if t.Gone() {
				continue
			}
			k := store.PlaceOf(&at.Occurrence, at.Name, t.ID)
			if !seen[k] {
				seen[k] = true
				j.items = append(j.items, item{place: at, Track: t, rank: t.Severity.Rank(), group: g})
			}
		}
	}
	slices.SortStableFunc(j.items, func(a, b item) int { return compareItems(&a, &b) })
	slices.SortStableFunc(j.moves, func(a, b move) int { return b.At.Compare(a.At) })
	if len(j.moves) > 2*pratique.MaxChanges {
		// Ties in time are ordered by the reader: keep them together.
		last := pratique.MaxChanges
		for last < len(j.moves) && j.moves[last].At.Equal(j.moves[pratique.MaxChanges-1].At) {
			last++
		}
		j.moves = slices.Clone(j.moves[:last])
	}
	return j
}

// compareItems is store.WorseFirst.
func compareItems(a, b *item) int {
	if c := cmp.Compare(b.rank, a.rank); c != 0 {
		return c
	}
	if c := cmp.Compare(a.ID, b.ID); c != 0 {
		return c
	}
	return cmp.Or(
		cmp.Compare(a.Name, b.Name), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Installed, b.Installed),
		cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Record.Component, b.Record.Component),
	)
}
