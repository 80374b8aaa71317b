package exception_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pratique"
	"pratique/evidence/exception"
	"pratique/internal/sqlite"
	"pratique/store"
)

// start is when these tests begin.
var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// clock is a clock that the test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// database opens a real store in a directory of the test.
func database(t *testing.T) *sqlite.DB {
	t.Helper()
	return reopen(t, filepath.Join(t.TempDir(), "state.db"))
}

func reopen(t *testing.T, path string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// memory is a store for tests that have no need of a real one.
type memory struct {
	mu  sync.Mutex
	all []pratique.Exception
}

func (m *memory) CreateException(_ context.Context, e pratique.Exception) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.ContainsFunc(m.all, func(x pratique.Exception) bool { return x.ID == e.ID }) {
		return store.ErrExists
	}
	m.all = append(m.all, e)
	return nil
}

func (m *memory) RevokeException(_ context.Context, id, by, why string, at time.Time) (pratique.Exception, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.all {
		if m.all[i].ID != id {
			continue
		}
		if m.all[i].Revoked.IsZero() {
			m.all[i].Revoked, m.all[i].RevokedBy, m.all[i].RevokedWhy = at, by, why
		}
		return m.all[i], nil
	}
	return pratique.Exception{}, pratique.ErrNotFound
}

func (m *memory) Exceptions(context.Context) ([]pratique.Exception, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.all), nil
}

var errDisk = errors.New("disk is gone")

// failing is a store of which the write number n fails, after it was done when
// persisted is set. 0 never fails.
type failing struct {
	kept      store.Exceptions
	mu        sync.Mutex
	n         int
	persisted bool
	writes    int
}

func (f *failing) write(do func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	if f.writes != f.n {
		return do()
	}
	if f.persisted {
		if err := do(); err != nil {
			return err
		}
	}
	return errDisk
}

func (f *failing) CreateException(ctx context.Context, e pratique.Exception) error {
	return f.write(func() error { return f.kept.CreateException(ctx, e) })
}

func (f *failing) RevokeException(ctx context.Context, id, by, why string, at time.Time) (x pratique.Exception, err error) {
	err = f.write(func() (err error) { x, err = f.kept.RevokeException(ctx, id, by, why, at); return err })
	return x, err
}

func (f *failing) Exceptions(ctx context.Context) ([]pratique.Exception, error) {
	return f.kept.Exceptions(ctx)
}

// fixture is exceptions over a store and files in a directory.
type fixture struct {
	*exception.Exceptions
	t     *testing.T
	clock *clock
	dir   string
	cfg   exception.Config
	store store.Exceptions
	// changes counts calls of OnChange.
	changes int
}

func setup(t *testing.T, s store.Exceptions, files ...string) *fixture {
	t.Helper()
	f := &fixture{t: t, clock: &clock{now: start}, dir: t.TempDir(), store: s}
	for _, name := range files {
		f.cfg.Files = append(f.cfg.Files, filepath.Join(f.dir, name))
	}
	f.cfg.MaxDuration = 90 * 24 * time.Hour
	f.cfg.Now = f.clock.Now
	f.cfg.OnChange = func() { f.changes++ }
	f.restart()
	return f
}

// restart is a new process on the same store and files.
func (f *fixture) restart() { f.Exceptions = exception.New(f.store, f.cfg) }

// reload reads everything and wants it to succeed.
func (f *fixture) reload() {
	f.t.Helper()
	if err := f.Reload(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

// lines tells all exceptions, one a line: what they lift, until when, and how they
// ended. Ids are left out.
func (f *fixture) lines() []string {
	f.t.Helper()
	all, err := f.List(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	out := []string{}
	for _, x := range all {
		s := fmt.Sprintf("%s%s %s%s until %s", x.Finding, x.Rule, x.Repository, x.Digest, x.Expires.Format(time.DateOnly))
		if !x.Revoked.IsZero() {
			s += ", revoked by " + strings.ReplaceAll(x.RevokedBy, f.dir+"/", "") + ": " + x.RevokedWhy
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// ids are those of all exceptions that are not revoked.
func (f *fixture) ids() []string {
	f.t.Helper()
	all, err := f.List(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	var out []string
	for _, x := range all {
		if x.Revoked.IsZero() {
			out = append(out, x.ID)
		}
	}
	slices.Sort(out)
	return out
}
