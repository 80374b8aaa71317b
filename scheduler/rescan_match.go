package scheduler

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"pratique"
	"pratique/store"
)

// task is one rescan or full pass.
type task struct {
	engine, from pratique.Engine
	now          time.Time
	same         bool // everything is current with the engine already
	upgrade      bool // another version of Trivy
	advance      bool // everything is current with the engine, and as of now, afterwards
	interrupted  bool // a process may have died in the middle of the same
	delta        Delta
	extra        []pratique.Component // to be matched besides

	seen map[pratique.ComponentID]bool

	mu      sync.Mutex // guards the rest
	matched int
	all     []pratique.ComponentID // matched, when interrupted
	changed []pratique.ComponentID
	// differences are those of changed that this engine said.
	differences int
	sample      []string // some of changed, in words
	failed      map[pratique.ComponentID]pratique.Component
	failure     error // one of them
	asked       int   // how many had failed when others were asked about
}

// idle reports whether nothing has to be done.
func (t *task) idle() bool {
	return t.same && !t.delta.All && len(t.delta.Keys) == 0 && len(t.delta.Vulnerabilities) == 0 && len(t.extra) == 0
}

// concerns are the components whose images are told.
func (t *task) concerns() []pratique.ComponentID {
	// What a dead process found changed is not known any more.
	return slices.Concat(t.changed, t.all)
}

// keysAtOnce is how many keys are looked up in one query.
const keysAtOnce = 500

// concerned yields the components that the delta concerns, each once.
func (r *Rescanner) concerned(ctx context.Context, t *task) iter.Seq2[pratique.Component, error] {
	return func(yield func(pratique.Component, error) bool) {
		if t.delta.All {
			r.fleet.AllComponents(ctx)(yield)
			return
		}
		each := func(cs iter.Seq2[pratique.Component, error]) bool {
			for c, err := range cs {
				if err == nil {
					id := c.ID()
					if t.seen[id] {
						continue
					}
					t.seen[id] = true
				}
				if !yield(c, err) || err != nil {
					return false
				}
			}
			return true
		}
		if !each(plain(t.extra)) {
			return
		}
		for keys := range slices.Chunk(t.delta.Keys, keysAtOnce) {
			if !each(r.fleet.ComponentsByKey(ctx, keys)) {
				return
			}
		}
		for ids := range slices.Chunk(t.delta.Vulnerabilities, keysAtOnce) {
			if !each(r.fleet.ComponentsByVulnerability(ctx, ids)) {
				return
			}
		}
	}
}

