package lineage

import (
	"context"
	"time"

	"pratique"
)

// Passes returns what Run does at each turn.
func (l *Lineage) Passes() func(ctx context.Context, every bool) {
	return (&rounds{Lineage: l, waiting: make(map[pratique.Ref]time.Time)}).pass
}

// Watched are the numbers of tags and images that are watched.
func (l *Lineage) Watched() (tags, builds int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.tags.items), len(l.builds.items)
}
