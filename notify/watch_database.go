package notify

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Update is what taking a database into use did, as far as who did it knows.
type Update struct {
	// Database that everything is current with now.
	Database digest.Digest
	// All tells that every component was matched again.
	All bool
	// Components were matched again, and of Changed of them it says something else.
	Components, Changed int
	// Images hold one of those. ChangedAll was told of them before.
	Images int
	Took   time.Duration
}

// Updated says that everything is current with a database. It returns at once; that
// database is told to be in use once its images were looked at.
func (w *Watcher) Updated(u Update) {
	w.mu.Lock()
	w.updates[u.Database] = &update{Update: u}
	w.mu.Unlock()
	w.wakeUp()
}

// update is one whose event is to come.
type update struct {
	Update
	looked bool // all its images were
}

// unlooked are the updates whose images are among those that are taken next.
func (w *Watcher) unlooked() []*update {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Values(w.updates))
}

// looked says that the images of updates were looked at.
func (w *Watcher) looked(us []*update) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range us {
		u.looked = true
	}
}

// effects are what a database did to images, as found when they were looked at.
type effects struct {
	findings          map[pratique.ChangeKind]int
	refused, admitted int
}

func (e *effects) add(o *effects) {
	for kind, n := range o.findings {
		e.findings[kind] += n
	}
	e.refused += o.refused
	e.admitted += o.admitted
}

// count notes what the database in use did to one image.
func (l *looks) count(c *comparison) {
	if c.changes == nil && c.flip == nil {
		return
	}
	e := l.effects[c.next.Database]
	if e == nil {
		e = &effects{findings: map[pratique.ChangeKind]int{}}
		l.effects[c.next.Database] = e
	}
	if c.changes != nil {
		for kind, n := range c.changes.Kinds {
			e.findings[kind] += n
		}
	}
	switch {
	case c.flip == nil || c.flip.Cause != causeDatabase:
	case served(c.flip.Outcome):
		e.admitted++
	default:
		e.refused++
	}
}

// databaseMark is the database that was in use.
type databaseMark struct {
	Digest digest.Digest `json:"digest"`
	At     time.Time     `json:"at"`
}

// lookDatabase tells of another database, when it is known what it did, or when that
// has been waited for long enough.
func (w *Watcher) lookDatabase(ctx context.Context, now time.Time) error {
	engine, err := w.src.Database()
	if errors.Is(err, pratique.ErrNoDatabase) {
		return nil
	}
	if err != nil {
		return err
	}
	var prev databaseMark
	known, err := w.mark(ctx, markDatabase, &prev)
	if err != nil || known && prev.Digest == engine.Database {
		return err
	}
	effect, wait := w.effectOf(engine.Database, now)
	if wait && known {
		return nil
	}
	data := Database{Digest: engine.Database, DatabaseAt: engine.DatabaseAt, Previous: prev.Digest, Effect: effect}
	data.Text = line("vulnerability database of " + engine.DatabaseAt.UTC().Format(time.RFC3339) + " is in use" + effect.words())
	e, err := event(TypeDatabase, id(TypeDatabase, prev.Digest, engine.Database, prev.At), engine.Database.String(), markDatabase, "", now, data)
	if err != nil {
		return err
	}
	e.Cause = databaseCause(engine.Database)
	m, err := note(markDatabase, time.Time{}, databaseMark{engine.Database, now})
	if err != nil {
		return err
	}
	if err := w.put(ctx, []store.Event{e}, []store.Mark{m}); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.updates)
	clear(w.effects)
	w.noticed = noticed{}
	return nil
}

// noticed is a database that is in use and was not told to be.
type noticed struct {
	digest digest.Digest
	at     time.Time
}

// effectOf is what a database did, or whether to wait for that to be known.
func (w *Watcher) effectOf(database digest.Digest, now time.Time) (*Effect, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.updates[database]
	if u == nil || !u.looked {
		if w.noticed.digest != database {
			w.noticed = noticed{database, now}
		}
		return nil, w.cfg.Settle > 0 && now.Sub(w.noticed.at) < w.cfg.Settle
	}
	out := &Effect{
		All: u.All, Components: u.Components, Changed: u.Changed, Images: u.Images, Seconds: u.Took.Seconds(), Findings: map[pratique.ChangeKind]int{},
	}
	if e := w.effects[database]; e != nil {
		out.Findings, out.Refused, out.Admitted = maps.Clone(e.findings), e.refused, e.admitted
	}
	return out, false
}
