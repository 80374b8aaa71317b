package notify

import (
	"context"
	"time"
)

const (
	// stint is how long is worked between rests.
	stint = 2 * time.Millisecond
	// breath is a rest that only lets go of the processor: then what came from the
	// network meanwhile goes on.
	breath = 50 * time.Microsecond
)

// pace keeps looking from being all that a processor does.
type pace struct {
	begun time.Time
	rest  func(worked time.Duration) time.Duration
}

// hurry is for what somebody waits for. While clients wait for a verdict it works
// half of the time.
func (w *Watcher) hurry() *pace {
	return &pace{time.Now(), func(worked time.Duration) time.Duration {
		if w.src.Busy != nil && w.src.Busy() {
			return worked
		}
		return breath
	}}
}

// stroll is for what nobody waits for: it rests as long as it works.
func (w *Watcher) stroll() *pace {
	return &pace{time.Now(), func(worked time.Duration) time.Duration { return min(worked, time.Second) }}
}

// step comes after each piece of work.
func (p *pace) step(ctx context.Context) error {
	worked := time.Since(p.begun)
	if worked < stint {
		return nil
	}
	t := time.NewTimer(p.rest(worked))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	p.begun = time.Now()
	return nil
}
