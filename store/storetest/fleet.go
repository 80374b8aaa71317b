package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Fleet checks an implementation of store.Fleet, and what it means for reports.
func Fleet[T Joined](t *testing.T, fresh Fresh[T]) {
	t.Run("Engines", func(t *testing.T) { fleetEngines(t, fresh(t)) })
	t.Run("Components", func(t *testing.T) { fleetComponents(t, fresh(t)) })
	t.Run("Images", func(t *testing.T) { fleetImages(t, fresh(t)) })
	t.Run("Reports", func(t *testing.T) { fleetReports(t, fresh(t)) })
	t.Run("Occurrences", func(t *testing.T) { fleetOccurrences(t, fresh(t)) })
	t.Run("Invalid", func(t *testing.T) { fleetInvalid(t, fresh(t)()) })
	t.Run("Stamps", func(t *testing.T) { fleetStamps(t, fresh(t)()) })
	t.Run("Concurrent", func(t *testing.T) { fleetConcurrent(t, fresh(t)) })
}

// named are the names of the components that a sequence yields, sorted.
func named(t *testing.T, cs iter.Seq2[pratique.Component, error]) []string {
	t.Helper()
	var out []string
	for c, err := range cs {
		mustBe(t, err)
		out = append(out, c.Name)
	}
	slices.Sort(out)
	return out
}

func wantSuperseded(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("%s: error %v, want one wrapping store.ErrSuperseded", what, err)
	}
}

func put[T Joined](t *testing.T, s T, e pratique.Engine, at time.Time, ms matches) []pratique.ComponentID {
	t.Helper()
	changed, err := s.PutMatches(t.Context(), e, at, ms)
	mustBe(t, err)
	return changed
}

// scanned is an image with components, matched and reported.
func scanned[T Joined](t *testing.T, s T, img string, e pratique.Engine, at time.Time, ms matches, cs ...pratique.Component) pratique.Report {
	t.Helper()
	var os []pratique.Occurrence
	for _, c := range cs {
		os = append(os, occurrence(c, ""))
	}
	mustBe(t, s.PutImage(t.Context(), sum(img), cs, os))
	put(t, s, e, at, ms)
	r, err := s.PutReport(t.Context(), pratique.Report{Image: sum(img), State: pratique.StateScanned, Engine: e, ScannedAt: at})
	mustBe(t, err)
	return r
}

func cve(id string, s pratique.Severity) pratique.Vulnerability {
	return pratique.Vulnerability{ID: id, Severity: s, Status: "affected"}
}

func fleetEngines[T Joined](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	_, _, err := s.Current(ctx)
	wantNotFound(t, "Current before Advance", err)
	wantSuperseded(t, "Advance before Begin", s.Advance(ctx, engine(1), clock))
	mustBe(t, s.Begin(ctx, engine(1)))
	mustBe(t, s.Begin(ctx, engine(1)))
	analyzer := engine(1)
	analyzer.Analyzer = "is no part of it"
	mustBe(t, s.Advance(ctx, analyzer, clock))
	mustBe(t, s.Begin(ctx, engine(2)))
	s = open()
	wantSuperseded(t, "Advance to one that was overtaken", s.Advance(ctx, engine(1), clock.Add(time.Hour)))
	is := func(what string, want pratique.Engine, at time.Time) {
		t.Helper()
		e, since, err := s.Current(ctx)
		mustBe(t, err)
		same(t, what, e, want)
		same(t, what, since, at)
	}
	is("the first stands", engine(1), clock)
	mustBe(t, s.Advance(ctx, engine(2), clock.Add(time.Hour)))
	is("the second", engine(2), clock.Add(time.Hour))
	mustBe(t, s.Begin(ctx, engine(1))) // rolled back
	wantSuperseded(t, "Advance to the newer one", s.Advance(ctx, engine(2), clock))
	mustBe(t, s.Advance(ctx, engine(1), clock.Add(2*time.Hour)))
	s = open()
	is("the older one again", engine(1), clock.Add(2*time.Hour))
	another := engine(1)
	another.Version = "v0.75.0"
	mustBe(t, s.Begin(ctx, another))
	wantSuperseded(t, "Advance to the version before", s.Advance(ctx, engine(1), clock))
	mustBe(t, s.Advance(ctx, another, clock.Add(3*time.Hour)))
}

