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
var severities = [ranks]pratique.Severity{
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
	counts   [2][2][ranks]int // by secret?, fixable?, rank
	sorted   [2][2][]pratique.Finding
	from     [2][2]int // lowest rank in sorted
}

func newTally(findings []pratique.Finding) tally {
	t := tally{findings: findings}
	for i := range findings {
		f := &findings[i]
		switch f.Kind {
		case pratique.KindVulnerability:
			t.counts[0][index(isFixable(f))][rank(f.Severity)]++
		case pratique.KindSecret:
			t.counts[1][index(isFixable(f))][rank(f.Severity)]++
		}
	}
	return t
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// count is the number of findings of a kind with at least this rank.
func (t *tally) count(k pratique.Kind, minRank int, fixable bool) int {
	c := &t.counts[index(k == pratique.KindSecret)]
	n := 0
	for r := minRank; r < ranks; r++ {
		n += c[1][r]
		if !fixable {
			n += c[0][r]
		}
	}
	return n
}

// worst returns those findings, worst first. Results of several calls share
// memory: they are prefixes of one sorted list.
func (t *tally) worst(k pratique.Kind, minRank int, fixable bool) []pratique.Finding {
	n := t.count(k, minRank, fixable)
	i, j := index(k == pratique.KindSecret), index(fixable)
	if len(t.sorted[i][j]) < n {
		t.sorted[i][j] = t.collect(k, minRank, fixable, n)
		t.from[i][j] = minRank
	}
	return t.sorted[i][j][:n:n]
}

// collect gathers n findings through an index, because a Finding is large.
func (t *tally) collect(k pratique.Kind, minRank int, fixable bool, n int) []pratique.Finding {
	order := make([]int32, 0, n)
	for i := range t.findings {
		f := &t.findings[i]
		if f.Kind == k && rank(f.Severity) >= minRank && (!fixable || isFixable(f)) {
			order = append(order, int32(i))
		}
	}
	slices.SortFunc(order, func(a, b int32) int { return compare(&t.findings[a], &t.findings[b]) })
	out := make([]pratique.Finding, len(order))
	for i, at := range order {
		out[i] = t.findings[at]
	}
	return out
}

// compare orders findings from worst to least: by severity, what can be fixed
// first, then by score and by name.
func compare(a, b *pratique.Finding) int {
	if c := cmp.Compare(rank(b.Severity), rank(a.Severity)); c != 0 {
		return c
	}
	if c := cmp.Compare(index(isFixable(b)), index(isFixable(a))); c != 0 {
		return c
	}
	if c := cmp.Compare(b.CVSS, a.CVSS); c != 0 {
		return c
	}
	if c := strings.Compare(a.ID, b.ID); c != 0 {
		return c
	}
	if c := strings.Compare(a.Package, b.Package); c != 0 {
		return c
	}
	return strings.Compare(a.Path, b.Path)
}
