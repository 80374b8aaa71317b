package store

import (
	"cmp"
	"slices"
	"time"

	"pratique"
)

// Past is how one finding of an image got worse, when its standing report does
// not tell: because it lacks the finding, or has it milder than it was. The names
// in its JSON are short: an image keeps one for each finding that ever left.
type Past struct {
	Kind    pratique.Kind `json:"k,omitempty"`
	ID      string        `json:"i,omitempty"`
	Package string        `json:"p,omitempty"`
	Path    string        `json:"f,omitempty"`
	// Milestones begin with the finding's state at FirstSeen; at least one, unless
	// Until says that the image never had it before.
	Milestones []pratique.Milestone `json:"m"`
	// Until is when they end, if what histories say of the finding's time before that
	// is not believed (see Settle).
	Until time.Time `json:"u,omitzero"`
}

// Carry returns next's findings with FirstSeen and Milestones as PutReport must
// store them, and the past that must be kept with them, given the report that
// stands and the past that was kept with it. It is here so that every
// implementation of Reports carries alike.
//
// A finding that the image ever had, in whichever report, goes on where it was;
// one new to the image begins when next was scanned. What next itself says of
// both is not believed. Findings with the same key (Kind, ID, Package and Path)
// are one, as bad as the worst of them. The arguments are left alone.
func Carry(prev pratique.Report, past []Past, next pratique.Report) ([]pratique.Finding, []Past) {
	clocks := history(prev, past)
	for k, s := range states(next.Findings) {
		clocks[k] = risen(clocks[k], s, next.ScannedAt)
	}
	out := make([]pratique.Finding, len(next.Findings))
	for i, f := range next.Findings {
		ms := clocks[keyOf(&f)]
		f.FirstSeen, f.Milestones = ms[0].At, nil
		if len(ms) > 1 {
			f.Milestones = slices.Clone(ms)
		}
		out[i] = f
	}
	return out, untold(clocks, out)
}

// FirstScanned returns next's FirstScanned as PutReport must store it, given the
// report that stands. What next itself says is not believed. Of an image that was
// matched before this was noted it stays unknown: a grace that runs is not cut.
func FirstScanned(prev, next pratique.Report) time.Time {
	switch {
	case !prev.FirstScanned.IsZero() || matched(prev):
		return prev.FirstScanned
	case matched(next):
		return next.ScannedAt
	}
	return time.Time{}
}

func matched(r pratique.Report) bool {
	return r.State == pratique.StateScanned || r.State == pratique.StateIncomplete
}

// Key is what makes findings of one image, in whichever report, the same.
type Key struct {
	Kind              pratique.Kind
	ID, Package, Path string
}

// Key is the finding's of which this is the past.
func (p *Past) Key() Key { return Key{p.Kind, p.ID, p.Package, p.Path} }

func keyOf(f *pratique.Finding) Key { return Key{f.Kind, f.ID, f.Package, f.Path} }

// states are how bad the findings are now, without a time.
func states(fs []pratique.Finding) map[Key]pratique.Milestone {
	out := make(map[Key]pratique.Milestone, len(fs))
	for i := range fs {
		k := keyOf(&fs[i])
		m, seen := out[k]
		if !seen || fs[i].Severity.Rank() > m.Severity.Rank() {
			m.Severity = fs[i].Severity
		}
		m.Fixable = m.Fixable || fs[i].Fixed != ""
		out[k] = m
	}
	return out
}

// history is the milestones of every finding that the image ever had, at least
// one each: from the past if they are there, else as the standing report tells.
func history(prev pratique.Report, past []Past) map[Key][]pratique.Milestone {
	told := make(map[Key][]pratique.Milestone, len(prev.Findings))
	for k, s := range states(prev.Findings) {
		told[k] = []pratique.Milestone{s}
	}
	for i := range prev.Findings {
		f := &prev.Findings[i]
		k := keyOf(f)
		if ms := told[k]; len(f.Milestones) > 0 {
			told[k] = slices.Clone(f.Milestones)
		} else if ms[0].At.IsZero() || f.FirstSeen.Before(ms[0].At) {
			ms[0].At = f.FirstSeen
		}
	}
	for _, p := range past {
		if len(p.Milestones) > 0 {
			told[p.Key()] = slices.Clone(p.Milestones)
		}
	}
	return told
}

// risen is the milestones with the state as it is at a time: a new one if it is
// worse than all before. A clock of the machine that goes back leaves them in order.
func risen(ms []pratique.Milestone, s pratique.Milestone, at time.Time) []pratique.Milestone {
	s.At = at
	if len(ms) == 0 {
		return []pratique.Milestone{s}
	}
	if ms[0].At.IsZero() { // stored without a time
		ms[0].At = at
	}
	worst := ms[len(ms)-1]
	s.Fixable = s.Fixable || worst.Fixable
	if s.Severity.Rank() <= worst.Severity.Rank() {
		if s.Fixable == worst.Fixable {
			return ms
		}
		s.Severity = worst.Severity
	}
	if s.At.Before(worst.At) {
		s.At = worst.At
	}
	return append(ms, s)
}

// untold is the past that findings do not tell, in a fixed order.
func untold(clocks map[Key][]pratique.Milestone, findings []pratique.Finding) []Past {
	now := states(findings)
	var out []Past
	for k, ms := range clocks {
		s, there := now[k]
		if there && (len(ms) > 1 || s.Severity.Rank() == ms[0].Severity.Rank() && s.Fixable == ms[0].Fixable) {
			continue
		}
		out = append(out, Past{Kind: k.Kind, ID: k.ID, Package: k.Package, Path: k.Path, Milestones: ms})
	}
	sortPast(out)
	return out
}

func sortPast(ps []Past) {
	slices.SortFunc(ps, func(a, b Past) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Package, b.Package), cmp.Compare(a.Path, b.Path))
	})
}
