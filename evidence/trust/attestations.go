package trust

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Bounds of what is kept in memory.
const (
	maxAtWork  = 8     // lookups that ask one upstream at once
	maxFlights = 1024  // lookups of one upstream at work or waiting for that
	maxWatched = 10000 // images that are rechecked without being asked for
	maxParents = 16    // indexes through which one image may be signed
)

// flight is one lookup. Its result may be read when done is closed.
type flight struct {
	done   chan struct{}
	result pratique.Attestations
	err    error
	lane   *lane
}

// lane are the lookups of one upstream: one that does not answer holds up its own
// images and no others. There are as many as configured upstreams.
type lane struct {
	busy    chan struct{} // places of lookups at work
	flights int
}

// failure is a lookup that failed, and may be begun again after until.
type failure struct {
	until time.Time
	err   error
}

// Attestations returns what was verified about img, asked for as ref. What is
// kept is returned as long as it is young, was verified for the same identities
// and covers every index that is known to list the image. Otherwise the registry
// is asked: with wait now, until ctx ends, without wait in the background. While
// that goes on, and when the registry does not answer, an older kept answer is
// believed; when there is none, the error wraps pratique.ErrPending or is the
// registry's.
func (t *Trust) Attestations(ctx context.Context, ref pratique.Ref, img pratique.Image, wait bool) (pratique.Attestations, error) {
	ref = pratique.Ref{Registry: ref.Registry, Repo: ref.Repo, Digest: img.Digest}
	if t.nothing() {
		return pratique.Attestations{Image: img.Digest, CheckedAt: t.cfg.Now(), Trust: t.version}, nil
	}
	wanted, err := t.subjects(ctx, ref)
	if err != nil {
		return pratique.Attestations{}, err
	}
	// More than once only when a lookup was joined that somebody began for another
	// repository.
	for range 3 {
		kept, have, err := t.kept(ctx, img.Digest)
		if err != nil {
			return pratique.Attestations{}, err
		}
		whole := have && covers(kept, wanted)
		if whole && t.young(kept) {
			t.watch(ref)
			return kept, nil
		}
		f, err := t.look(ctx, ref, wanted)
		switch {
		case err != nil && have && (whole || !errors.Is(err, pratique.ErrPending)):
			t.watch(ref)
			return kept, nil // the registry does not answer
		case err != nil:
			return pratique.Attestations{}, err
		case !wait && whole:
			t.watch(ref)
			return kept, nil
		case !wait:
			return pratique.Attestations{}, pending(img.Digest)
		}
		var patience <-chan time.Time
		if whole {
			timer := time.NewTimer(t.cfg.Patience)
			defer timer.Stop()
			patience = timer.C
		}
		select {
		case <-f.done:
		case <-patience:
			return kept, nil
		case <-ctx.Done():
			return pratique.Attestations{}, fmt.Errorf("%w: %w", pending(img.Digest), context.Cause(ctx))
		}
		switch {
		case f.err != nil && have:
			t.watch(ref)
			return kept, nil
		case f.err != nil:
			return pratique.Attestations{}, f.err
		case covers(f.result, wanted):
			t.watch(ref)
			return f.result, nil
		}
	}
	return pratique.Attestations{}, pending(img.Digest)
}

func pending(d digest.Digest) error {
	return fmt.Errorf("signatures of %s are being looked for: %w", d, pratique.ErrPending)
}

// subjects are the manifests whose signatures count for ref: its own and those
// of indexes of the same repository that are known to list it, at any depth.
func (t *Trust) subjects(ctx context.Context, ref pratique.Ref) ([]string, error) {
	subjects := []string{ref.String()}
	if t.cfg.Parents == nil {
		return subjects, nil
	}
	next := []digest.Digest{ref.Digest}
	for depth := 0; depth < pratique.MaxIndexDepth && len(next) > 0; depth++ {
		var found []digest.Digest
		for _, child := range next {
			ps, err := t.cfg.Parents.Parents(ctx, ref.At(child))
			if err != nil && !errors.Is(err, pratique.ErrNotFound) {
				return nil, fmt.Errorf("indexes that list %s: %w", child, err)
			}
			for _, p := range ps {
				s := ref.At(p).String()
				if len(subjects) <= maxParents && !slices.Contains(subjects, s) {
					subjects = append(subjects, s)
					found = append(found, p)
				}
			}
		}
		next = found
	}
	return subjects, nil
}

