package database

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"pratique"
)

// openShared adopts what an earlier run kept if it is what all replicas use. Anything
// else waits for Run, which fetches it: a replica that comes back with an older
// database answers nothing from it. Only when nobody can say what is wanted, what was
// kept is better than nothing; the state lets nothing in that it says then.
func (d *Database) openShared(ctx context.Context) error {
	d.adopting.Lock()
	if d.opened {
		d.adopting.Unlock()
		return nil
	}
	err := d.prepare()
	d.adopting.Unlock()
	if err != nil {
		return err
	}
	w, err := d.look(ctx)
	if err != nil {
		d.cfg.Log.WarnContext(ctx, "what replicas agreed on is not known, starting with the kept database", "error", err)
		d.adopting.Lock()
		defer d.adopting.Unlock()
		return d.fallBack(ctx)
	}
	if w == nil {
		return fmt.Errorf("%w: replicas did not agree on a database yet", pratique.ErrNotFound)
	}
	rec, err := d.keep.load(d.kind, w.Current.Digest)
	if err != nil {
		return fmt.Errorf("%w: database %s, which all replicas use, is not here yet", pratique.ErrNotFound, w.Current.Digest)
	}
	d.adopting.Lock()
	defer d.adopting.Unlock()
	if d.standing() != nil {
		return nil
	}
	return d.use(ctx, *rec, d.former(*w)) // nobody is told of what Open adopts: they are being made
}

// fallBack adopts what is kept while nothing else can be had. d.adopting is held.
func (d *Database) fallBack(ctx context.Context) error {
	if d.standing() != nil || d.fellBack {
		return nil
	}
	d.fellBack = true // once: what is kept gets no better
	return d.openKept(ctx)
}

// fallBackNow is fallBack while Run runs: others are told. The log says why it cannot.
func (d *Database) fallBackNow(ctx context.Context) {
	d.adopting.Lock()
	defer d.adopting.Unlock()
	if d.standing() == nil && d.fallBack(ctx) == nil && d.standing() != nil {
		d.adopted(pratique.Engine{})
	}
}

// maxFollowPause bounds the pause after attempts to follow that failed.
const maxFollowPause = 30 * time.Second

// follows uses what replicas agree on until ctx ends.
func (d *Database) follows(ctx context.Context) error {
	if err := d.Open(ctx); err != nil && ctx.Err() == nil {
		d.cfg.Log.InfoContext(ctx, "starting without a database", "cause", err)
	}
	told, end := d.cfg.Shared.Told()
	defer end()
	failures := 0
	for {
		err := d.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		pause := d.cfg.Poll
		d.noteFollow(ctx, err)
		if err != nil {
			failures++
			pause = min(pause<<min(failures-1, 10), max(d.cfg.Poll, maxFollowPause))
			// The file of the one that was kept is better than none: reports that stand
			// can be shown, and what it says of others is not stored.
			d.fallBackNow(ctx)
		} else {
			failures = 0
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-told:
		case <-t.C:
		}
		t.Stop()
	}
}

// noteFollow says when following begins to fail, and when it is over.
func (d *Database) noteFollow(ctx context.Context, err error) {
	d.mu.Lock()
	before := d.together.failing
	d.together.failing = err
	d.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		d.cfg.Log.WarnContext(ctx, "database that all replicas use cannot be used here; what stands, stands, and scans wait", "error", err)
	case err == nil && before != nil:
		d.cfg.Log.InfoContext(ctx, "database that all replicas use is in use here again")
	}
}

// follow uses what is wanted here, if it is not used yet.
func (d *Database) follow(ctx context.Context) error {
	d.following.Lock()
	defer d.following.Unlock()
	for range maxOvertaken {
		w, err := d.look(ctx)
		if err != nil || w == nil {
			return err
		}
		if c := d.standing(); c != nil && c.Digest == w.Current.Digest {
			return d.reconcile(*w)
		}
		if err = d.followTo(ctx, *w); !errors.Is(err, ErrOvertaken) {
			return err
		}
	}
	return ErrOvertaken
}

func (d *Database) followTo(ctx context.Context, w Wanted) error {
	found, err := d.obtain(ctx, w.Current)
	if err != nil {
		return err
	}
	defer found.discard()
	if err := d.installIf(ctx, found, w); err != nil || !found.repair {
		return err
	}
	if rec := d.standing(); rec != nil && rec.Digest == w.Current.Digest {
		if err := d.repair(ctx, *rec, w.Current); err != nil {
			d.cfg.Log.WarnContext(ctx, "damaged archive of the database is not replaced", "error", err)
		}
	}
	return nil
}

