package sqlite

import (
	"cmp"
	"context"
	"slices"
	"time"

	"pratique"
	"pratique/store"
)

// maxRereads is how often a reader begins anew because what it read was replaced
// meanwhile.
const maxRereads = 8

// image is the occurrences of one image, joined with what is said of them.
type image struct {
	roster
	parts []*part
	whole *joint // if keys of clocks meet in several parts: all of them as one
}

func (db *DB) joinImage(ctx context.Context, l roster) (*image, error) {
	parts, err := db.parts(ctx, l.chunks)
	if err != nil {
		return nil, err
	}
	return newImage(l, parts), nil
}

func newImage(l roster, parts []*part) *image {
	img := &image{roster: l, parts: parts}
	if !meet(parts) {
		return img
	}
	places := make([][]*place, len(parts))
	for i, p := range parts {
		for _, at := range p.places {
			own := *at
			own.part = i
			places[i] = append(places[i], &own)
		}
	}
	j := join(l.order(places))
	img.whole = &j
	return img
}

// meet reports whether a package and path of one part is in another.
func meet(parts []*part) bool {
	n, with := 0, 0
	for _, p := range parts {
		if n += len(p.pairs); len(p.pairs) > 0 {
			with++
		}
	}
	if with < 2 {
		return false
	}
	all := make([]uint64, 0, n)
	for _, p := range parts {
		all = append(all, p.pairs...)
	}
	slices.Sort(all)
	return len(slices.Compact(all)) < n
}

// order puts places, which are only some of the occurrences of each chunk, into the
// image's order.
func (l roster) order(places [][]*place) []*place {
	if len(l.runs) == 0 {
		return slices.Concat(places...)
	}
	var out []*place
	read := make([]int, len(places)) // occurrences of each chunk so far
	for _, r := range l.runs {
		read[r.chunk] += r.length
		for len(places[r.chunk]) > 0 && places[r.chunk][0].seq < read[r.chunk] {
			out = append(out, places[r.chunk][0])
			places[r.chunk] = places[r.chunk][1:]
		}
	}
	return out
}

// joints yields what is joined, with the part that the first of its parts is.
func (img *image) joints(yield func(j *joint, first int) bool) {
	if img.whole != nil {
		yield(img.whole, 0)
		return
	}
	for i, p := range img.parts {
		if !yield(&p.joint, i) {
			return
		}
	}
}

// findings are those of the image, worst first, with own among them, which must be in
// that order.
func (img *image) findings(own []pratique.Finding, past map[store.Key]*store.Past) []pratique.Finding {
	type source struct {
		*joint
		first int
		next  int
	}
	var sources []source
	n := len(own)
	for j, first := range img.joints {
		if len(j.items) > 0 {
			sources = append(sources, source{j, first, 0})
			n += len(j.items)
		}
	}
	if n == 0 {
		return nil
	}
	out := make([]pratique.Finding, 0, n)
	for len(sources) > 0 {
		worst := 0
		for i := 1; i < len(sources); i++ {
			if compareItems(&sources[i].items[sources[i].next], &sources[worst].items[sources[worst].next]) < 0 {
				worst = i
			}
		}
		s := &sources[worst]
		it := &s.items[s.next]
		f := store.FindingOf(&it.Occurrence, it.name, it.ecosystem, &it.Vulnerability)
		f.FirstSeen, f.Milestones = img.clock(&s.groups[it.group], s.first, past)
		for len(own) > 0 && store.WorseFirst(&own[0], &f) < 0 {
			out, own = append(out, own[0]), own[1:]
		}
		out = append(out, f)
		if s.next++; s.next == len(s.items) {
			sources = slices.Delete(sources, worst, worst+1)
		}
	}
	return append(out, own...)
}

// clock is when findings of a group got worse.
func (img *image) clock(g *group, first int, past map[store.Key]*store.Past) (time.Time, []pratique.Milestone) {
	var before *store.Past
	if len(past) > 0 {
		before = past[g.Key]
	}
	if len(g.tracks) == 1 && len(g.tracks[0].phases) == 1 && before == nil { // nearly all
		at, since := g.tracks[0].phases[0].At, img.chunks[first+g.tracks[0].part].since
		if at.Before(since) {
			at = since
		}
		return at, nil
	}
	ms := img.replay(g, first)
	if before != nil {
		ms = append(slices.Clone(before.Milestones), store.From(ms, before.Until)...)
	}
	ms = store.Fold(ms)
	if len(ms) < 2 {
		return ms[0].At, nil
	}
	return ms[0].At, slices.Clip(ms)
}

func (img *image) replay(g *group, first int) []pratique.Milestone {
	var ms []pratique.Milestone
	for _, t := range g.tracks {
		ms = store.Replay(ms, t.phases, img.chunks[first+t.part].since)
	}
	return ms
}

// clocks are those of all that was ever found at the places that want says, by key.
func (img *image) clocks(want func(chunk listed) bool) store.Clocks {
	out := make(store.Clocks)
	for j, first := range img.joints {
		for i := range j.groups {
			g := &j.groups[i]
			var ms []pratique.Milestone
			for _, t := range g.tracks {
				if c := img.chunks[first+t.part]; want(c) {
					ms = store.Replay(ms, t.phases, c.since)
				}
			}
			if len(ms) > 0 {
				out[g.Key] = append(out[g.Key], ms...)
			}
		}
	}
	return out
}

// changes are those since the occurrences came into force.
func (img *image) changes() []pratique.FindingChange {
	var out []pratique.FindingChange
	for j, first := range img.joints {
		for i := range j.moves {
			if m := &j.moves[i]; m.At.After(img.chunks[first+m.part].since) {
				out = append(out, m.FindingChange)
			}
		}
	}
	pratique.SortChanges(out)
	out = slices.Compact(out)
	if len(out) > pratique.MaxChanges {
		out = slices.Clip(out[:pratique.MaxChanges])
	}
	return out
}

// later reports whether a is later than b in order of Begin or, where one of them was
// never begun, by the time of their databases.
func later(a, b begun) bool {
	if a.seq != 0 && b.seq != 0 {
		return a.seq > b.seq
	}
	return cmp.Or(a.DatabaseAt.Compare(b.DatabaseAt), 0) > 0
}