func fleetComponents[T Joined](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	x, y, z := component("x_lib"), component("y"), component("z")
	z.Context.Type = "alpine"
	ms := matches{x.ID(): {cve("CVE-1", "HIGH"), cve("CVE-2", "LOW")}, y.ID(): {cve("CVE-2", "LOW")}, z.ID(): nil}
	mustBe(t, s.Begin(ctx, engine(1)))
	scanned(t, s, "a", engine(1), clock, ms, x, y, z)
	s = open()
	same(t, "all", named(t, s.AllComponents(ctx)), []string{"x_lib", "y", "z"})
	same(t, "by name", named(t, s.ComponentsByKey(ctx, []string{pratique.PackageKey("X-lib"), "unknown"})), []string{"x_lib"})
	same(t, "by source name, and by name", named(t, s.ComponentsByKey(ctx, []string{"y-src", "y", "z"})), []string{"y", "z"})
	same(t, "by type", named(t, s.ComponentsByKey(ctx, []string{pratique.TypeKey("debian")})), []string{"x_lib", "y"})
	same(t, "by no key", named(t, s.ComponentsByKey(ctx, nil)), nil)
	same(t, "by vulnerability", named(t, s.ComponentsByVulnerability(ctx, []string{"CVE-1", "CVE-2", "CVE-3"})), []string{"x_lib", "y"})
	same(t, "strays", named(t, s.Strays(ctx, engine(1))), []string{})
	mustBe(t, s.Advance(ctx, engine(1), clock))

	mustBe(t, s.Begin(ctx, engine(2)))
	same(t, "changed", put(t, s, engine(2), clock.Add(time.Hour), matches{x.ID(): {cve("CVE-3", "LOW")}}), []pratique.ComponentID{x.ID()})
	same(t, "by a vulnerability that is gone", named(t, s.ComponentsByVulnerability(ctx, []string{"CVE-1"})), nil)
	same(t, "by the new one", named(t, s.ComponentsByVulnerability(ctx, []string{"CVE-3"})), []string{"x_lib"})
	same(t, "no strays: it is the latest that said it", named(t, s.Strays(ctx, engine(2))), nil)
	mustBe(t, s.Begin(ctx, engine(3)))
	same(t, "a database that never became current said it", named(t, s.Strays(ctx, engine(3))), []string{"x_lib"})
	for _, err := range s.Strays(ctx, engine(2)) {
		wantSuperseded(t, "Strays of one that was overtaken", err)
	}
	put(t, s, engine(3), clock.Add(2*time.Hour), matches{x.ID(): {cve("CVE-3", "LOW")}})
	same(t, "matched again", named(t, s.Strays(ctx, engine(3))), nil)

	ended, cancel := context.WithCancel(ctx)
	cancel()
	for what, cs := range map[string]iter.Seq2[pratique.Component, error]{
		"all": s.AllComponents(ended), "by key": s.ComponentsByKey(ended, []string{"y"}), "by vulnerability": s.ComponentsByVulnerability(ended, []string{"CVE-2"}),
	} {
		var last error
		for _, last = range cs {
		}
		if last == nil {
			t.Errorf("%s: an ended context is no error", what)
		}
	}
	for range s.AllComponents(ctx) { // the loop's body may write
		put(t, s, engine(3), clock.Add(2*time.Hour), matches{y.ID(): nil})
	}
}

func fleetImages[T Joined](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	shared := component("shared")
	var all []digest.Digest
	for i := range 20 {
		img, own := fmt.Sprint("image", i), component(fmt.Sprint("own", i))
		mustBe(t, s.PutImage(ctx, sum(img), []pratique.Component{shared, own}, []pratique.Occurrence{occurrence(shared, ""), occurrence(own, fmt.Sprint(i))}))
		all = append(all, sum(img))
	}
	slices.Sort(all)
	s = open()
	is := func(what string, want []digest.Digest, cs ...pratique.Component) {
		t.Helper()
		var ids []pratique.ComponentID
		for _, c := range cs {
			ids = append(ids, c.ID())
		}
		got, err := s.ImagesWith(ctx, ids)
		mustBe(t, err)
		same(t, what, got, want)
	}
	is("shared", all, shared, component("own3"), component("nowhere"))
	is("its own", []digest.Digest{sum("image3")}, component("own3"))
	is("nowhere", nil, component("nowhere"))
	is("none", nil)
	mustBe(t, s.PutImage(ctx, sum("image3"), []pratique.Component{shared}, []pratique.Occurrence{occurrence(shared, "")}))
	is("replaced", nil, component("own3"))
	is("and kept", all, shared)
}

