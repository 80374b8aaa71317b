package scanner_test

import (
	"context"
	"errors"
	"iter"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scanner"
	"pratique/scheduler"
	"pratique/store"
)

var _ scheduler.Matching = (*scanner.Scanner)(nil)

func all(t *testing.T, cs iter.Seq2[pratique.Component, error]) []pratique.Component {
	t.Helper()
	var out []pratique.Component
	for c, err := range cs {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

// TestMatch: components are matched without an image, and reports that hold them say
// so; what a database said that was swapped meanwhile is not kept.
func TestMatch(t *testing.T) {
	l := newLab(t, scanner.Config{})
	ref := l.image("app", nil, base, top)
	l.scan(ref)
	cs := all(t, l.db.AllComponents(t.Context()))
	if changed, _, err := l.scanner.Match(t.Context(), cs); err != nil || len(changed) > 0 {
		t.Errorf("the same: %v, %v", changed, err)
	}

	l.matcher.adopt("db2", now)
	l.matcher.vulns["curl"] = cve("COMES")
	changed, e, err := l.scanner.Match(t.Context(), cs)
	if err != nil || len(changed) != 1 || e.Database != digest.FromString("db2") {
		t.Errorf("another database: %v, %v, %v", changed, e, err)
	}
	if err := l.db.Advance(t.Context(), e, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	r, err := l.db.Report(t.Context(), ref.Digest)
	if d := cmp.Diff([]string{"secret aws-key", "vulnerability COMES", "misconfiguration DS-0002"}, ids(r)); err != nil || d != "" || r.Engine.Database != e.Database {
		t.Errorf("%v, made with %s (-want +got):\n%s", err, r.Engine.Database, d)
	}
	l.matcher.matched = nil
	if again := l.scan(ref); again.Engine.Database != e.Database || len(l.matcher.matched) > 0 {
		t.Errorf("all is current, and %v matched", l.matcher.matched)
	}

	// Swapped by somebody who began the next one, while this one was asked.
	l.matcher.match = func(m *fakeMatcher) error {
		m.match = nil
		m.vulns["curl"] = cve("STALE")
		next := m.engine
		next.Database = digest.FromString("db3")
		return l.db.Begin(t.Context(), next)
	}
	if _, _, err := l.scanner.Match(t.Context(), cs); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("a database that was overtaken: %v", err)
	}
	if r, err = l.db.Report(t.Context(), ref.Digest); err != nil || ids(r)[1] != "vulnerability COMES" {
		t.Errorf("%v, %v: what it said was kept", ids(r), err)
	}
	// It is the one in use still: whoever asks again begins it again.
	if changed, _, err = l.scanner.Match(t.Context(), cs); err != nil || len(changed) != 1 {
		t.Errorf("asked again: %v, %v", changed, err)
	}
}

type clocked struct{ *fakeMatcher }

func (clocked) Clock(time.Time, time.Time) []string { return []string{"type ubuntu"} }

func (clocked) Match(context.Context, []pratique.Component) ([][]pratique.Vulnerability, pratique.Engine, error) {
	return nil, pratique.Engine{Version: "v"}, nil
}

func TestClock(t *testing.T) {
	l := newLab(t, scanner.Config{})
	s := scanner.New(l.layers, l.analyzer, clocked{l.matcher}, l.db, scanner.Config{})
	if d := cmp.Diff([]string{"type ubuntu"}, s.Clock(now, now)); d != "" {
		t.Error(d)
	}
	if keys := l.scanner.Clock(now, now); len(keys) > 0 {
		t.Errorf("a matcher without a clock: %v", keys)
	}
	if _, _, err := s.Match(t.Context(), []pratique.Component{{Name: "x"}}); err == nil {
		t.Error("fewer answers than components are an answer")
	}
}
