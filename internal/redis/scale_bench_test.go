package redis

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/internal/redis/redistest"
	"pratique/store"
	"pratique/store/storetest"
)

// scaleBench measures what one thing of each kind takes in Redis: bytes that stay,
// commands (those inside scripts too) and processor time of Redis' process.
type scaleBench struct {
	b      *testing.B
	db     *DB
	client *redis.Client
	random *rand.Rand
}

// redisCost is what Redis holds, and did so far.
type redisCost struct {
	bytes, commands float64
	cpu             time.Duration
}

func (s *scaleBench) cost() (c redisCost) {
	s.b.Helper()
	info, err := s.client.InfoMap(s.b.Context(), "memory", "commandstats", "cpu").Result()
	if err != nil {
		s.b.Fatal(err)
	}
	number := func(text string) float64 {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			s.b.Fatal(err)
		}
		return n
	}
	c.bytes = number(info["Memory"]["used_memory"])
	c.cpu = time.Duration((number(info["CPU"]["used_cpu_user"]) + number(info["CPU"]["used_cpu_sys"])) * float64(time.Second))
	for _, stats := range info["Commandstats"] {
		calls, _, _ := strings.Cut(strings.TrimPrefix(stats, "calls="), ",")
		c.commands += number(calls)
	}
	return c
}

// row does something and prints what each of n took.
func (s *scaleBench) row(what string, n int, do func() error) {
	s.b.Helper()
	before, began := s.cost(), time.Now()
	if err := do(); err != nil {
		s.b.Fatalf("%s: %v", what, err)
	}
	took, after := time.Since(began), s.cost()
	each := func(v float64) float64 { return v / float64(n) }
	fmt.Printf("| %s | %d | %.0f | %.1f | %.0f | %.0f |\n", what, n, each(after.bytes-before.bytes), each(after.commands-before.commands),
		each(float64((after.cpu-before.cpu).Nanoseconds())/1e3), each(float64(took.Nanoseconds())/1e3))
}

