package store

import (
	"time"

	"pratique"
)

// CarryFirstSeen returns next's findings with FirstSeen as PutReport must store
// it: from prev where prev has the finding (same Kind, ID, Package and Path),
// else when next was scanned. A FirstSeen that next brings itself is not
// believed. next is left alone. It is here so that every implementation of
// Reports carries alike.
func CarryFirstSeen(prev, next pratique.Report) []pratique.Finding {
	type key struct {
		kind          pratique.Kind
		id, pkg, path string
	}
	seen := make(map[key]time.Time, len(prev.Findings))
	for _, f := range prev.Findings {
		k := key{f.Kind, f.ID, f.Package, f.Path}
		if t, ok := seen[k]; !ok || f.FirstSeen.Before(t) {
			seen[k] = f.FirstSeen
		}
	}
	out := make([]pratique.Finding, len(next.Findings))
	for i, f := range next.Findings {
		f.FirstSeen = next.ScannedAt
		if t, ok := seen[key{f.Kind, f.ID, f.Package, f.Path}]; ok && !t.IsZero() {
			f.FirstSeen = t
		}
		out[i] = f
	}
	return out
}
