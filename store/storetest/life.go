package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Joined is what reports are joined from.
type Joined interface {
	store.Components
	store.Reports
	store.Fleet
}

// Lives checks that the reports of an implementation are those that would have been
// made one by one, with store.Join and store.Carry: components come and go, databases
// say more and less of them and are rolled back, and images are scanned meanwhile.
func Lives[T Joined](t *testing.T, fresh Fresh[T], rounds int) {
	for seed := range uint64(rounds) {
		l := newLife(t, seed, fresh(t))
		for range 24 {
			l.step()
			if l.check(); t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}

// life is a fleet of images in a store, and beside it what their reports should be.
type life[T Joined] struct {
	t      *testing.T
	open   func() T
	s      T
	random *rand.Rand
	// exact: only what is promised to be equal happens, else to be no later.
	exact bool

	now        time.Time
	engines    []pratique.Engine // that were begun
	said       []map[pratique.ComponentID][]pratique.Vulnerability
	use        int // index of the engine in use
	components []pratique.Component
	matched    map[pratique.ComponentID]bool
	images     []*lived
}

// lived is one image.
type lived struct {
	digest      digest.Digest
	occurrences []pratique.Occurrence
	report      pratique.Report
	past        []store.Past
	changes     []pratique.FindingChange
	again       bool // its occurrences changed since it was scanned first
}

func newLife[T Joined](t *testing.T, seed uint64, open func() T) *life[T] {
	l := &life[T]{t: t, open: open, s: open(), random: rand.New(rand.NewPCG(seed, 5)), exact: seed%3 != 0, now: clock, matched: make(map[pratique.ComponentID]bool)}
	for i := range 6 {
		c := component(fmt.Sprint("package", i%4)) // some are of one name
		c.Arch = fmt.Sprint("arch", i)
		l.components = append(l.components, c)
	}
	for i := range 3 {
		l.images = append(l.images, &lived{digest: sum(fmt.Sprint("image", i))})
	}
	l.newDatabase()
	mustBe(t, l.s.Begin(t.Context(), l.engines[0]))
	return l
}

func (l *life[T]) step() {
	l.now = l.now.Add(time.Duration(1+l.random.IntN(50)) * time.Hour)
	switch l.random.IntN(8) {
	case 0:
		l.s = l.open()
	case 1, 2, 3:
		l.update()
	default:
		l.scan(l.images[l.random.IntN(len(l.images))])
	}
}

func (l *life[T]) vulnerabilities() []pratique.Vulnerability {
	severities := []pratique.Severity{"UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL"}
	var out []pratique.Vulnerability
	for i := range 3 {
		if l.random.IntN(2) == 0 {
			continue
		}
		v := pratique.Vulnerability{ID: fmt.Sprint("CVE-", i), Severity: severities[l.random.IntN(5)], Status: "affected"}
		if l.random.IntN(3) == 0 {
			v.Fixed, v.Status = fmt.Sprint(l.random.IntN(3)), "fixed"
		}
		out = append(out, v)
	}
	return out
}

// newDatabase is like the one in use, but for some components.
func (l *life[T]) newDatabase() {
	next := make(map[pratique.ComponentID][]pratique.Vulnerability)
	for _, c := range l.components {
		next[c.ID()] = l.vulnerabilities()
		if len(l.said) > 0 && l.random.IntN(2) == 0 {
			next[c.ID()] = l.said[l.use][c.ID()]
		}
	}
	l.use = len(l.engines)
	l.engines, l.said = append(l.engines, engine(l.use)), append(l.said, next)
}

// update brings another database into use, or one again that was in use before.
func (l *life[T]) update() {
	before := l.said[l.use]
	if l.random.IntN(4) == 0 {
		l.use = l.random.IntN(len(l.engines))
	} else {
		l.newDatabase()
	}
	e, after, ctx := l.engines[l.use], l.said[l.use], l.t.Context()
	mustBe(l.t, l.s.Begin(ctx, e))
	ms := make(matches)
	var want []pratique.ComponentID
	for _, c := range l.components {
		id := c.ID()
		differs := len(pratique.VulnerabilityChanges(before[id], after[id])) > 0
		if l.matched[id] && (differs || l.random.IntN(2) == 0) {
			ms[id] = after[id]
		}
		if l.matched[id] && differs {
			want = append(want, id)
		}
	}
	changed, err := l.s.PutMatches(ctx, e, l.now, ms)
	mustBe(l.t, err)
	slices.Sort(want)
	slices.Sort(changed)
	same(l.t, "changed components", changed, want)
	if l.random.IntN(5) > 0 {
		mustBe(l.t, l.s.Advance(ctx, e, l.now))
	}
	for _, img := range l.images {
		if img.report.State != pratique.StateScanned {
			continue
		}
		l.put(img, pratique.StateScanned, img.report.Engine)
		var moved []pratique.FindingChange
		for _, o := range img.occurrences {
			for _, c := range pratique.VulnerabilityChanges(before[o.Component], after[o.Component]) {
				c.Package, c.Installed, c.At = l.component(o.Component).Name, o.Installed, l.now
				moved = append(moved, c)
			}
		}
		img.changes = append(img.changes, moved...)
	}
}

func (l *life[T]) component(id pratique.ComponentID) pratique.Component {
	return l.components[slices.IndexFunc(l.components, func(c pratique.Component) bool { return c.ID() == id })]
}

// put is a report as it would have been put one by one.
func (l *life[T]) put(img *lived, state pratique.State, e pratique.Engine) {
	next := pratique.Report{Image: img.digest, State: state, Engine: e, ScannedAt: l.now}
	if state == pratique.StateScanned {
		byID := make(map[pratique.ComponentID]pratique.Component)
		for _, c := range l.components {
			byID[c.ID()] = c
		}
		var err error
		next.Findings, err = store.Join(byID, img.occurrences, l.said[l.use])
		mustBe(l.t, err)
		next.Findings = append(next.Findings, secret)
		slices.SortStableFunc(next.Findings, func(a, b pratique.Finding) int { return store.WorseFirst(&a, &b) })
	}
	next.FirstScanned = store.FirstScanned(img.report, next)
	next.Findings, img.past = store.Carry(img.report, img.past, next)
	img.report = next
}

var secret = pratique.Finding{ID: "key", Kind: pratique.KindSecret, Path: "p", Severity: pratique.SeverityMedium}

func (l *life[T]) scan(img *lived) {
	ctx, e := l.t.Context(), l.engines[l.use]
	if !l.exact && l.random.IntN(6) == 0 {
		_, err := l.s.PutReport(ctx, pratique.Report{Image: img.digest, State: pratique.StateFailed, Engine: e, ScannedAt: l.now})
		mustBe(l.t, err)
		l.put(img, pratique.StateFailed, e)
		return
	}
	if img.report.State == "" || l.random.IntN(3) == 0 {
		before := img.occurrences
		img.occurrences = l.occurrences()
		img.again = img.again || img.report.State != "" && !slices.Equal(before, img.occurrences)
	}
	missing := make(matches)
	var cs []pratique.Component
	for _, o := range img.occurrences {
		cs = append(cs, l.component(o.Component))
		if !l.matched[o.Component] {
			missing[o.Component] = l.said[l.use][o.Component]
		}
	}
	mustBe(l.t, l.s.PutImage(ctx, img.digest, cs, img.occurrences))
	_, err := l.s.PutMatches(ctx, e, l.now, missing)
	mustBe(l.t, err)
	for id := range missing {
		l.matched[id] = true
	}
	l.now = l.now.Add(time.Minute)
	_, err = l.s.PutReport(ctx, pratique.Report{Image: img.digest, State: pratique.StateScanned, Engine: e, ScannedAt: l.now, Findings: []pratique.Finding{secret}})
	mustBe(l.t, err)
	l.put(img, pratique.StateScanned, e)
}

func (l *life[T]) occurrences() []pratique.Occurrence {
	var out []pratique.Occurrence
	for i, c := range l.components {
		for n := range 2 {
			if l.random.IntN(2) == 0 {
				continue
			}
			o := occurrence(c, "")
			o.Layer = sum(fmt.Sprint("layer", l.random.IntN(3)))
			if n == 1 {
				o.Path = fmt.Sprint("path", l.random.IntN(2))
			}
			if l.exact {
				o.Installed = fmt.Sprint("version", i, n) // none hides behind another
			}
			out = append(out, o)
		}
	}
	return out
}

// check compares every report with what it should be.
func (l *life[T]) check() {
	l.t.Helper()
	for _, img := range l.images {
		if img.report.State == "" {
			continue
		}
		got, err := l.s.Report(l.t.Context(), img.digest)
		mustBe(l.t, err)
		if got.State != img.report.State || !got.FirstScanned.Equal(img.report.FirstScanned) {
			l.t.Errorf("%s, first scanned %s, want %s, %s", got.State, got.FirstScanned, img.report.State, img.report.FirstScanned)
		}
		same(l.t, "findings, but for their clocks", unclocked(got.Findings), unclocked(img.report.Findings))
		for i := range min(len(got.Findings), len(img.report.Findings)) {
			l.clocks(&got.Findings[i], &img.report.Findings[i])
		}
		if l.exact && !img.again {
			pratique.SortChanges(img.changes)
			img.changes = slices.Compact(img.changes)
			same(l.t, "changes", got.Changes, img.changes[:min(len(img.changes), pratique.MaxChanges)])
		}
	}
}

func unclocked(fs []pratique.Finding) []pratique.Finding {
	out := slices.Clone(fs)
	for i := range out {
		out[i].FirstSeen, out[i].Milestones = time.Time{}, nil
	}
	return out
}

// clocks compares every question that a rule may ask of a finding's clock: of what it
// is now.
func (l *life[T]) clocks(got, want *pratique.Finding) {
	for rank := range want.Severity.Rank() + 1 {
		for _, fixable := range []bool{false, true} {
			if fixable && want.Fixed == "" {
				continue
			}
			g, w := got.Since(rank, fixable), want.Since(rank, fixable)
			if g.After(w) || l.exact && !g.Equal(w) {
				l.t.Errorf("%s of %s at %q: since (%d, %v) %s, want %s\ngot %+v %+v\nwant %+v %+v", want.ID, want.Package, want.Path, rank, fixable, g, w,
					got.FirstSeen, got.Milestones, want.FirstSeen, want.Milestones)
			}
		}
	}
}
