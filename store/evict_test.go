package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/store"
)

// usage is a store.Usage of what a test says.
type usage struct {
	mu   sync.Mutex
	uses []store.Use
	err  error // ends the sequence
}

func (u *usage) Usage(context.Context, func(pratique.Ref) bool) iter.Seq2[store.Use, error] {
	return func(yield func(store.Use, error) bool) {
		u.mu.Lock()
		uses, err := slices.Clone(u.uses), u.err
		u.mu.Unlock()
		for _, use := range uses {
			if !yield(use, nil) {
				return
			}
		}
		if err != nil {
			yield(store.Use{}, err)
		}
	}
}

// evicting is a store with blobs of 100 kB that are called by one letter and
// arrived long ago.
type evicting struct {
	t     *testing.T
	dir   string
	blobs *store.Blobs
	usage *usage
	now   time.Time
}

const evictSize = 100_000

func named(name string) []byte { return noise(uint64(name[0]), evictSize) }

// newEvicting stores one blob for each word: name, of image, used so many days
// ago, and ! for one that is pinned.
func newEvicting(t *testing.T, words ...string) *evicting {
	t.Helper()
	e := &evicting{t: t, dir: t.TempDir(), usage: &usage{}, now: time.Now()}
	e.blobs = openFilesystem(t, e.dir)
	for _, w := range words {
		var name, image string
		var days int
		if _, err := fmt.Sscanf(strings.TrimSuffix(w, "!"), "%1s of %1s %d", &name, &image, &days); err != nil {
			t.Fatal(w, err)
		}
		d := digest.FromBytes(named(name))
		if err := e.blobs.Put(t.Context(), d, named(name)); err != nil {
			t.Fatal(err)
		}
		e.age(d)
		e.usage.uses = append(e.usage.uses, store.Use{
			Blob: d, Image: digest.FromString(image), At: e.now.AddDate(0, 0, -days), Pinned: strings.HasSuffix(w, "!"),
		})
	}
	return e
}

func (e *evicting) age(d digest.Digest) {
	e.t.Helper()
	old := e.now.AddDate(-1, 0, 0)
	if err := os.Chtimes(blobFile(e.dir, d), old, old); err != nil {
		e.t.Fatal(err)
	}
}

func (e *evicting) evictor(cfg store.EvictorConfig) *store.Evictor {
	cfg.Log = slog.New(slog.DiscardHandler)
	if cfg.Now == nil {
		cfg.Now = func() time.Time { return e.now }
	}
	return store.NewEvictor(e.blobs, e.usage, cfg)
}

// left are the names of the blobs that are there.
func (e *evicting) left() string {
	e.t.Helper()
	there := audit(e.t, e.dir)
	var out strings.Builder
	for c := 'a'; c <= 'z'; c++ {
		if there[digest.FromBytes(named(string(c)))] {
			out.WriteRune(c)
		}
	}
	return out.String()
}

