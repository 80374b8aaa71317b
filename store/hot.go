package store

import (
	"container/list"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
)

// HotConfig is a cache on a local disk in front of an object store.
type HotConfig struct {
	// Dir is where, for this process alone.
	Dir string
	// MaxBytes is how many bytes it may take, what is on its way included. If zero,
	// there is no such cache.
	MaxBytes int64
}

// hot keeps blobs of an object store on a local disk. What is in it was verified,
// and is never wrong, because a name is a digest: that the object is gone, or that
// somebody may not have it, is not decided here. Losing any of it costs a request.
type hot struct {
	dir     string
	max     int64
	lock    *os.File
	now     func() time.Time
	metrics hotMetrics

	mu      sync.Mutex
	entries map[digest.Digest]*list.Element
	order   list.List // of *hotBlob, the most recently used first
	kept    int64     // bytes of entries
	coming  int64     // bytes of reservations
	filling map[digest.Digest]*Spool
	next    uint64
	full    time.Time // the disk was full; until then nothing is filled
}

// hotBlob is one file.
type hotBlob struct {
	digest  digest.Digest
	size    int64
	touched time.Time // the file's time, which tells the next process when it was used
}

const (
	// hotTouch is how exact the time of a file is kept.
	hotTouch = time.Minute
	// hotFull is for how long nothing is filled after the disk was full.
	hotFull = time.Minute
)

// openHot takes what an earlier process left: whole files only, because each was
// synced before it got its name.
func openHot(cfg HotConfig, reg prometheus.Registerer) (_ *hot, err error) {
	h := &hot{dir: cfg.Dir, max: cfg.MaxBytes, now: time.Now,
		entries: make(map[digest.Digest]*list.Element), filling: make(map[digest.Digest]*Spool)}
	h.metrics = newHotMetrics(reg, h)
	defer func() {
		if err != nil {
			err = fmt.Errorf("hot cache %s: %w", cfg.Dir, err)
			if h.lock != nil {
				err = errors.Join(err, h.lock.Close())
			}
		}
	}()
	if cfg.Dir == "" {
		return nil, errors.New("no directory is named")
	}
	if err := os.MkdirAll(h.fills(), 0o755); err != nil {
		return nil, err
	}
	if h.lock, err = lockFile(filepath.Join(h.dir, lockName), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errors.New("another process uses it: every replica needs a directory of its own")
	} else if err != nil {
		return nil, err
	}
	// What was on its way when the process ended is nothing.
	if err := os.RemoveAll(h.fills()); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(h.fills(), 0o755); err != nil {
		return nil, err
	}
	if err := h.scan(); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shrink(0)
	return h, nil
}

func (h *hot) fills() string { return filepath.Join(h.dir, "fill") }

func (h *hot) path(d digest.Digest) string {
	hex := d.Encoded()
	return filepath.Join(h.dir, blobsPath, d.Algorithm().String(), hex[:2], hex)
}

// scan finds what is there.
func (h *hot) scan() error {
	var found []*hotBlob
	err := filepath.WalkDir(filepath.Join(h.dir, blobsPath), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil || e.IsDir() {
			return err
		}
		d, err := pratique.ParseDigest(filepath.Base(filepath.Dir(filepath.Dir(path))) + ":" + filepath.Base(path))
		if err != nil || h.path(d) != path || !e.Type().IsRegular() {
			return nil //nolint:nilerr // not ours
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		found = append(found, &hotBlob{d, info.Size(), info.ModTime()})
		return nil
	})
	slices.SortFunc(found, func(a, b *hotBlob) int { return a.touched.Compare(b.touched) })
	for _, b := range found {
		h.entries[b.digest] = h.order.PushFront(b)
		h.kept += b.size
	}
	return err
}

func (h *hot) close() error { return h.lock.Close() }

// bytes are those in it and on their way into it.
func (h *hot) bytes() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.kept + h.coming
}

