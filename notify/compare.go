package notify

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// imageMark is what was seen of an image last.
type imageMark struct {
	Outcome  pratique.Outcome `json:"outcome"`
	Verdict  string           `json:"verdict"`
	Policy   string           `json:"policy"`
	Database digest.Digest    `json:"database,omitempty"`
	Scanned  time.Time        `json:"scanned,omitzero"`
	// Failed tells that the standing report is of a scan that failed.
	Failed bool                 `json:"failed,omitempty"`
	Until  time.Time            `json:"until,omitzero"`
	Graces map[string]graceMark `json:"graces,omitempty"` // by POLICY/RULE
	At     time.Time            `json:"at"`               // since when the outcome is this one
	// Found is what the report tells (fingerprint), and FoundAt since when.
	Found   string    `json:"found,omitempty"`
	FoundAt time.Time `json:"foundAt,omitzero"`
	// Seen is the time of the newest change of a finding, and SeenN how many there were
	// of that time.
	Seen  time.Time `json:"seen,omitzero"`
	SeenN int       `json:"seenN,omitempty"`
	Due   time.Time `json:"due,omitzero"` // when to look again although nothing changes
}

// graceMark is a grace that runs.
type graceMark struct {
	Starts time.Time `json:"starts"`
	Ends   time.Time `json:"ends"`
	Warned bool      `json:"warned,omitempty"` // that half of it is over
}

func (g graceMark) half() time.Time { return g.Starts.Add(g.Ends.Sub(g.Starts) / 2) }

// Causes of a change.
const (
	causePolicy   = "policy"
	causeDatabase = "database"
	causeScan     = "scan"
	causeTime     = "time"
	causeFacts    = "facts" // exceptions, VEX, signatures, tags, lists
)

// causeWords begin a summary.
func causeWords(cause string) string {
	switch cause {
	case causePolicy:
		return "Policies changed"
	case causeDatabase:
		return "Vulnerability database updated"
	}
	return "Verdicts changed (" + cause + ")"
}

// why finds the cause of another outcome. Of an image whose findings a database
// changed it is that; where nothing else is known to have changed, time and other
// facts come before a database that says the same of it. hint is what the look was
// made for, if that is known.
func why(prev, next imageMark, changes *Changes, hint string, now time.Time) string {
	switch {
	case prev.Policy != next.Policy:
		return causePolicy
	case changes != nil:
		return causeDatabase
	case !prev.Until.IsZero() && !now.Before(prev.Until):
		return causeTime
	case hint != "" && prev.Found == next.Found:
		return hint
	case prev.Database != next.Database:
		return causeDatabase
	case !prev.Scanned.Equal(next.Scanned):
		return causeScan
	}
	return causeFacts
}

// joins is what joins the events that have one cause.
func joins(cause string, next imageMark) string {
	switch cause {
	case causePolicy:
		return causePolicy + "@" + next.Policy
	case causeDatabase:
		return databaseCause(next.Database)
	}
	return cause
}

func databaseCause(d digest.Digest) string { return causeDatabase + "@" + d.String() }

// comparison is of one image as it was seen before and as it is.
type comparison struct {
	prev   *imageMark // nil: it was never seen
	d      *pratique.Decision
	now    time.Time
	hint   string                  // what the look is made for; "" = that is not known
	scans  bool                    // somebody wants image.scanned
	pulled func() (*Pulled, error) // who had the image; nil = not to be told

	// What compare finds.
	next    imageMark
	events  []store.Event
	changes *Changes
	flip    *Changed // the data of verdict.changed

	told Image // made once
	err  error
}

// compare tells what is new about an image, and what to note of it.
func (c *comparison) compare() error {
	v, r, prev := &c.d.Verdict, &c.d.Report, c.prev
	c.next = imageMark{
		Outcome: v.Outcome, Verdict: v.ID, Policy: v.Policy, Database: r.Engine.Database, Scanned: r.ScannedAt,
		Failed: r.State == pratique.StateFailed, Until: v.Until, At: c.now, Found: fingerprint(r), FoundAt: c.now,
	}
	c.changes = changesSince(prev, r.Changes)
	if cs := r.Changes; len(cs) > 0 {
		c.next.Seen, c.next.SeenN = cs[0].At, countAt(cs, cs[0].At)
	}
	c.scanned()
	if prev != nil && served(prev.Outcome) == served(c.next.Outcome) {
		c.next.At = prev.At
	}
	due := c.graces()
	c.changed()
	if due = sooner(due, v.Until); due.After(c.now) {
		c.next.Due = due
	} // else the gate was asked at that time: nothing is left to come
	return c.err
}

func served(o pratique.Outcome) bool { return o != pratique.OutcomeDeny }

// about is the data about the image.
func (c *comparison) about() Image {
	if c.told.Digest == "" {
		c.told = image(c.d.Ref, c.d.Verdict)
		c.told.MediaType, c.told.Size = c.d.Image.MediaType, c.d.Image.Size
	}
	return c.told
}

