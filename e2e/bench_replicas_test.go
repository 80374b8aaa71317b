//go:build e2e && bench

package e2e

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// replicaClients is how many clients the replicas share: as many for each, whether
// one, two or three are asked.
const replicaClients = 12

// benchReplicas are several replicas on one Redis and one S3 server, and one process
// of its own for comparison.
type benchReplicas struct {
	*bench
	redis    *process
	client   *redis.Client
	objects  *objects
	replicas []*Pratique
	rounds   int           // how often each count of replicas is asked
	pairs    int           // how often Redis and SQLite are
	length   time.Duration // of a round
	rest     time.Duration // for how long idle replicas are watched
}

// replicas measures what several replicas give together, what Redis has to do for it,
// and Redis beside SQLite.
func (b *bench) replicas() {
	t := b.t
	r := &benchReplicas{bench: b, rounds: 3, pairs: 6, length: duration, rest: 10 * time.Second}
	if testing.Short() {
		r.rounds, r.pairs, r.length, r.rest = 1, 1, time.Second, 2*time.Second
	}
	addr := freeAddr(t)
	_, port, _ := strings.Cut(addr, ":")
	r.redis = startProcess(t, "redis", exec.Command(need(t, "redis-server"), "--port", port, "--bind", "127.0.0.1",
		"--dir", workdir(t, "redis"), "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"))
	r.client = redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { _ = r.client.Close() })
	r.redis.waitFor(t, func() error { return r.client.Ping(t.Context()).Err() })
	r.objects = startObjects(t, "127.0.0.1")
	for range 3 {
		extra := fmt.Sprintf("state: {redis: {url: \"redis://%s\"}}\nlog: {level: warn}\n", addr)
		r.replicas = append(r.replicas, b.startPratique(r.objects.storage("  hot: {maxSize: 2GiB}\n")+extra))
	}
	b.printf("### Several replicas\n\nReplicas on one redis-server %s (`appendfsync everysec`) and one S3 server (versitygw), each with a hot cache,\n"+
		"all on this machine with their clients: they share its %s, so rates do not tell what replicas\non machines of their own give. What a request costs, for all processes together, tells more.\n\n", r.version(), cores())
	r.rates()
	idle := r.idle()
	r.commands(idle)
	r.beside()
	for _, p := range r.replicas {
		p.Stop()
	}
	r.redis.stop()
}

func base(p *Pratique, img benchImage) string {
	return "http://" + p.Registry + "/v2/docker.io/" + img.repo
}

// rates asks one, two and three replicas with as many clients.
func (r *benchReplicas) rates() {
	t := r.t
	small, large := r.upstream.push(t, "bench/shared-small", 1, 2<<20, false), r.upstream.push(t, "bench/shared-large", 1, 200<<20, false)
	for _, p := range r.replicas {
		for _, img := range []benchImage{small, large} {
			mustServe(t, base(p, img)+"/manifests/1.0")
			for range 2 { // the second time from the hot cache, at the latest
				mustServeExactly(t, base(p, img)+"/blobs/"+img.layers[0], img.layers[0])
			}
		}
	}
	works := []work{
		{"manifest by tag", small, "/manifests/1.0", replicaClients, "", 0},
		{"manifest by digest", small, "/manifests/" + small.digest, replicaClients, "", 0},
		{"blob of 2 MiB, GiB/s", small, "/blobs/" + small.layers[0], replicaClients, "", small.sizes[0]},
		{"blob of 200 MiB, 6 clients, GiB/s", large, "/blobs/" + large.layers[0], 6, "", large.sizes[0]},
	}
	hits, misses := r.hot()
	r.printf("Requests per second, `wrk -t1` for each replica that is asked, %d clients among them, medians of %d rounds of %s in turn;\n"+
		"and what they cost: seconds of processor time of all replicas and Redis for 1000 requests (of blobs, for a GiB), without wrk.\n\n", replicaClients, r.rounds, r.length)
	r.printf("| | 1 replica | 2 | 3 | CPU s, 1 replica | 2 | 3 |\n|---|---|---|---|---|---|---|\n")
	for _, w := range works {
		results := make([][]sample, len(r.replicas))
		for round := range r.rounds {
			for n := range r.replicas {
				if round%2 == 1 {
					n = len(r.replicas) - 1 - n
				}
				results[n] = append(results[n], r.wrk(w, n+1))
			}
		}
		r.printf("| %s |", w.name)
		for _, s := range results {
			r.printf(" %s |", number(medianOf(s, func(s sample) float64 { return s.rate })))
		}
		for _, s := range results {
			r.printf(" %.3f |", medianOf(s, func(s sample) float64 { return s.server }))
		}
		r.printf("\n")
	}
	more, missed := r.hot()
	if missed != misses || more == hits {
		t.Errorf("%v blobs opened in the hot caches, %v in the object store; want only the first", more-hits, missed-misses)
	}
	r.printf("\nMemory (RSS) of a replica after that: %d MiB. The object store was asked for nothing.\n\n", rss(t, r.replicas[0].server)>>20)
}

