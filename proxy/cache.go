package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"pratique"
	"pratique/store"
)

// CacheConfig tunes a Cache.
type CacheConfig struct {
	// TagTTL is how long a tag, or a list of tags, is believed before the
	// upstream is asked again. If zero, 1 m.
	TagTTL time.Duration
	// StaleIfError is how long after the upstream's last answer a tag is still
	// served when the upstream does not answer. Digests are served for ever.
	StaleIfError StaleIfError
	// RevalidateTimeout bounds the wait for the upstream when there is a stale
	// answer to give instead. If zero, 5 s.
	RevalidateTimeout time.Duration
	// FetchTimeout bounds the fetch of a manifest or a list. If zero, 60 s.
	FetchTimeout time.Duration
	// MaxBlobSize is the greatest blob that is fetched; a greater one is refused,
	// before a byte of it is asked for where its size is known. If zero, 20 GiB.
	MaxBlobSize int64
	// MaxResumes is how often a broken blob is resumed. If zero, 5.
	MaxResumes int
	// ResumePause is waited before a broken blob is resumed the first time, twice
	// that before the second, and so on. If zero, 100 ms.
	ResumePause time.Duration
	// ManifestMemory bounds the bytes of manifests kept in memory. If zero,
	// 32 MiB.
	ManifestMemory int64
	// Leases make one of several replicas fetch a blob; the others serve what it
	// stored. If nil, this process is alone.
	Leases store.Leases
	// FollowPoll is how often it is looked whether another replica has stored a blob
	// that it fetches, when no word of it comes. If zero, 1 s.
	FollowPoll time.Duration
	// FollowHold is how long a request for a blob that another replica fetches is
	// held before it is answered with a header whose body follows when the blob is
	// stored: containerd and docker wait 30 s for a header. If zero, 15 s.
	FollowHold time.Duration
	// Reach tells whether the state answers. While it does not, manifests that are not
	// known here are not fetched: they could not be recorded. If nil, it always does.
	Reach store.Reach
	// Stamps tell when what is known of a manifest may have become another: a state
	// that others share can lose what was written last. If nil, what is known stays so.
	Stamps store.Stamper
	// DiskFull is told when a write failed for want of space, and reports whether
	// room will be made. It must not block. If nil, none is.
	DiskFull func() bool
	// Log; if nil, slog.Default().
	Log *slog.Logger
	// Metrics; if nil, none.
	Metrics prometheus.Registerer
	// Now is the clock; if nil, time.Now.
	Now func() time.Time
}

func (cfg *CacheConfig) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.TagTTL, time.Minute)
	def(&cfg.StaleIfError.Semver, 7*24*time.Hour)
	def(&cfg.StaleIfError.Other, 24*time.Hour)
	def(&cfg.StaleIfError.Latest, time.Hour)
	def(&cfg.RevalidateTimeout, 5*time.Second)
	def(&cfg.FetchTimeout, time.Minute)
	def(&cfg.ResumePause, 100*time.Millisecond)
	def(&cfg.FollowPoll, time.Second)
	def(&cfg.FollowHold, 15*time.Second)
	if cfg.MaxBlobSize == 0 {
		cfg.MaxBlobSize = 20 << 30
	}
	if cfg.MaxResumes == 0 {
		cfg.MaxResumes = 5
	}
	if cfg.ManifestMemory == 0 {
		cfg.ManifestMemory = 32 << 20
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
}

// Cache is the Registry of everything that the configured upstreams have: it
// resolves, fetches, verifies, keeps, and serves whatever exists. It judges
// nothing: whoever faces clients puts a Gate before it. What it returns is
// shared and must not be changed.
type Cache struct {
	upstreams atomic.Pointer[map[string]Upstream]
	blobs     *store.Blobs
	catalog   store.Catalog
	tags      store.Tags
	cfg       CacheConfig
	metrics   cacheMetrics

	reach *reach

	manifests *lru[pratique.Ref, keptManifest] // by repository and digest
	// answers of upstreams that could not be recorded, by repository and tag
	unrecorded *lru[pratique.Ref, store.TagState]
	flights    singleflight.Group
	tasks      tasks
	transfers  transfers
	full       atomic.Int64 // when a full disk was last logged, Unix nanoseconds
}

var _ Registry = (*Cache)(nil)

// NewCache makes a cache over upstreams by their keys. Close it.
func NewCache(upstreams map[string]Upstream, blobs *store.Blobs, catalog store.Catalog, tags store.Tags, cfg CacheConfig) *Cache {
	cfg.setDefaults()
	c := &Cache{
		blobs:     blobs,
		catalog:   catalog,
		tags:      tags,
		cfg:       cfg,
		metrics:   newCacheMetrics(cfg.Metrics),
		manifests: newLRU[pratique.Ref](cfg.ManifestMemory, func(m keptManifest) int64 { return int64(2*len(m.Raw)) + 1024 }),
		reach:     &reach{state: cfg.Reach},

		unrecorded: newLRU[pratique.Ref](10_000, func(store.TagState) int64 { return 1 }),
	}
	c.transfers.running = make(map[digest.Digest]*transfer)
	c.Use(upstreams)
	return c
}