func fleetReports[T Joined](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	hour := func(n int) time.Time { return clock.Add(time.Duration(n) * time.Hour) }
	x, y := component("x"), component("y")
	mustBe(t, s.Begin(ctx, engine(1)))
	first := scanned(t, s, "a", engine(1), hour(1), matches{x.ID(): {cve("CVE-1", "HIGH")}, y.ID(): nil}, x, y)
	read := func() pratique.Report {
		t.Helper()
		r, err := s.Report(ctx, sum("a"))
		mustBe(t, err)
		return r
	}
	same(t, "what PutReport returned", read(), first)
	is := func(what string, e pratique.Engine, at time.Time, findings ...string) {
		t.Helper()
		s = open()
		r := read()
		var got []string
		for _, f := range r.Findings {
			got = append(got, f.ID+" "+f.Package+" "+string(f.Severity))
		}
		same(t, what+": findings", got, findings)
		same(t, what+": engine", r.Engine, e)
		same(t, what+": scanned at", r.ScannedAt, at)
	}
	is("scanned", engine(1), hour(1), "CVE-1 x HIGH")
	mustBe(t, s.Advance(ctx, engine(1), hour(2)))
	is("current since", engine(1), hour(2), "CVE-1 x HIGH")
	mustBe(t, s.Begin(ctx, engine(2)))
	put(t, s, engine(2), hour(3), matches{x.ID(): {cve("CVE-1", "LOW")}, y.ID(): {cve("CVE-2", "CRITICAL")}})
	is("a fact may be newer than its label", engine(1), hour(2), "CVE-2 y CRITICAL", "CVE-1 x LOW")
	mustBe(t, s.Advance(ctx, engine(2), hour(4)))
	is("all is current", engine(2), hour(4), "CVE-2 y CRITICAL", "CVE-1 x LOW")
	change := func(kind pratique.ChangeKind, id, pkg string, severity pratique.Severity, before, after string, at int) pratique.FindingChange {
		return pratique.FindingChange{Kind: kind, ID: id, Package: pkg, Installed: "1:1.0", Severity: severity, Before: before, After: after, At: hour(at)}
	}
	want := []pratique.FindingChange{
		change(pratique.ChangeSeverity, "CVE-1", "x", "LOW", "HIGH", "LOW", 3), change(pratique.ChangeAppeared, "CVE-2", "y", "CRITICAL", "", "", 3),
	}
	same(t, "changes", read().Changes, want)

	_, err := s.PutReport(ctx, pratique.Report{Image: sum("a"), State: pratique.StateScanned, Engine: engine(1), ScannedAt: hour(5)})
	mustBe(t, err)
	is("a scan with an engine that was overtaken: what is known is newer", engine(2), hour(5), "CVE-2 y CRITICAL", "CVE-1 x LOW")
	mustBe(t, s.Begin(ctx, engine(1))) // rolled back
	put(t, s, engine(1), hour(6), matches{x.ID(): {cve("CVE-1", "HIGH")}, y.ID(): nil})
	mustBe(t, s.Advance(ctx, engine(1), hour(6)))
	is("rolled back", engine(1), hour(6), "CVE-1 x HIGH")
	want = append([]pratique.FindingChange{
		change(pratique.ChangeSeverity, "CVE-1", "x", "HIGH", "LOW", "HIGH", 6), change(pratique.ChangeGone, "CVE-2", "y", "CRITICAL", "", "", 6),
	}, want...)
	same(t, "changes after the rollback", read().Changes, want)
	same(t, "no clock was reset", read().Findings[0].FirstSeen, hour(1))
	r, err := s.PutReport(ctx, pratique.Report{Image: sum("a"), State: pratique.StateScanned, Engine: engine(2), ScannedAt: hour(7)})
	mustBe(t, err)
	same(t, "a report of the one before the rollback", r.Engine, engine(1))
	later := scanned(t, s, "b", engine(1), hour(8), nil, x)
	same(t, "an image that came later has its own clock", later.Findings[0].FirstSeen, hour(8))
	same(t, "and no changes", later.Changes, nil)
	ends := pratique.Report{Image: sum("b"), State: pratique.StateScanned, Engine: engine(1), ScannedAt: hour(9), EOLAt: hour(10)}
	r, err = s.PutReport(ctx, ends)
	mustBe(t, err)
	same(t, "before the end of support", r.EOL, false)
	mustBe(t, s.Advance(ctx, engine(1), hour(10)))
	r, err = s.Report(ctx, sum("b"))
	mustBe(t, err)
	same(t, "the end of support", r.EOL, true)
}