// installIf installs what was found if it is wanted still.
func (d *Database) installIf(ctx context.Context, f *found, w Wanted) error {
	d.adopting.Lock()
	defer d.adopting.Unlock()
	now, err := d.look(ctx) // fetching takes its time
	if err != nil {
		return err
	}
	if now == nil || now.Current.Digest != w.Current.Digest {
		return ErrOvertaken
	}
	return d.installFound(ctx, f, *now)
}

// reconcile takes over what else was agreed on when the database is the same.
func (d *Database) reconcile(w Wanted) error {
	d.adopting.Lock()
	defer d.adopting.Unlock()
	d.mu.Lock()
	same := d.rolledBack.same(w.RolledBack)
	current := d.current
	d.mu.Unlock()
	if same || current == nil || current.Digest != w.Current.Digest {
		return nil
	}
	next := d.former(w)
	if err := d.point(next); err != nil {
		return err
	}
	d.set(current, next.Previous, next.RolledBack)
	return nil
}

// found is a database that is on this disk.
type found struct {
	record
	staged *staged // nil: it is kept under its name
	repair bool    // the shared archive is damaged or gone
}

func (f *found) discard() {
	if f.staged != nil {
		f.staged.discard()
	}
}

// installFound needs d.adopting.
func (d *Database) installFound(ctx context.Context, f *found, w Wanted) error {
	if f.staged != nil {
		return d.installStaged(ctx, f.staged, w)
	}
	if c := d.standing(); c != nil && c.Digest == f.Digest {
		return nil
	}
	return d.install(ctx, f.record, d.former(w))
}

// obtain finds a database here, in the archives, or at the sources, in this order,
// and holds it against its digest.
func (d *Database) obtain(ctx context.Context, e Entry) (*found, error) {
	if err := d.prepareNow(); err != nil {
		return nil, err
	}
	rec, err := d.keep.load(d.kind, e.Digest)
	if err == nil {
		return &found{record: *rec}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		d.cfg.Log.WarnContext(ctx, "kept database cannot be used, it is fetched again", "digest", e.Digest, "error", err)
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	st, err := d.fromArchive(ctx, e)
	if err == nil {
		return &found{record: st.record, staged: st}, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var r *Refusal
	damaged := errors.As(err, &r) || errors.Is(err, pratique.ErrNotFound)
	d.cfg.Log.WarnContext(ctx, "shared archive of the database cannot be used, sources are asked", "digest", e.Digest, "error", err)
	st, serr := d.fromSources(ctx, e)
	if serr != nil {
		return nil, fmt.Errorf("database %s cannot be fetched: %w", e.Digest, errors.Join(err, serr))
	}
	return &found{record: st.record, staged: st, repair: damaged}, nil
}

func (d *Database) prepareNow() error {
	d.adopting.Lock()
	defer d.adopting.Unlock()
	return d.prepare()
}

// fromArchive stages what is shared.
func (d *Database) fromArchive(ctx context.Context, e Entry) (*staged, error) {
	r, _, err := d.cfg.Archives.Open(ctx, e.Archive)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return d.stageAs(ctx, r, e, offer{layer: e.Archive, size: e.Size, copy: d.kind.copies})
}

// fromSources stages what the sources have under the name that it had when it was
// offered, or what the configured path holds.
func (d *Database) fromSources(ctx context.Context, e Entry) (*staged, error) {
	if d.cfg.Path != "" {
		r, _, err := openPath(d.kind, d.cfg.Path)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return d.stageAs(ctx, r, e, offer{})
	}
	if e.Identity == "" || e.Source == sourceImport {
		return nil, fmt.Errorf("%w: no source offered it", pratique.ErrNotFound)
	}
	errs := []error{errors.New("no source has it")}
	for _, source := range d.cfg.Sources {
		st, err := d.fromSource(ctx, source, e)
		if err == nil {
			return st, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", source, err))
	}
	return nil, errors.Join(errs...)
}

// stageAs stages what r holds if it is e.
func (d *Database) stageAs(ctx context.Context, r io.Reader, e Entry, o offer) (*staged, error) {
	o.source, o.identity = e.Source, e.Identity
	st, err := d.keep.stage(d.kind, stoppable{ctx, r}, o, d.cfg.MaxBytes)
	if err != nil {
		return nil, err
	}
	if st.Digest != e.Digest {
		st.discard()
		return nil, refusal(ReasonDigest, "the archive holds database %s, want %s", st.Digest, e.Digest)
	}
	if err := st.verify(d.kind); err != nil {
		st.discard()
		return nil, err
	}
	return st, nil
}
