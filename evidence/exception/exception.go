// Package exception owns the exceptions of this installation: those that people
// make through the API and those that stand in GitOps files.
//
// It says who may not have one (too long, about a guard, a pattern that is none),
// keeps the store and what decisions read the same, and turns edits of a file into
// creations and revocations. What an exception lifts is not its business: policy
// decides that, over the snapshot that Current returns.
package exception

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/policy"
	"pratique/store"
)

// sourceAPI is the Source of what Create makes; that of a file's begins with
// sourceFile.
const (
	sourceAPI  = "api"
	sourceFile = "file:"
)

// Config is what New may be told besides the store.
type Config struct {
	// Files hold exceptions as YAML. If empty, there are those of the API alone.
	Files []string
	// MaxDuration is the longest that an exception may last. If zero, no limit.
	MaxDuration time.Duration
	// OnChange is called after every change of what is in force, before the call
	// that made it returns. It must not call back. If nil, nobody is told.
	OnChange func()
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
	// Log receives what was created and revoked. If nil, it is dropped.
	Log *slog.Logger
	// Metrics registers pratique_exceptions_*. If nil, nothing is exported.
	Metrics prometheus.Registerer
}

// Exceptions are all that there are. Safe for concurrent use.
//
// Before the first Reload there are none, which is the safe side: nothing is
// lifted.
type Exceptions struct {
	store   store.Exceptions
	cfg     Config
	metrics *metrics

	current atomic.Pointer[policy.Exceptions]
	stamp   atomic.Uint64

	reading sync.Mutex // one Reload at a time; a file that hangs holds up no Create
	mu      sync.Mutex // orders writes: store first, then what follows

	applied map[string]string // digest of each file's content as it was last applied
	begun   bool              // files were applied once
	// list is what the store has, oldest first. Written under mu; what it points to
	// never changes.
	list atomic.Pointer[[]pratique.Exception]
}

// New returns exceptions kept in s; Reload reads them.
func New(s store.Exceptions, cfg Config) *Exceptions {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.OnChange == nil {
		cfg.OnChange = func() {}
	}
	e := &Exceptions{store: s, cfg: cfg, applied: make(map[string]string)}
	e.metrics = newMetrics(cfg.Metrics, e.active)
	return e
}

// Current is what decisions read. Never nil after the first Reload; nil before is
// none, as package policy has it.
func (e *Exceptions) Current() *policy.Exceptions { return e.current.Load() }

// Stamp moves around every change of Current: once before, so that nobody who
// knows of the change is answered by what was remembered before it, and once
// after, so that what was remembered in between is not believed either.
func (e *Exceptions) Stamp() uint64 { return e.stamp.Load() }

// List returns all that there ever were, the oldest first, as the store has them.
func (e *Exceptions) List(ctx context.Context) ([]pratique.Exception, error) {
	return e.store.Exceptions(ctx)
}

// Create makes an exception of what somebody asks for: it gets an id, begins now
// and is in force when Create returns. The error wraps pratique.ErrInvalid for
// what will never be accepted.
func (e *Exceptions) Create(ctx context.Context, ask pratique.Exception) (pratique.Exception, error) {
	ask = tidy(ask)
	ask.Source = sourceAPI
	ask.Revoked, ask.RevokedBy, ask.RevokedWhy = time.Time{}, "", ""

	e.mu.Lock()
	defer e.mu.Unlock()
	ask.Created, ask.ID = e.now(), newID()
	if err := check(ask, e.cfg.MaxDuration, time.Time{}); err != nil {
		return pratique.Exception{}, err
	}
	err := e.store.CreateException(ctx, ask)
	for range 10 { // another one drew the same 32 bits
		if !errors.Is(err, store.ErrExists) {
			break
		}
		ask.ID = newID()
		err = e.store.CreateException(ctx, ask)
	}
	if err != nil {
		return pratique.Exception{}, fmt.Errorf("exception: %w", err)
	}
	// Durable from here: after a crash the Reload at start finds it.
	e.created(ctx, ask)
	e.replace(append(slices.Clone(e.all()), ask))
	return ask, nil
}

