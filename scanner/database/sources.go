package database

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// SourceStatus is how asking one source went.
type SourceStatus struct {
	Source    string    `json:"source"`              // as configured; the path when there is one
	LastError string    `json:"lastError,omitempty"` // empty after a success, and before the first attempt
	FailingAt time.Time `json:"failingAt,omitzero"`  // since when it fails without a success in between
	NotBefore time.Time `json:"notBefore,omitzero"`  // it asked not to be asked before
}

type sourceState struct {
	lastError string
	failingAt time.Time
	notBefore time.Time
}

// sourceStatus needs d.mu.
func (d *Database) sourceStatus() []SourceStatus {
	sources := d.cfg.Sources
	if d.cfg.Path != "" {
		sources = []string{d.cfg.Path}
	}
	var out []SourceStatus
	for _, source := range sources {
		s := d.sources[source]
		out = append(out, SourceStatus{Source: source, LastError: s.lastError, FailingAt: s.failingAt, NotBefore: s.notBefore})
	}
	return out
}

// notBefore is when the source wants to be asked again at the earliest.
func (d *Database) notBefore(source string) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sources[source].notBefore
}

// noteSource keeps how asking a source went. An outage is in the log once, when
// it begins or turns into another, and once when it ends: it is met at every
// attempt.
func (d *Database) noteSource(ctx context.Context, source string, err error, notBefore time.Time) {
	if isTurnedAway(err) {
		err = nil // the source is well; the operator knows
	}
	now := d.cfg.Now().UTC()
	d.mu.Lock()
	before := d.sources[source]
	next := sourceState{}
	if !notBefore.IsZero() {
		next.notBefore = notBefore.UTC()
	}
	if err != nil {
		next.lastError, next.failingAt = err.Error(), before.failingAt
		if next.failingAt.IsZero() {
			next.failingAt = now
		}
	}
	d.sources[source] = next
	standing := d.current
	d.mu.Unlock()
	switch {
	case err != nil && next.lastError != before.lastError:
		attrs := []any{"source", source, "reason", failureReason(err), "error", err}
		if !next.notBefore.IsZero() {
			attrs = append(attrs, "notBefore", next.notBefore)
		}
		if standing != nil {
			attrs = append(attrs, "standing", standing.Digest, "age", now.Sub(standing.UpdatedAt).Round(time.Minute))
		}
		d.cfg.Log.WarnContext(ctx, "database is not renewed from this source", attrs...)
	case err == nil && before.lastError != "":
		d.cfg.Log.InfoContext(ctx, "source of the database answers again", "source", source, "failed", now.Sub(before.failingAt).Round(time.Second))
	}
}

// Reasons of failures, as in pratique_database_failures_total{reason}.
const (
	failedRefused      = "refused"      // it was there and was not adopted; see refusals_total
	failedLimited      = "limited"      // 429
	failedUnauthorized = "unauthorized" // 401, 403
	failedMissing      = "missing"      // 404, or it is no database
	failedTimeout      = "timeout"
	failedUnreachable  = "unreachable" // no connection, or a 5xx
	failedOther        = "other"       // the disk, for one
)

// failureReason files an error under a reason; of several, the first's.
func failureReason(err error) string {
	var (
		r *Refusal
		t *transport.Error
		n net.Error
	)
	switch {
	case errors.As(err, &r):
		return failedRefused
	case errors.Is(err, errOtherArtifact):
		return failedMissing
	case errors.As(err, &t):
		switch {
		case t.StatusCode == http.StatusTooManyRequests:
			return failedLimited
		case t.StatusCode == http.StatusUnauthorized, t.StatusCode == http.StatusForbidden:
			return failedUnauthorized
		case t.StatusCode == http.StatusNotFound:
			return failedMissing
		case t.StatusCode >= http.StatusInternalServerError:
			return failedUnreachable
		}
		return failedOther
	case errors.Is(err, context.DeadlineExceeded):
		return failedTimeout
	case errors.As(err, &n):
		if n.Timeout() {
			return failedTimeout
		}
		return failedUnreachable
	}
	return failedOther
}
