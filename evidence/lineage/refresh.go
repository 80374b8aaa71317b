package lineage

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"pratique"
)

const (
	// settle is how long new tags are gathered before they are looked up: a restart
	// of a cluster asks for many at once.
	settle = 2 * time.Second
	// afterScan is how often candidates that are being scanned are looked at, and
	// maxScan how long.
	afterScan = 10 * time.Second
	maxScan   = 15 * time.Minute
	// maxFailures of one upstream in a row end a pass for it.
	maxFailures = 3
)

// Run keeps what is watched up to date until ctx ends: what is new at once, the
// rest once in a Refresh. One lookup runs at a time, and an upstream that does not
// answer is left alone until the next pass; what was known of it stands.
func (l *Lineage) Run(ctx context.Context) error {
	r := &rounds{Lineage: l, waiting: make(map[pratique.Ref]time.Time)}
	tick := l.cfg.Refresh / ticks
	turn := time.Now().Add(jittered(tick))
	for {
		pause := time.Until(turn)
		if len(r.waiting) > 0 {
			pause = min(pause, afterScan)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-l.kick:
			timer.Stop()
			if slept(ctx, min(settle, tick)) {
				r.pass(ctx, false)
			}
		case <-timer.C:
			if time.Now().Before(turn) {
				r.await(ctx)
				continue
			}
			r.pass(ctx, true)
			turn = time.Now().Add(jittered(tick))
		}
	}
}

// jittered is d, or up to a tenth less: replicas and restarts must not ask in step.
func jittered(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d)/10+1))
}