// Close waits until what is being fetched has arrived, at most until ctx ends;
// then it is broken off. Nothing new is fetched from the start of Close on.
func (c *Cache) Close(ctx context.Context) error { return c.tasks.close(ctx) }

// Use replaces the upstreams from now on. What is being fetched from one that is
// gone is fetched to its end; what it brought stays, and is served when an
// upstream of that key is there again.
func (c *Cache) Use(upstreams map[string]Upstream) {
	upstreams = maps.Clone(upstreams)
	c.upstreams.Store(&upstreams)
}

// upstream returns the one that ref names. Nothing else is ever dialled.
func (c *Cache) upstream(ref pratique.Ref) (Upstream, error) {
	if up, ok := (*c.upstreams.Load())[ref.Registry]; ok {
		return up, nil
	}
	return nil, Errorf(CodeDenied, "upstream %q is not configured", ref.Registry)
}

// state is a failure of what is kept about bytes. One that does not answer is no
// reason to say that something does not exist.
func (c *Cache) state(err error) error {
	if c.reach.note(err) {
		return stateAway(err)
	}
	return c.storage(err)
}

// storage is a failure of our own disk or store. A full disk is worth saying:
// what is cached goes on being served.
func (c *Cache) storage(err error) error {
	if unanswered(err) {
		return bytesAway(err)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		e := Unavailable(http.StatusServiceUnavailable, "the disk of the cache is full: %w", err)
		e.Message = "the disk of the cache is full" // without the path
		e.RetryAfter = time.Minute
		room := c.cfg.DiskFull != nil && c.cfg.DiskFull()
		if room {
			e.RetryAfter = 5 * time.Second
		}
		c.sayFull(err, room)
		return e
	}
	return fmt.Errorf("cache: %w", err)
}

// sayFull logs a full disk once a minute, and not once a request.
func (c *Cache) sayFull(err error, room bool) {
	now, last := c.cfg.Now().UnixNano(), c.full.Load()
	if now-last < int64(time.Minute) || !c.full.CompareAndSwap(last, now) {
		return
	}
	if room {
		c.cfg.Log.Error("The cache's disk is full before cache.maxSize is reached; room is made", "err", err)
		return
	}
	c.cfg.Log.Error("The cache's disk is full: what is cached is served, nothing new can be pulled", "err", err)
}

// once does work once for all who ask for key at the same time. The work is
// detached: a caller that leaves does not end it for the others.
func once[T any](ctx context.Context, c *Cache, key string, work func(context.Context) (T, error)) (T, error) {
	var zero T
	result := c.flights.DoChan(key, func() (any, error) {
		ctx, done, err := c.tasks.start(ctx)
		if err != nil {
			return zero, err
		}
		defer done()
		ctx, cancel := context.WithTimeout(ctx, c.cfg.FetchTimeout)
		defer cancel()
		return work(ctx)
	})
	select {
	case <-ctx.Done():
		return zero, context.Cause(ctx)
	case r := <-result:
		v, _ := r.Val.(T)
		return v, r.Err
	}
}

// tasks are detached pieces of work: they outlive the request that started
// them and end with the cache.
type tasks struct {
	wg sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	next    int
	cancels map[int]context.CancelCauseFunc
}

// closing is the answer to what would be fetched after Close.
func closing() *Error {
	e := Unavailable(http.StatusServiceUnavailable, "shutting down")
	e.RetryAfter = 5 * time.Second
	return e
}

// start returns a context that keeps ctx's values but not its end. The caller
// must call done.
func (t *tasks) start(ctx context.Context) (context.Context, func(), error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, nil, closing()
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	if t.cancels == nil {
		t.cancels = make(map[int]context.CancelCauseFunc)
	}
	id := t.next
	t.next++
	t.cancels[id] = cancel
	t.wg.Add(1)
	return ctx, func() {
		t.mu.Lock()
		delete(t.cancels, id)
		t.mu.Unlock()
		cancel(nil)
		t.wg.Done()
	}, nil
}

func (t *tasks) close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	idle := make(chan struct{})
	go func() { t.wg.Wait(); close(idle) }()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	broken := len(t.cancels)
	for _, cancel := range t.cancels {
		cancel(closing())
	}
	t.mu.Unlock()
	<-idle
	return fmt.Errorf("%d fetches broken off: %w", broken, ctx.Err())
}