// size tells whether a blob is here.
func (h *hot) size(d digest.Digest) (int64, bool) {
	if h == nil {
		return 0, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.entries[d]
	if !ok {
		return 0, false
	}
	return e.Value.(*hotBlob).size, true
}

// open opens a blob that is here and makes it the most recent one.
func (h *hot) open(d digest.Digest) (*os.File, int64, bool) {
	h.mu.Lock()
	e, ok := h.entries[d]
	if !ok {
		h.mu.Unlock()
		return nil, 0, false
	}
	h.order.MoveToFront(e)
	b := e.Value.(*hotBlob)
	now, size := h.now(), b.size
	touch := now.Sub(b.touched) >= hotTouch
	if touch {
		b.touched = now
	}
	f, err := os.Open(h.path(d))
	h.mu.Unlock()
	if err == nil {
		var info fs.FileInfo
		if info, err = f.Stat(); err == nil && info.Size() != size {
			err = ErrMismatch // cut
		}
		if err != nil {
			_ = f.Close() // read only
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrMismatch) { // by somebody else
		h.drop(d)
	}
	if err != nil {
		return nil, 0, false
	}
	if touch {
		_ = os.Chtimes(f.Name(), now, now) // only the order after a restart
	}
	return f, size, true
}

// drop forgets a blob.
func (h *hot) drop(d digest.Digest) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if e, ok := h.entries[d]; ok {
		h.remove(e)
	}
}

// remove takes an entry and its file away; the caller holds mu. Those who have the
// file open keep it.
func (h *hot) remove(e *list.Element) {
	b := e.Value.(*hotBlob)
	_ = os.Remove(h.path(b.digest))
	h.order.Remove(e)
	delete(h.entries, b.digest)
	h.kept -= b.size
}

// shrink removes the least recently used until there is room for size more bytes,
// and reports whether there is; the caller holds mu.
func (h *hot) shrink(size int64) bool {
	if h.coming+size > h.max {
		return false // what is on its way takes it all
	}
	for h.kept+h.coming+size > h.max {
		last := h.order.Back()
		h.metrics.evicted.Inc()
		h.metrics.evictedBytes.Add(float64(last.Value.(*hotBlob).size))
		h.remove(last)
	}
	return true
}

// reserve makes room for a blob of that size before its first byte is written; the
// caller holds mu.
func (h *hot) reserve(size int64) bool {
	if h.now().Before(h.full) || !h.shrink(size) {
		return false
	}
	h.coming += size
	return true
}

// release gives a reservation back that came to nothing.
func (h *hot) release(size int64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.coming -= size
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		h.full = h.now().Add(hotFull)
	}
}

// keep turns a reservation into an entry: path is a verified file in this directory.
// It is synced, so that a name never leads to other bytes after a crash.
func (h *hot) keep(d digest.Digest, size int64, path string) error {
	final := h.path(d)
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := os.Rename(path, final); err != nil {
		return err
	}
	h.coming -= size
	if old, ok := h.entries[d]; ok { // the same bytes, twice
		h.kept -= old.Value.(*hotBlob).size
		h.order.Remove(old)
	}
	h.kept += size
	h.entries[d] = h.order.PushFront(&hotBlob{d, size, h.now()})
	return nil
}

// name is of a new file for what is to come; the caller holds mu.
func (h *hot) name(prefix string) string {
	h.next++
	return filepath.Join(h.fills(), fmt.Sprintf("%s-%d", prefix, h.next))
}

// adopt takes a verified file of the spool, which stays: what this replica fetched
// from an upstream it does not fetch again from the object store. A failure keeps
// nothing and is nobody's.
func (h *hot) adopt(d digest.Digest, size int64, path string, sync func(*os.File) error) {
	h.mu.Lock()
	if _, there := h.entries[d]; there || h.filling[d] != nil || !h.reserve(size) {
		h.mu.Unlock()
		return
	}
	mine := h.name("adopted")
	h.mu.Unlock()
	err := os.Link(path, mine)
	if errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP) {
		err = copyVerified(d, path, mine)
	}
	if err == nil {
		err = syncFile(mine, sync)
	}
	if err == nil {
		err = h.keep(d, size, mine)
	}
	if err != nil {
		h.metrics.failures.Inc()
		_ = os.Remove(mine)
		h.release(size, err)
	}
}

func syncFile(path string, sync func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(sync(f), f.Close())
}

// copyVerified copies to another file system.
func copyVerified(d digest.Digest, from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	v := d.Verifier()
	_, err = io.Copy(io.MultiWriter(dst, v), src)
	if err == nil && !v.Verified() {
		err = ErrMismatch
	}
	return errors.Join(err, dst.Close())
}