// slept waits for d; false if ctx ended first.
func slept(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errNoAnswer: the upstream was asked and what is known is as old as before.
var errNoAnswer = errors.New("the upstream does not answer")

// rounds are the passes of one Run; only its goroutine uses them.
type rounds struct {
	*Lineage
	failures map[string]int // by upstream, in this pass
	begun    time.Time      // of the Refresh in which fetched counts
	fetched  int
	waiting  map[pratique.Ref]time.Time // candidates that are being scanned, since when
}

// pass looks at all that is watched. What upstreams are asked depends on when they
// were asked last; with every, what is known here is read and judged again as
// well.
func (r *rounds) pass(ctx context.Context, every bool) {
	r.failures = make(map[string]int)
	if now := r.cfg.Now(); now.Sub(r.begun) >= r.cfg.Refresh || now.Before(r.begun) {
		r.begun, r.fetched = now, 0
	}
	r.mu.Lock()
	tags, builds := r.tags.all(), r.builds.all()
	r.mu.Unlock()
	r.metrics.watched.WithLabelValues(kindTag).Set(float64(len(tags)))
	r.metrics.watched.WithLabelValues(kindBase).Set(float64(len(builds)))
	var order []pratique.Ref
	repos := make(map[pratique.Ref][]*subject)
	for _, s := range tags {
		repo := tagRef(s.ref, "")
		if _, ok := repos[repo]; !ok {
			order = append(order, repo)
		}
		repos[repo] = append(repos[repo], s)
	}
	for _, repo := range order {
		if err := r.repository(ctx, repo, repos[repo], every); err != nil && ctx.Err() == nil {
			r.cfg.Log.Error("Tags in use could not be looked at", "repository", repo.Repository(), "err", err)
		}
	}
	for _, b := range builds {
		if err := r.build(ctx, b, every); err != nil && ctx.Err() == nil {
			r.cfg.Log.Error("A base could not be looked at", "image", b.ref.String(), "err", err)
		}
	}
	r.metrics.passes.Inc()
}

// repository looks at the tags of one repository that are in use.
func (r *rounds) repository(ctx context.Context, repo pratique.Ref, subjects []*subject, every bool) error {
	var ordered []*subject
	loaded := true
	for _, s := range subjects {
		if err := r.resolve(ctx, s.ref, kindTag, nil); err != nil {
			return err
		}
		if s.newer && s.ordered {
			ordered = append(ordered, s)
			loaded = loaded && s.loaded
		}
	}
	if len(ordered) == 0 {
		return ctx.Err()
	}
	listed, err := r.relist(ctx, repo)
	if err != nil {
		return err
	}
	if loaded && !listed && !every {
		return ctx.Err()
	}
	list, err := r.list(ctx, repo)
	if err != nil {
		return err
	}
	for _, s := range ordered {
		if err := r.subject(ctx, s, list); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// subject looks up and judges the candidates of one tag.
func (r *rounds) subject(ctx context.Context, s *subject, list *listing) error {
	candidates, err := r.load(ctx, s, list)
	if err != nil {
		return err
	}
	asked := false
	for _, c := range candidates {
		if c.level == pratique.LevelMajor || r.cfg.Request == nil {
			continue
		}
		if err := r.resolve(ctx, tagRef(s.ref, c.tag), kindTag, &asked); err != nil {
			return err
		}
	}
	if asked {
		if candidates, err = r.load(ctx, s, list); err != nil {
			return err
		}
	}
	for _, c := range candidates {
		if c.level == pratique.LevelMajor || c.digest == "" {
			continue
		}
		key := tagRef(s.ref, c.tag).At(c.digest)
		if j := r.judge(ctx, key); j.pending && ctx.Err() == nil {
			r.request(ctx, key)
		}
	}
	return nil
}

// request has a candidate fetched and scanned, at most once in a Refresh.
func (r *rounds) request(ctx context.Context, key pratique.Ref) {
	if r.cfg.Request == nil || r.fetched >= r.cfg.MaxFetches || r.failures[key.Registry] >= maxFailures {
		return
	}
	now := r.cfg.Now()
	r.mu.Lock()
	last, ok := r.asked.get(key)
	due := !ok || now.Sub(last) >= r.cfg.Refresh
	if due {
		r.asked.put(key, now)
	}
	r.mu.Unlock()
	if !due {
		return
	}
	r.fetched++
	r.waiting[key] = now
	r.metrics.fetched.Inc()
	if err := r.cfg.Request(context.WithValue(ctx, judgingKey{}, new(judging)), key); err != nil && !errors.Is(err, pratique.ErrPending) {
		r.cfg.Log.Debug("A newer version could not be fetched", "ref", key.String(), "err", err)
	}
}

// await judges candidates whose scan may have ended.
func (r *rounds) await(ctx context.Context) {
	for key, since := range r.waiting {
		if ctx.Err() != nil {
			return
		}
		if j := r.judge(ctx, key); !j.pending || r.cfg.Now().Sub(since) > maxScan {
			delete(r.waiting, key)
		}
	}
}

// build looks at what one image was built on.
func (r *rounds) build(ctx context.Context, b *build, every bool) error {
	asked := false
	for _, ref := range b.refs {
		if err := r.resolve(ctx, ref, kindBase, &asked); err != nil {
			return err
		}
	}
	if !asked && !every {
		return ctx.Err()
	}
	n, err := r.find(ctx, b.ref, b.img)
	if err != nil {
		return err
	}
	r.keep(n)
	return ctx.Err()
}

// resolve has the store learn what a tag names, unless it did within a Refresh. It
// sets asked when it did. Its error is a failure of the store, or of ctx.
func (r *rounds) resolve(ctx context.Context, ref pratique.Ref, kind string, asked *bool) error {
	return r.ask(ctx, ref, kind, asked,
		func() (time.Time, error) {
			state, err := r.store.Tag(ctx, ref)
			return state.CheckedAt, err
		},
		func() error {
			_, err := r.registry.Resolve(ctx, ref)
			return err
		})
}

// relist has the store learn the tags of a repository; whether it did.
func (r *rounds) relist(ctx context.Context, repo pratique.Ref) (listed bool, err error) {
	err = r.ask(ctx, repo, kindList, &listed,
		func() (time.Time, error) {
			_, at, err := r.store.TagList(ctx, repo)
			return at, err
		},
		func() error {
			_, err := r.registry.Tags(ctx, repo)
			return err
		})
	return listed, err
}

// ask asks an upstream if it was not asked for long enough: known is when it was,
// by the store, which others keep up to date as well.
func (r *rounds) ask(ctx context.Context, key pratique.Ref, kind string, asked *bool, known func() (time.Time, error), upstream func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now := r.cfg.Now()
	r.mu.Lock()
	next, ok := r.next.get(key)
	r.mu.Unlock()
	if ok && now.Before(next) || r.failures[key.Registry] >= maxFailures {
		return nil
	}
	at, err := known()
	if err != nil && !errors.Is(err, pratique.ErrNotFound) {
		return err
	}
	if age := now.Sub(at); err == nil && age >= 0 && age < r.cfg.Refresh {
		r.later(key, at.Add(r.cfg.Refresh))
		return nil
	}
	if err = upstream(); err == nil {
		// The cache answers for an upstream that does not.
		if at, err = known(); err == nil && now.Sub(at) >= r.cfg.Refresh {
			err = errNoAnswer
		}
	}
	outcome := "ok"
	switch {
	case err == nil || errors.Is(err, pratique.ErrNotFound):
		if err != nil {
			outcome = "absent"
		}
		r.failures[key.Registry] = 0
		r.later(key, now.Add(jittered(r.cfg.Refresh)))
		if asked != nil {
			*asked = true
		}
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		outcome = "error"
		r.failures[key.Registry]++
		r.later(key, now.Add(r.cfg.Refresh/4))
		r.cfg.Log.Debug("An upstream could not be asked about tags; what is known stands", "ref", key.String(), "err", err)
	}
	r.metrics.upstream.WithLabelValues(kind, outcome).Inc()
	return nil
}

// later notes when an upstream is asked again.
func (r *rounds) later(key pratique.Ref, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next.put(key, at)
}
