package scanner_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/scanner"
)

// errWrite is what a failing write returns.
var errWrite = errors.New("injected failure of a write")

// failingState fails one write, done or not done.
type failingState struct {
	*sqlite.DB
	mu        sync.Mutex
	at        int // which write fails, from 1; 0: none
	persisted bool
	writes    []string
	kept      []digest.Digest // whose inventories were stored
}

func (s *failingState) write(name string, do func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, name)
	switch {
	case len(s.writes) != s.at:
		return do()
	case s.persisted:
		return errors.Join(do(), errWrite)
	}
	return errWrite
}

func (s *failingState) PutInventory(ctx context.Context, d digest.Digest, analyzer string, inv pratique.Inventory) error {
	return s.write("inventory", func() error {
		err := s.DB.PutInventory(ctx, d, analyzer, inv)
		if err == nil {
			s.kept = append(s.kept, d)
		}
		return err
	})
}

func (s *failingState) PutImage(ctx context.Context, image digest.Digest, cs []pratique.Component, os []pratique.Occurrence) error {
	return s.write("components", func() error { return s.DB.PutImage(ctx, image, cs, os) })
}

func (s *failingState) Begin(ctx context.Context, e pratique.Engine) error {
	return s.write("engine", func() error { return s.DB.Begin(ctx, e) })
}

func (s *failingState) PutMatches(ctx context.Context, e pratique.Engine, at time.Time, ms map[pratique.ComponentID][]pratique.Vulnerability) (changed []pratique.ComponentID, err error) {
	err = s.write("matches", func() (err error) { changed, err = s.DB.PutMatches(ctx, e, at, ms); return err })
	return changed, err
}

func (s *failingState) PutReport(ctx context.Context, r pratique.Report) (out pratique.Report, err error) {
	err = s.write("report", func() (err error) { out, err = s.DB.PutReport(ctx, r); return err })
	if err != nil {
		return pratique.Report{}, err
	}
	return out, nil
}

// TestWriteFailureMatrix: every write of a scan fails, done or not done. The scan
// says so and leaves no report, or the right one; the next scan ends where an
// undisturbed one does, and analyses nothing whose inventory was kept.
func TestWriteFailureMatrix(t *testing.T) {
	lay := func(t *testing.T, fail *failingState) (*lab, *scanner.Scanner, pratique.Ref) {
		l := newLab(t, scanner.Config{})
		l.matcher.vulns["bash"] = []pratique.Vulnerability{{ID: "CVE-1", Severity: pratique.SeverityCritical, Fixed: "2"}}
		ref := l.image("app", nil, "os debian 12\npkg bash 1\n", "pkg curl 7\nsecret key /etc/key\n")
		fail.DB = l.db
		s := scanner.New(l.layers, l.analyzer, l.matcher, fail, scanner.Config{
			Parallel: 1, // the writes come in one order
			Now:      func() time.Time { return now }, Log: slog.New(slog.DiscardHandler),
			OnAnalysis: func(d digest.Digest) { l.analysed[d]++ },
		})
		return l, s, ref
	}
	var control failingState
	_, s, ref := lay(t, &control)
	want, err := s.Scan(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if len(want.Findings) < 2 || len(control.writes) < 5 {
		t.Fatalf("%d findings after the writes %v: nothing is shown", len(want.Findings), control.writes)
	}
	for i, name := range control.writes {
		for _, persisted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d %s, persisted %v", i+1, name, persisted), func(t *testing.T) {
				fail := failingState{at: i + 1, persisted: persisted}
				l, s, ref := lay(t, &fail)
				if r, err := s.Scan(t.Context(), ref); !errors.Is(err, errWrite) {
					t.Fatalf("Scan = %s, %v, want the failure", r.State, err)
				}
				standing, err := l.db.Report(t.Context(), ref.Digest)
				if complete := name == "report" && persisted; complete != (err == nil) {
					t.Errorf("a report stands: %v (%v), want %v", err == nil, err, complete)
				} else if complete {
					if d := cmp.Diff(want, standing); d != "" {
						t.Errorf("the standing report (-want +got):\n%s", d)
					}
				}
				kept := map[digest.Digest]int{}
				for _, d := range fail.kept {
					kept[d] = l.analysed[d]
				}
				got, err := s.Scan(t.Context(), ref)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("the next scan (-want +got):\n%s", d)
				}
				for d, n := range kept {
					if l.analysed[d] != n {
						t.Errorf("%s was analysed again, though its inventory was kept", d)
					}
				}
				if (name != "inventory" || persisted) && len(kept) == 0 {
					t.Error("no inventory was kept: nothing is shown")
				}
			})
		}
	}
}