// Revoke ends an exception before it expires. One that was revoked before stays
// as it is and is returned. The error wraps pratique.ErrNotFound when there is
// none with this id.
func (e *Exceptions) Revoke(ctx context.Context, id, by, why string) (pratique.Exception, error) {
	by, why = strings.TrimSpace(by), strings.TrimSpace(why)
	if err := errors.Join(checkText("who revokes it", by), checkText("why it is revoked", why)); err != nil {
		return pratique.Exception{}, err
	}
	if strings.HasPrefix(by, sourceFile) {
		// What a file revoked the file may bring back; what a person did it may not.
		return pratique.Exception{}, invalid("nobody is called %q", by)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	x, err := e.store.RevokeException(ctx, id, by, why, e.now())
	if err != nil {
		return pratique.Exception{}, fmt.Errorf("exception %s: %w", clip(id), err)
	}
	if x.RevokedBy == by && x.RevokedWhy == why {
		e.revoked(ctx, x)
	}
	e.replace(with(e.all(), x))
	return x, nil
}

// Reload reads the store and the files again. What is new in a file is created,
// what left it is revoked, what was changed in it is both. A file that is missing
// or holds a mistake is an error, wrapping pratique.ErrInvalid when it is a
// mistake, and then no file changes anything; what the store holds is in force all
// the same. A file is acted on once for each content: who revokes one of its
// exceptions by hand is not overruled by reading it again.
func (e *Exceptions) Reload(ctx context.Context) error {
	e.reading.Lock()
	defer e.reading.Unlock()
	files, broken := readFiles(e.cfg.Files)

	e.mu.Lock()
	defer e.mu.Unlock()
	all, err := e.store.Exceptions(ctx)
	if err != nil {
		e.metrics.failures.Inc()
		return errors.Join(fmt.Errorf("exceptions: %w", err), broken)
	}
	if err = broken; err == nil {
		all, err = e.follow(ctx, all, files)
	}
	if err != nil {
		e.metrics.failures.Inc()
	}
	slices.SortFunc(all, byAge)
	if e.current.Load() == nil || !slices.EqualFunc(all, e.all(), same) {
		e.replace(all)
	}
	return err
}

// replace puts all, which becomes its own, in force. Callers hold mu.
func (e *Exceptions) replace(all []pratique.Exception) {
	slices.SortFunc(all, byAge)
	compiled, err := policy.NewExceptions(relevant(all, e.cfg.Now()))
	if err != nil { // written by another version of Pratique; the others hold
		e.cfg.Log.Error("some exceptions cannot be read and lift nothing", "error", err)
	}
	e.stamp.Add(1)
	e.current.Store(compiled)
	e.stamp.Add(1)
	e.list.Store(&all)
	e.cfg.OnChange()
}

// remembered is how long an exception that is over is shown to decisions, for those
// that are made about the past (policy simulate). The history of pulls is as long.
const remembered = 100 * 24 * time.Hour

// relevant leaves out what lifts nothing at any time that a decision is made about:
// a history of years would cost every decision.
func relevant(all []pratique.Exception, now time.Time) []pratique.Exception {
	return slices.DeleteFunc(slices.Clone(all), func(x pratique.Exception) bool {
		return !x.Revoked.IsZero() || x.Expires.Before(now.Add(-remembered))
	})
}

// all is what the store had when it was last read or written. Not to be changed.
func (e *Exceptions) all() []pratique.Exception {
	if all := e.list.Load(); all != nil {
		return *all
	}
	return nil
}

func (e *Exceptions) created(ctx context.Context, x pratique.Exception) {
	e.metrics.created.Inc()
	e.cfg.Log.InfoContext(ctx, "exception created", "id", x.ID, "finding", x.Finding, "rule", x.Rule, "package", x.Package,
		"repository", x.Repository, "digest", x.Digest, "expires", x.Expires, "author", x.Author, "ticket", x.Ticket,
		"reason", x.Reason, "source", x.Source)
}

func (e *Exceptions) revoked(ctx context.Context, x pratique.Exception) {
	e.metrics.revoked.Inc()
	e.cfg.Log.InfoContext(ctx, "exception revoked", "id", x.ID, "by", x.RevokedBy, "reason", x.RevokedWhy)
}

// active counts those in force now, for the metric.
func (e *Exceptions) active() float64 {
	n, now := 0, e.cfg.Now()
	for _, x := range e.all() {
		if x.Active(now) {
			n++
		}
	}
	return float64(n)
}

// now is the clock in whole seconds: finer is of no use to anybody, and what is
// read back from a store is then what was written.
func (e *Exceptions) now() time.Time { return e.cfg.Now().UTC().Truncate(time.Second) }

// newID draws an id. Those of files are made from their content: see fileID.
func newID() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return "ex-" + hex.EncodeToString(b[:])
}

// with is all with x in the place of the one that has its id.
func with(all []pratique.Exception, x pratique.Exception) []pratique.Exception {
	all = slices.Clone(all)
	for i := range all {
		if all[i].ID == x.ID {
			all[i] = x
			return all
		}
	}
	return append(all, x) // made by another process since the last Reload
}

// same reports whether two lists have the same in one place: exceptions change
// by being revoked alone.
func same(a, b pratique.Exception) bool {
	return a.ID == b.ID && a.Revoked.Equal(b.Revoked)
}

// byAge orders those of one second too, so that lists can be compared.
func byAge(a, b pratique.Exception) int {
	return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
}

// clip bounds what is echoed of an id that nobody made.
func clip(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return fmt.Sprintf("%q", s)
}
