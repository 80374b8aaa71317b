package database_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/scanner/database"
	"pratique/store"
)

// TestReplicas: one fetches, all use the same, over both states.
func TestReplicas(t *testing.T) {
	for name, state := range map[string]func(*testing.T) func() shelf{"sqlite": overSQLite, "redis": overRedis} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, state)
			f.src.push(t, artifact(t, archive(t, "old"), layerType))
			a, b := f.started("a"), f.started("b")
			c := f.replica("c", filepath.Join(t.TempDir(), "c"))
			stop := c.start(t)
			older := f.all("the first", oldAt, a, b, c)
			if n := f.fetched(); n != 1 {
				t.Errorf("fetched %d times, want once", n)
			}
			stop()

			f.src.push(t, artifact(t, archive(t, "new"), layerType))
			newer := f.all("an update", newAt, a, b)
			if n := f.fetched(); n != 1 || older == newer {
				t.Errorf("%s, fetched %d times", newer, n)
			}
			// One that comes back with the older one on its disk never uses that.
			again := f.replica("c", c.dir)
			if err := again.Open(t.Context()); !errors.Is(err, pratique.ErrNotFound) || again.Status().Digest != "" {
				t.Errorf("opened %s, %v", again.Status().Digest, err)
			}
			again.start(t)
			f.all("who was away", newAt, again)
			if used := again.adopted(); !slices.Equal(used, []digest.Digest{newer}) {
				t.Errorf("used %v", used)
			}
			if st := again.Status(); st.Previous != older {
				t.Errorf("the one that it had is not kept: %+v", st)
			}
			if n := f.fetched(); n != 0 {
				t.Errorf("fetched %d times for who was away", n)
			}
			// Nobody is told of what is in use from the start: they are being made then.
			stopped := f.replica("c", t.TempDir())
			end := stopped.start(t)
			f.all("one more", newAt, stopped)
			end()
			told := 0
			silent := f.replica("c", stopped.dir, func(c *database.Config) { c.OnAdopt = func(_, _ pratique.Engine) { told++ } })
			if err := silent.Open(t.Context()); err != nil || silent.Status().Digest != newer || told != 0 {
				t.Errorf("%v, opened %s, told %d times", err, silent.Status().Digest, told)
			}
			// What they offer to others is one artifact, and it is compressed once.
			var tags []digest.Digest
			for _, r := range []*replica{a, b, again} {
				served := database.NewArtifact(r.Database)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- served.Run(ctx) }()
				await(t, "an artifact", func() bool { return served.Status().Database == newer })
				cancel()
				<-done
				tags = append(tags, served.Status().Digest)
			}
			if len(slices.Compact(tags)) != 1 {
				t.Errorf("offered are %v", tags)
			}
		})
	}
}

// TestLeaderDies at each step; whatever it did is gone on with by another, and what it
// left on its disk brings nothing back.
func TestLeaderDies(t *testing.T) {
	for _, step := range []string{"before put", "after put", "before want", "after want", "adopt"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, overSQLite)
			f.src.push(t, artifact(t, archive(t, "old"), layerType))
			a := f.started("a")
			leader(t, a)
			b, c := f.started("b"), f.started("c")
			older := f.all("the first", oldAt, a, b, c)
			f.fetched()

			a.dieAt(step)
			f.src.push(t, artifact(t, archive(t, "new"), layerType))
			await(t, "its death", a.dead.Load)
			newer := f.all("an update", newAt, b, c)
			want := 2 // the dead one's, and the next leader's
			if step == "after want" || step == "adopt" {
				want = 1
			}
			if n := f.fetched(); n != want {
				t.Errorf("fetched %d times, want %d", n, want)
			}
			for _, r := range []*replica{b, c} {
				if used := r.adopted(); !slices.Equal(used, []digest.Digest{older, newer}) {
					t.Errorf("%s used %v", r.name, used)
				}
			}
			a.ended.Wait()
			again := f.replica("a", a.dir)
			again.start(t)
			f.all("who died", newAt, again)
			if used := again.adopted(); !slices.Equal(used, []digest.Digest{newer}) {
				t.Errorf("who died used %v", used)
			}
		})
	}
}

