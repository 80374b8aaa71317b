package proxy

import (
	"context"
	"net/http"
	"sync/atomic"
)

// Closed is a Registry that answers everything with 503 and Retry-After: what a
// process that is stopping says to new requests.
func Closed() Registry { return closed{} }

type closed struct{}

func (closed) Manifest(context.Context, Request) (Manifest, error) { return Manifest{}, closing() }
func (closed) Blob(context.Context, Request) (Blob, error)         { return Blob{}, closing() }
func (closed) Tags(context.Context, Request) (TagList, error)      { return TagList{}, closing() }
func (closed) Referrers(context.Context, Request) (Referrers, error) {
	return Referrers{}, closing()
}

// Drain passes requests to open and counts those that run, until it is told to
// drain: then new ones go to closed. It does not wrap the ResponseWriter (see
// server.ServeHTTP).
type Drain struct {
	open, closed http.Handler

	running  atomic.Int64
	draining atomic.Bool
	ended    chan struct{} // holds one value when the last one may have ended
}

// NewDrain serves open, and closed when it drains.
func NewDrain(open, closed http.Handler) *Drain {
	return &Drain{open: open, closed: closed, ended: make(chan struct{}, 1)}
}

// ServeHTTP implements http.Handler.
func (d *Drain) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Counted before the look, so that Wait sees whoever got past it.
	d.running.Add(1)
	defer d.done()
	if d.draining.Load() {
		d.closed.ServeHTTP(w, r)
		return
	}
	d.open.ServeHTTP(w, r)
}

func (d *Drain) done() {
	if d.running.Add(-1) > 0 || !d.draining.Load() {
		return
	}
	select {
	case d.ended <- struct{}{}:
	default:
	}
}

// Wait turns new requests away from now on and returns when those that run have
// ended, or with ctx's error and the number of those that have not.
func (d *Drain) Wait(ctx context.Context) (left int64, err error) {
	d.draining.Store(true)
	for {
		left := d.running.Load()
		if left == 0 {
			return 0, nil
		}
		select {
		case <-d.ended:
		case <-ctx.Done():
			return left, ctx.Err()
		}
	}
}
