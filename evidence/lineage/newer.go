package lineage

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/evidence/lineage/series"
)

// subject is a tag in use. It is never changed once it is on the shelf; a new one
// takes its place.
type subject struct {
	ref     pratique.Ref // repository and tag
	version series.Version
	ordered bool // the tag is in a series
	newer   bool // newer versions of it are asked for
	// loaded says that candidates are what the store says; without it nothing was
	// said of them yet.
	loaded     bool
	listed     time.Time // the list that candidates were chosen from
	candidates []candidate
}

// candidate is a newer version of a subject.
type candidate struct {
	tag    string
	level  pratique.Level
	since  time.Time
	digest digest.Digest // empty until it was resolved
}

// judgement is what Compliant said.
type judgement struct {
	compliant bool
	pending   bool // it could not say; asked again after lookAgain
	at        time.Time
}

// watch notes which tags are in use, and has Run look at those that are new. A
// candidate that is being judged is not in use: what is newer than it is none of
// our business.
func (l *Lineage) watch(ctx context.Context, ref pratique.Ref, names []string, newer bool) {
	if judged(ctx) != nil {
		return
	}
	fresh := false
	defer func() {
		if fresh {
			l.wake()
		}
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range names[:min(len(names), maxNames)] {
		key := tagRef(ref, name)
		s, ok := l.tags.get(key)
		if ok && (s.newer || !newer) {
			continue
		}
		n := &subject{ref: key, newer: newer}
		n.version, n.ordered = series.Parse(name)
		l.tags.put(key, n)
		fresh = true
	}
}

// tagRef is a tag of ref's repository.
func tagRef(ref pratique.Ref, tag string) pratique.Ref {
	ref.Tag, ref.Digest = tag, ""
	return ref
}

// newer are the newer versions of the tags names, none of which is one of current,
// by what is known here. Newest first: by tag of the image, the most precise one
// first, then by version.
func (l *Lineage) newer(ctx context.Context, ref pratique.Ref, names, current []string) ([]pratique.Newer, error) {
	var out []pratique.Newer
	var list *listing // read once, if at all
	for _, s := range leading(ref, names) {
		candidates, err := l.candidates(ctx, s, &list)
		if err != nil {
			return nil, err
		}
		for _, c := range candidates {
			if slices.Contains(current, c.tag) || slices.ContainsFunc(out, func(n pratique.Newer) bool { return n.Tag == c.tag }) {
				continue
			}
			out = append(out, pratique.Newer{
				Tag: c.tag, Digest: c.digest, Level: c.level, Since: c.since,
				Compliant: l.compliant(ctx, s.ref, c),
			})
		}
	}
	return out, nil
}

// leading are the tags among names that are versions: of each series the newest,
// those with most parts first, and not too many.
func leading(ref pratique.Ref, names []string) []*subject {
	best := make(map[string]*subject)
	for _, name := range names {
		v, ok := series.Parse(name)
		if !ok {
			continue
		}
		if b, ok := best[v.Series()]; !ok || b.version.Compare(v) < 0 {
			best[v.Series()] = &subject{ref: tagRef(ref, name), version: v, ordered: true, newer: true}
		}
	}
	out := make([]*subject, 0, len(best))
	for _, s := range best {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *subject) int {
		return cmp.Or(cmp.Compare(b.version.Precision(), a.version.Precision()), cmp.Compare(a.ref.Tag, b.ref.Tag))
	})
	return out[:min(len(out), maxSubjects)]
}

// candidates are those of s, read from the store the first time; list is the one
// of the repository, or nil until somebody needs it.
func (l *Lineage) candidates(ctx context.Context, s *subject, list **listing) ([]candidate, error) {
	l.mu.Lock()
	known, ok := l.tags.get(s.ref)
	l.mu.Unlock()
	if ok && known.loaded {
		return known.candidates, nil
	}
	if *list == nil {
		var err error
		if *list, err = l.list(ctx, s.ref); err != nil {
			return nil, err
		}
	}
	return l.load(ctx, s, *list)
}

// load reads a subject's candidates from list and store, and keeps them. It moves
// the stamp if something else was said before.
func (l *Lineage) load(ctx context.Context, s *subject, list *listing) ([]candidate, error) {
	candidates, err := l.choose(ctx, s, list)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	known, ok := l.tags.get(s.ref)
	if ok && known.loaded && known.listed.After(list.at) {
		l.mu.Unlock()
		return known.candidates, nil
	}
	said := ok && known.loaded && !slices.EqualFunc(known.candidates, candidates, candidate.equal)
	l.tags.set(s.ref, &subject{
		ref: s.ref, version: s.version, ordered: s.ordered, newer: true, loaded: true, listed: list.at, candidates: candidates,
	})
	l.mu.Unlock()
	if said {
		l.changed()
	}
	return candidates, nil
}

func (c candidate) equal(d candidate) bool {
	return c.tag == d.tag && c.level == d.level && c.digest == d.digest && c.since.Equal(d.since)
}

// listing is the list of a repository's tags, read once for several subjects.
type listing struct {
	at       time.Time // zero: there is none
	seen     map[string]time.Time
	versions map[string][]series.Version // by series
}

// list reads the last list of ref's repository.
func (l *Lineage) list(ctx context.Context, ref pratique.Ref) (*listing, error) {
	tags, at, err := l.store.TagList(ctx, tagRef(ref, ""))
	if errors.Is(err, pratique.ErrNotFound) {
		return &listing{}, nil
	} else if err != nil {
		return nil, err
	}
	seen, err := l.store.TagsSeen(ctx, tagRef(ref, ""))
	if err != nil {
		return nil, err
	}
	out := &listing{at: at, seen: seen, versions: make(map[string][]series.Version)}
	for _, tag := range tags {
		if v, ok := series.Parse(tag); ok {
			out.versions[v.Series()] = append(out.versions[v.Series()], v)
		}
	}
	return out, nil
}

