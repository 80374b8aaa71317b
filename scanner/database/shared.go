package database

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// ErrOvertaken says that another replica was first. What it wants is followed, and
// what was to be done may be tried again beside that.
var ErrOvertaken = errors.New("another replica changed the database meanwhile")

// Shared is where replicas agree on the database that all of them use.
type Shared interface {
	// Wanted returns what was agreed on last; nothing yet is pratique.ErrNotFound.
	Wanted(ctx context.Context) (Wanted, error)
	// Want replaces it if its Sequence is before (0: nothing yet), else the error
	// wraps ErrOvertaken. One that is not to be used, because reports were made with a
	// newer one, is pratique.ErrInvalid. After another error it may or may not have
	// happened.
	Want(ctx context.Context, before int64, next Wanted) error
	// Told returns a channel that holds a word when another was wanted, and a
	// function that ends that. It is a hint, and may be lost.
	Told() (told <-chan struct{}, end func())
}

// Archives are the bytes of shared databases, by digest. What is read is verified
// here. store.Archives implements it.
type Archives interface {
	// Put stores an archive that open opens, if it is not there with this size or
	// again is true. Bytes that are not d are an error.
	Put(ctx context.Context, d digest.Digest, size int64, again bool, open func() (io.ReadCloser, error)) error
	// Open returns an archive and its size; one that is not there is
	// pratique.ErrNotFound.
	Open(ctx context.Context, d digest.Digest) (io.ReadCloser, int64, error)
	// Keep removes all but these that were stored before a time.
	Keep(ctx context.Context, before time.Time, ds ...digest.Digest) error
}

// Wanted is what replicas agreed on.
//
// It is written after the bytes of Current are in Archives, and before anybody uses
// it. A replica that dies before it wrote leaves bytes that nobody names, which go at
// a later look; one that dies after it leaves what all others do.
type Wanted struct {
	Sequence int64     `json:"sequence"` // counts up; never 0
	Current  Entry     `json:"current"`
	Previous Entry     `json:"previous,omitzero"`
	Cause    string    `json:"cause"`
	By       string    `json:"by"` // replica
	At       time.Time `json:"at"` // its clock; nothing is decided by it
	// RolledBack are those that operators turned away from.
	RolledBack rollbacks `json:"rolledBack,omitempty"`
}

// Causes of what is wanted.
const (
	causeKept     = "kept"     // by the first of the replicas, when nothing was agreed on
	causeSource   = "source"   // a source had it
	causeImport   = "import"   // an operator gave it
	causeRollback = "rollback" // an operator turned away from another
	causeUndo     = "undo"     // and back
)

// ByOperator reports whether somebody asked for this very database.
func (w Wanted) ByOperator() bool { return w.Cause != causeKept && w.Cause != causeSource }

// Entry is one database.
type Entry struct {
	record
	Archive digest.Digest `json:"archive,omitempty"` // of its bytes in Archives
	Size    int64         `json:"size,omitempty"`
}

// pointer is what a shelf says that has both databases.
func (w Wanted) pointer() pointer {
	return pointer{Current: w.Current.Digest, Previous: w.Previous.Digest, RolledBack: w.RolledBack}
}

// together is what a replica knows of what all agreed on; guarded by Database.mu.
type together struct {
	wanted  *Wanted   // the latest that was seen; nil: none
	behind  time.Time // since when it is not what is used here; zero: it is
	leading bool
	failing error // of the last look or attempt to follow
}

// look reads what is wanted; nil is nothing yet.
//
// What was agreed on never goes back while a replica lives that knows of it: a Redis
// that lost its last writes is told again.
func (d *Database) look(ctx context.Context) (*Wanted, error) {
	now, err := d.cfg.Shared.Wanted(ctx)
	if err != nil && !errors.Is(err, pratique.ErrNotFound) {
		return nil, fmt.Errorf("what replicas agreed on: %w", err)
	}
	d.mu.Lock()
	seen := d.together.wanted
	d.mu.Unlock()
	if seen != nil && now.Sequence < seen.Sequence {
		d.cfg.Log.WarnContext(ctx, "state lost what replicas agreed on last, it is told again", "lost", seen.Sequence, "found", now.Sequence, "digest", seen.Current.Digest)
		if err := d.cfg.Shared.Want(ctx, now.Sequence, *seen); err != nil {
			return nil, fmt.Errorf("what replicas agreed on: %w", err)
		}
		return seen, nil
	}
	if now.Sequence == 0 {
		return nil, nil //nolint:nilnil // nothing yet is no error here, and has no fields
	}
	d.saw(now)
	return &now, nil
}

