package database

import (
	"context"
	"errors"
	"fmt"
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
	err := d.turn(ctx, func(p pointer) (rollbacks, error) {
		if p.Current == "" || p.Previous == "" {
			return nil, fmt.Errorf("%w: no previous database is kept", pratique.ErrNotFound)
		}
		if b := p.RolledBack.find(p.Previous, ""); b != nil {
			return nil, fmt.Errorf("%w on %s, and the only other one kept is the one that was rolled back from, %s",
				ErrRolledBack, b.At.Format(time.RFC3339), p.Previous)
		}
		c := d.standing()
		return p.RolledBack.with(rolledBack{Digest: c.Digest, Identity: c.Identity, UpdatedAt: c.UpdatedAt, At: d.cfg.Now().UTC()}), nil
	})
	return d.Status(), err
}

// UndoRollback returns to the database that Rollback turned away from, which is
// then like any other again. Unless the last that happened was a rollback the
// error wraps pratique.ErrNotFound.
func (d *Database) UndoRollback(ctx context.Context) (Status, error) {
	err := d.turn(ctx, func(p pointer) (rollbacks, error) {
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
// it, which also says what is turned away from then on. Like adopt, it writes the
// pointer first: a crash in between restarts with what was asked for.
func (d *Database) turn(ctx context.Context, may func(pointer) (rollbacks, error)) error {
	if err := d.Open(ctx); err != nil && !errors.Is(err, pratique.ErrNotFound) {
		return err
	}
	d.adopting.Lock()
	defer d.adopting.Unlock()
	before := d.pointer()
	away, err := may(before)
	if err != nil {
		return err
	}
	rec, err := d.keep.load(d.kind, before.Previous)
	if err != nil {
		return d.refuse(offer{}, err)
	}
	next := pointer{Current: before.Previous, Previous: before.Current, RolledBack: away}
	if err := d.keep.point(next); err != nil {
		return err
	}
	if err := d.adopter.Adopt(ctx, rec.dir, rec.Digest); err != nil {
		return errors.Join(err, d.keep.point(before))
	}
	prev := d.engine()
	d.set(rec, next.Previous, next.RolledBack)
	d.metrics.adoptions.Inc()
	d.cfg.Log.WarnContext(ctx, "operator changed the database in use",
		"digest", rec.Digest, "updated", rec.UpdatedAt, "former", next.Previous, "rolledBack", away.find(next.Previous, "") != nil)
	if d.cfg.OnAdopt != nil {
		d.cfg.OnAdopt(prev, d.engine())
	}
	return nil
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