// choose picks the candidates of a subject: of each level that is fetched, the
// newest, and older ones that have been there for longer, because a rule asks for
// how long there has been a newer version; of major versions the newest, to be
// shown. Newest first.
func (l *Lineage) choose(ctx context.Context, s *subject, list *listing) ([]candidate, error) {
	if !s.ordered {
		return nil, nil
	}
	versions := slices.Clone(list.versions[s.version.Series()])
	slices.SortFunc(versions, func(a, b series.Version) int {
		return cmp.Or(b.Compare(a), cmp.Compare(a.Tag(), b.Tag()))
	})
	byLevel := make(map[pratique.Level][]candidate)
	for _, v := range versions {
		if level, ok := series.Newer(s.version, v); ok {
			byLevel[level] = append(byLevel[level], candidate{tag: v.Tag(), level: level, since: list.since(v.Tag())})
		}
	}
	var out []candidate
	out = append(out, few(byLevel[pratique.LevelMajor], 1)...)
	for _, level := range []pratique.Level{pratique.LevelMinor, pratique.LevelPatch} {
		out = append(out, few(byLevel[level], l.cfg.MaxCandidates)...)
	}
	for i := range out {
		state, err := l.store.Tag(ctx, tagRef(s.ref, out[i].tag))
		if err != nil && !errors.Is(err, pratique.ErrNotFound) {
			return nil, err
		}
		out[i].digest = state.Digest
	}
	return out, nil
}

// since is when a tag was first seen; for one that nobody noted, when the list
// was.
func (l *listing) since(tag string) time.Time {
	if t, ok := l.seen[tag]; ok {
		return t
	}
	return l.at
}

// few picks at most n of versions that come newest first: of those that were
// there before all newer ones the newest, the oldest and what is between them;
// the newest others if there is room.
func few(all []candidate, n int) []candidate {
	if len(all) <= n {
		return all
	}
	var steps []int // each older than those before it, and longer known
	for i, c := range all {
		if len(steps) == 0 || c.since.Before(all[steps[len(steps)-1]].since) {
			steps = append(steps, i)
		}
	}
	picked := make(map[int]bool)
	for k := range min(n, len(steps)) {
		at := 0
		if most := min(n, len(steps)) - 1; most > 0 {
			at = k * (len(steps) - 1) / most
		}
		picked[steps[at]] = true
	}
	for i := 0; len(picked) < n; i++ {
		picked[i] = true
	}
	out := make([]candidate, 0, n)
	for i, c := range all {
		if picked[i] {
			out = append(out, c)
		}
	}
	return out
}

// judging marks a context in which a candidate is judged: whoever asks about
// another candidate there is answered by what is known, because the two may be
// newer than each other by different tags.
type judging struct{ skipped atomic.Bool }

type judgingKey struct{}

// judged is the mark of ctx; nil if there is none.
func judged(ctx context.Context) *judging {
	mark, _ := ctx.Value(judgingKey{}).(*judging)
	return mark
}

// compliant tells whether policy lets a candidate of ref's repository through.
// What was never judged is judged now, from what is here.
func (l *Lineage) compliant(ctx context.Context, ref pratique.Ref, c candidate) bool {
	if c.digest == "" || c.level == pratique.LevelMajor {
		return false
	}
	key := tagRef(ref, c.tag).At(c.digest)
	l.mu.Lock()
	j, ok := l.judged.get(key)
	l.mu.Unlock()
	if ok && (!j.pending || l.cfg.Now().Sub(j.at) < lookAgain) {
		return j.compliant
	}
	if outer := judged(ctx); outer != nil {
		outer.skipped.Store(true)
		return j.compliant
	}
	return l.judge(ctx, key).compliant
}

// judge asks Compliant, keeps its answer, and moves the stamp if another one was
// given before.
func (l *Lineage) judge(ctx context.Context, key pratique.Ref) judgement {
	now := l.cfg.Now()
	if l.cfg.Compliant == nil {
		return judgement{pending: true, at: now}
	}
	mark := new(judging)
	ok, err := l.cfg.Compliant(context.WithValue(ctx, judgingKey{}, mark), key)
	if err != nil && ctx.Err() != nil {
		return judgement{pending: true, at: now} // the caller left: that says nothing
	}
	j := judgement{compliant: ok && err == nil, pending: err != nil, at: now}
	if err != nil && !errors.Is(err, pratique.ErrPending) && !errors.Is(err, pratique.ErrNotFound) {
		l.cfg.Log.Warn("Whether a newer version is compliant could not be decided", "ref", key.String(), "err", err)
	}
	l.mu.Lock()
	before, known := l.judged.get(key)
	if known && err != nil && !errors.Is(err, pratique.ErrPending) && !errors.Is(err, pratique.ErrNotFound) {
		j.compliant = before.compliant // a failure changes nothing
	}
	l.judged.put(key, j)
	l.mu.Unlock()
	// A verdict made within the question lacked the answers that were left out, and
	// may be remembered: it must not stand.
	if known && before.compliant != j.compliant || mark.skipped.Load() {
		l.changed()
	}
	return j
}

// Reconsider forgets which newer versions are compliant, because policies changed:
// each is judged again when it is asked about.
func (l *Lineage) Reconsider() {
	l.mu.Lock()
	l.judged = newShelf[pratique.Ref, judgement](l.judged.limit)
	l.mu.Unlock()
	l.changed()
}