// BenchmarkScale prints the table that docs/scale.md computes with: `make scale`.
// PRATIQUE_FLEET is how many images are made of real packages.
func BenchmarkScale(b *testing.B) {
	redistest.Need(b, "redis-server")
	server := redistest.Start(b, "--appendonly", "no")
	db, err := Open(b.Context(), Config{URL: server.URL(), Documents: new(storetest.Documents), Poll: time.Hour, Timeout: time.Minute, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	s := &scaleBench{b: b, db: db, client: server.Client(), random: rand.New(rand.NewPCG(1, 2))} //nolint:gosec // the same each time
	fmt.Print("| | of | bytes each | commands each | Redis CPU, µs each | wall, µs each |\n|---|---|---|---|---|---|\n")
	s.catalog(20_000)
	s.history(20_000)
	s.outbox(20_000)
	s.queue(20_000)
	images := 2000
	if n, err := strconv.Atoi(os.Getenv("PRATIQUE_FLEET")); err == nil {
		images = n
	}
	s.fleet(images)
	for b.Loop() { // what was measured is above
	}
	b.ReportMetric(0, "ns/op")
}

func (s *scaleBench) catalog(n int) {
	ctx := s.b.Context()
	imgs := make([]pratique.Image, n)
	for i := range imgs {
		imgs[i] = benchImage(s.random, i)
	}
	repo := func(i int) pratique.Ref { return tagged(fmt.Sprint("team/app", i/100), fmt.Sprint("v", i)) }
	s.row("image linked and tagged, ten layers, 100 images in a repository", n, func() error {
		for i, img := range imgs {
			if err := s.db.Link(ctx, repo(i), img, testTime); err != nil {
				return err
			}
			if err := s.db.SetTag(ctx, repo(i), store.TagState{Digest: img.Digest, CheckedAt: testTime, ChangedAt: testTime}); err != nil {
				return err
			}
		}
		return nil
	})
	s.row("the same image in another repository", n/4, func() error {
		for i, img := range imgs[:n/4] {
			if err := s.db.Link(ctx, testRepo(fmt.Sprint("other/app", i/100)), img, testTime); err != nil {
				return err
			}
		}
		return nil
	})
	s.row("all images listed (a watcher's hourly look, `images list`)", n, func() error {
		for _, err := range s.db.Images(ctx) {
			if err != nil {
				return err
			}
		}
		return nil
	})
	s.row("all blobs listed by their last use (making room), an image", n, func() error {
		for _, err := range s.db.Usage(ctx, func(pratique.Ref) bool { return false }) {
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *scaleBench) queue(n int) {
	ctx := s.b.Context()
	s.row("job opened", n, func() error {
		for i := range n {
			ref := pratique.Ref{Registry: "docker.io", Repo: fmt.Sprint("team/app", i/100), Tag: "v1", Digest: digest.FromString(fmt.Sprint("job ", i))}
			if err := s.db.Push(ctx, ref, 1, noon); err != nil {
				return err
			}
		}
		return nil
	})
	s.row("job taken and done", n, func() error {
		for range n {
			j, err := s.db.Take(ctx, noon, time.Minute)
			if err != nil {
				return err
			}
			if err := s.db.Finish(ctx, j, nil, time.Time{}); err != nil {
				return err
			}
		}
		return nil
	})
}

// fleet makes images of real packages, as BenchmarkFleet does.
func (s *scaleBench) fleet(n int) {
	b, ctx := s.b, s.b.Context()
	f := &benchFleet{db: s.db, seen: make(map[pratique.ComponentID]bool), ms: make(map[pratique.ComponentID][]pratique.Vulnerability)}
	for _, inv := range benchInventories(b) {
		cs, _ := inv.Components()
		f.bases = append(f.bases, cs)
	}
	if err := s.db.Begin(ctx, engineOf(0)); err != nil {
		b.Fatal(err)
	}
	images := make([]digest.Digest, n)
	s.row("image's components stored, all that is below it included", n, func() error {
		for i := range images {
			images[i] = f.image(b, i)
		}
		return nil
	})
	s.row("component matched for the first time, with its findings", f.components, func() error {
		_, err := s.db.PutMatches(ctx, engineOf(0), hourly(0), f.ms)
		return err
	})
	s.row("report stored", n, func() error {
		for _, image := range images {
			f.report(b, image)
		}
		return nil
	})
	for p := range partitions {
		f.chunks += int(s.client.HLen(ctx, s.db.key(partNumber(p), "chunks")).Val())
	}
	s.kinds(f)
	s.row("report read, nothing of it in memory", n, func() error { return s.reports(images, s.db.joins.forget) })
	s.row("report read again, all in the order of images", n, func() error { return s.reports(images, func() {}) })
	s.row("component matched again, the same is said", len(f.ms), func() error {
		_, err := s.db.PutMatches(ctx, engineOf(0), hourly(1), f.ms)
		return err
	})
	changed := make(map[pratique.ComponentID][]pratique.Vulnerability)
	for id, vs := range f.ms {
		if len(vs) > 0 && len(changed) < 1000 {
			vs = append([]pratique.Vulnerability(nil), vs...)
			vs[0].Fixed = "another"
			changed[id] = vs
		}
	}
	s.row("component matched again, something else is said", len(changed), func() error {
		_, err := s.db.PutMatches(ctx, engineOf(0), hourly(2), changed)
		return err
	})
}

func (s *scaleBench) reports(images []digest.Digest, before func()) error {
	for _, image := range images {
		before()
		if _, err := s.db.Report(s.b.Context(), image); err != nil {
			return err
		}
	}
	return nil
}

// kinds prints the bytes of a fleet by what they are of.
func (s *scaleBench) kinds(f *benchFleet) {
	size := func(names ...string) (sum float64) {
		for _, name := range names {
			sum += float64(f.bytes(s.b, s.client, name))
		}
		return sum
	}
	for _, l := range []struct {
		what  string
		of    int
		bytes float64
	}{
		{"of these: a component, with its keys", f.components, size("components", "keys")},
		{"a layer's content, with which components it has", f.chunks, size("chunks", "components.chunks")},
		{"an image's list of layers' contents, and their lists of images", f.images, size("scanned", "chunk.images")},
		{"what is said of a component", f.components, size("matches", "vulnerabilities", "untold", "strays.1")},
		{"the same, for each finding", max(1, f.findings), size("matches", "vulnerabilities")},
		{"a report", f.images, size("reports")},
	} {
		fmt.Printf("| %s | %d | %.0f | | | |\n", l.what, l.of, l.bytes/float64(l.of))
	}
	fmt.Printf("| (a component of an image, all of the above) | %d | %.0f | | | |\n", f.occurrences, size("components", "keys", "chunks", "components.chunks", "scanned", "chunk.images", "matches", "vulnerabilities", "reports")/float64(f.occurrences))
}
