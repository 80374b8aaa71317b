package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	goredis "github.com/redis/go-redis/v9"

	"pratique"
	"pratique/internal/redis/redistest"
	"pratique/internal/sqlite"
	"pratique/scheduler"
	"pratique/store"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func job(name string) pratique.Ref {
	return pratique.Ref{Registry: "docker.io", Repo: "library/" + name, Tag: "v1", Digest: digest.FromString(name)}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantTaken takes the next job, "" for none.
func wantTaken(t *testing.T, q scheduler.Queue, now time.Time, lease time.Duration, want string) scheduler.Job {
	t.Helper()
	j, err := q.Take(t.Context(), now, lease)
	got := strings.TrimPrefix(j.Ref.Repo, "library/")
	if err != nil && !errors.Is(err, pratique.ErrNotFound) || got != want {
		t.Fatalf("took %q, %v; want %q", got, err, want)
	}
	return j
}

// die ends a process as kill -9 does, and nearly all that others wait for besides.
func (w *world) die(db *DB) {
	w.t.Helper()
	db.queue.mu.Lock()
	db.queue.quiet = true
	db.queue.mu.Unlock()
	db.stopQueue()
	must(w.t, db.rdb.ZAdd(w.t.Context(), db.key(queuePart, "alive"), zAlive(db, 0)).Err())
	must(w.t, db.Close())
}

// TestQueueSkew: replicas whose clocks differ by less than Skew never both hold a job
// that its holder renews.
func TestQueueSkew(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		const skew, lease = 2 * time.Second, 9 * time.Second
		w := newWorld(t, url)
		w.config.Skew = skew
		slow, fast := w.replica(), w.replica()
		ahead := skew - time.Millisecond // of fast's clock
		must(t, slow.Push(t.Context(), job("a"), scheduler.PriorityPull, noon))
		j := wantTaken(t, slow, noon, lease, "a")
		for at := noon; at.Before(noon.Add(time.Minute)); at = at.Add(lease / 3) {
			// It renews as late as it may.
			wantTaken(t, fast, at.Add(lease-1).Add(ahead), lease, "")
			must(t, slow.Renew(t.Context(), j, at.Add(lease/3).Add(lease)))
		}
		// Its own process does not wait for itself, another waits for the skew.
		end := noon.Add(time.Minute).Add(lease)
		wantTaken(t, fast, end.Add(skew-1), lease, "")
		other := wantTaken(t, fast, end.Add(skew), lease, "a")
		if err := slow.Renew(t.Context(), j, end.Add(lease)); !errors.Is(err, pratique.ErrNotFound) {
			t.Errorf("renewed what another holds: %v", err)
		}
		wantTaken(t, fast, end.Add(skew).Add(lease-1), lease, "")
		if again := wantTaken(t, fast, end.Add(skew).Add(lease), lease, "a"); again.Lease == other.Lease {
			t.Error("the same token twice")
		}
	})
}

// TestQueueDeadReplica: what a process held that was killed is taken at once when it
// is found dead, long before its lease ends; what the living hold is not.
func TestQueueDeadReplica(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		told := make(chan struct{}, 100)
		a, b := w.replica(), w.replica(func(c *Config) {
			c.OnJob = func() { told <- struct{}{} }
			c.Log = slog.New(slog.DiscardHandler)
		})
		for _, name := range []string{"mine", "dead", "paused"} {
			must(t, a.Push(t.Context(), job(name), scheduler.PriorityWebhook, noon))
			<-told
		}
		mine := wantTaken(t, b, noon, time.Hour, "mine")
		wantTaken(t, a, noon, time.Hour, "dead")
		wantTaken(t, a, noon, time.Hour, "paused")
		w.die(a)
		<-told // by a beat of b
		j := wantTaken(t, b, noon, time.Hour, "dead")
		if j.Attempts != 0 {
			t.Errorf("%d attempts: it was none of the job's", j.Attempts)
		}
		wantTaken(t, b, noon, time.Hour, "paused")
		wantTaken(t, b, noon, time.Hour, "")
		must(t, b.Finish(t.Context(), mine, nil, time.Time{}))
		sound(t, b)
	})
}

