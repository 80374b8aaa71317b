package packed

import (
	"slices"
	"time"

	"pratique"
	"pratique/store"
)

// Image is the occurrences of one image, joined with what is said of them.
type Image[R comparable] struct {
	// Since is when each part came into force.
	Since []time.Time
	Parts []*Part[R]
	whole *joint // if keys of clocks meet in several parts: all of them as one
}

// NewImage joins parts, which came into force at times, and interleave as runs say
// (see Split).
func NewImage[R comparable](parts []*Part[R], since []time.Time, runs []Run) *Image[R] {
	img := &Image[R]{Since: since, Parts: parts}
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
	j := join(order(places, runs))
	img.whole = &j
	return img
}

// meet reports whether a package and path of one part is in another.
func meet[R comparable](parts []*Part[R]) bool {
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
func order(places [][]*place, runs []Run) []*place {
	if len(runs) == 0 {
		return slices.Concat(places...)
	}
	var out []*place
	read := make([]int, len(places)) // occurrences of each chunk so far
	for _, r := range runs {
		read[r.Chunk] += r.Length
		for len(places[r.Chunk]) > 0 && places[r.Chunk][0].seq < read[r.Chunk] {
			out = append(out, places[r.Chunk][0])
			places[r.Chunk] = places[r.Chunk][1:]
		}
	}
	return out
}

// joints yields what is joined, with the part that the first of its parts is.
func (img *Image[R]) joints(yield func(j *joint, first int) bool) {
	if img.whole != nil {
		yield(img.whole, 0)
		return
	}
	for i, p := range img.Parts {
		if !yield(&p.joint, i) {
			return
		}
	}
}

// Findings are those of the image, worst first, with own among them, which must be in
// that order.
func (img *Image[R]) Findings(own []pratique.Finding, past map[store.Key]*store.Past) []pratique.Finding {
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
		f := store.FindingOf(&it.Occurrence, it.Name, it.Ecosystem, &it.Vulnerability)
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
func (img *Image[R]) clock(g *group, first int, past map[store.Key]*store.Past) (time.Time, []pratique.Milestone) {
	var before *store.Past
	if len(past) > 0 {
		before = past[g.Key]
	}
	if len(g.tracks) == 1 && len(g.tracks[0].phases) == 1 && before == nil { // nearly all
		at, since := g.tracks[0].phases[0].At, img.Since[first+g.tracks[0].part]
		if at.Before(since) {
			at = since
		}
		return at, nil
	}
	ms := img.replay(g, first)
	if before != nil {
		ms = believed(before, ms)
	}
	ms = store.Fold(ms)
	if len(ms) < 2 {
		return ms[0].At, nil
	}
	return ms[0].At, slices.Clip(ms)
}

func (img *Image[R]) replay(g *group, first int) []pratique.Milestone {
	var ms []pratique.Milestone
	for _, t := range g.tracks {
		ms = store.Replay(ms, t.phases, img.Since[first+t.part])
	}
	return ms
}

// Clocks are those of all that was ever found in the parts that want says, by key, not
// folded.
func (img *Image[R]) Clocks(want func(part int) bool) store.Clocks {
	out := make(store.Clocks)
	for j, first := range img.joints {
		for i := range j.groups {
			g := &j.groups[i]
			var ms []pratique.Milestone
			for _, t := range g.tracks {
				if at := first + t.part; want(at) {
					ms = store.Replay(ms, t.phases, img.Since[at])
				}
			}
			if len(ms) > 0 {
				out[g.Key] = append(out[g.Key], ms...)
			}
		}
	}
	return out
}

// Changes are those since the occurrences came into force.
func (img *Image[R]) Changes() []pratique.FindingChange {
	var out []pratique.FindingChange
	for j, first := range img.joints {
		for i := range j.moves {
			if m := &j.moves[i]; m.At.After(img.Since[first+m.part]) {
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

// believed is what an image went through, by what is remembered of it and by what
// histories say. Where a clock of a machine went back, a database may have said
// something for the first time in a time that histories are not believed of: it is
// all that is known then.
func believed(before *store.Past, ms []pratique.Milestone) []pratique.Milestone {
	out := append(slices.Clone(before.Milestones), store.From(ms, before.Until)...)
	if len(out) > 0 {
		return out
	}
	last := ms[0]
	for _, m := range ms[1:] {
		if m.At.After(last.At) {
			last = m
		}
	}
	return []pratique.Milestone{last}
}