// fleetOccurrences: what PutImage brings comes into force with a report.
func fleetOccurrences[T Joined](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	x, y := component("x"), component("y")
	mustBe(t, s.Begin(ctx, engine(1)))
	stands := scanned(t, s, "a", engine(1), clock, matches{x.ID(): {cve("CVE-1", "HIGH")}}, x)
	mustBe(t, s.PutImage(ctx, sum("a"), []pratique.Component{y}, []pratique.Occurrence{occurrence(y, "")}))
	s = open()
	r, err := s.Report(ctx, sum("a"))
	mustBe(t, err)
	same(t, "the report stands while its next occurrences are not matched", r, stands)
	images, err := s.ImagesWith(ctx, []pratique.ComponentID{x.ID()})
	mustBe(t, err)
	same(t, "and its image is found by what it stands on", images, []digest.Digest{sum("a")})
	_, err = s.PutReport(ctx, pratique.Report{Image: sum("a"), State: pratique.StateScanned, Engine: engine(1), ScannedAt: clock})
	if !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("a report on a component that was not matched: %v", err)
	}
	put(t, s, engine(1), clock.Add(time.Hour), matches{y.ID(): {cve("CVE-2", "LOW")}})
	r, err = s.PutReport(ctx, pratique.Report{Image: sum("a"), State: pratique.StateScanned, Engine: engine(1), ScannedAt: clock.Add(time.Hour)})
	mustBe(t, err)
	if len(r.Findings) != 1 || r.Findings[0].ID != "CVE-2" || !r.Findings[0].FirstSeen.Equal(clock.Add(time.Hour)) || len(r.Changes) > 0 {
		t.Errorf("the next report: %+v", r)
	}
	images, err = s.ImagesWith(ctx, []pratique.ComponentID{x.ID()})
	mustBe(t, err)
	same(t, "what it stood on is no part of it", images, nil)
}

func fleetInvalid[T Joined](t *testing.T, s T) {
	ctx, x, y := t.Context(), component("x"), component("y")
	named := pratique.Finding{ID: "CVE-1", Kind: pratique.KindVulnerability, Component: x.ID(), Package: "x"}
	report := pratique.Report{Image: sum("a"), State: pratique.StateScanned, Engine: engine(1), ScannedAt: clock, Findings: []pratique.Finding{named}}
	refused := func(what string) {
		t.Helper()
		if _, err := s.PutReport(ctx, report); !errors.Is(err, pratique.ErrInvalid) {
			t.Errorf("%s: error %v, want one wrapping pratique.ErrInvalid", what, err)
		}
		_, err := s.Report(ctx, sum("a"))
		wantNotFound(t, what, err)
	}
	refused("a finding of a component, and no occurrences are known")
	mustBe(t, s.PutImage(ctx, sum("a"), []pratique.Component{y}, []pratique.Occurrence{occurrence(y, "")}))
	put(t, s, engine(1), clock, matches{y.ID(): nil})
	refused("a finding of a component of no image")
	mustBe(t, s.PutImage(ctx, sum("b"), []pratique.Component{x}, []pratique.Occurrence{occurrence(x, "")}))
	put(t, s, engine(1), clock, matches{x.ID(): {cve("CVE-1", "HIGH")}})
	refused("a finding of another image's component")
	report.Findings[0].Component = y.ID()
	r, err := s.PutReport(ctx, report)
	mustBe(t, err)
	same(t, "findings of a component are what PutMatches said", len(r.Findings), 0)
	report.State = pratique.StateFailed
	if _, err := s.PutReport(ctx, report); !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("a failed report with a component's finding: %v", err)
	}
	if _, err := s.PutMatches(ctx, pratique.Engine{}, clock, matches{y.ID(): nil}); !errors.Is(err, pratique.ErrNoDatabase) {
		t.Errorf("matches of no database: %v", err)
	}
}

// fleetStamps: whoever remembers a report notices every update that concerns it.
func fleetStamps[T Joined](t *testing.T, s T) {
	stamper, ok := any(s).(store.Stamper)
	if !ok {
		return // has no memory to be told of
	}
	ctx, x, y := t.Context(), component("x"), component("y")
	mustBe(t, s.Begin(ctx, engine(1)))
	scanned(t, s, "a", engine(1), clock, matches{x.ID(): nil}, x)
	scanned(t, s, "b", engine(1), clock, matches{y.ID(): nil}, y)
	moves := func(what string, want bool, do func()) {
		t.Helper()
		before := stamper.Stamp(sum("a"))
		do()
		if moved := stamper.Stamp(sum("a")) != before; moved != want {
			t.Errorf("%s: the stamp moved: %v, want %v", what, moved, want)
		}
	}
	moves("its component", true, func() { put(t, s, engine(1), clock, matches{x.ID(): {cve("CVE-1", "LOW")}}) })
	moves("the same again", false, func() { put(t, s, engine(1), clock, matches{x.ID(): {cve("CVE-1", "LOW")}}) })
	moves("Advance", true, func() { mustBe(t, s.Advance(ctx, engine(1), clock)) })
	ended, cancel := context.WithCancel(ctx)
	cancel()
	moves("Advance that fails", true, func() { _ = s.Advance(ended, engine(1), clock) })
}