// TestRollbackReaches: an operator asks one replica, and all go back and forth, also
// one that never had what is gone back to.
func TestRollbackReaches(t *testing.T) {
	t.Parallel()
	f := newFleet(t, overSQLite)
	f.src.push(t, artifact(t, archive(t, "old"), layerType))
	a := f.started("a")
	leader(t, a)
	b := f.started("b")
	older := f.all("the first", oldAt, a, b)
	if _, err := b.Rollback(t.Context()); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("nothing to go back to: %v", err)
	}
	f.src.push(t, artifact(t, archive(t, "new"), layerType))
	newer := f.all("an update", newAt, a, b)
	c := f.started("c")
	f.all("a new one", newAt, c)

	st, err := c.Rollback(t.Context())
	if err != nil || st.Digest != older || st.RolledBack != newer || st.Previous != newer || st.Together.Cause != "rollback" || st.Together.By != "c" {
		t.Fatalf("%v, %+v", err, st)
	}
	f.all("back", oldAt, a, b, c)
	f.src.take()
	asked := 0
	await(t, "the leader asks again", func() bool { asked += len(f.src.take()); return asked > 6 })
	if d := f.all("back for good", oldAt, a, b, c); d != older {
		t.Errorf("back to %s", d)
	}
	for _, r := range []*replica{a, b} {
		if st := r.Status(); st.RolledBack != newer {
			t.Errorf("%s does not know of the rollback: %+v", r.name, st)
		}
		if _, err := r.Rollback(t.Context()); !errors.Is(err, database.ErrRolledBack) {
			t.Errorf("twice, at %s: %v", r.name, err)
		}
	}
	if _, err := b.UndoRollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := f.all("forth", newAt, a, b, c); d != newer {
		t.Errorf("forth to %s", d)
	}
	if st := a.Status(); st.RolledBack != "" {
		t.Errorf("still rolled back: %+v", st)
	}
}

// TestImportReaches: what is imported at one is used by all; of two at once one wins,
// everywhere.
func TestImportReaches(t *testing.T) {
	t.Parallel()
	f := newFleet(t, overSQLite)
	none := func(c *database.Config) { c.Sources = nil }
	a, b, c := f.started("a", none), f.started("b", none), f.started("c", none)
	if _, err := b.Import(t.Context(), bytes.NewReader(archive(t, "new")), false); err != nil {
		t.Fatal(err)
	}
	f.all("imported", newAt, a, b, c)
	if _, err := c.Import(t.Context(), bytes.NewReader(archive(t, "old")), false); !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("an older one: %v", err)
	}
	if _, err := c.Import(t.Context(), bytes.NewReader(archive(t, "old")), true); err != nil {
		t.Fatal(err)
	}
	f.all("an older one, forced", oldAt, a, b, c)
	var wg sync.WaitGroup
	for i, r := range []*replica{a, b, c} {
		raw := edit(t, "new", newAt.Add(time.Duration(i+1)*time.Minute), func(string) {})
		wg.Go(func() {
			if _, err := r.Import(t.Context(), bytes.NewReader(raw), true); err != nil {
				t.Errorf("%s: %v", r.name, err)
			}
		})
	}
	wg.Wait()
	last := a.Status().Together
	for _, r := range []*replica{b, c} {
		if st := r.Status().Together; st.Sequence > last.Sequence {
			last = st
		}
	}
	for _, r := range []*replica{a, b, c} {
		await(t, "one at "+r.name, func() bool { return r.Status().Digest == last.Wanted })
	}
}

