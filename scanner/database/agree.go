package database

import (
	"context"
	"errors"
	"fmt"

	"pratique"
)

// maxOvertaken is how often an operator's or a source's database is held against
// what another replica wanted meanwhile before that is an error.
const maxOvertaken = 5

// takeShared makes a staged database what all replicas use: its bytes first, then the
// agreement, then its use here.
func (d *Database) takeShared(ctx context.Context, st *staged, o offer, force bool) error {
	w, err := d.look(ctx)
	if err != nil {
		return err
	}
	if done, err := d.takeWanted(ctx, st, w); done {
		return err
	}
	if st.Counts.Bytes == 0 { // it was the standing content before another came
		if err := st.verify(d.kind); err != nil {
			return d.refuse(o, err)
		}
	}
	if err := d.judgeShared(w, st, o, force); err != nil {
		return err
	}
	st.DownloadedAt = d.cfg.Now().UTC()
	entry, err := d.share(ctx, st.record, false)
	if err != nil {
		return err
	}
	d.adopting.Lock()
	defer d.adopting.Unlock()
	if err := d.prepare(); err != nil {
		return err
	}
	for range maxOvertaken {
		if w, err = d.look(ctx); err != nil {
			return err
		}
		if w != nil && w.Current.Digest == st.Digest {
			return d.installStaged(ctx, st, *w)
		}
		if err := d.judgeShared(w, st, o, force); err != nil {
			return err
		}
		next := Wanted{Current: entry, Cause: causeSource}
		if o.source == sourceImport {
			next.Cause = causeImport
		}
		if w != nil {
			next.Previous, next.RolledBack = w.Current, w.RolledBack.after(st.record)
		}
		if err = d.want(ctx, w, next); err == nil {
			// From here on all others follow, whatever becomes of this replica.
			return d.installStaged(ctx, st, next)
		}
		if errors.Is(err, pratique.ErrInvalid) { // older than what reports were made with
			return d.refuse(o, refusal(ReasonOlder, "%w", err))
		}
		if !errors.Is(err, ErrOvertaken) {
			return err
		}
	}
	return err
}

// takeWanted handles what is wanted already.
func (d *Database) takeWanted(ctx context.Context, st *staged, w *Wanted) (done bool, err error) {
	if w == nil || w.Current.Digest != st.Digest {
		return false, nil
	}
	d.adopting.Lock()
	defer d.adopting.Unlock()
	if c := d.standing(); c != nil && c.Digest == st.Digest {
		if st.Identity == "" {
			return true, nil
		}
		return true, d.rename(st.Identity, st.Source)
	}
	if err := d.prepare(); err != nil {
		return true, err
	}
	return true, d.installStaged(ctx, st, *w)
}

// judgeShared holds a staged database against the one that all use, which this
// replica may not have yet.
func (d *Database) judgeShared(w *Wanted, st *staged, o offer, force bool) error {
	if w == nil {
		return d.judge(nil, nil, st, o, force)
	}
	return d.judge(&w.Current.record, w.RolledBack, st, o, force)
}

// installStaged commits and installs. d.adopting is held.
func (d *Database) installStaged(ctx context.Context, st *staged, w Wanted) error {
	if c := d.standing(); c != nil && c.Digest == st.Digest {
		return nil
	}
	st.DownloadedAt = d.cfg.Now().UTC()
	rec, err := d.keep.commit(st)
	if err != nil {
		return err
	}
	return d.install(ctx, rec, d.former(w))
}

// former is the pointer of a shelf that is to have w: with the previous one that all
// know if it is here, else with whatever is. d.adopting is held.
func (d *Database) former(w Wanted) pointer {
	p := w.pointer()
	for _, dg := range []pointer{{Current: w.Previous.Digest}, {Current: d.shelved.Current}, {Current: d.shelved.Previous}} {
		if dg.Current == "" || dg.Current == w.Current.Digest {
			continue
		}
		if _, err := d.keep.record(dg.Current); err == nil {
			p.Previous = dg.Current
			return p
		}
	}
	p.Previous = ""
	return p
}

// turnShared is turn for all replicas. What it turns to is fetched if it is not here.
func (d *Database) turnShared(ctx context.Context, cause string, may func(pointer, record) (rollbacks, error)) error {
	w, err := d.look(ctx)
	if err != nil {
		return err
	}
	if w == nil {
		w = new(Wanted) // nothing to turn from
	}
	away, err := may(w.pointer(), w.Current.record)
	if err != nil {
		return err
	}
	found, err := d.obtain(ctx, w.Previous)
	if err != nil {
		return d.refuse(offer{}, err)
	}
	defer found.discard()
	next := Wanted{Current: w.Previous, Previous: w.Current, RolledBack: away, Cause: cause}
	if next.Current, err = d.share(ctx, found.record, found.repair); err != nil {
		return err
	}
	d.adopting.Lock()
	defer d.adopting.Unlock()
	d.warnTurned(ctx, found.record, next.pointer())
	if err := d.want(ctx, w, next); err != nil { // what the operator saw when asking is what counts
		return err
	}
	return d.installFound(ctx, found, next)
}

// proposeKept makes what an earlier run kept here what all use, when nothing was
// agreed on yet.
func (d *Database) proposeKept(ctx context.Context) error {
	d.adopting.Lock()
	if err := d.prepare(); err != nil {
		d.adopting.Unlock()
		return err
	}
	p := d.shelved
	d.adopting.Unlock()
	var errs []error
	for _, dg := range []pointer{{Current: p.Current}, {Current: p.Previous}} {
		if dg.Current == "" {
			continue
		}
		rec, err := d.keep.load(d.kind, dg.Current)
		if err != nil {
			d.cfg.Log.ErrorContext(ctx, "kept database cannot be used", "digest", dg.Current, "error", err)
			continue
		}
		entry, err := d.share(ctx, *rec, false)
		if err == nil {
			err = d.want(ctx, nil, Wanted{Current: entry, RolledBack: p.RolledBack.without(dg.Current), Cause: causeKept})
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
		if !errors.Is(err, pratique.ErrInvalid) {
			break
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("kept database is not what all use: %w", errors.Join(errs...))
	}
	return nil
}
