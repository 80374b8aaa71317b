package scanner_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/scanner"
)

func ids(r pratique.Report) []string {
	var out []string
	for _, f := range r.Findings {
		out = append(out, string(f.Kind)+" "+f.ID)
	}
	return out
}

func cve(id string) []pratique.Vulnerability {
	return []pratique.Vulnerability{{ID: id, Severity: pratique.SeverityHigh}}
}

// TestSwapWhileMatching: no report is ever made of two databases.
func TestSwapWhileMatching(t *testing.T) {
	l := newLab(t, scanner.Config{})
	l.matcher.vulns["libc6"] = cve("OLD")
	l.scan(l.image("first", nil, base)) // libc6 and zlib1g are matched against db1
	l.matcher.match = func(m *fakeMatcher) error {
		m.match = nil
		m.adopt("db2", now)
		m.vulns["libc6"], m.vulns["curl"] = cve("NEW-LIBC"), cve("NEW-CURL")
		return nil
	}
	r := l.scan(l.image("second", nil, base, top)) // only curl is not matched yet
	want := []string{"secret aws-key", "misconfiguration DS-0002", "vulnerability NEW-CURL", "vulnerability NEW-LIBC"}
	if d := cmp.Diff(want, ids(r)); d != "" {
		t.Errorf("findings (-want +got):\n%s", d)
	}
	if r.Engine.Database != digest.FromString("db2") {
		t.Errorf("database %s", r.Engine.Database)
	}

	n := 0
	l.matcher.match = func(m *fakeMatcher) error {
		n++
		m.adopt(fmt.Sprint("db", 10+n), now.Add(time.Duration(n)*time.Minute))
		return nil
	}
	if _, err := l.scanner.Scan(t.Context(), l.image("third", nil, base, top+"pkg more 1\n")); err == nil {
		t.Error("a report made of ever changing databases")
	}
}

// TestUpgradeMatchesAgain: comparers are compiled in, so another version of the
// matcher with the same database matches anew.
func TestUpgradeMatchesAgain(t *testing.T) {
	l := newLab(t, scanner.Config{})
	ref := l.image("app", nil, base)
	l.scan(ref)
	l.matcher.matched = nil
	l.matcher.engine.Version = "v0.75.0"
	l.matcher.vulns["libc6"] = cve("CVE-1")
	r, err := l.scanner.Rematch(t.Context(), ref.Digest)
	if err != nil || len(l.matcher.matched) != 2 || r.Engine.Version != "v0.75.0" {
		t.Errorf("matched %v, %v, engine %+v", l.matcher.matched, err, r.Engine)
	}
}

func TestRematch(t *testing.T) {
	l := newLab(t, scanner.Config{})
	l.matcher.vulns["libc6"], l.matcher.vulns["zlib1g"] = cve("STAYS"), cve("GOES")
	ref := l.image("app", nil, base, top)
	before := l.scan(ref)
	l.layers.forget()
	l.matcher.matched = nil
	l.clock = now.Add(time.Hour)

	same, err := l.scanner.Rematch(t.Context(), ref.Digest)
	if err != nil || cmp.Diff(before, same) != "" || len(l.matcher.matched) > 0 {
		t.Errorf("same database: matched %v, %v\n%s", l.matcher.matched, err, cmp.Diff(before, same))
	}

	l.matcher.adopt("db2", now)
	l.matcher.vulns = map[string][]pratique.Vulnerability{"libc6": cve("STAYS"), "curl": cve("COMES")}
	after, err := l.scanner.Rematch(t.Context(), ref.Digest)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"secret aws-key", "vulnerability COMES", "misconfiguration DS-0002", "vulnerability STAYS"}
	if d := cmp.Diff(want, ids(after)); d != "" {
		t.Errorf("findings (-want +got):\n%s", d)
	}
	for _, f := range after.Findings {
		seen := now
		if f.ID == "COMES" {
			seen = l.clock
		}
		if !f.FirstSeen.Equal(seen) {
			t.Errorf("%s first seen %v, want %v", f.ID, f.FirstSeen, seen)
		}
	}
	if len(l.layers.opened) > 0 {
		t.Errorf("content read: %v", l.layers.opened)
	}
	if after.Engine.Analyzer != key || after.Engine.Database != digest.FromString("db2") || !after.ScannedAt.Equal(l.clock) {
		t.Errorf("engine %+v at %v", after.Engine, after.ScannedAt)
	}
	// A scan from the bytes says the same.
	if scanned := l.scan(ref); cmp.Diff(after, scanned) != "" {
		t.Errorf("Rematch and Scan differ:\n%s", cmp.Diff(scanned, after))
	}

	l.matcher.adopt("db1", now.Add(-time.Hour)) // rolled back
	l.matcher.vulns = map[string][]pratique.Vulnerability{"libc6": cve("STAYS"), "zlib1g": cve("GOES")}
	old, err := l.scanner.Rematch(t.Context(), ref.Digest)
	if err != nil || old.Engine.Database != digest.FromString("db1") {
		t.Errorf("an older database: %v, %v", old.Engine, err)
	}
	want = []string{"secret aws-key", "misconfiguration DS-0002", "vulnerability GOES", "vulnerability STAYS"}
	if d := cmp.Diff(want, ids(old)); d != "" {
		t.Errorf("findings after the rollback (-want +got):\n%s", d)
	}
	for _, f := range old.Findings {
		if !f.FirstSeen.Equal(now) {
			t.Errorf("%s first seen %v, want %v: a rollback resets no clock", f.ID, f.FirstSeen, now)
		}
	}
}