// TestQueueClose: a process that ends as it should lets go what it held.
func TestQueueClose(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		a, b := w.replica(), w.replica()
		must(t, a.Push(t.Context(), job("a"), scheduler.PriorityPull, noon))
		wantTaken(t, a, noon, time.Hour, "a")
		must(t, a.Close())
		wantTaken(t, b, noon, time.Hour, "a")
	})
}

// TestQueueSilence: while Redis was away nobody was heard, and nobody is dead for it;
// nor when its clock was set.
func TestQueueSilence(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		a, b := w.replica(), w.replica()
		must(t, a.Push(t.Context(), job("a"), scheduler.PriorityPull, noon))
		j := wantTaken(t, a, noon, time.Hour, "a")
		for _, gap := range []time.Duration{time.Hour, -time.Hour, 10 * time.Second} {
			// The last beat of anybody is as long ago as if Redis had been stopped.
			must(t, b.rdb.HIncrBy(t.Context(), b.key(queuePart, "heard"), "at", -gap.Milliseconds()).Err())
			must(t, b.beat(t.Context(), aliveTime))
			wantTaken(t, b, noon, time.Hour, "")
		}
		must(t, a.Renew(t.Context(), j, noon.Add(time.Hour)))
		must(t, a.Finish(t.Context(), j, nil, time.Time{}))
	})
}

// TestQueueBack: a process that counted as dead and lives keeps what nobody took.
func TestQueueBack(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		w.config.Log = slog.New(slog.DiscardHandler)
		a, b := w.replica(), w.replica()
		for _, name := range []string{"a", "b"} {
			must(t, a.Push(t.Context(), job(name), scheduler.PriorityPull, noon))
		}
		ja, jb := wantTaken(t, a, noon, time.Hour, "a"), wantTaken(t, a, noon, time.Hour, "b")
		must(t, a.beat(t.Context(), 0))
		must(t, a.Renew(t.Context(), jb, noon.Add(time.Hour)))
		taken := wantTaken(t, b, noon, time.Hour, "a")
		wantTaken(t, b, noon, time.Hour, "")
		if err := a.Finish(t.Context(), ja, nil, time.Time{}); !errors.Is(err, pratique.ErrNotFound) {
			t.Errorf("finished what another holds: %v", err)
		}
		must(t, a.Finish(t.Context(), jb, nil, time.Time{}))
		must(t, b.Finish(t.Context(), taken, nil, time.Time{}))
		sound(t, b)
	})
}

// TestQueueUnanswered: a Take that Redis carries out when nobody waits for the answer
// any more does not keep its job from others.
func TestQueueUnanswered(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := newWorld(t, server.URL())
	a := w.replica(func(c *Config) { c.Timeout = 200 * time.Millisecond })
	b := w.replica()
	must(t, b.Push(t.Context(), job("a"), scheduler.PriorityPull, noon))
	server.Pause()
	if _, err := a.Take(t.Context(), noon, time.Hour); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("a server that is stopped: %v, want store.ErrUnreachable", err)
	}
	server.Resume()
	eventually(t, "the job is taken", func() bool {
		_, err := b.Take(t.Context(), noon, time.Hour)
		return err == nil
	})
}

// TestQueueRepeated: the client repeats a call whose answer was lost.
func TestQueueRepeated(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		w := newWorld(t, url)
		a := w.replica()
		for _, name := range []string{"a", "b"} {
			must(t, a.Push(t.Context(), job(name), scheduler.PriorityPull, noon))
		}
		take := func() []string {
			got, err := scriptTake.Run(t.Context(), a.rdb, a.queueKeys(), "7", a.queue.me, jobTime(noon), jobTime(noon.Add(time.Hour)), jobTime(noon), promoted, "0").StringSlice()
			must(t, err)
			return got
		}
		if d := cmp.Diff(take(), take()); d != "" {
			t.Errorf("the same token took another job:\n%s", d)
		}
		j := scheduler.Job{Ref: job("a"), Lease: 7}
		must(t, a.Finish(t.Context(), j, errors.New("down"), noon))
		if err := a.Finish(t.Context(), j, errors.New("down"), noon); !errors.Is(err, pratique.ErrNotFound) {
			t.Errorf("the second time: %v, want pratique.ErrNotFound", err)
		}
		wantTaken(t, a, noon, time.Hour, "b")
		if j := wantTaken(t, a, noon, time.Hour, "a"); j.Attempts != 1 {
			t.Errorf("%d attempts, want 1", j.Attempts)
		}
	})
}

