package database

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// ErrRolledBack says that the database was rolled back already. UndoRollback goes
// forward again. It is a pratique.ErrNotFound: there is nothing to go back to.
var ErrRolledBack = fmt.Errorf("%w: the database was rolled back already", pratique.ErrNotFound)

// Rollback returns to the database that was adopted before the one in use, after
// its bytes are verified again. The one in use is kept in its place, and no
// source brings it back until a newer one is adopted, it is imported by hand, or
// UndoRollback. It returns the status afterwards.
//
// A second Rollback is ErrRolledBack: done twice by mistake, it would return to
// what the first turned away from. Without another database the error wraps
// pratique.ErrNotFound; with a damaged one the standing one stays.
func (d *Database) Rollback(ctx context.Context) (Status, error) {
	err := d.turn(ctx, causeRollback, func(p pointer, c record) (rollbacks, error) {
		if p.Current == "" || p.Previous == "" {
			return nil, fmt.Errorf("%w: no previous database is kept", pratique.ErrNotFound)
		}
		if b := p.RolledBack.find(p.Previous, ""); b != nil {
			return nil, fmt.Errorf("%w on %s, and the only other one kept is the one that was rolled back from, %s",
				ErrRolledBack, b.At.Format(time.RFC3339), p.Previous)
		}
		return p.RolledBack.with(rolledBack{Digest: c.Digest, Identity: c.Identity, UpdatedAt: c.UpdatedAt, At: d.cfg.Now().UTC()}), nil
	})
	return d.Status(), err
}

// UndoRollback returns to the database that Rollback turned away from, which is
// then like any other again. Unless the last that happened was a rollback the
// error wraps pratique.ErrNotFound.
func (d *Database) UndoRollback(ctx context.Context) (Status, error) {
	err := d.turn(ctx, causeUndo, func(p pointer, _ record) (rollbacks, error) {
		if len(p.RolledBack) == 0 {
			return nil, fmt.Errorf("%w: the database is not rolled back", pratique.ErrNotFound)
		}
		if p.RolledBack.find(p.Previous, "") == nil {
			return nil, fmt.Errorf("%w: the database that was rolled back from is not kept any more; import it", pratique.ErrNotFound)
		}
		return p.RolledBack.without(p.Previous), nil
	})
	return d.Status(), err
}

// turn makes the current and the previous database change places if may allows
// it, which also says what is turned away from then on.
func (d *Database) turn(ctx context.Context, cause string, may func(pointer, record) (rollbacks, error)) error {
	if err := d.Open(ctx); err != nil && !errors.Is(err, pratique.ErrNotFound) {
		return err
	}
	if d.cfg.Shared != nil {
		return d.turnShared(ctx, cause, may)
	}
	d.adopting.Lock()
	defer d.adopting.Unlock()
	before := d.pointer()
	var current record
	if c := d.standing(); c != nil {
		current = *c
	}
	away, err := may(before, current)
	if err != nil {
		return err
	}
	rec, err := d.keep.load(d.kind, before.Previous)
	if err != nil {
		return d.refuse(offer{}, err)
	}
	next := pointer{Current: before.Previous, Previous: before.Current, RolledBack: away}
	d.warnTurned(ctx, *rec, next)
	return d.install(ctx, *rec, next)
}

func (d *Database) warnTurned(ctx context.Context, rec record, next pointer) {
	d.cfg.Log.WarnContext(ctx, "operator changes the database in use",
		"digest", rec.Digest, "updated", rec.UpdatedAt, "former", next.Previous, "rolledBack", next.RolledBack.find(next.Previous, "") != nil)
}

// turnedAway refuses what was rolled back from.
func turnedAway(b *rolledBack) error {
	return refusal(ReasonRolledBack, "it was rolled back by an operator on %s; a newer one, an import or `pratique db rollback --undo` ends that", b.At.Format(time.RFC3339))
}

// isTurnedAway reports whether what is wrong with an offer is that it was rolled
// back from.
func isTurnedAway(err error) bool {
	var r *Refusal
	return errors.As(err, &r) && r.Reason == ReasonRolledBack
}

// rolledBack is a database that no source brings back.
type rolledBack struct {
	Digest    digest.Digest `json:"digest"`
	Identity  digest.Digest `json:"identity,omitempty"` // as it was offered last
	UpdatedAt time.Time     `json:"updatedAt"`
	At        time.Time     `json:"at"` // of the rollback
}

// rollbacks are the databases that operators rolled back from, the latest last.
type rollbacks []rolledBack

// maxRollbacks bounds what is remembered: nobody rolls back so often before a newer
// database comes.
const maxRollbacks = 16

func (r rollbacks) find(content, identity digest.Digest) *rolledBack {
	for i := range r {
		if content != "" && r[i].Digest == content || identity != "" && r[i].Identity == identity {
			return &r[i]
		}
	}
	return nil
}

// same reports whether the same databases are turned away.
func (r rollbacks) same(o rollbacks) bool {
	return slices.EqualFunc(r, o, func(a, b rolledBack) bool { return a.Digest == b.Digest && a.Identity == b.Identity })
}

func (r rollbacks) with(b rolledBack) rollbacks {
	out := append(r.without(b.Digest), b)
	return out[max(0, len(out)-maxRollbacks):]
}

func (r rollbacks) without(d digest.Digest) rollbacks {
	var out rollbacks
	for _, b := range r {
		if b.Digest != d {
			out = append(out, b)
		}
	}
	return out
}

// after is what stays turned away when next is adopted: what is newer than it. A
// source that lags behind offers such a one, and it must not open the door to what
// an operator turned away from.
func (r rollbacks) after(next record) rollbacks {
	var out rollbacks
	for _, b := range r {
		if b.Digest != next.Digest && !next.UpdatedAt.After(b.UpdatedAt) {
			out = append(out, b)
		}
	}
	return out
}
