package policy

import (
	"slices"
	"time"

	"pratique"
)

// tagMovedDocument is a tagMoved condition as written.
type tagMovedDocument struct {
	LongerThan *time.Duration `yaml:"longerThan"` // if missing, at once
}

func (d *tagMovedDocument) compile(c *compiler, at place) condition {
	return tagMoved{c.patience(at, d.LongerThan)}
}

// tagMoved is met by an image that the tag it is asked for by has not named for a
// time: a stale answer. Asked for by digest, it is met when every tag of the
// repository that ever named the image moved on, and counts from the last move.
// A digest that no tag ever named did not move.
type tagMoved struct{ longerThan time.Duration }

func (tagMoved) needs() Needs { return NeedTags }

// moved is the move that counts. Where the tag asked for is on no record, it is
// not known.
func (tagMoved) moved(e *evaluation) (pratique.TagMove, truth) {
	l, tag := &e.facts.Lineage, e.facts.Ref.Tag
	if tag == "" {
		if len(l.Current) > 0 || len(l.Moved) == 0 {
			return pratique.TagMove{}, no
		}
		last := l.Moved[0]
		for _, m := range l.Moved[1:] {
			if !m.At.Before(last.At) {
				last = m
			}
		}
		return last, yes
	}
	if slices.Contains(l.Current, tag) {
		return pratique.TagMove{}, no
	}
	for _, m := range slices.Backward(l.Moved) { // the latest move of a tag is its last
		if m.Tag == tag {
			return m, yes
		}
	}
	return pratique.TagMove{}, unknown
}

func (t tagMoved) meets(e *evaluation) match {
	move, met := t.moved(e)
	if met != yes {
		return match{met: met, missing: only(met, "which image the tag names")}
	}
	at := move.At.Add(t.longerThan)
	if e.now.Before(at) {
		return match{met: no, changes: at}
	}
	return match{met: yes, mark: distinguish(move.Tag, move.To.String())}
}

func (t tagMoved) text(e *evaluation, m *match) string {
	if m.met == unknown {
		return "tag " + oneLine(e.facts.Ref.Tag) + " may have moved"
	}
	move, _ := t.moved(e)
	text := "tag " + oneLine(move.Tag) + " has named " + short(move.To) + ", not this digest, since " + moment(move.At) + longer(t.longerThan)
	if move.To == "" {
		text = "tag " + oneLine(move.Tag) + " is gone since " + moment(move.At) + longer(t.longerThan)
	}
	if len(e.facts.Lineage.Current) == 0 {
		return "no tag names it any more: " + text
	}
	return text
}

func (t tagMoved) facts(e *evaluation) string {
	move, met := t.moved(e)
	switch {
	case met == yes:
		return "tag " + oneLine(move.Tag) + " names " + short(move.To) + " since " + when(move.At)
	case met == unknown:
		return "what the tag names is not known"
	case len(e.facts.Lineage.Current) == 0:
		return "no tag ever named it"
	}
	return "named by tag " + oneLine(list(e.facts.Lineage.Current))
}

// levelWord is how far a newer version may be away.
type levelWord pratique.Level

var levelWords = []string{string(pratique.LevelPatch), string(pratique.LevelMinor)}

// UnmarshalText accepts the two words only.
func (w *levelWord) UnmarshalText(b []byte) error {
	if !slices.Contains(levelWords, string(b)) {
		return wantWord("within", string(b), levelWords)
	}
	*w = levelWord(b)
	return nil
}

// outdatedDocument is an outdated condition as written.
type outdatedDocument struct {
	Within     levelWord      `yaml:"within"`     // if missing, minor
	LongerThan *time.Duration `yaml:"longerThan"` // if missing, at once
}

func (d *outdatedDocument) compile(c *compiler, at place) condition {
	return outdated{patchOnly: pratique.Level(d.Within) == pratique.LevelPatch, longerThan: c.patience(at, d.LongerThan)}
}

// outdated is met by an image for which a newer version of its tag series has
// been there for a time and may be had: one that policy refuses is no advice.
type outdated struct {
	patchOnly  bool
	longerThan time.Duration
}

func (outdated) needs() Needs { return NeedNewer }

func (o outdated) counts(n *pratique.Newer) bool {
	return n.Compliant && (n.Level == pratique.LevelPatch || n.Level == pratique.LevelMinor && !o.patchOnly)
}

// newest is the newest version that counts now, if any, and when another one
// will.
func (o outdated) newest(e *evaluation) (found *pratique.Newer, changes time.Time) {
	newer := e.facts.Lineage.Newer
	for i := range newer {
		n := &newer[i]
		if !o.counts(n) {
			continue
		}
		if at := n.Since.Add(o.longerThan); e.now.Before(at) {
			changes = earliest(changes, at)
		} else if found == nil {
			found = n
		}
	}
	return found, changes
}

func (o outdated) meets(e *evaluation) match {
	found, changes := o.newest(e)
	if found == nil {
		return match{met: no, changes: changes}
	}
	return match{met: yes, changes: changes, mark: distinguish(found.Tag, found.Digest.String())}
}

func (o outdated) text(e *evaluation, _ *match) string {
	n, _ := o.newest(e)
	if n == nil {
		return "a newer version is there"
	}
	text := "newer " + string(n.Level) + " version " + oneLine(n.Tag)
	if n.Digest != "" {
		text += " (" + short(n.Digest) + ")"
	}
	return text + " is there since " + moment(n.Since) + longer(o.longerThan)
}

func (o outdated) facts(e *evaluation) string {
	newer := e.facts.Lineage.Newer
	if len(newer) == 0 {
		return "no newer version is known"
	}
	for i := range newer {
		if o.counts(&newer[i]) {
			return "newer version " + oneLine(newer[i].Tag) + " since " + when(newer[i].Since)
		}
	}
	return "newer version " + oneLine(newer[0].Tag) + ", which does not count: too far away, or not known to comply"
}

// baseOutdatedDocument is a baseOutdated condition as written.
type baseOutdatedDocument struct {
	LongerThan *time.Duration `yaml:"longerThan"` // if missing, at once
}

func (d *baseOutdatedDocument) compile(c *compiler, at place) condition {
	return baseOutdated{c.patience(at, d.LongerThan)}
}

// baseOutdated is met by an image built on one that its tag has not named for a
// time. An image of which no base is known has none.
type baseOutdated struct{ longerThan time.Duration }

func (baseOutdated) needs() Needs { return NeedBase }

func (b baseOutdated) meets(e *evaluation) match {
	base := e.facts.Lineage.Base
	if base == nil || base.MovedAt.IsZero() {
		return match{met: no}
	}
	at := base.MovedAt.Add(b.longerThan)
	if e.now.Before(at) {
		return match{met: no, changes: at}
	}
	return match{met: yes, mark: distinguish(base.Ref.String(), base.Now.String())}
}

func (b baseOutdated) text(e *evaluation, _ *match) string {
	base := e.facts.Lineage.Base
	if base == nil {
		return "its base image moved on"
	}
	return "its base " + oneLine(base.Ref.String()) + " names " + short(base.Now) + " instead of " + short(base.Digest) +
		" since " + moment(base.MovedAt) + longer(b.longerThan) + ": rebuild it"
}

func (baseOutdated) facts(e *evaluation) string {
	base := e.facts.Lineage.Base
	switch {
	case base == nil:
		return "no base image is known"
	case base.MovedAt.IsZero():
		return "built on " + oneLine(base.Ref.String()) + ", which is not known to have moved"
	}
	return "built on " + oneLine(base.Ref.String()) + ", which moved " + when(base.MovedAt)
}
