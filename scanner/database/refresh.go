package database

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"pratique"
)

// Run opens what is kept, then looks at Path or Sources at once and every
// Refresh until ctx ends, whose error it returns. Failures are logged when they
// begin, counted, and tried again with growing, jittered pauses, a source that
// said Retry-After never before that; the standing database is used meanwhile.
//
// Beside other replicas it uses what all agreed on, and asks no source: that is
// Lead's, at one of them.
func (d *Database) Run(ctx context.Context) error {
	if d.cfg.Shared != nil {
		return d.follows(ctx)
	}
	return d.refresh(ctx, d.Check)
}

// Lead looks at Path or Sources for all replicas, as Run does for one that is alone,
// until ctx ends. It is to run at one of them at a time, beside Run; two at once fetch
// twice, and one of them is overtaken. Without Shared it does nothing.
func (d *Database) Lead(ctx context.Context) error {
	if d.cfg.Shared == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	d.lead(true)
	defer d.lead(false)
	return d.refresh(ctx, func(ctx context.Context) error {
		if err := d.govern(ctx); err != nil {
			return err
		}
		if err := d.Check(ctx); !errors.Is(err, errNoSource) {
			return err
		}
		return nil
	})
}

func (d *Database) lead(leading bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.together.leading = leading
}

// govern sees to it that there is something that all replicas use, that they can have
// it, and that it is used here: what a source offers is held against it.
func (d *Database) govern(ctx context.Context) error {
	w, err := d.look(ctx)
	if err != nil {
		return err
	}
	if w == nil {
		if err := d.proposeKept(ctx); err != nil {
			d.cfg.Log.WarnContext(ctx, "sources are asked before there is a database that all use", "error", err)
		}
	}
	if err := d.follow(ctx); err != nil && ctx.Err() == nil {
		// A source may have what can be had.
		d.cfg.Log.WarnContext(ctx, "database that all replicas use cannot be used here", "error", err)
	}
	if w, err = d.look(ctx); err != nil || w == nil {
		return err
	}
	return d.keepShared(ctx, *w)
}

// refresh calls check at once and every Refresh.
func (d *Database) refresh(ctx context.Context, check func(context.Context) error) error {
	failures := 0
	for {
		err := check(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errNoSource):
			<-ctx.Done() // imports only
			return ctx.Err()
		case err != nil:
			failures++ // noteSource has logged it, once
			d.cfg.Log.DebugContext(ctx, "database is not renewed", "error", err, "attempt", failures, "standing", d.Status().Digest)
		default:
			failures = 0
		}
		p := pause(d.cfg.Refresh, failures, d.standing() != nil)
		d.mu.Lock()
		d.nextCheck = d.cfg.Now().Add(p).UTC()
		d.mu.Unlock()
		t := time.NewTimer(p)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

// Check looks at Path or Sources once and adopts what is new and sound there.
// nil means that the standing database is the one on offer, or that the one on
// offer was rolled back from.
func (d *Database) Check(ctx context.Context) error {
	d.checking.Lock()
	defer d.checking.Unlock()
	if err := d.Open(ctx); err != nil && !errors.Is(err, pratique.ErrNotFound) {
		d.cfg.Log.ErrorContext(ctx, "starting without the kept database", "error", err)
	}
	var err error
	switch {
	case d.cfg.Path != "":
		err = d.checkPath(ctx)
	case len(d.cfg.Sources) > 0:
		err = d.checkSources(ctx)
	default:
		return errNoSource
	}
	if ctx.Err() != nil {
		return ctx.Err() // stopped, not failed
	}
	d.note(err)
	d.mu.Lock()
	d.lastCheck = d.cfg.Now().UTC()
	d.mu.Unlock()
	return err
}

// seen reports whether an offer needs no fetch: it is the standing database, or
// it was refused since the last adoption, which is the error.
func (d *Database) seen(o offer) (known bool, refused error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current != nil && d.current.Identity == o.identity {
		return true, nil
	}
	if w := d.together.wanted; w != nil && w.Current.Identity == o.identity {
		return true, nil // it is on its way here
	}
	if err, ok := d.refused[o.identity]; ok {
		return true, err
	}
	if b := d.rolledBack.find("", o.identity); b != nil {
		return true, turnedAway(b)
	}
	return false, nil
}

const (
	firstPause = 10 * time.Second // after a failure while nothing can be matched
	basePause  = time.Minute      // after a failure with a database standing
	maxPause   = time.Hour
)

// pause is the time until the next check: the refresh interval, or after
// failures a doubling one up to an hour or the interval. Jitter of a fifth keeps
// a fleet from asking in step.
func pause(refresh time.Duration, failures int, standing bool) time.Duration {
	p := refresh
	if failures > 0 {
		p = basePause
		if !standing {
			p = firstPause
		}
		p = min(p<<min(failures-1, 10), max(refresh, firstPause), maxPause)
	}
	p += rand.N(p/5 + 1) //nolint:gosec // spreading load, no secret
	return p
}