func TestRematchStands(t *testing.T) {
	l := newLab(t, scanner.Config{})
	failed := l.image("failed", nil, "fatal x\n")
	incomplete := l.image("incomplete", nil, base+"problem x\n")
	l.scan(failed)
	l.scan(incomplete)
	l.matcher.adopt("db2", now)
	r, err := l.scanner.Rematch(t.Context(), failed.Digest)
	if err != nil || r.State != pratique.StateFailed {
		t.Errorf("failed: %s, %v", r.State, err)
	}
	r, err = l.scanner.Rematch(t.Context(), incomplete.Digest)
	if err != nil || r.State != pratique.StateIncomplete || len(r.Problems) != 1 || r.Engine.Database != digest.FromString("db2") {
		t.Errorf("incomplete must stay so, with the new database: %+v, %v", r, err)
	}
	if _, err := l.scanner.Rematch(t.Context(), digest.FromString("unknown")); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	l.matcher.noDB = true
	if _, err := l.scanner.Rematch(t.Context(), incomplete.Digest); !errors.Is(err, pratique.ErrNoDatabase) {
		t.Errorf("no database: %v", err)
	}
	l.matcher.noDB = false
	l.matcher.adopt("db3", now.Add(time.Hour))
	l.matcher.match = func(*fakeMatcher) error { return errHook }
	if _, err := l.scanner.Rematch(t.Context(), incomplete.Digest); !errors.Is(err, errHook) {
		t.Errorf("failing matcher: %v", err)
	}
	if r, err := l.db.Report(t.Context(), incomplete.Digest); err != nil || r.Engine.Database != digest.FromString("db2") {
		t.Errorf("the last report does not stand: %v, %v", r.Engine, err)
	}
}

// TestRematchBesideScan: whoever comes last, facts of the newest database and
// of the content stand.
func TestRematchBesideScan(t *testing.T) {
	l := newLab(t, scanner.Config{})
	var refs []pratique.Ref
	for i := range 6 {
		refs = append(refs, l.image(fmt.Sprint("app", i), nil, base, top))
		l.scan(refs[i])
	}
	l.matcher.mu.Lock()
	l.matcher.adopt("db2", now)
	l.matcher.vulns["curl"] = cve("NEW")
	l.matcher.mu.Unlock()
	var wg sync.WaitGroup
	for _, ref := range refs {
		for range 2 {
			wg.Go(func() {
				if _, err := l.scanner.Scan(t.Context(), ref); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := l.scanner.Rematch(t.Context(), ref.Digest); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	for _, ref := range refs {
		r, err := l.db.Report(t.Context(), ref.Digest)
		if d := cmp.Diff([]string{"secret aws-key", "misconfiguration DS-0002", "vulnerability NEW"}, ids(r)); err != nil || d != "" {
			t.Errorf("%s: %v (-want +got):\n%s", ref, err, d)
		}
	}
}
