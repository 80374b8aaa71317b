package store

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// fillBuffer is the piece in which bytes go from an object store to the disk.
const fillBuffer = 256 << 10

// fillOrFollow returns a reader over a blob that comes from the object store and
// into the hot cache at once: of all who want it, one fetches, and the others read
// behind. ok is false when it is not to be filled.
//
// The first asker's leaving does not end it: whoever pulls a layer and breaks off
// comes again.
func (b *Blobs) fillOrFollow(ctx context.Context, d digest.Digest, path string, size, offset int64) (_ io.ReadCloser, ok bool) {
	h := b.hot
	h.mu.Lock()
	s, running := h.filling[d]
	if !running && offset == 0 && h.reserve(size) {
		if s = b.beginFill(ctx, d, path, size); s == nil {
			h.coming -= size
		} else {
			h.filling[d] = s
		}
	}
	h.mu.Unlock()
	if s == nil || s.Size() < offset { // a range that is far ahead does not wait
		return nil, false
	}
	r, err := s.NewReader(ctx, offset)
	if err != nil {
		return nil, false
	}
	return &fallback{body: r, offset: offset, direct: func(offset int64) (io.ReadCloser, error) {
		return b.openObject(ctx, d, path, size, offset)
	}}, true
}

// beginFill starts a fill; the caller holds the hot cache's mu. Nil when it ends
// already: the store is closed, or the disk takes nothing.
func (b *Blobs) beginFill(ctx context.Context, d digest.Digest, path string, size int64) *Spool {
	h := b.hot
	name := h.name(d.Encoded()[:16])
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		h.metrics.failures.Inc()
		return nil
	}
	ctx, end, ok := b.background.start(ctx)
	if !ok {
		_, _ = f.Close(), os.Remove(name) // nothing is in it
		return nil
	}
	s := newSpool(b, d, size, f)
	s.keep = func() error {
		if err := b.steps.sync(f); err != nil {
			return err
		}
		return h.keep(d, size, name)
	}
	go func() {
		defer end()
		err := b.fill(ctx, s, path, size)
		if err != nil {
			s.Abort(err)
			h.release(size, err)
			h.metrics.failures.Inc()
		}
		h.mu.Lock()
		delete(h.filling, d)
		h.mu.Unlock()
	}()
	return s
}

// fill copies an object to s and verifies it.
func (b *Blobs) fill(ctx context.Context, s *Spool, path string, size int64) error {
	body, err := b.openObject(ctx, s.digest, path, size, 0)
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{body}, make([]byte, fillBuffer)); err != nil {
		return err
	}
	err = s.Commit(ctx)
	if errors.Is(err, ErrMismatch) {
		b.log.ErrorContext(ctx, "The object store holds other bytes than were stored; nothing of them is kept or served whole", "digest", s.digest, "err", err)
	}
	return err
}

// fallback reads behind a fill. When that fails for a reason of its own, a full disk,
// it goes on from the object store; bytes that are wrong stay wrong.
type fallback struct {
	direct func(offset int64) (io.ReadCloser, error)
	offset int64

	mu       sync.Mutex
	body     io.ReadCloser
	replaced bool
	closed   bool
}

func (r *fallback) Read(p []byte) (int, error) {
	for {
		n, err := r.body.Read(p)
		r.offset += int64(n)
		if err == nil || n > 0 || errors.Is(err, io.EOF) || errors.Is(err, ErrMismatch) || r.replaced {
			return n, err
		}
		if err := r.replace(err); err != nil {
			return 0, err
		}
	}
}

func (r *fallback) replace(why error) error {
	if r.replaced = true; errors.Is(why, os.ErrClosed) {
		return why
	}
	body, err := r.direct(r.offset)
	if err != nil {
		return errors.Join(err, why)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errors.Join(body.Close(), os.ErrClosed)
	}
	_ = r.body.Close() // it failed
	r.body = body
	return nil
}

func (r *fallback) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return r.body.Close()
}

// background is work that outlives who asked for it, and ends with the store.
type background struct {
	mu     sync.Mutex
	closed bool
	ends   map[*context.CancelFunc]struct{}
	wg     sync.WaitGroup
}

// start returns the context of a piece of work and what to call at its end.
func (b *background) start(ctx context.Context) (context.Context, func(), bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, nil, false
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if b.ends == nil {
		b.ends = make(map[*context.CancelFunc]struct{})
	}
	b.ends[&cancel] = struct{}{}
	b.wg.Add(1)
	return ctx, func() {
		b.mu.Lock()
		delete(b.ends, &cancel)
		b.mu.Unlock()
		cancel()
		b.wg.Done()
	}, true
}

// close ends all work and waits for it.
func (b *background) close() {
	b.mu.Lock()
	b.closed = true
	for cancel := range b.ends {
		(*cancel)()
	}
	b.mu.Unlock()
	b.wg.Wait()
}

type hotMetrics struct {
	hits, misses, evicted, evictedBytes, failures prometheus.Counter
}

// newHotMetrics counts what h, which is not open yet, does.
func newHotMetrics(reg prometheus.Registerer, h *hot) hotMetrics {
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "pratique_hot_bytes", Help: "Bytes in the local cache in front of the object store, and on their way into it."},
		func() float64 { return float64(h.bytes()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "pratique_hot_limit_bytes", Help: "Bytes that the local cache in front of the object store may take (storage.hot.maxSize)."},
		func() float64 { return float64(h.max) })
	return hotMetrics{
		hits:         counter("pratique_hot_hits_total", "Blobs opened in the local cache in front of the object store."),
		misses:       counter("pratique_hot_misses_total", "Blobs opened that were not in the local cache in front of the object store."),
		evicted:      counter("pratique_hot_evicted_total", "Blobs removed from the local cache because others were used more recently."),
		evictedBytes: counter("pratique_hot_evicted_bytes_total", "Bytes of blobs removed from the local cache because others were used more recently."),
		failures:     counter("pratique_hot_failures_total", "Blobs that could not be put into the local cache: the disk is full, or the object store broke off."),
	}
}