func plain(cs []pratique.Component) iter.Seq2[pratique.Component, error] {
	return func(yield func(pratique.Component, error) bool) {
		for _, c := range cs {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// match matches components in batches.
func (r *Rescanner) match(ctx context.Context, t *task, cs iter.Seq2[pratique.Component, error]) error {
	defer r.metrics.phase("match", time.Now())
	t.failed = make(map[pratique.ComponentID]pratique.Component)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.cfg.Parallel)
	batch := make([]pratique.Component, 0, r.cfg.Batch)
	flush := func() {
		if b := batch; len(b) > 0 {
			g.Go(func() error { return r.matchBatch(gctx, t, b) })
			batch = make([]pratique.Component, 0, r.cfg.Batch)
		}
	}
	var failed error
	for c, err := range cs {
		if err != nil {
			failed = err
			break
		}
		if gctx.Err() != nil {
			break
		}
		if batch = append(batch, c); len(batch) == r.cfg.Batch {
			flush()
		}
	}
	flush()
	err := g.Wait() // first: it is why ctx ended
	if err == nil {
		err = failed
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil && len(t.failed) > t.matched {
		err = r.canary(ctx, t)
	}
	if err == nil && len(t.failed) > 0 {
		r.cfg.Log.ErrorContext(ctx, "components cannot be matched, what stands of them, stands",
			"components", len(t.failed), "database", t.engine.Database, "error", t.failure)
	}
	return err
}

// matchBatch matches some components. When they cannot be matched together, they
// are by halves: one component that no detector can read, and anybody can make one,
// must not keep the others from being current.
func (r *Rescanner) matchBatch(ctx context.Context, t *task, cs []pratique.Component) error {
	changed, e, err := r.matching.Match(ctx, cs)
	t.note(cs, changed, sameEngine(e, t.engine), err == nil) // a failed call may have stored some
	r.metrics.components.WithLabelValues("changed").Add(float64(len(changed)))
	switch {
	case err == nil && !sameEngine(e, t.engine):
		return fmt.Errorf("%w: %s instead of %s", store.ErrSuperseded, e.Database, t.engine.Database)
	case err == nil:
		r.metrics.components.WithLabelValues("same").Add(float64(len(cs) - len(changed)))
		return nil
	case ctx.Err() != nil, errors.Is(err, store.ErrSuperseded), errors.Is(err, pratique.ErrNoDatabase):
		return err
	case errors.Is(err, store.ErrUnreachable): // no component's fault: to ask for each would take for ever
		return err
	case len(cs) > 1:
		half := len(cs) / 2
		if err := r.matchBatch(ctx, t, cs[:half]); err != nil {
			return err
		}
		return r.matchBatch(ctx, t, cs[half:])
	}
	r.metrics.components.WithLabelValues("failed").Inc()
	return r.fail(ctx, t, cs[0], err)
}

// sampleSize is how many components an error names.
const sampleSize = 10

func (t *task) note(cs []pratique.Component, changed []pratique.ComponentID, ours, matched bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed = append(t.changed, changed...)
	if !ours { // another database says something else, of course
		return
	}
	t.differences += len(changed)
	if matched {
		t.matched += len(cs)
	}
	if matched && t.interrupted {
		for _, c := range cs {
			t.all = append(t.all, c.ID())
		}
	}
	if len(changed) == 0 || len(t.sample) >= sampleSize {
		return
	}
	for _, c := range cs {
		if len(t.sample) < sampleSize && slices.Contains(changed, c.ID()) {
			t.sample = append(t.sample, describe(c))
		}
	}
}

func describe(c pratique.Component) string {
	return fmt.Sprintf("%s %s (%s %s)", c.Name, c.Version, c.Context.Type, c.Context.Name)
}

// fail notes a component that cannot be matched: what stands of it, stands. When
// nothing but failures comes, it may be the database or the state that fails.
func (r *Rescanner) fail(ctx context.Context, t *task, c pratique.Component, err error) error {
	t.mu.Lock()
	if len(t.failed) < maxUnmatched {
		t.failed[c.ID()] = c
	}
	t.failure = fmt.Errorf("%s: %w", describe(c), err)
	n := len(t.failed)
	doubtful := n > t.matched && n >= 128 && n&(n-1) == 0 && n > t.asked
	if doubtful {
		t.asked = n
	}
	t.mu.Unlock()
	if doubtful {
		return r.canary(ctx, t)
	}
	return nil
}

// canaries is how many others are asked about.
const canaries = 64

// canary matches some components at random, other than those that failed. When most
// of them cannot be matched either, it is not the components that are at fault.
func (r *Rescanner) canary(ctx context.Context, t *task) error {
	var some []pratique.Component
	n := 0
	for c, err := range r.fleet.AllComponents(ctx) {
		if err != nil {
			return err
		}
		t.mu.Lock()
		_, failed := t.failed[c.ID()]
		t.mu.Unlock()
		if failed {
			continue
		}
		if n++; len(some) < canaries {
			some = append(some, c)
		} else if i := rand.IntN(n); i < canaries { //nolint:gosec // no secret
			some[i] = c
		}
	}
	good := 0
	for _, c := range some {
		changed, e, err := r.matching.Match(ctx, []pratique.Component{c})
		ours := sameEngine(e, t.engine)
		t.note([]pratique.Component{c}, changed, ours, err == nil)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, store.ErrSuperseded), err == nil && !ours:
			return fmt.Errorf("%w: while components could not be matched", store.ErrSuperseded)
		case errors.Is(err, store.ErrUnreachable):
			return err
		case err == nil:
			good++
		}
	}
	if good > len(some)/2 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Errorf("%d components cannot be matched, nor can %d of %d others; the last: %w", len(t.failed), len(some)-good, len(some), t.failure)
}

// renew brings what no component decides up to another version of Trivy. An image of
// which that fails keeps what it has.
func (r *Rescanner) renew(ctx context.Context) error {
	if r.cfg.Images == nil || r.cfg.Rematch == nil {
		return nil
	}
	defer r.metrics.phase("renew", time.Now())
	var failed error
	for image, err := range r.cfg.Images(ctx) {
		if err != nil {
			return err
		}
		if _, err := r.cfg.Rematch(ctx, image); err != nil && !errors.Is(err, pratique.ErrNotFound) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if errors.Is(err, store.ErrUnreachable) {
				return err
			}
			failed = fmt.Errorf("%s: %w", image, err)
		}
	}
	if failed != nil {
		r.cfg.Log.ErrorContext(ctx, "reports not renewed after an upgrade", "error", failed)
	}
	return nil
}

// Sizes of what is asked for and told at once.
const (
	componentsAtOnce = 5000
	imagesAtOnce     = 1000
)

// imagesWith returns the images that hold one of the components, in order.
func (r *Rescanner) imagesWith(ctx context.Context, ids []pratique.ComponentID) ([]digest.Digest, error) {
	images := make(map[digest.Digest]bool)
	for some := range slices.Chunk(ids, componentsAtOnce) {
		found, err := r.fleet.ImagesWith(ctx, some)
		if err != nil {
			return nil, err
		}
		for _, d := range found {
			images[d] = true
		}
	}
	return slices.Sorted(maps.Keys(images)), nil
}

func (r *Rescanner) announce(ctx context.Context, images []digest.Digest) {
	for some := range slices.Chunk(images, imagesAtOnce) {
		r.cfg.Changed(ctx, some)
	}
	r.metrics.images.Add(float64(len(images)))
}