// kept reads what was verified for the identities of now.
func (t *Trust) kept(ctx context.Context, image digest.Digest) (a pratique.Attestations, have bool, err error) {
	a, err = t.store.Attestations(ctx, image)
	switch {
	case errors.Is(err, pratique.ErrNotFound):
		return pratique.Attestations{}, false, nil
	case err != nil:
		return pratique.Attestations{}, false, fmt.Errorf("attestations of %s: %w", image, err)
	}
	return a, a.Trust == t.version && a.Image == image && !a.CheckedAt.IsZero(), nil
}

// covers reports whether a was looked for wherever it is wanted.
func covers(a pratique.Attestations, wanted []string) bool {
	for _, s := range wanted {
		if !slices.Contains(a.Subjects, s) {
			return false
		}
	}
	return true
}

// young reports whether a is believed without asking again. A clock that was set
// back makes nothing young.
func (t *Trust) young(a pratique.Attestations) bool {
	age := t.cfg.Now().Sub(a.CheckedAt)
	return age >= 0 && age < t.believed(a)
}

// believed is how long an answer is. That nobody signed an image is believed for
// as long as it has been so: images are pulled between the push and the signature,
// and who signs one because it was refused does not want to wait until tomorrow.
func (t *Trust) believed(a pratique.Attestations) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !empty(a) {
		delete(t.bare, a.Image)
		return t.cfg.Recheck
	}
	since, ok := t.bare[a.Image]
	if !ok || a.CheckedAt.Before(since) {
		if len(t.bare) >= maxWatched {
			clear(t.bare) // at worst something is asked again too early
		}
		since = a.CheckedAt
		t.bare[a.Image] = since
	}
	return min(t.cfg.Recheck, max(recheckEvery, a.CheckedAt.Sub(since)))
}

// empty reports whether nothing was verified.
func empty(a pratique.Attestations) bool {
	return len(a.Signatures)+len(a.Provenance)+len(a.Statements) == 0
}

// look joins the lookup for ref.Digest, or begins it. It returns the error of one
// that failed a moment ago.
func (t *Trust) look(ctx context.Context, ref pratique.Ref, wanted []string) (*flight, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f, ok := t.flights[ref.Digest]; ok {
		return f, nil
	}
	if failed, ok := t.failed[ref]; ok {
		if t.cfg.Now().Before(failed.until) {
			return nil, failed.err
		}
		delete(t.failed, ref)
	}
	l, ok := t.lanes[ref.Registry]
	if !ok {
		l = &lane{busy: make(chan struct{}, maxAtWork)}
		t.lanes[ref.Registry] = l
	}
	if t.closed || l.flights >= maxFlights {
		return nil, pending(ref.Digest) // who comes again finds another Trust, or room
	}
	f := &flight{done: make(chan struct{}), lane: l}
	t.flights[ref.Digest] = f
	l.flights++
	// The values of ctx go along, its end does not: the lookup is for whoever comes
	// next, too. Run ends it.
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.cfg.Timeout)
	ended := t.base
	unhook := context.AfterFunc(ended, cancel) //nolint:contextcheck // that of Run, not of who asks
	t.running.Go(func() {
		defer cancel()
		defer unhook()
		f.result, f.err = t.fly(work, l, ref, wanted)
		if f.err != nil && ended.Err() != nil {
			f.err = pending(ref.Digest) // it was ended, and says nothing of the registry
		}
		t.land(ref, f)
	})
	return f, nil
}

// land makes the outcome of a lookup known.
func (t *Trust) land(ref pratique.Ref, f *flight) {
	if f.err != nil && !errors.Is(f.err, pratique.ErrPending) {
		t.metrics.lookups.WithLabelValues("failed").Inc()
		t.cfg.Log.Warn("signatures of an image could not be looked for", "image", ref.String(), "error", f.err)
		t.rest(ref, f.err)
	}
	t.mu.Lock()
	delete(t.flights, ref.Digest)
	f.lane.flights--
	t.mu.Unlock()
	close(f.done)
}