// damage overwrites every shared archive.
func (f *fleet) damage() {
	f.t.Helper()
	found, err := filepath.Glob(filepath.Join(f.dir, "databases", store.VulnerabilityDatabase, "*"))
	if err != nil || len(found) == 0 {
		f.t.Fatalf("%v, %v", found, err)
	}
	for _, path := range found {
		raw, err := os.ReadFile(path)
		if err != nil {
			f.t.Fatal(err)
		}
		raw[len(raw)/2] ^= 1
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
}

// TestDamagedArchive: bytes that are not the ones that were agreed on are not used.
// The source has them under the digest that they had, although its tag moved on; and
// who has them puts them right.
func TestDamagedArchive(t *testing.T) {
	t.Parallel()
	f := newFleet(t, overSQLite)
	f.src.push(t, artifact(t, archive(t, "new"), layerType))
	a := f.replica("a", filepath.Join(t.TempDir(), "a"))
	stop := a.start(t)
	d := f.all("the first", newAt, a)
	stop()
	f.damage()
	f.fetched()
	follower := func(name string) *replica { // nobody leads
		r := f.replica(name, filepath.Join(t.TempDir(), name))
		ctx, cancel := context.WithCancel(t.Context())
		r.ended.Go(func() { _ = r.Run(ctx) })
		t.Cleanup(func() { cancel(); r.ended.Wait() })
		return r
	}
	f.src.push(t, artifact(t, archive(t, "old"), layerType)) // the tag names another now
	b := follower("b")
	if got := f.all("from the source", newAt, b); got != d {
		t.Errorf("%s, want %s", got, d)
	}
	if n := f.fetched(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	await(t, "the repair", func() bool {
		r := f.replica("probe", filepath.Join(t.TempDir(), "probe"), func(c *database.Config) { c.Sources = nil })
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); r.ended.Wait() }()
		r.ended.Go(func() { _ = r.Run(ctx) })
		for range 100 {
			if st := r.Status(); st.Digest == d {
				return true
			} else if st.Together.LastError != "" {
				return false
			}
			time.Sleep(20 * time.Millisecond)
		}
		return false
	})

	// Neither of the two has it: no other database is used in its place.
	f.damage()
	f.src.Close()
	r := follower("c")
	await(t, "a failure", func() bool { return r.Status().Together.LastError != "" })
	if st := r.Status(); st.Digest != "" || len(r.adopted()) != 0 || st.Together.Wanted != d {
		t.Errorf("used %v: %+v", r.adopted(), st)
	}
}

// TestNobodyAnswers: a replica that cannot know what is wanted begins with what it
// kept, and follows as soon as it can.
func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	f := newFleet(t, overSQLite)
	f.src.push(t, artifact(t, archive(t, "old"), layerType))
	c := f.replica("c", filepath.Join(t.TempDir(), "c"))
	stop := c.start(t)
	older := f.all("the first", oldAt, c)
	stop()
	a := f.started("a")
	f.src.push(t, artifact(t, archive(t, "new"), layerType))
	newer := f.all("an update", newAt, a)

	state, archives := f.replica("c", "").mortal, f.replica("c", "").mortal
	state.dead.Store(true)
	archives.dead.Store(true)
	reg := prometheus.NewPedanticRegistry()
	clock := now
	var mu sync.Mutex
	db := database.New(database.Config{
		Dir: c.dir, Poll: 20 * time.Millisecond, Shared: state, Archives: archives, Metrics: reg,
		Log: slog.New(slog.DiscardHandler), Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return clock },
	}, new(failing))
	if err := db.Open(t.Context()); err != nil || db.Status().Digest != older {
		t.Fatalf("%v, %+v", err, db.Status())
	}
	// The state answers again, the archives do not: it lags, and says so.
	state.dead.Store(false)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = db.Run(ctx) })
	defer func() { cancel(); wg.Wait() }()
	await(t, "what is wanted", func() bool { return db.Status().Together.Wanted == newer })
	mu.Lock()
	clock = clock.Add(90 * time.Second)
	mu.Unlock()
	if st := db.Status(); st.Digest != older || st.Together.Lag != 90*time.Second || st.Together.Role != database.RoleFollower {
		t.Errorf("%+v, %+v", st, st.Together)
	}
	if got := gauge(t, reg, "pratique_database_lag_seconds", ""); got != 90 {
		t.Errorf("lag %g", got)
	}
	archives.dead.Store(false)
	await(t, "it follows", func() bool { return db.Status().Digest == newer })
	if got := gauge(t, reg, "pratique_database_lag_seconds", ""); got != 0 {
		t.Errorf("lag %g", got)
	}
}

// TestLostAgreement: a state that lost its last writes, in a failover or altogether,
// is told again by who knows; nobody goes back.
func TestLostAgreement(t *testing.T) {
	t.Parallel()
	f := newFleet(t, overSQLite)
	lossy := &lossy{shelf: f.open()}
	f.open = func() shelf { return lossy }
	f.src.push(t, artifact(t, archive(t, "old"), layerType))
	a := f.started("a")
	leader(t, a)
	b := f.started("b")
	older := f.all("the first", oldAt, a, b)
	before := lossy.keep(t)
	f.src.push(t, artifact(t, archive(t, "new"), layerType))
	newer := f.all("an update", newAt, a, b)
	sequence := b.Status().Together.Sequence
	f.src.Close()
	for what, lost := range map[string]*store.WantedDatabase{"the last": before, "everything": {}} {
		lossy.lose(lost)
		await(t, what+" is told again", func() bool {
			got, err := lossy.WantedDatabase(t.Context(), store.VulnerabilityDatabase)
			return err == nil && got.Version == sequence && got.Database == newer
		})
	}
	for _, r := range []*replica{a, b} {
		if used := r.adopted(); !slices.Equal(used, []digest.Digest{older, newer}) {
			t.Errorf("%s used %v", r.name, used)
		}
	}
}

