package policy

import (
	"slices"
	"strings"
	"time"
)

// clockWord says from when the age of an image counts.
type clockWord string

// Clocks. FirstSeen is the safe one: nobody but Pratique writes it (law 9).
const (
	byFirstSeen clockWord = "firstSeen"
	byCreated   clockWord = "created"
	byEither    clockWord = "either"
)

var clockWords = []string{string(byFirstSeen), string(byCreated), string(byEither)}

// UnmarshalText accepts the three words only.
func (w *clockWord) UnmarshalText(b []byte) error {
	if !slices.Contains(clockWords, string(b)) {
		return wantWord("by", string(b), clockWords)
	}
	*w = clockWord(b)
	return nil
}

// imageAgeDocument is an imageAge condition as written.
type imageAgeDocument struct {
	OlderThan *time.Duration `yaml:"olderThan"` // required
	By        clockWord      `yaml:"by"`        // if missing, firstSeen
}

func (d *imageAgeDocument) compile(c *compiler, at place) condition {
	return aged{limit: c.duration(at, "olderThan", d.OlderThan, "180d"), by: d.By}
}

// cooldownDocument is a cooldown condition as written.
type cooldownDocument struct {
	YoungerThan *time.Duration `yaml:"youngerThan"` // required
	By          clockWord      `yaml:"by"`          // if missing, firstSeen
}

func (d *cooldownDocument) compile(c *compiler, at place) condition {
	return aged{limit: c.duration(at, "youngerThan", d.YoungerThan, "3d"), by: d.By, young: true}
}

// aged is met by images that are too old or, if young is set, not old enough, by
// any of its clocks: of two clocks the stricter one counts.
type aged struct {
	limit time.Duration
	by    clockWord
	young bool
}

func (aged) needs() Needs { return 0 }

// reading is what one clock says.
type reading struct {
	name    string
	at      time.Time
	met     truth
	changes time.Time
}

func (a aged) readings(e *evaluation) []reading {
	out := make([]reading, 0, 2)
	if a.by != byCreated {
		out = append(out, a.read(e, "first seen", e.firstSeen()))
	}
	if a.by == byCreated || a.by == byEither {
		r := a.read(e, "created", e.created())
		if r.at.After(e.now) { // a claim about the future is none, until it is reached
			r.met, r.changes = unknown, r.at
		}
		out = append(out, r)
	}
	return out
}

func (a aged) read(e *evaluation, name string, at time.Time) reading {
	r := reading{name: name, at: at}
	met, changes := elapsed(e.now, at, a.limit)
	if r.met, r.changes = met, changes; a.young {
		r.met = met.not()
	}
	return r
}

func (a aged) meets(e *evaluation) match {
	m := match{met: no}
	var missing []string
	for _, r := range a.readings(e) {
		m.met = m.met.not().and(r.met.not()).not()
		m.changes = earliest(m.changes, r.changes)
		if r.met == unknown {
			missing = append(missing, "when it was "+r.name)
		}
	}
	switch m.met {
	case yes:
		m.changes = a.decisive(e).changes
	case unknown:
		m.missing = strings.Join(missing, " and ")
	default:
	}
	return m
}

// decisive is the reading that keeps the condition met for the longest time.
func (a aged) decisive(e *evaluation) (out reading) {
	for _, r := range a.readings(e) {
		if r.met == yes && (out.met != yes || r.changes.After(out.changes)) {
			out = r
		}
	}
	return out
}

func (a aged) text(e *evaluation, _ *match) string {
	want := "older than " + span(a.limit)
	if a.young {
		want = "younger than " + span(a.limit)
	}
	r := a.decisive(e)
	if r.met != yes {
		return "perhaps " + want
	}
	text := r.name + " " + moment(r.at)
	if r.name == "created" {
		text += " as it claims"
	}
	if text += ", " + want; a.young {
		text += ": it may be had from " + moment(r.changes) + " on"
	}
	return text
}

func (a aged) facts(e *evaluation) string {
	return "first seen " + when(e.firstSeen()) + ", created " + when(e.created())
}
