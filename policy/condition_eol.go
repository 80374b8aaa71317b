package policy

import (
	"time"

	"pratique"
)

// endOfLifeDocument is an endOfLife condition as written.
type endOfLifeDocument struct {
	Within *time.Duration `yaml:"within"` // before the end of life too; if missing, only past it
}

func (d *endOfLifeDocument) compile(c *compiler, at place) condition {
	var out endOfLife
	if d.Within != nil {
		if out.within = *d.Within; out.within <= 0 {
			c.failAt(at, "within", "within: want a duration above 0, e.g. 90d; leave it out for what is past its end of life")
		}
	}
	return out
}

// endOfLife is met from a time before the end of life of the operating system's
// release on.
type endOfLife struct{ within time.Duration }

func (endOfLife) needs() Needs { return 0 }

func (c endOfLife) meets(e *evaluation) match {
	r := e.report()
	at := endOfLifeAt(r)
	if at.IsZero() {
		return match{met: truthOf(r.EOL)}
	}
	from := at.Add(-c.within)
	if e.now.Before(from) {
		return match{met: no, changes: from}
	}
	return match{met: yes, since: from}
}

// endOfLifeAt is the date, if it can be believed: not when the scanner found the
// end to be past before it.
func endOfLifeAt(r *pratique.Report) time.Time {
	if r.EOL && r.EOLAt.After(r.ScannedAt) {
		return time.Time{}
	}
	return r.EOLAt
}

func (endOfLife) text(e *evaluation, _ *match) string {
	r := e.report()
	os := "the operating system release"
	if r.OS.Detected() {
		os = oneLine(r.OS.Family + " " + r.OS.Name)
	}
	if at := endOfLifeAt(r); at.IsZero() || !e.now.Before(at) {
		return os + " is past its end of life: new vulnerabilities are not fixed, and often not listed"
	}
	return os + " reaches its end of life on " + day(r.EOLAt) + ": move to a newer release"
}

func (endOfLife) facts(e *evaluation) string {
	r := e.report()
	switch {
	case !r.EOLAt.IsZero():
		return "the end of life is " + day(r.EOLAt)
	case r.EOL:
		return "past its end of life when scanned"
	}
	return "no end of life is known"
}

// report is the report, if it is about this image.
func (e *evaluation) report() *pratique.Report {
	if e.facts.Report.Image != e.facts.Image.Digest {
		return new(pratique.Report)
	}
	return &e.facts.Report
}

// day writes a date.
func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// moment writes a time to the minute.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
