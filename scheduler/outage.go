package scheduler

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// outage tells in one line that the queue does not answer, and in one that it does
// again, however many workers and waiting pulls find out.
type outage struct {
	log   *slog.Logger
	mu    sync.Mutex
	since time.Time // zero: it answers
}

func (o *outage) began(ctx context.Context, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.since.IsZero() {
		return
	}
	o.since = time.Now()
	o.log.ErrorContext(ctx, "queue does not answer, scans wait", "error", err)
}

func (o *outage) over(ctx context.Context) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		return
	}
	o.log.InfoContext(ctx, "queue answers again", "after", time.Since(o.since).String())
	o.since = time.Time{}
}