// TestQueueRestart: a server that is killed and started again has lost nothing, and
// nobody has lost what he holds.
func TestQueueRestart(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := newWorld(t, server.URL())
	a, b := w.replica(), w.replica()
	for _, name := range []string{"a", "b"} {
		must(t, a.Push(t.Context(), job(name), scheduler.PriorityPull, noon))
	}
	j := wantTaken(t, a, noon, time.Hour, "a")
	server.Kill()
	if _, err := b.Take(t.Context(), noon, time.Hour); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("a server that is gone: %v, want store.ErrUnreachable", err)
	}
	server.Run()
	wantTaken(t, b, noon, time.Hour, "b")
	wantTaken(t, b, noon, time.Hour, "")
	must(t, a.Finish(t.Context(), j, nil, time.Time{}))
	sound(t, b)
}

// TestQueueAgrees: whatever is done in whatever order, the answers are those of
// internal/sqlite, and the indexes are sound.
func TestQueueAgrees(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		for seed := range uint64(2) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				w := newWorld(t, url)
				db := w.replica()
				oracle, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
				must(t, err)
				t.Cleanup(func() { _ = oracle.Close() })
				p := &pair{t: t, rng: rand.New(rand.NewPCG(seed, 6)), queues: [2]queueOf{oracle, db}, now: noon} //nolint:gosec // the same at every run
				for range 200 {
					p.step()
				}
				sound(t, db)
			})
		}
	})
}

type queueOf interface {
	scheduler.Queue
	scheduler.Jobs
	scheduler.Pauses
}

// pair does the same to two queues.
type pair struct {
	t      *testing.T
	rng    *rand.Rand
	queues [2]queueOf
	now    time.Time
	held   [][2]scheduler.Job
	steps  []string
}

// both calls each and compares what they say.
func (p *pair) both(what string, call func(i int, q queueOf) string) string {
	p.t.Helper()
	p.steps = append(p.steps, what)
	want, got := call(0, p.queues[0]), call(1, p.queues[1])
	if want != got {
		p.t.Fatalf("after %s: %q, want %q", strings.Join(p.steps, ", "), got, want)
	}
	return got
}

func said(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, pratique.ErrNotFound):
		return "none"
	}
	return err.Error()
}

func (p *pair) step() {
	p.t.Helper()
	ctx := p.t.Context()
	ref := pratique.Ref{Registry: "docker.io", Repo: fmt.Sprint("lab/", p.rng.IntN(3)), Tag: "v1", Digest: digest.FromString(fmt.Sprint(p.rng.IntN(25)))}
	prio := scheduler.Priority(p.rng.IntN(4))
	switch n := p.rng.IntN(100); {
	case n < 40:
		p.both(fmt.Sprint("push ", ref, prio), func(_ int, q queueOf) string { return said(q.Push(ctx, ref, prio, p.now)) })
	case n < 60:
		var js [2]scheduler.Job
		var only []scheduler.Priority
		if n < 50 {
			only = append(only, prio, scheduler.Priority(p.rng.IntN(4)))
		}
		if got := p.both(fmt.Sprint("take ", only), func(i int, q queueOf) string {
			var err error
			js[i], err = q.Take(ctx, p.now, 20*time.Second, only...)
			return fmt.Sprint(said(err), js[i].Ref, js[i].Priority, js[i].Attempts, js[i].Error, js[i].NotBefore)
		}); !strings.HasPrefix(got, "none") {
			p.held = append(p.held, js)
		}
	case n < 75 && len(p.held) > 0:
		i := p.rng.IntN(len(p.held))
		js := p.held[i]
		p.held = append(p.held[:i], p.held[i+1:]...)
		failure, at := errors.New("down"), p.now.Add(time.Duration(p.rng.IntN(30))*time.Second)
		switch n % 3 {
		case 0:
			failure = nil
		case 1:
			at = time.Time{}
		}
		p.both(fmt.Sprint("finish ", js[0].Ref, failure, at), func(i int, q queueOf) string { return said(q.Finish(ctx, js[i], failure, at)) })
	case n < 80 && len(p.held) > 0:
		js := p.held[p.rng.IntN(len(p.held))]
		p.both(fmt.Sprint("renew ", js[0].Ref), func(i int, q queueOf) string { return said(q.Renew(ctx, js[i], p.now.Add(20*time.Second))) })
	case n < 84:
		p.both(fmt.Sprint("retry ", ref.Digest), func(_ int, q queueOf) string {
			n, err := q.RetryJobs(ctx, ref.Digest, p.now)
			return fmt.Sprint(n, said(err))
		})
	case n < 86:
		p.both("retry all", func(_ int, q queueOf) string {
			n, err := q.RetryJobs(ctx, "", p.now)
			return fmt.Sprint(n, said(err))
		})
	case n < 88 && prio > 0:
		p.both(fmt.Sprint("pause ", prio), func(_ int, q queueOf) string { return said(q.Pause(ctx, []scheduler.Priority{prio}, p.now)) })
	case n < 90:
		p.both("resume", func(_ int, q queueOf) string { return said(q.Resume(ctx, scheduler.Background())) })
	case n < 92:
		p.both("forget", func(_ int, q queueOf) string { return said(q.ForgetJobs(ctx, noon, 3)) })
	default:
		p.now = p.now.Add(time.Duration(p.rng.IntN(15)) * time.Second)
	}
	p.both("look", func(_ int, q queueOf) string { return p.look(ctx, q) })
}