// lossy is a shelf that can lose what was put.
type lossy struct {
	shelf
	mu  sync.Mutex
	now *store.WantedDatabase // instead of the shelf's; Version 0 is nothing
}

func (l *lossy) keep(t *testing.T) *store.WantedDatabase {
	t.Helper()
	w, err := l.WantedDatabase(t.Context(), store.VulnerabilityDatabase)
	if err != nil {
		t.Fatal(err)
	}
	return &w
}

func (l *lossy) lose(to *store.WantedDatabase) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = to
}

func (l *lossy) WantedDatabase(ctx context.Context, kind string) (store.WantedDatabase, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.now == nil:
		return l.shelf.WantedDatabase(ctx, kind)
	case l.now.Version == 0:
		return store.WantedDatabase{}, pratique.ErrNotFound
	}
	return *l.now, nil
}

func (l *lossy) PutWantedDatabase(ctx context.Context, kind string, before int64, next store.WantedDatabase) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == nil {
		return l.shelf.PutWantedDatabase(ctx, kind, before, next)
	}
	if l.now.Version != before {
		return store.ErrSuperseded
	}
	l.now = &next
	return nil
}

// TestFirstAgreement: nothing was agreed on, and replicas that worked alone before
// have what they kept. None uses it before all do.
func TestFirstAgreement(t *testing.T) {
	t.Parallel()
	f := newFleet(t, overSQLite)
	dirs := make([]string, 2)
	for i, g := range []string{"old", "new"} {
		dirs[i] = filepath.Join(t.TempDir(), g)
		alone := database.New(database.Config{Dir: dirs[i], Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)}, new(failing))
		if _, err := alone.Import(t.Context(), bytes.NewReader(archive(t, g)), false); err != nil {
			t.Fatal(err)
		}
	}
	none := func(c *database.Config) { c.Sources = nil }
	b := f.replica("b", dirs[0], none)
	ctx, cancel := context.WithCancel(t.Context())
	b.ended.Go(func() { _ = b.Run(ctx) })
	defer func() { cancel(); b.ended.Wait() }()
	waited := make(chan error, 1)
	go func() { waited <- b.Await(ctx) }()
	a := f.replica("a", dirs[1], none)
	if err := a.Open(t.Context()); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("opened without an agreement: %v", err)
	}
	a.start(t)
	newer := f.all("what the leader kept", newAt, a, b)
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if used := b.adopted(); !slices.Equal(used, []digest.Digest{newer}) {
		t.Errorf("b used %v", used)
	}
	if st := a.Status().Together; st.Cause != "kept" || st.By != "a" {
		t.Errorf("%+v", st)
	}
}

// TestJavaReplicas: the Java database goes the same way, and no copy of it stays on
// any disk.
func TestJavaReplicas(t *testing.T) {
	t.Parallel()
	f := newFleet(t, overSQLite)
	m := f.replica("", "").mortal
	path := filepath.Join(testdata, "database", "java.tar.gz")
	var dirs []string
	for _, name := range []string{"a", "b"} {
		cfg := database.Config{Dir: filepath.Join(t.TempDir(), name), Poll: 20 * time.Millisecond, Shared: m, Archives: m, Replica: name,
			Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)}
		lead := name == "a"
		if lead {
			cfg.Path = path
		}
		d := database.NewJava(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = d.Run(ctx) })
		if lead {
			wg.Go(func() { _ = d.Lead(ctx) })
		}
		defer func() { cancel(); wg.Wait() }()
		await(t, "the Java database at "+name, func() bool { return d.Version() != "" })
		dir, _ := d.Dir()
		dirs = append(dirs, dir)
		await(t, "no copy at "+name, func() bool { return !slices.Contains(kept(t, dir), "db.tar.gz") })
	}
	if filepath.Base(dirs[0]) != filepath.Base(dirs[1]) {
		t.Errorf("%v differ", dirs)
	}
}
