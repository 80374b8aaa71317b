package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"pratique"
	"pratique/scheduler"
	"pratique/store"
)

// fleet is store.Fleet, scanner.Scanner and database.Database in small: databases
// say a word of each package, and images hold packages.
type fleet struct {
	mu        sync.Mutex
	databases map[digest.Digest]map[string]string // what a database says, by package
	forgotten map[digest.Digest]bool              // databases that no diff knows any more
	inUse     pratique.Engine
	clock     []string // keys that Clock says

	components map[pratique.ComponentID]pratique.Component
	images     map[digest.Digest][]pratique.ComponentID
	rows       map[pratique.ComponentID]row
	engines    []pratique.Engine // as they were begun
	current    int               // index in engines; -1
	at         time.Time

	matched  []string // names, in all calls
	told     []digest.Digest
	renewed  []digest.Digest
	advances int

	onMatch func(cs []pratique.Component) error // before anything is matched, under mu
	onDiff  func() error
	onAfter func() // after a Match
}

type row struct {
	says   string
	engine int
}

func newFleet(n int) *fleet {
	f := &fleet{
		databases: make(map[digest.Digest]map[string]string), forgotten: make(map[digest.Digest]bool), current: -1,
		components: make(map[pratique.ComponentID]pratique.Component), images: make(map[digest.Digest][]pratique.ComponentID), rows: make(map[pratique.ComponentID]row),
	}
	for i := range n {
		c := part(i)
		f.components[c.ID()] = c
		for _, image := range []int{i, i / 10} { // its own, and one that it shares
			d := holder(image)
			f.images[d] = append(f.images[d], c.ID())
		}
	}
	return f
}

func part(i int) pratique.Component {
	return pratique.Component{Context: pratique.Context{Class: pratique.ClassLanguage, Type: "npm"}, Name: fmt.Sprintf("p%d", i), Version: "1"}
}

func holder(i int) digest.Digest { return digest.FromString(fmt.Sprint("image ", i)) }

// use brings a database into use that says these words.
func (f *fleet) use(name string, says map[string]string) pratique.Engine {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := digest.FromString(name)
	f.databases[d] = says
	f.inUse = pratique.Engine{Version: "v1", Database: d, DatabaseAt: time.Unix(int64(len(f.databases)), 0).UTC()}
	return f.inUse
}

func (f *fleet) Engine() (pratique.Engine, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inUse.Database == "" {
		return pratique.Engine{}, pratique.ErrNoDatabase
	}
	return f.inUse, nil
}

// begin needs f.mu.
func (f *fleet) begin(e pratique.Engine) int {
	if n := len(f.engines); n == 0 || f.engines[n-1] != e {
		f.engines = append(f.engines, e)
	}
	return len(f.engines) - 1
}

func (f *fleet) Match(ctx context.Context, cs []pratique.Component) ([]pratique.ComponentID, pratique.Engine, error) {
	if err := ctx.Err(); err != nil {
		return nil, pratique.Engine{}, err
	}
	f.mu.Lock()
	if f.onMatch != nil {
		if err := f.onMatch(cs); err != nil {
			f.mu.Unlock()
			return nil, pratique.Engine{}, err
		}
	}
	if f.inUse.Database == "" {
		f.mu.Unlock()
		return nil, pratique.Engine{}, pratique.ErrNoDatabase
	}
	var changed []pratique.ComponentID
	engine := f.begin(f.inUse)
	for _, c := range cs {
		f.matched = append(f.matched, c.Name)
		says := f.databases[f.inUse.Database][c.Name]
		if before, stood := f.rows[c.ID()]; stood && before.says != says {
			changed = append(changed, c.ID())
		}
		f.rows[c.ID()] = row{says, engine}
	}
	e, after := f.inUse, f.onAfter
	f.mu.Unlock()
	if after != nil {
		after()
	}
	return changed, e, nil
}

func (f *fleet) Clock(since, now time.Time) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if since.Before(now) {
		return f.clock
	}
	return nil
}

