package policy

import (
	"strconv"
	"strings"
	"time"

	"pratique"
)

// demand is something that a rule asks of one finding besides severity and fix.
type demand struct {
	fits    func(*evaluation, *pratique.Finding) truth
	missing string // fact that is not known where fits answers unknown
}

// ofFindings is met by images with findings of a class that fit.
type ofFindings struct {
	class   class
	minRank int
	// withUnknown counts findings of unknown severity besides those of minRank.
	withUnknown bool
	fixable     bool
	demands     []demand
	words       [2]string // what text writes after the number: of one, of several
	kev         bool      // the demands ask for known exploits
	epss        bool      // and for their probability
	reads       Needs
}

func (c *ofFindings) needs() Needs { return c.reads }

func (c *ofFindings) meets(e *evaluation) match {
	t := &e.tally
	if len(c.demands) == 0 && (!c.withUnknown || c.minRank == 0) {
		n := t.count(c.class, c.minRank, c.fixable)
		if n == 0 {
			return match{met: no}
		}
		return match{met: yes, findings: t.worst(c.class, c.minRank, c.fixable)}
	}
	return c.filter(e)
}

// filter looks at each finding. What it returns shares memory with the sorted
// findings when those that fit are the first of them.
func (c *ofFindings) filter(e *evaluation) match {
	t := &e.tally
	most := t.count(c.class, c.minRank, c.fixable)
	floor, rankless := c.minRank, most // those of unknown severity begin at rankless
	if c.withUnknown && c.minRank > 0 {
		floor, rankless = 0, t.count(c.class, 1, c.fixable)
	}
	places := t.places(c.class, floor, c.fixable)
	m := match{met: no}
	var fit []uint64
	run := 0 // so many fit that are the first
	for i, place := range places {
		if i >= most && i < rankless {
			continue
		}
		fits, missing := c.fits(e, &t.findings[uint32(place)]) //nolint:gosec // the low half is the index
		switch fits {
		case no:
			continue
		case yes:
			m.met = yes
		case unknown:
			if m.missing == "" {
				m.missing = missing
			}
		}
		m.mark += scatter(uint64(i)) //nolint:gosec // a position is not negative
		if fit == nil && run == i {
			run++
			continue
		}
		if fit == nil {
			fit = append(make([]uint64, 0, run+8), places[:run]...)
		}
		fit = append(fit, place)
	}
	switch {
	case fit != nil:
		m.findings = gather(t.findings, fit)
	case run > 0:
		m.findings = t.first(c.class, c.fixable, places[:run])
	default:
		return match{met: no}
	}
	if m.met == no {
		m.met = unknown
	}
	return m
}

// fits asks everything of a finding that is not its class, rank and fix.
func (c *ofFindings) fits(e *evaluation, f *pratique.Finding) (truth, string) {
	out, missing := yes, ""
	for i := range c.demands {
		switch c.demands[i].fits(e, f) {
		case no:
			return no, ""
		case unknown:
			out, missing = unknown, c.demands[i].missing
		case yes:
		}
	}
	return out, missing
}

// scatter makes sums of positions tell sets of them apart (splitmix64).
func scatter(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// since is when a rule with this condition first met the finding: what grace
// counts from.
func (c *ofFindings) since(e *evaluation, f *pratique.Finding) time.Time {
	minRank := c.minRank
	if c.withUnknown && rank(f.Severity) == 0 {
		minRank = 0
	}
	at := f.Since(minRank, c.fixable)
	if c.kev {
		if listed, ok := listedAt(e.facts.Exploits, f.ID); ok && listed.After(at) {
			at = listed
		}
	}
	return at
}

func (c *ofFindings) text(_ *evaluation, m *match) string {
	n := len(m.findings)
	return strconv.Itoa(n) + c.words[index(n != 1)]
}

func (c *ofFindings) facts(e *evaluation) string {
	n := e.tally.count(c.class, 0, false)
	return strconv.Itoa(n) + " " + nouns[c.class][index(n != 1)] + ", " + strconv.Itoa(e.tally.count(c.class, 0, true)) + " fixable"
}

// nouns of a class: one, several.
var nouns = [][2]string{
	{"vulnerability", "vulnerabilities"},
	{"secret", "secrets"},
	{"misconfiguration", "misconfigurations"},
	{"license", "licenses"},
}

// word sets what text writes after the number.
func (c *ofFindings) word(before, after string) {
	for i, noun := range nouns[c.class] {
		var b strings.Builder
		if c.fixable {
			b.WriteString(" fixable")
		}
		b.WriteString(before + " " + noun)
		switch c.minRank {
		case 0:
		case ranks - 1:
			b.WriteString(" of severity CRITICAL")
		default:
			b.WriteString(" of severity " + string(severities[c.minRank]) + " or above")
		}
		if c.withUnknown && c.minRank > 0 {
			b.WriteString(" or unknown")
		}
		b.WriteString(after)
		c.words[i] = b.String()
	}
}