func TestEvict(t *testing.T) {
	all := []string{"a of A 9", "b of A 9", "c of B 5", "d of C 40", "e of D 1"}
	with := func(extra ...string) []string { return append(slices.Clone(all), extra...) }
	const day = 24 * time.Hour
	for name, tt := range map[string]struct {
		blobs   []string
		cfg     store.EvictorConfig
		left    string
		over    int64
		reasons string // of the images that went, in order
	}{
		"no limit":             {blobs: all, left: "abcde"},
		"within":               {blobs: all, cfg: store.EvictorConfig{MaxSize: 5 * evictSize}, left: "abcde"},
		"one too many":         {blobs: all, cfg: store.EvictorConfig{MaxSize: 5*evictSize - 1, Low: 0.99}, left: "abce", reasons: "size"},
		"down to the low mark": {blobs: all, cfg: store.EvictorConfig{MaxSize: 4 * evictSize, Low: 0.5}, left: "ce", reasons: "size size"},
		"all":                  {blobs: all, cfg: store.EvictorConfig{MaxSize: 1}, left: "", reasons: "size size size size"},
		"unused":               {blobs: all, cfg: store.EvictorConfig{UnusedFor: 9 * day}, left: "ce", reasons: "unused unused"},
		"unused, and too much": {blobs: all, cfg: store.EvictorConfig{UnusedFor: 30 * day, MaxSize: 4*evictSize - 1, Low: 0.9}, left: "ace", reasons: "unused size"},
		"pinned":               {blobs: with("f of E 99!"), cfg: store.EvictorConfig{UnusedFor: day / 2, MaxSize: 1}, left: "f", over: evictSize, reasons: "unused unused unused unused"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEvicting(t, tt.blobs...)
			ev := e.evictor(tt.cfg)
			plan, err := ev.Plan(t.Context(), -1)
			if err != nil {
				t.Fatal(err)
			}
			if left := e.left(); len(left) != len(tt.blobs) {
				t.Fatalf("a plan removed: %s left", left)
			}
			got, err := ev.Evict(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(plan, got); diff != "" {
				t.Errorf("-plan +done:\n%s", diff)
			}
			// a and b are as old as each other: which of them goes is the digest's.
			left := strings.Replace(e.left(), "b", "a", 1)
			if left = strings.Replace(left, "aa", "ab", 1); left != tt.left {
				t.Errorf("left: %s, want %s", left, tt.left)
			}
			var reasons []string
			for _, img := range got.Images {
				reasons = append(reasons, string(img.Reason))
			}
			if strings.Join(reasons, " ") != tt.reasons || got.Over != tt.over {
				t.Errorf("%v, over %d; want %s, over %d", reasons, got.Over, tt.reasons, tt.over)
			}
			if got.Kept != int64(len(e.left()))*evictSize || got.Blobs != len(tt.blobs)-len(e.left()) || got.Bytes != int64(got.Blobs)*evictSize {
				t.Errorf("%+v, left %s", got, e.left())
			}
		})
	}
}