// hot is how many blobs were opened in hot caches and besides them.
func (r *benchReplicas) hot() (hits, misses float64) {
	for _, p := range r.replicas {
		hits += p.Metric(r.t, "pratique_hot_hits_total")
		misses += p.Metric(r.t, "pratique_hot_misses_total")
	}
	return hits, misses
}

// wrk asks the first n replicas at once.
func (r *benchReplicas) wrk(w work, n int) sample {
	t := r.t
	before := r.used()
	outputs := make([][]byte, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i, p := range r.replicas[:n] {
		wg.Go(func() {
			outputs[i], errs[i] = exec.Command("wrk", "-t1", "-c"+strconv.Itoa(w.clients/n), "-d"+r.length.String(), "--timeout", "30s", "-H", "Accept: "+accept, base(p, w.img)+w.path).CombinedOutput()
		})
	}
	wg.Wait()
	used := r.used() - before
	var s sample
	done := 0.0 // thousands of requests, or GiB
	for i, out := range outputs {
		requests, got := perSecond.FindStringSubmatch(string(out)), total.FindStringSubmatch(string(out))
		if errs[i] != nil || requests == nil || got == nil || failures.Match(out) {
			t.Fatalf("wrk: %v\n%s", errs[i], out)
		}
		if seconds := float(t, got[1]); w.size == 0 {
			s.rate += float(t, requests[1])
			done += float(t, requests[1]) * seconds / 1000
		} else {
			gib := float(t, got[2]) / map[string]float64{"K": 1 << 20, "M": 1 << 10, "G": 1}[got[3]]
			s.rate += gib / seconds
			done += gib
		}
	}
	s.server = used / done
	return s
}

// used is the processor time of all replicas and Redis so far.
func (r *benchReplicas) used() float64 {
	sum := cpu(r.t, r.redis)
	for _, p := range r.replicas {
		sum += cpu(r.t, p.server)
	}
	return sum
}

// beside compares Redis and S3 with SQLite and files, in turn: ABBA.
func (r *benchReplicas) beside() {
	t := r.t
	img := r.upstream.push(t, "bench/beside", 1, 64<<10, true)
	alone := r.startPratique("log: {level: warn}")
	defer alone.Stop()
	peers := []*Pratique{r.replicas[0], alone}
	for _, p := range peers {
		mustServe(t, base(p, img)+"/manifests/1.0")
	}
	r.printf("One replica on Redis and S3 beside one process with SQLite and files, both running, asked in turn (ABBA) by `wrk -t1 -c16`,\n%d rounds of four times 1s. The ratios are of the two of one round.\n\n", r.pairs)
	r.printf("| requests per second, medians | Redis | SQLite | Redis ÷ SQLite | least and most |\n|---|---|---|---|---|\n")
	for _, w := range []work{{"manifest by tag", img, "/manifests/1.0", 16, "", 0}, {"manifest by digest", img, "/manifests/" + img.digest, 16, "", 0}} {
		rates := make([][]float64, 2)
		var ratios []float64
		for range r.pairs {
			var sum [2]float64
			for _, i := range []int{0, 1, 1, 0} {
				rate := wrkFor(t, base(peers[i], w.img)+w.path, w, peers[i].server, time.Second).rate
				rates[i] = append(rates[i], rate)
				sum[i] += rate
			}
			ratios = append(ratios, sum[0]/sum[1])
		}
		r.printf("| %s | %s | %s | **%.2f** | %.2f to %.2f |\n", w.name, number(median(rates[0])), number(median(rates[1])), median(ratios), slices.Min(ratios), slices.Max(ratios))
	}
	r.printf("\n")
}

func (r *benchReplicas) version() string {
	info, err := r.client.InfoMap(r.t.Context(), "server").Result()
	if err != nil {
		r.t.Fatal(err)
	}
	return info["Server"]["redis_version"]
}
