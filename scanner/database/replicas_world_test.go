package database_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique/internal/redis"
	"pratique/internal/redis/redistest"
	"pratique/internal/sqlite"
	"pratique/scanner/database"
	"pratique/store"
	"pratique/store/storetest"
)

// fleet is what replicas share: a state, an object store, and a source.
type fleet struct {
	t     *testing.T
	open  func() shelf // the state, as one more replica sees it
	blobs *store.Blobs
	dir   string // of blobs
	src   *source

	counted int // blobs fetched, as of the last call of fetched
}

// shelf is what replicas agree in.
type shelf interface {
	store.Shelf
	store.Leases
}

func newFleet(t *testing.T, open func(t *testing.T) func() shelf) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: t.TempDir(), src: newSource(t)}
	var err error
	if f.blobs, err = store.OpenBlobs(t.Context(), store.BlobsConfig{Parameters: map[string]any{"rootdirectory": f.dir}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.blobs.Close() })
	f.open = open(t)
	return f
}

func overSQLite(t *testing.T) func() shelf {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return func() shelf { return db }
}

func overRedis(t *testing.T) func() shelf {
	t.Helper()
	server := redistest.Start(t)
	return func() shelf {
		db, err := redis.Open(t.Context(), redis.Config{URL: server.URL(), Documents: new(storetest.Documents), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
}

// errDead is what everything says to a replica that was killed.
var errDead = errors.New("this replica is dead")

// mortal is what a replica sees of what is shared, and its matcher. It dies at a step.
type mortal struct {
	state    shelf
	archives database.Archives
	kill     context.CancelFunc

	dead atomic.Bool
	mu   sync.Mutex
	die  string          // the step at which it dies; empty: it lives
	used []digest.Digest // adopted, in order
}

func (m *mortal) dieAt(step string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.die = step
}

// step fails when the replica is dead or dies now.
func (m *mortal) step(name string) error {
	m.mu.Lock()
	dies := m.die == name
	m.mu.Unlock()
	if dies {
		m.dead.Store(true)
		m.kill()
	}
	if m.dead.Load() {
		return errDead
	}
	return nil
}

func (m *mortal) Wanted(ctx context.Context) (database.Wanted, error) {
	var w database.Wanted
	if err := m.step("look"); err != nil {
		return w, err
	}
	found, err := m.state.WantedDatabase(ctx, store.VulnerabilityDatabase)
	if err == nil {
		err = json.Unmarshal(found.Doc, &w)
	}
	return w, err
}

func (m *mortal) Want(ctx context.Context, before int64, next database.Wanted) error {
	if err := m.step("before want"); err != nil {
		return err
	}
	doc, err := json.Marshal(next)
	if err != nil {
		return err
	}
	err = m.state.PutWantedDatabase(ctx, store.VulnerabilityDatabase, before, store.WantedDatabase{Database: next.Current.Digest, Version: next.Sequence, Doc: doc})
	if errors.Is(err, store.ErrSuperseded) {
		err = fmt.Errorf("%w: %w", database.ErrOvertaken, err)
	}
	return errors.Join(err, m.step("after want"))
}

func (m *mortal) Told() (<-chan struct{}, func()) { return m.state.Freed("wanted") }

func (m *mortal) Put(ctx context.Context, d digest.Digest, size int64, again bool, open func() (io.ReadCloser, error)) error {
	opened := false // else it is there
	err := m.archives.Put(ctx, d, size, again, func() (io.ReadCloser, error) {
		if err := m.step("before put"); err != nil {
			return nil, err
		}
		opened = true
		return open()
	})
	if opened {
		err = errors.Join(err, m.step("after put"))
	}
	return errors.Join(err, m.step("put"))
}

func (m *mortal) Open(ctx context.Context, d digest.Digest) (io.ReadCloser, int64, error) {
	if err := m.step("open"); err != nil {
		return nil, 0, err
	}
	return m.archives.Open(ctx, d)
}

func (m *mortal) Keep(ctx context.Context, before time.Time, ds ...digest.Digest) error {
	if err := m.step("keep"); err != nil {
		return err
	}
	return m.archives.Keep(ctx, before, ds...)
}

func (m *mortal) Adopt(_ context.Context, _ string, d digest.Digest) error {
	if err := m.step("adopt"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used = append(m.used, d)
	return nil
}

// adopted is what it used, in order.
func (m *mortal) adopted() []digest.Digest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.used)
}

// replica is one process.
type replica struct {
	*database.Database
	*mortal
	name, dir string
	ended     sync.WaitGroup
}

// Open is the database's: mortal has one too.
func (r *replica) Open(ctx context.Context) error { return r.Database.Open(ctx) }

// replica makes a process that does nothing before start.
func (f *fleet) replica(name, dir string, adjust ...func(*database.Config)) *replica {
	f.t.Helper()
	m := &mortal{state: f.open(), archives: store.NewArchives(f.blobs, store.VulnerabilityDatabase), kill: func() {}}
	cfg := database.Config{
		Dir: dir, Sources: []string{f.src.ref}, Refresh: 50 * time.Millisecond, Poll: 20 * time.Millisecond,
		Shared: m, Archives: m, Replica: name,
		Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler),
	}
	for _, a := range adjust {
		a(&cfg)
	}
	return &replica{Database: database.New(cfg, m), mortal: m, name: name, dir: dir}
}

// start runs it; the returned function ends it, and may be called twice.
func (r *replica) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r.kill = cancel
	r.ended.Go(func() { _ = r.Run(ctx) })
	r.ended.Go(func() { _ = store.Lead(ctx, r.state, "database", 5*time.Second, r.Lead) })
	stop = func() { cancel(); r.ended.Wait() }
	t.Cleanup(stop)
	return stop
}

func (f *fleet) started(name string, adjust ...func(*database.Config)) *replica {
	f.t.Helper()
	r := f.replica(name, filepath.Join(f.t.TempDir(), name), adjust...)
	r.start(f.t)
	return r
}

// await waits for what comes without being asked for.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: never", what)
		}
	}
}

// all waits until the replicas use a database, and returns its digest.
func (f *fleet) all(what string, updated time.Time, rs ...*replica) digest.Digest {
	f.t.Helper()
	var d digest.Digest
	for _, r := range rs {
		await(f.t, what+" at "+r.name, func() bool {
			st := r.Status()
			return st.UpdatedAt.Equal(updated) && st.Together.Wanted == st.Digest && st.Together.Lag == 0
		})
		if got := r.Status().Digest; d == "" {
			d = got
		} else if got != d {
			f.t.Errorf("%s: %s uses %s, the others %s", what, r.name, got, d)
		}
	}
	return d
}

// fetched counts the layers that were taken from the source since the last call: an
// artifact is two blobs, its config and its layer.
func (f *fleet) fetched() int {
	f.src.mu.Lock()
	defer f.src.mu.Unlock()
	n := f.src.blobs - f.counted
	f.counted = f.src.blobs
	return n / 2
}

// leader waits until it leads.
func leader(t *testing.T, r *replica) {
	t.Helper()
	await(t, r.name+" leads", func() bool { return r.Status().Together.Role == database.RoleLeader })
}