// rest keeps the registry from being asked again at once.
func (t *Trust) rest(ref pratique.Ref, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.failed) >= maxFlights {
		clear(t.failed) // at worst something is asked again too early
	}
	t.failed[ref] = failure{t.cfg.Now().Add(t.cfg.Retry), err}
}

// fly looks for and keeps what there is about ref.
func (t *Trust) fly(ctx context.Context, l *lane, ref pratique.Ref, wanted []string) (pratique.Attestations, error) {
	select {
	case l.busy <- struct{}{}:
		defer func() { <-l.busy }()
	case <-ctx.Done():
		return pratique.Attestations{}, fmt.Errorf("signatures of %s: %w", ref.Digest, context.Cause(ctx))
	}
	begun := time.Now()
	kept, have, err := t.kept(ctx, ref.Digest)
	if err != nil {
		return pratique.Attestations{}, err
	}
	if !have {
		kept = pratique.Attestations{}
	}
	a, partial, err := t.find(ctx, ref, wanted, kept)
	if err != nil {
		return pratique.Attestations{}, fmt.Errorf("signatures of %s: %w", ref, err)
	}
	if partial {
		t.rest(ref, errors.New("a part of what is there could not be fetched"))
	}
	if err := t.store.PutAttestations(ctx, a); err != nil {
		return pratique.Attestations{}, fmt.Errorf("keep attestations of %s: %w", ref.Digest, err)
	}
	// After the write: whoever read what was there before filed it under the count
	// from before.
	if !have || !same(kept, a) {
		t.stamp.Add(1)
	}
	outcome := "none"
	if !empty(a) {
		outcome = "verified"
	}
	t.metrics.lookups.WithLabelValues(outcome).Inc()
	t.metrics.problems.Add(float64(len(a.Problems)))
	t.metrics.seconds.Observe(time.Since(begun).Seconds())
	return a, nil
}

// watch keeps ref's image rechecked: a verdict that still stands asks nobody, so
// nobody would notice that a signature came or went.
func (t *Trust) watch(ref pratique.Ref) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.watched[ref.Digest]; !ok && len(t.watched) >= maxWatched {
		for d := range t.watched { // any one
			delete(t.watched, d)
			break
		}
	}
	t.watched[ref.Digest] = ref
}

// recheckEvery is how often Run looks for what is due.
const recheckEvery = time.Minute

// drain is how long lookups that are under way when Run ends may go on: whoever
// waits for them is answered.
const drain = 5 * time.Second

// Run rechecks images that were asked for when what is known of them has become
// old. When ctx ends it begins no more lookups, and returns when those under way
// have ended. It may be run again after that; without it lookups work as well.
func (t *Trust) Run(ctx context.Context) error {
	t.mu.Lock()
	if t.closed {
		t.closed = false
		t.base, t.stop = context.WithCancel(context.Background())
	}
	stop := t.stop
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.closed = true
		t.mu.Unlock()
		defer time.AfterFunc(drain, stop).Stop()
		t.running.Wait()
		stop()
	}()
	tick := time.NewTicker(recheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			t.recheck(ctx)
		}
	}
}

// recheck begins the lookups that are due.
func (t *Trust) recheck(ctx context.Context) {
	t.mu.Lock()
	refs := make([]pratique.Ref, 0, len(t.watched))
	for _, ref := range t.watched {
		refs = append(refs, ref)
	}
	t.mu.Unlock()
	for _, ref := range refs {
		if ctx.Err() != nil {
			return
		}
		kept, have, err := t.kept(ctx, ref.Digest)
		if err != nil || have && t.young(kept) {
			continue
		}
		wanted, err := t.subjects(ctx, ref)
		if err != nil {
			t.cfg.Log.Warn("signatures of an image are not rechecked", "image", ref.String(), "error", err)
			continue
		}
		// Its failure is logged where it lands; the next tick tries again.
		_, _ = t.look(ctx, ref, wanted)
	}
}