// What just came counts as used when it came: the pull that wanted it may not be
// written down yet.
func TestEvictArrivalIsAUse(t *testing.T) {
	e := newEvicting(t, "a of A 90", "b of B 1")
	d := digest.FromBytes(named("a"))
	if err := os.Chtimes(blobFile(e.dir, d), e.now, e.now); err != nil {
		t.Fatal(err)
	}
	if _, err := e.evictor(store.EvictorConfig{MaxSize: evictSize, Low: 1}).Evict(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := e.left(); got != "a" {
		t.Errorf("left: %s", got)
	}
}

// Configs make no room: they go last.
func TestEvictSmallBlobsLast(t *testing.T) {
	e := newEvicting(t, "a of A 9", "b of B 1")
	config := noise('c', 2000)
	d := digest.FromBytes(config)
	if err := e.blobs.Put(t.Context(), d, config); err != nil {
		t.Fatal(err)
	}
	e.age(d)
	e.usage.uses = append(e.usage.uses, store.Use{Blob: d, Image: digest.FromString("A"), At: e.now.AddDate(0, 0, -9)})
	ev := e.evictor(store.EvictorConfig{})
	for _, tt := range []struct {
		size   int64
		left   string
		config bool
	}{{2 * evictSize, "b", true}, {2000, "", true}, {1000, "", false}} {
		if _, err := ev.EvictTo(t.Context(), tt.size); err != nil {
			t.Fatal(err)
		}
		_, err := e.blobs.Stat(t.Context(), d)
		if got := e.left(); got != tt.left || (err == nil) != tt.config {
			t.Errorf("to %d: left %s, config %v; want %s, %v", tt.size, got, err, tt.left, tt.config)
		}
	}
}

// A state that cannot be read, whole or in part, removes nothing.
func TestEvictUsageFails(t *testing.T) {
	e := newEvicting(t, "a of A 9", "b of B 1")
	e.usage.err = errInjected
	reg := prometheus.NewPedanticRegistry()
	ev := e.evictor(store.EvictorConfig{MaxSize: 1, Metrics: reg})
	if got, err := ev.Evict(t.Context()); !errors.Is(err, errInjected) || got.Blobs > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if got := e.left(); got != "ab" {
		t.Errorf("left: %s", got)
	}
	if st, err := ev.Status(t.Context()); !errors.Is(err, errInjected) {
		t.Errorf("%+v, %v", st, err)
	}
	e.usage.err = nil
	if st, err := ev.Status(t.Context()); err != nil || !errors.Is(st.Last.Err, errInjected) || st.Bytes != 2*evictSize || !st.Oldest.Equal(e.now.AddDate(0, 0, -9)) {
		t.Errorf("%+v, %v", st, err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "pratique_cache_eviction_failures_total" && f.GetMetric()[0].GetCounter().GetValue() != 1 {
			t.Errorf("%v", f)
		}
	}
}

// TestEvictFailureMatrix: the removal of a blob fails, done or not done. The next
// eviction goes on, and the bytes that are kept are counted right.
func TestEvictFailureMatrix(t *testing.T) {
	for name, fail := range failures {
		t.Run(name, func(t *testing.T) {
			e := newEvicting(t, "a of A 9", "b of B 5", "c of C 1")
			failing := true
			store.FailStep(e.blobs, "remove", func(do func() error) error {
				if !failing {
					return do()
				}
				return fail(do)
			})
			ev := e.evictor(store.EvictorConfig{MaxSize: 2 * evictSize, Low: 0.5})
			if _, err := ev.Evict(t.Context()); !errors.Is(err, errInjected) {
				t.Fatal(err)
			}
			failing = false
			got, err := ev.Evict(t.Context())
			if err != nil || e.left() != "c" || got.Kept != evictSize {
				t.Errorf("%+v, %v, left %s", got, err, e.left())
			}
		})
	}
}

// TestEvictCrashMatrix: the process ends at the removal of the second of three
// blobs, just before or just after it. What is there is whole, the next process
// counts right and goes on, and what was removed can be stored again.
func TestEvictCrashMatrix(t *testing.T) {
	for name, fail := range failures {
		t.Run(name, func(t *testing.T) {
			e := newEvicting(t, "a of A 9", "b of B 5", "c of C 3", "d of D 1")
			blobs, err := store.OpenBlobs(t.Context(), store.BlobsConfig{Parameters: map[string]any{"rootdirectory": e.dir}})
			if err != nil {
				t.Fatal(err)
			}
			dead, n := make(chan struct{}), 0
			store.FailStep(blobs, "remove", func(do func() error) error {
				if n++; n < 2 {
					return do()
				}
				_ = fail(do)
				defer close(dead)
				runtime.Goexit() // nothing after it is done: the process is gone
				return nil
			})
			doomed := store.NewEvictor(blobs, e.usage, store.EvictorConfig{MaxSize: 3 * evictSize, Low: 0.34, Log: slog.New(slog.DiscardHandler)})
			go func() { _, _ = doomed.Evict(t.Context()) }()
			<-dead
			store.Crash(blobs)

			e.blobs = openFilesystem(t, e.dir)
			if got, want := e.left(), map[bool]string{false: "bcd", true: "cd"}[strings.Contains(name, "but")]; got != want {
				t.Errorf("left: %s, want %s", got, want)
			}
			ev := e.evictor(store.EvictorConfig{})
			if st, err := ev.Status(t.Context()); err != nil || st.Bytes != int64(len(e.left()))*evictSize {
				t.Errorf("%+v, %v", st, err)
			}
			if got, err := ev.EvictTo(t.Context(), evictSize); err != nil || e.left() != "d" || got.Kept != evictSize {
				t.Errorf("%+v, %v, left %s", got, err, e.left())
			}
			if err := e.blobs.Put(t.Context(), digest.FromBytes(named("a")), named("a")); err != nil || e.left() != "ad" {
				t.Errorf("%v, left %s", err, e.left())
			}
		})
	}
}

// A reader that is open gets its bytes; one who comes later finds nothing.
func TestEvictCutsNobody(t *testing.T) {
	drivers(t, func(t *testing.T, open func(*testing.T) *store.Blobs) {
		b, ctx := open(t), t.Context()
		content := noise(1, 300_000)
		d := digest.FromBytes(content)
		if err := b.Put(ctx, d, content); err != nil {
			t.Fatal(err)
		}
		ev := store.NewEvictor(b, &usage{uses: []store.Use{{Blob: d, Image: d}}}, store.EvictorConfig{Log: slog.New(slog.DiscardHandler)})
		r, _, err := b.Open(ctx, d, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ev.EvictTo(ctx, 0); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != string(content[1000:]) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if _, err := ev.EvictTo(ctx, 0); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Open(ctx, d, 0); !errors.Is(err, pratique.ErrNotFound) {
			t.Errorf("still there: %v", err)
		}
		if err := b.Put(ctx, d, content); err != nil {
			t.Fatal(err)
		}
		if st, err := ev.Status(ctx); err != nil || st.Refetched != 300_000 || st.Bytes != 300_000 {
			t.Errorf("%+v, %v", st, err)
		}
	})
}

// What arrives, goes and is counted at the same time is counted right.
func TestLedgerIsRight(t *testing.T) {
	drivers(t, func(t *testing.T, open func(*testing.T) *store.Blobs) {
		b, ctx := open(t), t.Context()
		ev := store.NewEvictor(b, &usage{}, store.EvictorConfig{Log: slog.New(slog.DiscardHandler)})
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(1, uint64(i)))
				for range 100 {
					content := noise(uint64(i)*5+rnd.Uint64N(5), 1000)
					d := digest.FromBytes(content)
					if rnd.IntN(2) == 0 {
						if err := b.Delete(ctx, d); err != nil && !errors.Is(err, pratique.ErrNotFound) {
							t.Error(err)
						}
						continue
					}
					err := b.Put(ctx, d, content)
					// The server of these tests keeps objects in directories, and may lose one
					// that it removes as empty while this comes.
					for n := 0; n < 5 && errors.Is(err, store.ErrObjects); n++ {
						err = b.Put(ctx, d, content)
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		for range 20 {
			if err := store.Measure(ctx, b); err != nil {
				t.Error(err)
			}
		}
		wg.Wait()
		var want int64
		if err := b.Walk(ctx, func(_ digest.Digest, size int64, _ time.Time) error { want += size; return nil }); err != nil {
			t.Fatal(err)
		}
		if st, err := ev.Status(ctx); err != nil || st.Bytes != want {
			t.Errorf("%d bytes, %v; want %d", st.Bytes, err, want)
		}
	})
}

// Run makes room when something arrives that is too much, and when the disk is
// full.
func TestEvictorRun(t *testing.T) {
	e := newEvicting(t, "a of A 9", "b of B 5", "c of C 1")
	ev := e.evictor(store.EvictorConfig{MaxSize: 3 * evictSize, Low: 0.7, Pause: time.Millisecond, Now: time.Now})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- ev.Run(ctx) }()
	until := func(left string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); e.left() != left; {
			if time.Now().After(deadline) {
				t.Fatalf("left: %s, want %s", e.left(), left)
			}
			time.Sleep(time.Millisecond)
		}
	}
	until("abc")
	d := digest.FromBytes(named("d"))
	e.usage.mu.Lock()
	e.usage.uses = append(e.usage.uses, store.Use{Blob: d, Image: d, At: time.Now()})
	e.usage.mu.Unlock()
	if err := e.blobs.Put(ctx, d, named("d")); err != nil {
		t.Fatal(err)
	}
	until("cd")
	if !ev.DiskFull() {
		t.Error("there will be no room")
	}
	until("d")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if e.evictor(store.EvictorConfig{UnusedFor: time.Hour}).DiskFull() {
		t.Error("room is made though nobody asked for a limit")
	}
}

// BenchmarkMeasure counts 100,000 blobs, as at every start.
func BenchmarkMeasure(b *testing.B) {
	dir := b.TempDir()
	blobs, err := store.OpenBlobs(b.Context(), store.BlobsConfig{Parameters: map[string]any{"rootdirectory": dir}})
	if err != nil {
		b.Fatal(err)
	}
	defer blobs.Close()
	for i := range 100_000 {
		f := blobFile(dir, digest.FromString(fmt.Sprint(i)))
		if err := os.MkdirAll(f[:strings.LastIndexByte(f, '/')], 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(f, []byte("blob"), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := store.Measure(b.Context(), blobs); err != nil {
			b.Fatal(err)
		}
	}
}