func (c *comparison) add(kind, id, cause string, data any) {
	e, err := event(kind, id, subject(c.d.Ref), c.d.Ref.Digest.String(), c.d.Ref.Repository(), c.now, data)
	e.Cause = cause
	c.events, c.err = append(c.events, e), errors.Join(c.err, err)
}

// scanned tells of a scan that failed, and of a report that says something else than
// the one before.
func (c *comparison) scanned() {
	name, r, next, prev := c.d.Ref.Digest.String(), &c.d.Report, &c.next, c.prev
	if next.Failed && (prev == nil || !prev.Failed) {
		data := c.about()
		data.Text = line("the scan of " + data.Reference + " failed" + problem(*r))
		c.add(TypeScanFailed, id(TypeScanFailed, name, next.Scanned), "", data)
	}
	before := imageMark{}
	if prev != nil {
		before = *prev
	}
	if prev != nil && (before.Found == next.Found || before.Found == "") {
		next.FoundAt = before.FoundAt
		return
	}
	if !c.scans || r.State != pratique.StateScanned && r.State != pratique.StateIncomplete {
		return
	}
	s := Scanned{Image: c.about(), State: r.State, Findings: count(r.Findings), Engine: r.Engine, ScannedAt: r.ScannedAt, Cause: causeScan, Changes: c.changes}
	s.OS = strings.TrimSpace(r.OS.Family + " " + r.OS.Name)
	if c.changes != nil || prev != nil && before.Database != next.Database && before.Database != "" && !before.Failed {
		s.Cause = causeDatabase
	}
	s.Text = line(s.Reference + " was scanned" + s.words())
	c.add(TypeScanned, id(TypeScanned, name, before.Found, before.FoundAt, next.Found), joins(s.Cause, *next), s)
}

// changed tells that an image is refused that was served, or the other way round.
func (c *comparison) changed() {
	prev, next := c.prev, &c.next
	if prev == nil || served(prev.Outcome) == served(next.Outcome) {
		return
	}
	data := Changed{Image: c.about(), Previous: prev.Outcome, Cause: why(*prev, *next, c.changes, c.hint, c.now), Changes: c.changes}
	data.Text = line(data.Reference + " is served again")
	if !served(next.Outcome) {
		data.Text = line(data.Reference + " is refused now" + data.why())
		if c.pulled != nil {
			var err error
			data.Pulled, err = c.pulled()
			c.err = errors.Join(c.err, err)
		}
	}
	c.flip = &data
	c.add(TypeChanged, id(TypeChanged, c.d.Ref.Digest.String(), prev.At, next.Outcome, c.d.Verdict.ID), joins(data.Cause, *next), data)
}

// graces tells of those that begin, are half over and end; next holds those that run
// then. It returns when to look at them.
func (c *comparison) graces() time.Time {
	now, d := c.now, c.d
	old := map[string]graceMark{}
	if c.prev != nil {
		old = c.prev.Graces
	}
	tell := func(kind, rule string, g graceMark, text string) {
		policy, name, _ := strings.Cut(rule, "/")
		data := Grace{Image: c.about(), Policy: policy, Rule: name, Starts: g.Starts, Ends: g.Ends}
		data.Text = line(data.Reference + text)
		c.add(kind, id(kind, data.Digest, rule, g.Ends), "", data)
	}
	running := map[string]pratique.Reason{} // one for each rule: that which ends first
	for _, r := range d.Verdict.Reasons {
		rule := r.Policy + "/" + r.Rule
		if have, ok := running[rule]; r.GraceEnds.After(now) && (!ok || r.GraceEnds.Before(have.GraceEnds)) {
			running[rule] = r
		}
	}
	var out map[string]graceMark
	if len(running) > 0 {
		out = make(map[string]graceMark, len(running))
	}
	var due time.Time
	for _, rule := range slices.Sorted(maps.Keys(running)) {
		r := running[rule]
		ends := r.GraceEnds.UTC()
		g, known := old[rule]
		if !known || !g.Ends.Equal(ends) {
			g = graceMark{Starts: now, Ends: ends}
			tell(TypeGraceStarted, rule, g, fmt.Sprintf(" will be refused from %s: %s: %s", ends.Format(time.RFC3339), r.Rule, r.Message))
		}
		switch half := g.half(); {
		case now.Before(half):
			due = sooner(due, half)
		case !g.Warned:
			g.Warned = true
			tell(TypeGraceEnding, rule, g, fmt.Sprintf(": half of the grace is over, it will be refused from %s: %s: %s", ends.Format(time.RFC3339), r.Rule, r.Message))
		}
		due = sooner(due, ends)
		out[rule] = g
	}
	for _, rule := range slices.Sorted(maps.Keys(old)) {
		g := old[rule]
		if _, runs := out[rule]; (!runs || !out[rule].Ends.Equal(g.Ends)) && !g.Ends.After(now) {
			tell(TypeGraceEnded, rule, g, ": the grace of rule "+rule+" is over")
		}
	}
	c.next.Graces = out
	return due
}

func problem(r pratique.Report) string {
	for _, p := range r.Problems {
		if p.Fatal {
			return ": " + p.Message
		}
	}
	return ""
}

// sooner is the earlier of two times, zero being never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
