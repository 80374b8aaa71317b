//go:build e2e && bench

package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// redisWork is what Redis did: how often it carried out each command, those of
// scripts included, and the processor time of its process.
type redisWork struct {
	at      time.Time
	calls   map[string]float64
	objects map[string]float64 // requests to the object store, by method
	cpu     float64            // seconds
}

func (r *benchReplicas) work() redisWork {
	r.t.Helper()
	info, err := r.client.InfoMap(r.t.Context(), "commandstats", "cpu").Result()
	if err != nil {
		r.t.Fatal(err)
	}
	w := redisWork{at: time.Now(), calls: map[string]float64{}, objects: r.objects.requests()}
	for name, stats := range info["Commandstats"] {
		name = strings.TrimPrefix(name, "cmdstat_")
		if name == "info" {
			continue // this one
		}
		for field := range strings.SplitSeq(stats, ",") {
			if value, ok := strings.CutPrefix(field, "calls="); ok {
				w.calls[name] = float(r.t, value)
			}
		}
	}
	w.cpu = float(r.t, info["CPU"]["used_cpu_user"]) + float(r.t, info["CPU"]["used_cpu_sys"])
	return w
}

// since is what was done since before, without what idle does in that time.
func (w redisWork) since(before redisWork, idle redisWork) redisWork {
	seconds := w.at.Sub(before.at).Seconds()
	out := redisWork{calls: map[string]float64{}, objects: map[string]float64{}, cpu: w.cpu - before.cpu - idle.cpu*seconds}
	for method, n := range w.objects {
		out.objects[method] = n - before.objects[method] - idle.objects[method]*seconds
	}
	for name, n := range w.calls {
		out.calls[name] = n - before.calls[name] - idle.calls[name]*seconds
	}
	return out
}

func (w redisWork) each(n float64) redisWork {
	out := redisWork{calls: map[string]float64{}, objects: map[string]float64{}, cpu: w.cpu / n}
	for method, c := range w.objects {
		out.objects[method] = c / n
	}
	for name, c := range w.calls {
		out.calls[name] = c / n
	}
	return out
}

func (w redisWork) total() (sum float64) {
	for _, n := range w.calls {
		sum += n
	}
	return sum
}

// most are those that there were at least so many of, the most first.
func most(calls map[string]float64, least float64) string {
	var out []string
	for _, name := range slices.SortedFunc(maps.Keys(calls), func(a, b string) int {
		return cmp.Or(cmp.Compare(calls[b], calls[a]), strings.Compare(a, b))
	}) {
		if n := calls[name]; n >= least {
			out = append(out, name+" "+number(n))
		}
	}
	return strings.Join(out, ", ")
}

// rested is what happens in a second in which nobody asks for anything.
func (r *benchReplicas) rested() redisWork {
	time.Sleep(2 * time.Second) // what was asked before is written down
	before := r.work()
	time.Sleep(r.rest)
	after := r.work()
	return after.since(before, redisWork{}).each(after.at.Sub(before.at).Seconds())
}

// idle watches three replicas that nobody asks, then one, which goes on alone.
func (r *benchReplicas) idle() redisWork {
	three := r.rested()
	for _, p := range r.replicas[1:] {
		p.Stop()
	}
	time.Sleep(2 * time.Second) // what they had to say at their end
	one := r.rested()
	r.printf("Commands that Redis carried out, as it counts them itself, those inside scripts included, and the\nprocessor time of its process.\n\n")
	r.printf("| nobody asks for anything, a second | commands | CPU, ms | most of them |\n|---|---|---|---|\n")
	for _, l := range []struct {
		name string
		redisWork
	}{{"1 replica", one}, {"3 replicas", three}} {
		r.printf("| %s | %s | %.1f | %s |\n", l.name, number(l.total()), l.cpu*1e3, most(l.calls, 1))
	}
	r.printf("\n")
	return one
}

// Pulls of which Redis' commands are counted.
const (
	warmPulls = 10_000
	coldPulls = 20
)

// commands counts what Redis has to do for pulls at one replica, without what it does
// for an idle one in the same time.
func (r *benchReplicas) commands(idle redisWork) {
	t, p := r.t, r.replicas[0]
	warm := r.upstream.push(t, "bench/counted", 1, 64<<10, true)
	pull := func(p *Pratique, img benchImage) {
		mustServe(t, base(p, img)+"/manifests/1.0")
		for _, d := range append([]string{img.config}, img.layers...) {
			mustServe(t, base(p, img)+"/blobs/"+d)
		}
	}
	counted := func(pulls int, f func()) redisWork {
		time.Sleep(2 * time.Second)
		before := r.work()
		f()
		time.Sleep(2 * time.Second) // pulls are written down in batches
		return r.work().since(before, idle).each(float64(pulls))
	}
	pull(p, warm)
	warmed := counted(warmPulls, func() {
		urls := []string{"/manifests/1.0", "/blobs/" + warm.config, "/blobs/" + warm.layers[0]}
		tick := time.NewTicker(r.rest / 100)
		defer tick.Stop()
		for range 100 { // over the same time as was watched idle
			for range warmPulls / 100 {
				for _, path := range urls {
					mustServe(t, base(p, warm)+path)
				}
			}
			<-tick.C
		}
	})
	var imgs []benchImage
	for i := range coldPulls {
		imgs = append(imgs, r.upstream.push(t, fmt.Sprint("bench/cold-", i), 3, 64<<10, true))
	}
	each := func(p *Pratique) func() {
		return func() {
			for _, img := range imgs {
				pull(p, img)
			}
		}
	}
	cold := counted(coldPulls, each(p))
	p.Stop()
	p.Start(t)
	known := counted(coldPulls, each(p))
	r.printf("| a pull (manifest by tag, config, layers), at 1 replica, less its idle commands | commands | CPU, ms | most of them | requests to the object store |\n|---|---|---|---|---|\n")
	for _, l := range []struct {
		name string
		redisWork
	}{
		{fmt.Sprintf("warm, of %d in %d s; each is written down in the log of pulls", warmPulls, int(r.rest.Seconds())), warmed},
		{fmt.Sprintf("cold, 3 layers, scanned, of %d", coldPulls), cold},
		{"known to Redis, but not to this replica, which has just been started", known},
	} {
		r.printf("| %s | %s | %.2f | %s | %s |\n", l.name, number(max(0, l.total())), max(0, l.cpu*1e3), most(l.calls, max(0.005, l.total()/20)), most(l.objects, 0.05))
	}
	r.printf("\n")
	if reads := warmed.reads(); reads > 0.02 {
		t.Errorf("a warm pull reads %.3f times from Redis; want none: %v", reads, warmed.calls)
	}
}

// reads is how many of the commands only read.
func (w redisWork) reads() (sum float64) {
	for _, name := range []string{"get", "mget", "hget", "hmget", "hgetall", "hexists", "hkeys", "hlen", "hscan", "smembers", "sismember", "zrange", "zscore", "lrange", "exists"} {
		sum += w.calls[name]
	}
	return sum
}

func cores() string { return strconv.Itoa(runtime.NumCPU()) + " processors" }
