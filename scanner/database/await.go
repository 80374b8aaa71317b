package database

import (
	"context"
	"time"
)

// Await returns when this process uses the database that all replicas are to use, at
// once when it is alone, or with ctx's error.
func (d *Database) Await(ctx context.Context) error {
	for d.cfg.Shared != nil && !d.together.caught(d) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(d.cfg.Poll, 200*time.Millisecond)):
		}
	}
	return nil
}

func (t *together) caught(d *Database) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return t.wanted != nil && d.current != nil && d.current.Digest == t.wanted.Current.Digest
}
