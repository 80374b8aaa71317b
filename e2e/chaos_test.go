//go:build e2e && chaos

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// disturbance is one thing that goes wrong, for as long as its weight says.
type disturbance struct {
	name   string
	weight float64 // of the whole time; what is left is rest after it
	at     int     // the replica that it strikes; -1: all
	may    []outcome
	begin  func(t *testing.T, f *fleet)
	end    func(t *testing.T, f *fleet)
}

// disturbances, in their order. What clients may meet while one lasts, and until all
// replicas are ready again, is may, besides verdicts and 429.
func disturbances() []disturbance {
	var out []disturbance
	for n := range replicas {
		out = append(out, disturbance{
			name: fmt.Sprintf("kill -9 of replica %d, restart", n+1), weight: 5, at: n, may: []outcome{gone},
			begin: func(_ *testing.T, f *fleet) { f.kill(n) },
			end:   func(t *testing.T, f *fleet) { f.start(t, n) },
		})
	}
	return append(out,
		disturbance{
			name: "Redis stopped (SIGSTOP), then goes on", weight: 10, at: -1, may: []outcome{unavailable},
			begin: func(t *testing.T, f *fleet) { f.failoverAfter(t, time.Hour); m, _ := f.leader(t); m.Pause() },
			end:   func(t *testing.T, f *fleet) { m, _ := f.leader(t); m.Resume() },
		},
		disturbance{
			name: "kill -9 of Redis, restart from its append-only file", weight: 5, at: -1, may: []outcome{unavailable},
			begin: func(t *testing.T, f *fleet) { m, _ := f.leader(t); m.Kill() },
			end:   func(t *testing.T, f *fleet) { m, _ := f.leader(t); m.Run() },
		},
		disturbance{
			name: "kill -9 of Redis, failover by Sentinel", weight: 10, at: -1, may: []outcome{unavailable},
			begin: func(t *testing.T, f *fleet) {
				dead, other := f.leader(t)
				other.Follows() // else there is none to fail over to
				f.failoverAfter(t, time.Second)
				f.dead = dead
				dead.Kill()
			},
			end: func(t *testing.T, f *fleet) {
				f.failedOver(t)
				f.dead.Run() // as a replica of the new one
			},
		},
		disturbance{
			name: "5 % of the object store's answers are errors", weight: 10, at: -1, may: []outcome{unavailable},
			begin: func(_ *testing.T, f *fleet) { f.objects.errors.Store(50) },
			end:   func(_ *testing.T, f *fleet) { f.objects.errors.Store(0) },
		},
		disturbance{
			name: "the object store answers 2 s later", weight: 10, at: -1, may: []outcome{unavailable},
			begin: func(_ *testing.T, f *fleet) { f.objects.latency.Store(int64(2 * time.Second)) },
			end:   func(_ *testing.T, f *fleet) { f.objects.latency.Store(0) },
		},
		disturbance{
			name: "replica 3 does not reach Redis (partition)", weight: 10, at: 2, may: []outcome{unavailable},
			begin: func(t *testing.T, f *fleet) {
				if err := f.net.cut(true); err != nil {
					t.Error(err)
				}
			},
			end: func(t *testing.T, f *fleet) {
				if err := f.net.cut(false); err != nil {
					t.Error(err)
				}
			},
		},
	)
}

// rest is how much of the time is undisturbed before each disturbance.
const rest = 5.0

// phase is a span of the run.
type phase struct {
	name     string
	from, to time.Duration
	d        *disturbance // nil: rest
}

// TestChaos has three replicas pulled from while everything that can fail fails.
// CHAOS_SECONDS is for how long (60); with CHAOS_REPORT the table and the plot in
// docs are written, with CHAOS_ONLY (an expression) there are only the disturbances
// whose name it matches.
func TestChaos(t *testing.T) {
	seconds := 60.0
	if s, err := strconv.ParseFloat(os.Getenv("CHAOS_SECONDS"), 64); err == nil {
		seconds = s
	}
	f := startFleet(t)
	random := rand.New(rand.NewPCG(6, 2))
	for round := range 5 {
		f.up.add(t, round, random)
	}
	l := newChaosLoad(f)
	for _, i := range f.up.images { // hot ones are hot
		for n := range replicas {
			for o := pending; o == pending; {
				o = l.pull(n, i, random)
			}
		}
	}
	t.Logf("all is pulled once, %v after the beginning", time.Since(l.began).Round(time.Millisecond))
	l.began, l.pulls = time.Now(), nil

	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { l.run(ctx) })
	running.Go(func() { // cold ones
		for round := 5; ; round++ {
			select {
			case <-ctx.Done():
				return
			case <-time.After(2 * time.Second):
				f.up.add(t, round, random)
			}
		}
	})
	phases := disturb(t, f, l, seconds)
	stop()
	running.Wait()

	l.settle(t)
	c := f.judge(t, l, phases)
	t.Log("\n" + c.table())
	if os.Getenv("CHAOS_REPORT") != "" {
		c.write(t)
	}
}

