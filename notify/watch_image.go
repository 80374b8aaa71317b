package notify

import (
	"context"
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
	Due    time.Time            `json:"due,omitzero"`     // when to look again although nothing changes
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

// why finds the cause of another outcome.
func why(prev, next imageMark, now time.Time) string {
	switch {
	case prev.Policy != next.Policy:
		return causePolicy
	case prev.Database != next.Database:
		return causeDatabase
	case !prev.Scanned.Equal(next.Scanned):
		return causeScan
	case !prev.Until.IsZero() && !now.Before(prev.Until):
		return causeTime
	}
	return causeFacts
}

// compare tells what is new about an image, and what to note of it. It is pure;
// prev is nil when the image was never seen.
func compare(prev *imageMark, d *pratique.Decision, now time.Time) (es []store.Event, next imageMark, err error) {
	v := &d.Verdict
	next = imageMark{
		Outcome: v.Outcome, Verdict: v.ID, Policy: v.Policy, Database: d.Report.Engine.Database, Scanned: d.Report.ScannedAt,
		Failed: d.Report.State == pratique.StateFailed, Until: v.Until, At: now,
	}
	name := d.Ref.Digest.String()
	add := func(kind, id, cause string, data any) {
		e, fault := event(kind, id, subject(d.Ref), name, d.Ref.Repository(), now, data)
		e.Cause = cause
		es, err = append(es, e), errors.Join(err, fault)
	}
	about := image(d.Ref, *v)
	if next.Failed && (prev == nil || !prev.Failed) {
		data := about
		data.Text = line("the scan of " + about.Reference + " failed" + problem(d.Report))
		add(TypeScanFailed, id(TypeScanFailed, name, next.Scanned), "", data)
	}
	served := func(o pratique.Outcome) bool { return o != pratique.OutcomeDeny }
	if prev != nil && served(prev.Outcome) == served(next.Outcome) {
		next.At = prev.At
	}
	var due time.Time
	next.Graces, due = graces(prev, d, about, now, add)
	if prev != nil && served(prev.Outcome) != served(next.Outcome) {
		c := Changed{Image: about, Previous: prev.Outcome, Cause: why(*prev, next, now)}
		c.Text = line(about.Reference + " is served again")
		if !served(next.Outcome) {
			c.Text = line(about.Reference + " is refused now" + about.why())
		}
		add(TypeChanged, id(TypeChanged, name, prev.At, next.Outcome, v.ID), c.Cause, c)
	}
	due = sooner(due, v.Until)
	if !due.After(now) {
		due = time.Time{} // the gate was asked at that time: nothing is left to come
	}
	next.Due = due
	return es, next, err
}

// graces tells of those that begin, are half over and end, and returns those that
// run and when to look at them.
func graces(prev *imageMark, d *pratique.Decision, about Image, now time.Time, add func(kind, id, cause string, data any)) (map[string]graceMark, time.Time) {
	old := map[string]graceMark{}
	if prev != nil {
		old = prev.Graces
	}
	tell := func(kind, rule string, g graceMark, text string) {
		policy, name, _ := strings.Cut(rule, "/")
		data := Grace{Image: about, Policy: policy, Rule: name, Starts: g.Starts, Ends: g.Ends}
		data.Text = line(text)
		add(kind, id(kind, about.Digest, rule, g.Ends), "", data)
	}
	running := map[string]pratique.Reason{} // one for each rule: that which ends first
	for _, r := range d.Verdict.Reasons {
		rule := r.Policy + "/" + r.Rule
		if have, ok := running[rule]; r.GraceEnds.After(now) && (!ok || r.GraceEnds.Before(have.GraceEnds)) {
			running[rule] = r
		}
	}
	out := map[string]graceMark{}
	var due time.Time
	for _, rule := range slices.Sorted(maps.Keys(running)) {
		r := running[rule]
		ends := r.GraceEnds.UTC()
		g, known := old[rule]
		if !known || !g.Ends.Equal(ends) {
			g = graceMark{Starts: now, Ends: ends}
			tell(TypeGraceStarted, rule, g, fmt.Sprintf("%s will be refused from %s: %s: %s", about.Reference, ends.Format(time.RFC3339), r.Rule, r.Message))
		}
		switch half := g.half(); {
		case now.Before(half):
			due = sooner(due, half)
		case !g.Warned:
			g.Warned = true
			tell(TypeGraceEnding, rule, g, fmt.Sprintf("%s: half of the grace is over, it will be refused from %s: %s: %s", about.Reference, ends.Format(time.RFC3339), r.Rule, r.Message))
		}
		due = sooner(due, ends)
		out[rule] = g
	}
	for _, rule := range slices.Sorted(maps.Keys(old)) {
		g := old[rule]
		if _, runs := out[rule]; (!runs || !out[rule].Ends.Equal(g.Ends)) && !g.Ends.After(now) {
			tell(TypeGraceEnded, rule, g, about.Reference+": the grace of rule "+rule+" is over")
		}
	}
	return out, due
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

// looks are images looked at, to be written together.
type looks struct {
	events []store.Event
	marks  []store.Mark
}

const (
	// together is how many marks and events are written at once.
	together = 500
	// again is when an image is looked at that could not be decided.
	again = time.Minute
)

// lookImages looks at what changed: single images, or all.
func (w *Watcher) lookImages(ctx context.Context, now time.Time) error {
	version := w.src.Version()
	moved := version != w.version && now.After(w.nextLook)
	if moved || now.Sub(w.full) >= w.cfg.Full {
		begin := time.Now()
		if err := w.allImages(ctx, now); err != nil {
			return err
		}
		w.full, w.version, w.took = now, version, time.Since(begin)
		// Lists and tags may move often, and looking is not to be all that is done.
		w.nextLook = now.Add(2 * w.took)
	}
	ds := w.take(now)
	due, err := w.src.Marks.DueMarks(ctx, now, 10*together)
	for _, m := range due {
		if name, ok := strings.CutPrefix(m.Key, markImages); ok {
			ds = append(ds, digest.Digest(name))
		}
	}
	if err == nil {
		err = w.lookAt(ctx, ds, now)
	}
	if err != nil {
		for _, d := range ds { // whatever was written of them
			w.later(d, now.Add(w.cfg.Every))
		}
	}
	return err
}

// lookAt looks at some images. One that cannot be decided does not hide the
// others.
func (w *Watcher) lookAt(ctx context.Context, ds []digest.Digest, now time.Time) error {
	var l looks
	done := map[digest.Digest]bool{}
	for _, d := range ds {
		if done[d] {
			continue
		}
		done[d] = true
		if err := w.lookOne(ctx, d, now, &l); err != nil {
			w.undecided(ctx, d, now, err)
		}
		if err := w.flush(ctx, &l, now, false); err != nil {
			return err
		}
	}
	return w.flush(ctx, &l, now, true)
}

// undecided has an image looked at again a little later.
func (w *Watcher) undecided(ctx context.Context, d digest.Digest, now time.Time, err error) {
	if ctx.Err() == nil {
		w.n.cfg.Log.WarnContext(ctx, "image cannot be decided, and is looked at again", "image", d, "error", err)
	}
	w.later(d, now.Add(again))
}

// lookOne looks at one image by its digest.
func (w *Watcher) lookOne(ctx context.Context, d digest.Digest, now time.Time, l *looks) error {
	known, err := w.src.Catalog.Known(ctx, d)
	if errors.Is(err, pratique.ErrNotFound) {
		var prev imageMark
		if there, err := w.mark(ctx, markImages+d.String(), &prev); err != nil || !there {
			return err
		}
		m, err := note(markImages+d.String(), time.Time{}, prev) // gone: nothing is due
		l.marks = append(l.marks, m)
		return err
	}
	if err != nil {
		return err
	}
	return w.look(ctx, known, now, l)
}

// allImages looks at every image, as long again resting as working.
func (w *Watcher) allImages(ctx context.Context, now time.Time) error {
	var l looks
	begin, n := time.Now(), 0
	for known, err := range w.src.Catalog.Images(ctx) {
		if err != nil {
			return err
		}
		if err := w.look(ctx, known, now, &l); err != nil {
			w.undecided(ctx, known.Image.Digest, now, err)
		}
		if err := w.flush(ctx, &l, now, false); err != nil {
			return err
		}
		if n++; n%100 == 0 {
			t := time.NewTimer(min(time.Since(begin), time.Second))
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return ctx.Err()
			}
			begin = time.Now()
		}
	}
	if err := w.flush(ctx, &l, now, true); err != nil {
		return err
	}
	return ctx.Err()
}

// look compares one image with what was seen of it. One that has no verdict yet is
// left alone: it will have a report, and then it is looked at.
func (w *Watcher) look(ctx context.Context, known store.Known, now time.Time, l *looks) error {
	d, err := w.src.Gate.Standing(ctx, known.Ref, known.Image)
	if errors.Is(err, pratique.ErrPending) {
		w.later(known.Image.Digest, now.Add(again))
		return nil
	}
	if err != nil {
		return err
	}
	if d.Report.State == pratique.StateUnknown || d.Report.State == pratique.StatePending {
		return nil
	}
	key := markImages + known.Image.Digest.String()
	var prev imageMark
	seen, err := w.mark(ctx, key, &prev)
	if err != nil {
		return err
	}
	before := &prev
	if !seen {
		before = nil
	}
	es, next, err := compare(before, &d, now)
	if err != nil {
		return err
	}
	m, err := note(key, next.Due, next)
	if err != nil {
		return err
	}
	if seen && len(es) == 0 && same(prev, next) {
		return nil
	}
	l.events, l.marks = append(l.events, es...), append(l.marks, m)
	return nil
}

// same tells that nothing need be noted again.
func same(a, b imageMark) bool {
	return a.Outcome == b.Outcome && a.Verdict == b.Verdict && a.Policy == b.Policy && a.Database == b.Database &&
		a.Scanned.Equal(b.Scanned) && a.Failed == b.Failed && a.Until.Equal(b.Until) && a.Due.Equal(b.Due) && len(a.Graces) == len(b.Graces)
}

// flush writes what was found, when it is much or the end.
func (w *Watcher) flush(ctx context.Context, l *looks, now time.Time, end bool) error {
	if !end && len(l.marks) < together {
		return nil
	}
	if w.began {
		if err := w.whoPulled(ctx, l.events, now); err != nil {
			return err
		}
	}
	if err := w.put(ctx, l.events, l.marks); err != nil {
		return err
	}
	*l = looks{}
	return nil
}