func (f *fleet) Diff(_ context.Context, from, to digest.Digest) (scheduler.Delta, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.onDiff != nil {
		if err := f.onDiff(); err != nil {
			return scheduler.Delta{}, err
		}
	}
	before, known := f.databases[from]
	if !known || f.forgotten[from] {
		return scheduler.Delta{All: true}, nil
	}
	var d scheduler.Delta
	for _, name := range slices.Sorted(maps.Keys(f.databases[to])) {
		if before[name] != f.databases[to][name] {
			d.Keys = append(d.Keys, pratique.PackageKey(name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, still := f.databases[to][name]; !still {
			d.Keys = append(d.Keys, pratique.PackageKey(name))
		}
	}
	return d, nil
}

func (f *fleet) Begin(_ context.Context, e pratique.Engine) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begin(e)
	return nil
}

func (f *fleet) Current(context.Context) (pratique.Engine, time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current < 0 {
		return pratique.Engine{}, time.Time{}, pratique.ErrNotFound
	}
	return f.engines[f.current], f.at, nil
}

func (f *fleet) Advance(_ context.Context, e pratique.Engine, at time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.engines[len(f.engines)-1] != e {
		return store.ErrSuperseded
	}
	f.current, f.at = len(f.engines)-1, at
	f.advances++
	return nil
}

func (f *fleet) some(want func(pratique.Component) bool) iter.Seq2[pratique.Component, error] {
	return func(yield func(pratique.Component, error) bool) {
		f.mu.Lock()
		ids := slices.Sorted(maps.Keys(f.components))
		f.mu.Unlock()
		for _, id := range ids {
			f.mu.Lock()
			c := f.components[id]
			wanted := want(c)
			f.mu.Unlock()
			if wanted && !yield(c, nil) {
				return
			}
		}
	}
}

func (f *fleet) ComponentsByKey(_ context.Context, keys []string) iter.Seq2[pratique.Component, error] {
	return f.some(func(c pratique.Component) bool {
		return slices.ContainsFunc(c.Keys(), func(k string) bool { return slices.Contains(keys, k) })
	})
}

func (f *fleet) ComponentsByVulnerability(context.Context, []string) iter.Seq2[pratique.Component, error] {
	return f.some(func(pratique.Component) bool { return false })
}

func (f *fleet) AllComponents(context.Context) iter.Seq2[pratique.Component, error] {
	return f.some(func(pratique.Component) bool { return true })
}

func (f *fleet) Strays(_ context.Context, e pratique.Engine) iter.Seq2[pratique.Component, error] {
	f.mu.Lock()
	latest, current := len(f.engines)-1, f.current
	superseded := f.engines[latest] != e
	f.mu.Unlock()
	if superseded {
		return func(yield func(pratique.Component, error) bool) { yield(pratique.Component{}, store.ErrSuperseded) }
	}
	return f.some(func(c pratique.Component) bool {
		r, stands := f.rows[c.ID()]
		return stands && r.engine > current && r.engine < latest
	})
}

func (f *fleet) ImagesWith(_ context.Context, ids []pratique.ComponentID) ([]digest.Digest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []digest.Digest
	for d, has := range f.images {
		if slices.ContainsFunc(has, func(id pratique.ComponentID) bool { return slices.Contains(ids, id) }) {
			out = append(out, d)
		}
	}
	slices.Sort(out)
	return out, nil
}

// rescanner returns one for the fleet, as a process that starts has it.
func (f *fleet) rescanner(change ...func(*scheduler.RescanConfig)) *scheduler.Rescanner {
	cfg := scheduler.RescanConfig{
		Changed: func(_ context.Context, images []digest.Digest) {
			f.set(func() { f.told = append(f.told, images...) })
		},
		Batch: 16, Log: slog.New(slog.DiscardHandler), Backoff: time.Millisecond,
	}
	for _, c := range change {
		c(&cfg)
	}
	return scheduler.NewRescanner(f, f, f, cfg)
}

// check holds everything that stands against the database in use.
func (f *fleet) check(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current < 0 || f.engines[f.current] != f.inUse {
		t.Errorf("not current with the database in use")
	}
	for id, r := range f.rows {
		if says := f.databases[f.inUse.Database][f.components[id].Name]; r.says != says {
			t.Errorf("%s: %q stands, the database says %q", f.components[id].Name, r.says, says)
		}
	}
}

// set changes what others read.
func (f *fleet) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// forget starts counting anew.
func (f *fleet) forget() {
	f.set(func() { f.matched, f.told, f.renewed, f.advances = nil, nil, nil, 0 })
}

func (f *fleet) rescan(t *testing.T, r *scheduler.Rescanner) {
	t.Helper()
	if err := r.Rescan(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func images(is ...int) []digest.Digest {
	var out []digest.Digest
	for _, i := range is {
		out = append(out, holder(i))
	}
	slices.Sort(out)
	return out
}

func TestRescan(t *testing.T) {
	f := newFleet(100)
	r := f.rescanner()
	if err := r.Rescan(t.Context()); !errors.Is(err, pratique.ErrNoDatabase) {
		t.Fatalf("without a database: %v", err)
	}
	f.use("one", map[string]string{"p1": "a", "p2": "b", "p33": "c"})
	f.rescan(t, r)
	f.check(t)
	if len(f.matched) != 100 || len(f.told) != 0 {
		t.Errorf("first: %d matched, told %v: nothing stood before", len(f.matched), f.told)
	}

	f.forget()
	f.rescan(t, r)
	if len(f.matched) != 0 || f.advances != 0 {
		t.Errorf("no change: matched %v, advanced %d times", f.matched, f.advances)
	}

	// p2 changes, p33 goes, p44 appears, p55 is of no component here.
	f.use("two", map[string]string{"p1": "a", "p2": "other", "p44": "d", "p555": "e"})
	f.rescan(t, r)
	f.check(t)
	slices.Sort(f.matched)
	if diff := cmp.Diff([]string{"p2", "p33", "p44"}, f.matched); diff != "" {
		t.Errorf("matched: %s", diff)
	}
	if diff := cmp.Diff(images(0, 2, 3, 4, 33, 44), f.told); diff != "" {
		t.Errorf("told: %s", diff)
	}

	f.forget()
	f.clock = []string{pratique.PackageKey("p7")}
	f.rescan(t, r)
	if diff := cmp.Diff([]string{"p7"}, f.matched); diff != "" || f.advances != 1 {
		t.Errorf("the clock: %s, advanced %d times", diff, f.advances)
	}
}

// TestRescanEverything: what is not known makes everything be matched again.
func TestRescanEverything(t *testing.T) {
	for name, make := range map[string]func(f *fleet){
		"a database nobody knows": func(f *fleet) { f.forgotten[f.inUse.Database] = true },
		"databases cannot be compared": func(f *fleet) {
			f.onDiff = func() error { return errors.New("damaged") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(50)
			f.use("one", map[string]string{"p1": "a"})
			r := f.rescanner()
			f.rescan(t, r)
			f.forget()
			make(f)
			f.use("two", map[string]string{"p1": "b"})
			f.rescan(t, r)
			f.check(t)
			if len(f.matched) != 50 {
				t.Errorf("%d matched", len(f.matched))
			}
			if diff := cmp.Diff(images(0, 1), f.told); diff != "" {
				t.Errorf("told: %s", diff)
			}
		})
	}
}

func TestRescanUpgrade(t *testing.T) {
	f := newFleet(30)
	f.use("one", map[string]string{"p1": "a"})
	r := f.rescanner(func(c *scheduler.RescanConfig) {
		c.Images = func(context.Context) iter.Seq2[digest.Digest, error] {
			return func(yield func(digest.Digest, error) bool) {
				for _, d := range images(1, 2, 3) {
					if !yield(d, nil) {
						return
					}
				}
			}
		}
		c.Rematch = func(_ context.Context, d digest.Digest) (pratique.Report, error) {
			f.renewed = append(f.renewed, d)
			if d == holder(2) {
				return pratique.Report{}, errors.New("cannot be read")
			}
			return pratique.Report{}, nil
		}
	})
	f.rescan(t, r)
	if len(f.renewed) != 0 {
		t.Error("renewed at the first start")
	}
	f.forget()
	f.inUse.Version = "v2"
	f.rescan(t, r)
	f.check(t)
	if len(f.matched) != 30 {
		t.Errorf("%d matched", len(f.matched))
	}
	if diff := cmp.Diff(images(1, 2, 3), f.renewed); diff != "" {
		t.Errorf("renewed: %s", diff)
	}
}

// TestRescanOvertaken: a database is superseded before everything was matched
// against it, by a third or by the one before.
func TestRescanOvertaken(t *testing.T) {
	for _, last := range []string{"one", "three"} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprint(last, " restart ", restart), func(t *testing.T) {
				f := newFleet(100)
				says := map[string]map[string]string{"one": {}, "two": {}, "three": {}}
				for i := range 60 {
					says["one"][fmt.Sprint("p", i)] = "a"
					says["two"][fmt.Sprint("p", i)] = "b"
					says["three"][fmt.Sprint("p", i)] = "a" // as before
				}
				says["three"]["p1"] = "c"
				f.use("one", says["one"])
				r := f.rescanner(func(c *scheduler.RescanConfig) { c.Parallel = 1 })
				f.rescan(t, r)
				f.forget()
				first := f.inUse
				f.use("two", says["two"])
				n := 0
				ctx, stop := context.WithCancel(t.Context())
				f.onAfter = func() {
					if n++; n == 2 {
						if f.use(last, says[last]); last == "one" {
							f.inUse = first
						}
						if restart {
							stop()
						}
					}
				}
				err := r.Rescan(ctx)
				f.set(func() { f.onAfter = nil })
				if restart {
					if err == nil {
						t.Fatal("not cut short")
					}
					r = f.rescanner()
					f.rescan(t, r)
				} else if err != nil {
					t.Fatal(err)
				}
				f.check(t)
				// Those matched against the second changed twice.
				if len(f.matched) < 16*2 || len(f.told) < 16 {
					t.Errorf("%d matched, %d told", len(f.matched), len(f.told))
				}
				if p, err := r.FullPass(t.Context()); err != nil || p.Differences != 0 || p.Components != 100 {
					t.Errorf("full pass: %+v, %v", p, err)
				}
			})
		}
	}
}

// TestRescanTells: what a failed rescan changed is told at the end of the next.
func TestRescanTells(t *testing.T) {
	f := newFleet(64)
	f.use("one", nil)
	r := f.rescanner(func(c *scheduler.RescanConfig) { c.Parallel = 1 })
	f.rescan(t, r)
	f.forget()
	says := make(map[string]string)
	for i := range 64 {
		says[fmt.Sprint("p", i)] = "a"
	}
	f.use("two", says)
	ctx, stop := context.WithCancel(t.Context())
	f.onAfter = stop
	if err := r.Rescan(ctx); err == nil || len(f.told) > 0 {
		t.Fatalf("told %d before everything is current, %v", len(f.told), err)
	}
	f.onAfter = nil
	f.rescan(t, r)
	f.check(t)
	if len(f.told) != 64 {
		t.Errorf("%d images told, want all", len(f.told))
	}
}

// TestRescanDies: a process dies in the middle. The next one tells what the rest of
// the rescan concerns, as nobody knows what the dead one found.
func TestRescanDies(t *testing.T) {
	f := newFleet(64)
	f.use("one", nil)
	r := f.rescanner(func(c *scheduler.RescanConfig) { c.Parallel = 1 })
	f.rescan(t, r)
	f.forget()
	f.use("two", map[string]string{"p1": "a", "p2": "a"})
	ctx, stop := context.WithCancel(t.Context())
	f.set(func() { f.onAfter = stop })
	if err := r.Rescan(ctx); err == nil || len(f.matched) != 2 {
		t.Fatalf("matched %v, %v", f.matched, err)
	}
	f.set(func() { f.onAfter = nil })
	r = f.rescanner()
	f.rescan(t, r)
	f.check(t)
	if diff := cmp.Diff(images(0, 1, 2), f.told); diff != "" {
		t.Errorf("told: %s", diff)
	}
}

// TestRescanPoison: components that cannot be matched keep nothing else from being
// current, and are tried again.
func TestRescanPoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(200)
		poison := map[string]bool{"p3": true, "p4": true, "p150": true}
		f.onMatch = func(cs []pratique.Component) error {
			for _, c := range cs {
				if poison[c.Name] {
					return errors.New("no detector reads " + c.Name)
				}
			}
			return nil
		}
		reg := prometheus.NewRegistry()
		r := f.rescanner(func(c *scheduler.RescanConfig) { c.Metrics = reg })
		f.use("one", map[string]string{"p3": "a", "p5": "b"})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		f.check(t)
		if len(f.matched) != 197 {
			t.Errorf("%d matched", len(f.matched))
		}
		f.forget()
		f.set(func() { delete(poison, "p3") })
		time.Sleep(time.Hour)
		synctest.Wait()
		if !slices.Contains(f.matched, "p3") || len(f.matched) > 65 || f.advances != 0 { // and some to see whether anything can be matched
			t.Errorf("an hour later: %d matched, advanced %d times", len(f.matched), f.advances)
		}
		// An update that concerns nothing but what cannot be matched.
		f.use("two", map[string]string{"p3": "a", "p4": "c", "p5": "b"})
		r.DatabaseChanged(ctx)
		synctest.Wait()
		f.check(t)
		if n, err := testutil.GatherAndCount(reg, "pratique_scheduler_unmatched_components"); err != nil || n != 1 {
			t.Errorf("%d, %v", n, err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestRescanFails: when nothing can be matched, it is not the components. What
// stands, stands, and the rescan is tried again, later and later.
func TestRescanFails(t *testing.T) {
	for _, n := range []int{3, 1000} {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(n)
			f.use("one", map[string]string{"p1": "a"})
			r := f.rescanner()
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- r.Run(ctx) }()
			synctest.Wait()
			f.check(t)
			calls := 0
			f.set(func() {
				f.onMatch = func([]pratique.Component) error { calls++; return errors.New("damaged") }
				f.forgotten[f.inUse.Database] = true
			})
			f.use("two", map[string]string{"p1": "b"})
			r.DatabaseChanged(ctx)
			synctest.Wait()
			if e, _, _ := f.Current(ctx); e == f.inUse {
				t.Error("current with a database that nothing was matched against")
			}
			f.set(func() {
				if limit := 1200; calls > limit {
					t.Errorf("%d calls before it was given up", calls)
				}
			})
			time.Sleep(time.Minute)
			synctest.Wait()
			f.set(func() { f.onMatch = nil })
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			f.check(t)
			if diff := cmp.Diff(images(0, 1), f.told); diff != "" {
				t.Errorf("told: %s", diff)
			}
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRescanWhileTheStateIsAway: the state that does not answer is no component's
// fault. Nobody is asked one by one, nothing counts as unmatched, and it goes on when
// the state is back.
func TestRescanWhileTheStateIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(1000)
		f.use("one", map[string]string{"p1": "a"})
		r := f.rescanner(func(c *scheduler.RescanConfig) { c.Batch, c.Parallel = 100, 2 })
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		f.check(t)
		calls := 0
		f.set(func() {
			f.forgotten[f.inUse.Database] = true
			f.onMatch = func([]pratique.Component) error {
				if calls++; calls > 3 {
					return fmt.Errorf("matches: %w", store.ErrUnreachable)
				}
				return nil
			}
		})
		f.use("two", map[string]string{"p1": "b"})
		r.DatabaseChanged(ctx)
		synctest.Wait()
		f.set(func() {
			if most := 3 + 2; calls > most {
				t.Errorf("%d calls, want at most %d", calls, most)
			}
			calls = 1000
		})
		time.Sleep(time.Minute) // tried again, and again
		synctest.Wait()
		f.set(func() {
			if calls > 1000+2*10 {
				t.Errorf("%d calls in a minute", calls-1000)
			}
			f.onMatch = nil
		})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		f.check(t)
		if diff := cmp.Diff(images(0, 1), f.told); diff != "" {
			t.Errorf("told: %s", diff)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestFullPass(t *testing.T) {
	f := newFleet(100)
	reg := prometheus.NewRegistry()
	r := f.rescanner(func(c *scheduler.RescanConfig) { c.Metrics = reg })
	f.use("one", map[string]string{"p1": "a", "p2": "b"})
	differences := func(want string) {
		t.Helper()
		if err := testutil.GatherAndCompare(reg, strings.NewReader("# HELP pratique_scheduler_fullpass_differences Components that full passes since the start found to be known otherwise than the database says; anything but 0 is a fault of Pratique.\n# TYPE pratique_scheduler_fullpass_differences gauge\npratique_scheduler_fullpass_differences "+want+"\n"), "pratique_scheduler_fullpass_differences"); err != nil {
			t.Error(err)
		}
	}
	p, err := r.FullPass(t.Context()) // the first rescan as well
	if p.Took = 0; err != nil || p != (scheduler.Pass{Components: 100}) {
		t.Errorf("%+v, %v", p, err)
	}
	differences("0")
	// Something that no rescan could know of.
	f.rows[part(2).ID()] = row{"wrong", 0}
	f.forget()
	p, err = r.FullPass(t.Context())
	if p.Took = 0; err != nil || p != (scheduler.Pass{Components: 100, Differences: 1, Images: 2}) {
		t.Errorf("%+v, %v", p, err)
	}
	differences("1")
	f.check(t)
	if diff := cmp.Diff(images(0, 2), f.told); diff != "" {
		t.Errorf("told: %s", diff)
	}
	// A database that comes into use meanwhile: first a rescan, then the pass anew.
	var n atomic.Int32
	f.onAfter = func() {
		if n.Add(1) == 3 {
			f.use("two", map[string]string{"p1": "c"})
		}
	}
	p, err = r.FullPass(t.Context())
	if p.Took = 0; err != nil || p != (scheduler.Pass{Components: 100}) {
		t.Errorf("%+v, %v", p, err)
	}
	differences("1")
	f.check(t)
}

// TestRescanRandom: databases come and go, rescans are cut short, processes die,
// components appear; in the end everything is what the last database says.
func TestRescanRandom(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		f := newFleet(40)
		r := f.rescanner()
		databases := []pratique.Engine{}
		for step := range 12 {
			if step > 0 && rnd.IntN(4) == 0 { // one of the former
				f.mu.Lock()
				f.inUse = databases[rnd.IntN(len(databases))]
				f.mu.Unlock()
			} else {
				says := make(map[string]string)
				for i := range 60 {
					if rnd.IntN(3) > 0 {
						says[fmt.Sprint("p", i)] = fmt.Sprint(rnd.IntN(3))
					}
				}
				databases = append(databases, f.use(fmt.Sprint("db ", step), says))
			}
			c := part(40 + rnd.IntN(20)) // an image is scanned with the database in use
			f.components[c.ID()] = c
			if _, _, err := f.Match(t.Context(), []pratique.Component{c}); err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			if limit := rnd.Int32N(5); limit < 3 {
				var n atomic.Int32
				f.set(func() {
					f.onAfter = func() {
						if n.Add(1) > limit {
							stop()
						}
					}
				})
			}
			_ = r.Rescan(ctx)
			f.set(func() { f.onAfter = nil })
			stop()
			if rnd.IntN(3) == 0 {
				r = f.rescanner()
			}
		}
		f.rescan(t, r)
		f.check(t)
		if p, err := r.FullPass(t.Context()); err != nil || p.Differences != 0 {
			t.Errorf("seed %d: %+v, %v", seed, p, err)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
