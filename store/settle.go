package store

import (
	"slices"
	"time"

	"pratique"
)

// Clocks are what findings of an image went through, by key.
type Clocks map[Key][]pratique.Milestone

// Settle is Carry for an image whose vulnerabilities are joined when its report is
// read. It returns the findings that are stored with the report (those of content),
// with their clocks, and the past that must be kept so that no clock of any finding
// is another than Carry would have it.
//
// head and past are what was stored of the report that stands. The histories of the
// image's components (see Replay, not folded) tell of the clocks: joined, as the
// image was read until now; fresh, what they say of what is new to the image as of
// next.ScannedAt; and later, what a reader will be told from now on. All are nil if
// they say the same as before.
func Settle(head pratique.Report, past []Past, next pratique.Report, joined, fresh, later Clocks) ([]pratique.Finding, []Past) {
	clocks := Clocks(history(head, past))
	ends := make(map[Key]time.Time)
	for i := range past {
		ends[past[i].Key()] = past[i].Until
	}
	for k, ms := range joined {
		clocks[k] = Fold(append(slices.Clone(clocks[k]), From(ms, ends[k])...))
	}
	for k, ms := range fresh {
		clocks[k] = Fold(append(slices.Clone(clocks[k]), ms...))
	}
	for k, s := range states(next.Findings) {
		clocks[k] = risen(clocks[k], s, next.ScannedAt)
	}
	out := make([]pratique.Finding, len(next.Findings))
	for i, f := range next.Findings {
		f.FirstSeen, f.Milestones = told(clocks[keyOf(&f)])
		out[i] = f
	}
	var left []Past
	for k, ms := range later {
		if !slices.EqualFunc(Fold(slices.Clone(ms)), clocks[k], sameMilestone) {
			left = append(left, Past{Kind: k.Kind, ID: k.ID, Package: k.Package, Path: k.Path, Milestones: clocks[k]})
		}
		delete(clocks, k)
	}
	for i := range past {
		if p := past[i]; len(p.Milestones) == 0 && later == nil && clocks[p.Key()] == nil {
			left = append(left, p)
		}
	}
	left = append(left, untold(clocks, out)...)
	sortPast(left)
	for i := range left { // what histories say until now is in it
		k := left[i].Key()
		left[i].Until = ends[k]
		if _, is := later[k]; (is || joined[k] != nil) && next.ScannedAt.After(ends[k]) {
			left[i].Until = next.ScannedAt
		}
	}
	return out, left
}

func sameMilestone(a, b pratique.Milestone) bool {
	return a.At.Equal(b.At) && a.Severity == b.Severity && a.Fixable == b.Fixable
}

// told is a clock as a finding tells it.
func told(ms []pratique.Milestone) (firstSeen time.Time, milestones []pratique.Milestone) {
	switch len(ms) {
	case 0:
		return time.Time{}, nil
	case 1:
		return ms[0].At, nil
	}
	return ms[0].At, slices.Clone(ms)
}

// From leaves out what ended before a time.
func From(ms []pratique.Milestone, until time.Time) []pratique.Milestone {
	if until.IsZero() {
		return ms
	}
	var out []pratique.Milestone
	for _, m := range ms {
		if !m.At.Before(until) {
			out = append(out, m)
		}
	}
	return out
}
