package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"pratique"
)

// OrphansConfig adjusts Orphans.
type OrphansConfig struct {
	// Grace is how old an orphan must be to be removed: bytes are stored before
	// the manifest that names them is linked. If zero, 1 hour.
	Grace time.Duration
	// Interval is between two looks of Run. If zero, 6 hours.
	Interval time.Duration
	// Now is the clock that the blobs' times are held against; with S3 it is put right
	// by the server's. If nil, time.Now.
	Now func() time.Time
	// Log receives what was removed and what failed. If nil, slog.Default().
	Log *slog.Logger
	// Metrics receives pratique_store_orphan*. If nil, none are registered.
	Metrics prometheus.Registerer
}

// Orphans removes blobs that no manifest names: what a crash left between the
// bytes and their link, and what belonged to a state that was lost. They cannot
// be served, because a blob is served through a manifest; they only fill the
// disk.
//
// A blob in use is never removed: the last look at its links and its age, and
// its removal, are one step that no link and no arrival gets between. In an object
// store that several replicas share, arrivals at others are no part of that step:
// its age there, by the store's own clock, stands for it, and whoever finds a blob
// older than half an hour stores it anew. What arrives elsewhere in the very instant
// between the last look and the removal is fetched once more.
//
// Of the replicas one runs it (Lead); two at once do no harm.
type Orphans struct {
	blobs   *Blobs
	links   Links
	cfg     OrphansConfig
	removed prometheus.Counter
	bytes   prometheus.Counter
	failed  prometheus.Counter
}

// NewOrphans returns a collector that does nothing before Collect or Run.
func NewOrphans(blobs *Blobs, links Links, cfg OrphansConfig) *Orphans {
	if cfg.Grace == 0 {
		cfg.Grace = time.Hour
	}
	if cfg.Interval == 0 {
		cfg.Interval = 6 * time.Hour
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	f := promauto.With(cfg.Metrics)
	return &Orphans{
		blobs: blobs, links: links, cfg: cfg,
		removed: f.NewCounter(prometheus.CounterOpts{
			Name: "pratique_store_orphans_removed_total",
			Help: "Blobs removed because no manifest names them.",
		}),
		bytes: f.NewCounter(prometheus.CounterOpts{
			Name: "pratique_store_orphans_removed_bytes_total",
			Help: "Bytes of blobs removed because no manifest names them.",
		}),
		failed: f.NewCounter(prometheus.CounterOpts{
			Name: "pratique_store_orphans_failures_total",
			Help: "Looks for blobs that no manifest names which failed.",
		}),
	}
}

// Run collects at once and then after every Interval until ctx ends. A look that
// fails is logged; the next one does what it left.
func (o *Orphans) Run(ctx context.Context) error {
	tick := time.NewTicker(o.cfg.Interval)
	defer tick.Stop()
	for {
		removed, bytes, err := o.Collect(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			o.failed.Inc()
			o.cfg.Log.ErrorContext(ctx, "orphaned blobs are not all removed, the next look goes on", "removed", removed, "error", err)
		case removed > 0:
			o.cfg.Log.InfoContext(ctx, "orphaned blobs removed", "blobs", removed, "bytes", bytes)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// orphansBatch is how many blobs are asked about at once.
const orphansBatch = 256

// aged is a blob that is old enough to be looked at.
type aged struct {
	digest digest.Digest
	size   int64
}

// Collect looks at every blob once and returns what it removed, also when it
// ends in an error. It may run beside everything else.
func (o *Orphans) Collect(ctx context.Context) (removed int, bytes int64, err error) {
	// What uploads left, too: a look that fails here goes on at the next.
	if err := o.blobs.removeLeftovers(ctx); err != nil {
		return 0, 0, err
	}
	before := o.blobs.now(o.cfg.Now()).Add(-o.cfg.Grace)
	batch := make([]aged, 0, orphansBatch)
	flush := func() error {
		n, b, err := o.remove(ctx, batch, before)
		removed, bytes, batch = removed+n, bytes+b, batch[:0]
		return err
	}
	err = o.blobs.Walk(ctx, func(d digest.Digest, size int64, modified time.Time) error {
		if !modified.Before(before) {
			return nil
		}
		if batch = append(batch, aged{d, size}); len(batch) < orphansBatch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	return removed, bytes, err
}

// remove removes those of a batch that nothing names.
func (o *Orphans) remove(ctx context.Context, batch []aged, before time.Time) (removed int, bytes int64, err error) {
	if len(batch) == 0 {
		return 0, 0, nil
	}
	sizes := make(map[digest.Digest]int64, len(batch))
	ds := make([]digest.Digest, len(batch))
	for i, a := range batch {
		ds[i], sizes[a.digest] = a.digest, a.size
	}
	orphans, err := o.links.Unlinked(ctx, ds)
	if err != nil {
		return 0, 0, err
	}
	for _, d := range orphans {
		var gone bool
		err := o.links.Discard(ctx, d, func() (err error) {
			gone, err = o.blobs.deleteBefore(ctx, d, before, false)
			return err
		})
		if gone {
			removed, bytes = removed+1, bytes+sizes[d]
			o.removed.Inc()
			o.bytes.Add(float64(sizes[d]))
		}
		if err != nil {
			return removed, bytes, err
		}
	}
	return removed, bytes, nil
}

// deleteBefore removes a blob that was stored before that time, and reports
// whether it did. evicted says that it is removed to make room.
func (b *Blobs) deleteBefore(ctx context.Context, d digest.Digest, before time.Time, evicted bool) (bool, error) {
	path, err := blobPath(d)
	if err != nil {
		return false, err
	}
	b.arrivals.Lock()
	defer b.arrivals.Unlock()
	info, err := b.driver.Stat(ctx, path)
	if err = wrap(d, err); errors.Is(err, pratique.ErrNotFound) {
		b.gone(d, evicted)
		return false, nil
	} else if err != nil || !info.ModTime().Before(before) {
		return false, err
	}
	if err := wrap(d, b.steps.remove(ctx, path)); err != nil {
		return false, err
	}
	b.gone(d, evicted)
	return true, nil
}

// arrive makes a verified spool file visible under its name.
func (b *Blobs) arrive(spooled, final string) error {
	b.arrivals.RLock()
	defer b.arrivals.RUnlock()
	return b.steps.rename(spooled, final)
}

// renewAge is from which age a blob is stored anew where its time cannot be set.
const renewAge = 30 * time.Minute

// renew reports whether a blob of that size is there, and makes it as young as
// one that arrives now.
func (b *Blobs) renew(ctx context.Context, d digest.Digest, size int64) (bool, error) {
	path, err := blobPath(d)
	if err != nil {
		return false, err
	}
	b.arrivals.RLock()
	defer b.arrivals.RUnlock()
	info, err := b.driver.Stat(ctx, path)
	if err = wrap(d, err); errors.Is(err, pratique.ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if info.Size() != size {
		return false, nil
	}
	now := time.Now()
	if b.root == "" {
		return b.now(now).Sub(info.ModTime()) < renewAge, nil
	}
	if err := os.Chtimes(filepath.Join(b.root, path), now, now); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("blob %s: %w", d, err)
	} else if err != nil {
		return false, nil
	}
	return true, nil
}
