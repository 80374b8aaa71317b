package store_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"pratique"
	"pratique/store"
)

// TestHistoryIsBounded: a vulnerability that never settles keeps so many phases, the
// last of which is true, and what follows from them is never later than it was.
func TestHistoryIsBounded(t *testing.T) {
	severities := []pratique.Severity{"UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL"}
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 6))
		at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		history := store.FirstHistory(nil, at)
		var whole []store.Phase
		for range 60 {
			at = at.Add(time.Hour)
			p := store.Phase{At: at, Severity: severities[random.IntN(5)], Gone: random.IntN(3) == 0}
			if random.IntN(3) == 0 {
				p.Fixed = "2"
			}
			var vs []pratique.Vulnerability
			if !p.Gone {
				vs = []pratique.Vulnerability{{ID: "CVE-1", Severity: p.Severity, Fixed: p.Fixed}}
			}
			history, _ = history.Next(vs, at)
			if len(whole) > 0 || !p.Gone {
				whole = append(whole, p)
			}
			if got := history.Vulnerabilities(); len(got) != len(vs) || len(vs) > 0 && got[0].Severity != p.Severity {
				t.Fatalf("seed %d: %v, want %v", seed, got, vs)
			}
			if len(history.Tracks) == 0 {
				continue
			}
			phases := history.Tracks[0].Phases
			if len(phases) > store.MaxPhases {
				t.Fatalf("seed %d: %d phases", seed, len(phases))
			}
			for since := at.Add(-62 * time.Hour); since.Before(at); since = since.Add(90 * time.Minute) {
				want, got := finding(store.Replay(nil, whole, since)), finding(store.Replay(nil, phases, since))
				if want == nil {
					continue
				}
				if got == nil {
					t.Fatalf("seed %d: since %s nothing is known", seed, since)
				}
				worst := want.Milestones[len(want.Milestones)-1]
				for rank := range worst.Severity.Rank() + 1 {
					if g, w := got.Since(rank, false), want.Since(rank, false); g.After(w) {
						t.Fatalf("seed %d, image since %s: rank %d since %s, was %s", seed, since, rank, g, w)
					}
				}
				if g, w := got.Since(0, true), want.Since(0, true); worst.Fixable && g.After(w) {
					t.Fatalf("seed %d, image since %s: fixable since %s, was %s", seed, since, g, w)
				}
			}
		}
	}
}

// finding is one with such a clock.
func finding(ms []pratique.Milestone) *pratique.Finding {
	if ms = store.Fold(ms); len(ms) == 0 {
		return nil
	}
	return &pratique.Finding{FirstSeen: ms[0].At, Milestones: ms}
}
