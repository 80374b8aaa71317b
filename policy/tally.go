package policy

import (
	"cmp"
	"slices"
	"strings"

	"pratique"
)

// ranks is how many severities there are.
const ranks = 5

// severities by rank.
var severities = []pratique.Severity{
	pratique.SeverityUnknown, pratique.SeverityLow, pratique.SeverityMedium,
	pratique.SeverityHigh, pratique.SeverityCritical,
}

// rank is the severity's, except that a word nobody defined counts as the
// worst: a scanner that spells "Critical" must not open the gate.
func rank(s pratique.Severity) int {
	if r := s.Rank(); r > 0 || s == pratique.SeverityUnknown || s == "" {
		return r
	}
	return ranks - 1
}

// isFixable reports whether a version exists that does not have the finding.
func isFixable(f *pratique.Finding) bool { return f.Fixed != "" || f.Status == "fixed" }

// tally counts a report's findings once, so that a rule costs a few additions
// however many findings there are, and sorts those that are asked for.
type tally struct {
	findings []pratique.Finding
	skip     []bool                         // those that do not count; nil = all do
	counts   [classes][2][ranks]int         // by class, fixable?, rank
	order    [classes][2][]uint64           // places, see placeOf; sorted, by class and fixable only?
	sorted   [classes][2][]pratique.Finding // the first of those
}

// class is what a rule may be about.
type class int

const (
	vulnerabilities class = iota
	secrets
	misconfigurations
	licenses
	classes // how many there are
)

// classOf sorts a finding by its kind. One that nobody defined counts as a
// vulnerability, so that it is not overlooked.
func classOf(k pratique.Kind) class {
	switch k {
	case pratique.KindSecret:
		return secrets
	case pratique.KindMisconfiguration:
		return misconfigurations
	case pratique.KindLicense:
		return licenses
	default:
		return vulnerabilities
	}
}

func newTally(findings []pratique.Finding, skip []bool) tally {
	t := tally{findings: findings, skip: skip}
	for i := range findings {
		if skip != nil && skip[i] {
			continue
		}
		f := &findings[i]
		t.counts[classOf(f.Kind)][index(isFixable(f))][rank(f.Severity)]++
	}
	return t
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// count is the number of findings of a class with at least this rank.
func (t *tally) count(c class, minRank int, fixable bool) int {
	n := 0
	for r := minRank; r < ranks; r++ {
		n += t.counts[c][1][r]
		if !fixable {
			n += t.counts[c][0][r]
		}
	}
	return n
}

// places are where those findings stand, worst first. Results of several calls
// share memory: they are prefixes of one sorted list.
func (t *tally) places(c class, minRank int, fixable bool) []uint64 {
	n := t.count(c, minRank, fixable)
	order := &t.order[c][index(fixable)]
	if len(*order) < n {
		places := make([]uint64, 0, n)
		for i := range t.findings {
			f := &t.findings[i]
			if t.skip != nil && t.skip[i] {
				continue
			}
			if rank(f.Severity) >= minRank && classOf(f.Kind) == c && (!fixable || isFixable(f)) {
				places = append(places, placeOf(f, i))
			}
		}
		sortPlaces(t.findings, places)
		*order = places
	}
	return (*order)[:n]
}

// worst returns the findings with at least this rank, worst first. They share
// memory as places do.
func (t *tally) worst(c class, minRank int, fixable bool) []pratique.Finding {
	return t.first(c, fixable, t.places(c, minRank, fixable))
}

// first returns the findings at places, which are the first of their list.
func (t *tally) first(c class, fixable bool, places []uint64) []pratique.Finding {
	n := len(places)
	sorted := &t.sorted[c][index(fixable)]
	if len(*sorted) < n {
		*sorted = gather(t.findings, places)
	}
	return (*sorted)[:n:n]
}

// gather copies the findings at places.
func gather(findings []pratique.Finding, places []uint64) []pratique.Finding {
	out := make([]pratique.Finding, len(places))
	for i, p := range places {
		out[i] = findings[uint32(p)] //nolint:gosec // the low half is the index
	}
	return out
}

// worstFirst returns the findings at places, which it sorts.
func worstFirst(findings []pratique.Finding, places []uint64) []pratique.Finding {
	sortPlaces(findings, places)
	return gather(findings, places)
}

func sortPlaces(findings []pratique.Finding, places []uint64) {
	slices.Sort(places)
	for i := 0; i < len(places); {
		j := i + 1
		for j < len(places) && places[j]>>32 == places[i]>>32 {
			j++
		}
		if j > i+1 {
			slices.SortFunc(places[i:j], func(a, b uint64) int {
				return compareNames(&findings[uint32(a)], &findings[uint32(b)]) //nolint:gosec // the low half is the index
			})
		}
		i = j
	}
}

// placeOf is where a finding stands in a report, below what it is sorted by
// first: severity, then what can be fixed, then score (CVSS, 0 to 10). The
// smallest is the worst.
func placeOf(f *pratique.Finding, i int) uint64 {
	var score uint64
	if f.CVSS > 0 {
		score = uint64(min(f.CVSS, 10) * 100)
	}
	key := uint64(rank(f.Severity))<<12 | uint64(index(isFixable(f)))<<11 | score //nolint:gosec // a rank is 0 to 4
	return (1<<16-key)<<32 | uint64(i)                                            //nolint:gosec // an index is not negative
}

// compareNames makes the order total, so that a verdict reads the same each
// time.
func compareNames(a, b *pratique.Finding) int {
	return cmp.Or(strings.Compare(a.ID, b.ID), strings.Compare(a.Package, b.Package),
		strings.Compare(a.Installed, b.Installed), strings.Compare(a.Path, b.Path))
}