// want makes next what all agree on. An answer that was lost on the way is found out
// by looking.
func (d *Database) want(ctx context.Context, before *Wanted, next Wanted) error {
	var sequence int64
	if before != nil {
		sequence = before.Sequence
	}
	next.Sequence, next.By, next.At = sequence+1, d.cfg.Replica, d.cfg.Now().UTC()
	if err := d.cfg.Shared.Want(ctx, sequence, next); err != nil {
		now, lerr := d.cfg.Shared.Wanted(ctx)
		if lerr != nil || now.Sequence != next.Sequence || now.By != next.By || now.Current.Digest != next.Current.Digest || !now.At.Equal(next.At) {
			return fmt.Errorf("agreeing on database %s: %w", next.Current.Digest, err)
		}
	}
	d.saw(next)
	return nil
}

// saw notes what is wanted.
func (d *Database) saw(w Wanted) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.together.wanted == nil || w.Sequence > d.together.wanted.Sequence {
		d.together.wanted = &w
	}
	d.lagged()
}

// lagged needs d.mu.
func (d *Database) lagged() {
	t := &d.together
	switch {
	case t.wanted == nil || d.current != nil && d.current.Digest == t.wanted.Current.Digest:
		t.behind = time.Time{}
	case t.behind.IsZero():
		t.behind = d.cfg.Now()
	}
}

// lag is the metric's value: for how many seconds something else was wanted than is
// used here, by this replica's clock alone.
func (d *Database) lag() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.together.behind.IsZero() {
		return 0
	}
	return d.cfg.Now().Sub(d.together.behind).Seconds()
}

// share puts the bytes of a database where all replicas find them.
func (d *Database) share(ctx context.Context, rec record, again bool) (Entry, error) {
	c, err := d.copyOf(ctx, rec)
	if err != nil {
		return Entry{}, err
	}
	err = d.cfg.Archives.Put(ctx, c.Layer, c.Size, again, func() (io.ReadCloser, error) { return c.open(0) })
	if err != nil {
		return Entry{}, fmt.Errorf("sharing database %s: %w", rec.Digest, err)
	}
	if !d.kind.copies {
		err = removeCopy(rec.dir)
	}
	return Entry{record: rec, Archive: c.Layer, Size: c.Size}, err
}

// archiveAge is how old an archive must be that nobody names to be surely abandoned:
// a replica says what it wants after it stored the bytes.
const archiveAge = 6 * time.Hour

// keepShared sees to it that what is wanted is where all replicas find it, and that
// nothing else is.
func (d *Database) keepShared(ctx context.Context, w Wanted) error {
	if c := d.standing(); c != nil && c.Digest == w.Current.Digest {
		if err := d.putAgain(ctx, *c, w.Current, false); err != nil {
			return err
		}
	}
	keep := []digest.Digest{w.Current.Archive}
	if w.Previous.Archive != "" {
		keep = append(keep, w.Previous.Archive)
	}
	return d.cfg.Archives.Keep(ctx, d.cfg.Now().Add(-archiveAge), keep...)
}

// repair replaces an archive that others find damaged too.
func (d *Database) repair(ctx context.Context, rec record, e Entry) error {
	return d.putAgain(ctx, rec, e, true)
}

// putAgain stores the archive that was agreed on once more. One database makes the
// same bytes each time, unless another release compresses otherwise: then they are
// refused, and the sources stay.
func (d *Database) putAgain(ctx context.Context, rec record, e Entry, again bool) error {
	err := d.cfg.Archives.Put(ctx, e.Archive, e.Size, again, func() (io.ReadCloser, error) {
		c, err := d.copyOf(ctx, rec)
		if err != nil {
			return nil, err
		}
		return c.open(0)
	})
	if err != nil {
		return fmt.Errorf("sharing database %s: %w", rec.Digest, err)
	}
	if !d.kind.copies {
		return removeCopy(rec.dir)
	}
	return nil
}