// look is all that people see.
func (p *pair) look(ctx context.Context, q queueOf) string {
	var b strings.Builder
	js, err := q.Jobs(ctx, scheduler.JobQuery{Limit: 1000}, p.now)
	fmt.Fprintln(&b, said(err))
	for _, j := range js {
		fmt.Fprintln(&b, j.Ref, j.State, j.Priority, j.Attempts, j.Error, j.NotBefore, j.OpenedAt)
	}
	n, err := q.Len(ctx)
	fmt.Fprintln(&b, n, said(err))
	dead, err := q.DeadJobs(ctx)
	fmt.Fprintln(&b, dead, said(err))
	paused, err := q.Paused(ctx)
	fmt.Fprintln(&b, paused, said(err))
	return b.String()
}

// sound checks that every job is where it should be, and nothing else is there.
func sound(t *testing.T, db *DB) {
	t.Helper()
	ctx := t.Context()
	docs, err := db.rdb.HGetAll(ctx, db.key(queuePart, "jobs")).Result()
	must(t, err)
	members := func(name string) map[string]bool {
		all, err := db.rdb.ZRange(ctx, db.key(queuePart, name), 0, -1).Result()
		must(t, err)
		out := make(map[string]bool)
		for _, m := range all {
			out[m] = true
		}
		return out
	}
	open, ready, later, held, line, dead := members("jobs.open"), members("jobs.ready"), members("jobs.later"), members("jobs.held"), members("jobs.line"), members("jobs.dead")
	tokens, err := db.rdb.HGetAll(ctx, db.key(queuePart, "jobs.tokens")).Result()
	must(t, err)
	count := 0
	for image, text := range docs {
		var d jobDoc
		must(t, json.Unmarshal([]byte(text), &d))
		if d.Died != "" {
			if !dead[d.Died+d.Number+image] {
				t.Errorf("dead %s is not among the dead", image)
			}
			continue
		}
		count++
		place := d.Turn + d.Number + image
		shelves := 0
		for _, on := range []bool{ready[d.Priority+place], later[d.Priority+d.Before+place], held[d.Priority+d.Until+place]} {
			if on {
				shelves++
			}
		}
		if !open[d.Priority+place] || !line[d.Priority+d.Registry+"/"+d.Repository+"\x00"+d.Turn+d.Number] || shelves != 1 {
			t.Errorf("open %s: open %v, on %d shelves", image, open[d.Priority+place], shelves)
		}
		if d.Token != "" && tokens[d.Token] != image {
			t.Errorf("token of %s is of %q", image, tokens[d.Token])
		}
		delete(tokens, d.Token)
	}
	if len(tokens) > 0 || len(open) != count || len(line) != count || len(ready)+len(later)+len(held) != count || len(dead) != len(docs)-count {
		t.Errorf("%d open jobs, but %d tokens too many, open %d, line %d, on shelves %d; %d dead of %d",
			count, len(tokens), len(open), len(line), len(ready)+len(later)+len(held), len(dead), len(docs)-count)
	}
}

// zAlive is a process that is dead when the clock of beats is past at.
func zAlive(db *DB, at float64) goredis.Z { return goredis.Z{Score: at, Member: db.queue.me} }