// disturb does one disturbance after the other and says when.
func disturb(t *testing.T, f *fleet, l *chaosLoad, seconds float64) []phase {
	t.Helper()
	only := regexp.MustCompile(os.Getenv("CHAOS_ONLY"))
	all := slices.DeleteFunc(disturbances(), func(d disturbance) bool { return !only.MatchString(d.name) })
	total := rest
	for _, d := range all {
		total += d.weight + rest
	}
	scale := func(weight float64) time.Duration {
		return time.Duration(weight / total * seconds * float64(time.Second))
	}
	var out []phase
	mark := time.Duration(0)
	next := func(name string, d *disturbance) {
		now := time.Since(l.began)
		out = append(out, phase{name, mark, now, d})
		t.Logf("%v to %v: %s", mark.Round(time.Millisecond), now.Round(time.Millisecond), name)
		mark = now
	}
	time.Sleep(scale(rest))
	next("undisturbed", nil)
	for i := range all {
		d := &all[i]
		d.begin(t, f)
		time.Sleep(scale(d.weight))
		d.end(t, f)
		f.recovered(t)
		next(d.name, d)
		time.Sleep(scale(rest))
		next("undisturbed", nil)
	}
	return out
}

// recovered waits until every replica is ready and confirmed, without a restart.
func (f *fleet) recovered(t *testing.T) {
	t.Helper()
	for n, p := range f.replicas {
		p.server.waitFor(t, func() error {
			if err := answers(p.Admin + "/readyz")(); err != nil {
				return err
			}
			if age := p.Metric(t, "pratique_state_confirmed_age_seconds"); age > 0.7 { // it is looked at twice a second
				return fmt.Errorf("replica %d: state not confirmed for %v s: %w", n+1, age, errStill)
			}
			return nil
		})
	}
}

// judged is a run with what came of it.
type judged struct {
	phases  []phase
	load    *chaosLoad
	seconds float64
	events  map[string]int // facts by how many ids told of them
	ids     int
	again   int // ids that were delivered more than once
	images  int
	fetched int // blobs that were asked of the upstream more than once
	blobs   int
}

func (f *fleet) judge(t *testing.T, l *chaosLoad, phases []phase) *judged {
	t.Helper()
	c := &judged{phases: phases, load: l, seconds: phases[len(phases)-1].to.Seconds(), events: map[string]int{}}
	for _, w := range l.wrong {
		t.Error(w)
	}
	said := map[string]int{}
	for n, ph := range phases {
		if asked, lost := l.known(ph); ph.d != nil && lost > asked/10 {
			t.Errorf("%s: %d of %d pulls of what a replica had decided on were answered with 503 (serve-last)", ph.name, lost, asked)
		}
		for _, p := range l.between(ph.from, ph.to) {
			explained := ph.allows(p) || n > 0 && p.at < ph.from+slack && phases[n-1].allows(p)
			for _, later := range phases[n+1:] {
				explained = explained || p.at+p.took >= later.from && later.allows(p)
			}
			if !explained {
				key := fmt.Sprintf("%s: replica %d: %s: %s", ph.name, p.replica+1, outcomeNames[p.outcome], firstLine(p.said))
				if said[key]++; said[key] == 1 {
					t.Errorf("at %v (pull took %v) in %s", p.at.Round(time.Millisecond), p.took.Round(time.Millisecond), key)
				}
			}
		}
	}
	f.judgeJobs(t)
	f.judgeEvents(t, c)
	f.up.mu.Lock()
	defer f.up.mu.Unlock()
	c.images = len(f.up.images)
	for _, n := range f.up.blobs {
		c.blobs++
		if n > 1 {
			c.fetched++
		}
	}
	return c
}

// slack is how long after a disturbance clients may meet what it did: a replica that
// was not answered a moment ago says so without asking again.
const slack = time.Second

// allows reports whether the pull may have ended so.
func (ph phase) allows(p chaosPull) bool {
	switch p.outcome {
	case served, refused, pending:
		return true
	}
	if ph.d == nil || ph.d.at >= 0 && ph.d.at != p.replica {
		return false
	}
	for _, o := range ph.d.may {
		if o == p.outcome {
			return true
		}
	}
	return false
}

// judgeJobs: every image was decided on by settle; no job is open or dead.
func (f *fleet) judgeJobs(t *testing.T) {
	t.Helper()
	var left result
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		left = f.replicas[0].Command(t, "jobs", "list", "-o", "json")
		if left.exit == 0 && !strings.Contains(left.stdout, "sha256:") {
			return
		}
	}
	t.Errorf("jobs after it all:\n%s", left.output)
}

// judgeEvents: every image's scan was told, and no fact under two ids.
func (f *fleet) judgeEvents(t *testing.T, c *judged) {
	t.Helper()
	f.up.mu.Lock()
	images := len(f.up.images)
	f.up.mu.Unlock()
	subjects := func() int {
		n := 0
		for key := range f.sink.facts() {
			if strings.HasPrefix(key, "image.scanned ") {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(90 * time.Second); subjects() < images && time.Now().Before(deadline); {
		time.Sleep(200 * time.Millisecond)
	}
	if n := subjects(); n < images {
		t.Errorf("%d of %d images were told to be scanned", n, images)
	}
	ids := map[string]int{}
	for _, e := range f.sink.all() {
		ids[e.ID]++
	}
	for _, n := range ids {
		c.ids++
		if n > 1 {
			c.again++
		}
	}
	for fact, es := range f.sink.facts() {
		under := map[string]bool{}
		for _, e := range es {
			under[e.ID] = true
		}
		c.events[fact] = len(under)
		if len(under) > 1 && strings.HasPrefix(fact, "image.scanned ") {
			t.Errorf("%s was told under %d ids", fact, len(under))
		}
	}
	f.sink.check(t)
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s[:min(len(s), 300)]
}
