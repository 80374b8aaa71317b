package policy

import (
	"fmt"
	"hash/fnv"
	"time"

	"github.com/opencontainers/go-digest"
)

// elapsed tells whether d has passed since a moment, and if not, when it will
// have. Of a moment that is not known it is not known.
func elapsed(now, since time.Time, d time.Duration) (met truth, at time.Time) {
	if since.IsZero() {
		return unknown, time.Time{}
	}
	if at = since.Add(d); now.Before(at) {
		return no, at
	}
	return yes, time.Time{}
}

// only names a fact that is missing where the answer depends on it.
func only(met truth, fact string) string {
	if met == unknown {
		return fact
	}
	return ""
}

// span writes a duration as policies do: 90d, 36h, 1h30m.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if n := len(s) - len(zero); n >= 0 && s[n:] == zero {
			s = s[:n+1]
		}
	}
	return s
}

// duration reads a duration that has to be there and above 0.
func (c *compiler) duration(at place, key string, d *time.Duration, example string) time.Duration {
	switch {
	case d == nil:
		c.fail(at.pos, "%s is missing, e.g. {%s: %s}", key, key, example)
	case *d <= 0:
		c.failAt(at, key, "%s: want a duration above 0, e.g. %s", key, example)
	default:
		return *d
	}
	return 0
}

// patience reads a duration that may be missing or 0: at once.
func (c *compiler) patience(at place, d *time.Duration) time.Duration {
	if d == nil {
		return 0
	}
	if *d < 0 {
		c.failAt(at, "longerThan", "longerThan: want a duration, e.g. 14d; leave it out for at once")
	}
	return *d
}

// longer words how long something has to last, for a text.
func longer(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return ", longer than " + span(d)
}

// short is a digest for a person: enough to find it again.
func short(d digest.Digest) string {
	if d == "" {
		return "nothing"
	}
	if s := d.String(); len(s) > 19 {
		return oneLine(s[:19])
	}
	return oneLine(d.String())
}

// distinguish makes a mark of what a match is about.
func distinguish(parts ...string) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		_, _ = h.Write([]byte(p)) // a hash does not fail
		_, _ = h.Write([]byte{0})
	}
	return h.Sum64()
}

// scanAgeDocument is a scanAge condition as written.
type scanAgeDocument struct {
	OlderThan *time.Duration `yaml:"olderThan"` // required
}

func (d *scanAgeDocument) compile(c *compiler, at place) condition {
	return scanAge{c.duration(at, "olderThan", d.OlderThan, "7d")}
}

// scanAge is met by images that were last matched too long ago, or never.
type scanAge struct{ olderThan time.Duration }

func (scanAge) needs() Needs { return 0 }

func (s scanAge) meets(e *evaluation) match {
	met, at := elapsed(e.now, e.report().ScannedAt, s.olderThan)
	return match{met: met, changes: at, missing: only(met, "when it was scanned")}
}

func (s scanAge) text(e *evaluation, m *match) string {
	if m.met == unknown {
		return "no scan from the last " + span(s.olderThan) + " is on record"
	}
	return "last scanned " + moment(e.report().ScannedAt) + ", more than " + span(s.olderThan) + " ago"
}

func (scanAge) facts(e *evaluation) string { return "last scanned " + when(e.report().ScannedAt) }

// databaseAgeDocument is a databaseAge condition as written.
type databaseAgeDocument struct {
	OlderThan *time.Duration `yaml:"olderThan"` // required
}

func (d *databaseAgeDocument) compile(c *compiler, at place) condition {
	return databaseAge{c.duration(at, "olderThan", d.OlderThan, "3d")}
}

// databaseAge is met by images whose report was made with an old database.
type databaseAge struct{ olderThan time.Duration }

func (databaseAge) needs() Needs { return 0 }

func (d databaseAge) meets(e *evaluation) match {
	met, at := elapsed(e.now, e.report().Engine.DatabaseAt, d.olderThan)
	return match{met: met, changes: at, missing: only(met, "which vulnerability database it was matched with")}
}

func (d databaseAge) text(e *evaluation, m *match) string {
	if m.met == unknown {
		return "no match with a vulnerability database from the last " + span(d.olderThan) + " is on record"
	}
	return "matched with the vulnerability database of " + moment(e.report().Engine.DatabaseAt) + ", more than " + span(d.olderThan) + " old"
}

func (databaseAge) facts(e *evaluation) string {
	return "matched with the vulnerability database of " + when(e.report().Engine.DatabaseAt)
}

// unusedForDocument is an unusedFor condition as written.
type unusedForDocument struct {
	LongerThan *time.Duration `yaml:"longerThan"` // required
}

func (d *unusedForDocument) compile(c *compiler, at place) condition {
	return unusedFor{c.duration(at, "longerThan", d.LongerThan, "90d")}
}

// unusedFor is met by images that nobody was served for a time: since the last
// pull, or since Pratique first saw one that never was.
type unusedFor struct{ longerThan time.Duration }

func (unusedFor) needs() Needs { return NeedServed }

func (unusedFor) since(e *evaluation) time.Time {
	if !e.facts.LastServed.IsZero() {
		return e.facts.LastServed
	}
	return e.firstSeen()
}

func (u unusedFor) meets(e *evaluation) match {
	met, at := elapsed(e.now, u.since(e), u.longerThan)
	return match{met: met, changes: at, missing: only(met, "when it was last served")}
}

func (u unusedFor) text(e *evaluation, m *match) string {
	switch {
	case m.met == unknown:
		return "no pull from the last " + span(u.longerThan) + " is on record"
	case e.facts.LastServed.IsZero():
		return "never served since it was first seen " + moment(u.since(e)) + longer(u.longerThan)
	}
	return "last served " + moment(u.since(e)) + ", more than " + span(u.longerThan) + " ago"
}

func (unusedFor) facts(e *evaluation) string {
	if e.facts.LastServed.IsZero() {
		return "never served, first seen " + when(e.firstSeen())
	}
	return "last served " + when(e.facts.LastServed)
}

// when writes a moment that may not be known.
func when(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return moment(t)
}

// firstSeen is when Pratique first saw the digest; zero when it is not known.
func (e *evaluation) firstSeen() time.Time {
	return earliest(e.facts.Image.FirstSeen, e.report().FirstSeen)
}

// containers is when there first were any: an image that claims to be older
// carries the placeholder of a reproducible build.
var containers = time.Date(2013, 1, 1, 0, 0, 0, 0, time.UTC) //nolint:gochecknoglobals // a date

// created is when the image claims to have been made; zero when it claims
// nothing, or what cannot be.
func (e *evaluation) created() time.Time {
	if t := e.report().Config.Created; t.After(containers) {
		return t
	}
	return time.Time{}
}
