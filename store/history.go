package store

import (
	"cmp"
	"slices"
	"time"

	"pratique"
)

// MaxPhases is how many phases a History keeps of one vulnerability.
const MaxPhases = 16

// Phase is what databases said of one vulnerability of a component from a time
// on, until the next phase.
type Phase struct {
	At       time.Time // zero: ever since the component was known
	Severity pratique.Severity
	Fixed    string
	Status   string
	Gone     bool // they said nothing of it
}

// Track is a vulnerability of a component with its phases, oldest first, the last
// of them as it is now. Of one that is gone, only ID and phases are kept.
type Track struct {
	pratique.Vulnerability
	Phases []Phase
}

// Gone reports whether the vulnerability is gone now.
func (k *Track) Gone() bool { return len(k.Phases) > 0 && k.Phases[len(k.Phases)-1].Gone }

// History is what databases ever said of a component: the part of reports that
// many images share. From it, and from when an image was first matched, follow the
// clocks of the image's findings, as Carry would have made them report by report.
type History struct {
	// First is when the component was first matched; what was said then is no change.
	First time.Time
	// Tracks are of the vulnerabilities as the database said them, and then of those that are
	// gone, by id.
	Tracks []Track
}

// Vulnerabilities are those that are not gone.
func (h History) Vulnerabilities() []pratique.Vulnerability {
	out := make([]pratique.Vulnerability, 0, len(h.Tracks))
	for i := range h.Tracks {
		if !h.Tracks[i].Gone() {
			out = append(out, h.Tracks[i].Vulnerability)
		}
	}
	return out
}

// FirstHistory is the history of a component that was not matched before.
func FirstHistory(vs []pratique.Vulnerability, at time.Time) History {
	h, _ := History{First: at}.Next(vs, at)
	return h
}

// Next is the history after a database said vs, and whether anything else stood
// before. The second of one id in vs is not kept: no finding would show it. A clock of the machine that goes back leaves the phases in order.
func (h History) Next(vs []pratique.Vulnerability, at time.Time) (next History, changed bool) {
	before := make(map[string]*Track, len(h.Tracks))
	there := 0
	for i := range h.Tracks {
		before[h.Tracks[i].ID] = &h.Tracks[i]
		if !h.Tracks[i].Gone() {
			there++
		}
	}
	next = History{First: h.First, Tracks: make([]Track, 0, max(len(vs), len(h.Tracks)))}
	seen := make(map[string]bool, len(vs))
	for _, v := range vs {
		if seen[v.ID] {
			continue
		}
		seen[v.ID] = true
		k := Track{Vulnerability: v}
		was := before[v.ID]
		if was != nil {
			k.Phases = was.Phases
			changed = changed || was.Gone() || !equal(&was.Vulnerability, &v)
		} else {
			changed = true
		}
		delete(before, v.ID)
		k.Phases = follow(k.Phases, Phase{At: at, Severity: v.Severity, Fixed: v.Fixed, Status: v.Status})
		next.Tracks = append(next.Tracks, k)
	}
	if !changed && len(next.Tracks) == there {
		return h, false
	}
	there = len(next.Tracks)
	for _, was := range before {
		last := was.Phases[len(was.Phases)-1]
		last.At, last.Gone = at, true
		next.Tracks = append(next.Tracks, Track{Vulnerability: pratique.Vulnerability{ID: was.ID}, Phases: follow(was.Phases, last)})
	}
	slices.SortFunc(next.Tracks[there:], func(a, b Track) int { return cmp.Compare(a.ID, b.ID) })
	return next, true
}

func equal(a, b *pratique.Vulnerability) bool {
	return a.ID == b.ID && a.Fixed == b.Fixed && a.Status == b.Status && a.Severity == b.Severity && a.Source == b.Source &&
		a.Title == b.Title && a.URL == b.URL && a.CVSS == b.CVSS && slices.Equal(a.VendorIDs, b.VendorIDs)
}

// follow is ps with p at its end, if that is anything else. Where there are too
// many, the second and third become one, as bad as the worse of them from when the
// second began: what follows from them may be earlier than it was, never later.
func follow(ps []Phase, p Phase) []Phase {
	if n := len(ps); n > 0 {
		last := ps[n-1]
		if p.At.Before(last.At) {
			p.At = last.At
		}
		if last.At = p.At; p == last {
			return ps
		}
	}
	out := append(slices.Clone(ps), p)
	if len(out) <= MaxPhases {
		return out
	}
	worse, other := out[1], out[2]
	switch {
	case worse.Gone:
		worse = other
		worse.At = out[1].At
	case !other.Gone:
		if other.Severity.Rank() > worse.Severity.Rank() {
			worse.Severity = other.Severity
		}
		worse.Fixed, worse.Status = cmp.Or(worse.Fixed, other.Fixed), other.Status
	}
	out[1] = worse
	return slices.Delete(out, 2, 3)
}

// Replay is what an image that was first matched at a time went through with one
// vulnerability: a milestone for the phase in force then, and for every later one
// in which it was there; not yet folded (see Fold).
func Replay(out []pratique.Milestone, phases []Phase, since time.Time) []pratique.Milestone {
	from := 0
	for i := range phases {
		if phases[i].At.After(since) {
			break
		}
		from = i
	}
	for i := from; i < len(phases); i++ {
		p := &phases[i]
		if p.Gone {
			continue
		}
		at := p.At
		if at.Before(since) {
			at = since
		}
		out = append(out, pratique.Milestone{At: at, Severity: p.Severity, Fixable: p.Fixed != ""})
	}
	return out
}

// Fold makes milestones of what findings with one key (see Carry) went through:
// the worst by each time. It may reorder and overwrite ms.
func Fold(ms []pratique.Milestone) []pratique.Milestone {
	if len(ms) < 2 {
		return ms
	}
	slices.SortStableFunc(ms, func(a, b pratique.Milestone) int { return a.At.Compare(b.At) })
	out := ms[:1]
	for _, m := range ms[1:] {
		worst := &out[len(out)-1]
		if m.Severity.Rank() <= worst.Severity.Rank() {
			m.Severity = worst.Severity
		}
		m.Fixable = m.Fixable || worst.Fixable
		switch {
		case m.Severity.Rank() == worst.Severity.Rank() && m.Fixable == worst.Fixable:
		case m.At.Equal(worst.At): // one report
			*worst = m
		default:
			out = append(out, m)
		}
	}
	return out
}

// Changes are how the vulnerability moved after an image was first matched and
// after the component was, without Package and Installed; oldest first.
func (k *Track) Changes(first, since time.Time) []pratique.FindingChange {
	if first.After(since) {
		since = first
	}
	var out []pratique.FindingChange
	before := Phase{Gone: true}
	for _, p := range k.Phases {
		if p.At.After(since) {
			out = append(out, phaseChanges(k.ID, before, p)...)
		}
		before = p
	}
	return out
}

func phaseChanges(id string, before, after Phase) []pratique.FindingChange {
	of := func(p Phase) []pratique.Vulnerability {
		if p.Gone {
			return nil
		}
		return []pratique.Vulnerability{{ID: id, Severity: p.Severity, Fixed: p.Fixed, Status: p.Status}}
	}
	out := pratique.VulnerabilityChanges(of(before), of(after))
	for i := range out {
		out[i].At = after.At
	}
	return out
}
