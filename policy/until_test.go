package policy

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pratique"
)

// parts are what a verdict says without its texts.
func parts(v pratique.Verdict) []string {
	out := []string{v.Outcome.String()}
	for _, r := range v.Reasons {
		out = append(out, r.Action.String()+" "+r.Policy+"/"+r.Rule)
	}
	return out
}

// TestUntil holds what Verdict.Until promises, for any policies and any facts:
// until then time alone changes nothing, not even the id; and a zero one is for
// ever.
func TestUntil(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 11))
	rounds, moved, changed := 600, 0, 0
	for i := range rounds {
		text, other := anyPolicy(rnd, "first"), anyPolicy(rnd, "second")
		set, f := load(t, text, other), anyFacts(rnd)
		v := set.Decide(f)
		end := v.Until
		if end.IsZero() {
			end = f.Now.AddDate(10, 0, 0)
		} else if !end.After(f.Now) {
			t.Fatalf("%d: until %s is not after %s", i, end, f.Now)
		}
		span := end.Sub(f.Now)
		for _, at := range []time.Duration{0, span / 2, time.Duration(rnd.Int64N(int64(span))), span - 1} {
			later := f
			later.Now = f.Now.Add(at)
			w := set.Decide(later)
			if !slices.Equal(parts(w), parts(v)) || w.ID != v.ID || w.Until.Before(v.Until) && !w.Until.IsZero() {
				t.Fatalf("%d: %s after now, before %s, from\n%v %s %v to\n%v %s %v\n%s%s%+v", i, at, v.Until, parts(v), v.ID, v.Until, parts(w), w.ID, w.Until, text, other, f)
			}
		}
		if !v.Until.IsZero() {
			moved++
			later := f
			later.Now = v.Until
			if w := set.Decide(later); w.ID != v.ID || !slices.Equal(parts(w), parts(v)) {
				changed++
			}
		}
	}
	t.Logf("%d verdicts end, at %d ends something changes", moved, changed)
	if moved < rounds/10 || changed < moved/4 {
		t.Errorf("of %d verdicts %d end, and at %d ends something changes: the test asks for nothing, or Until is far too early", rounds, moved, changed)
	}
}
