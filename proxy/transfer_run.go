package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// copyBuffer is the piece in which bytes go from an upstream to the spool.
const copyBuffer = 128 << 10

// maxResumeWait bounds how long a transfer waits, on an upstream's word, before
// it resumes.
const maxResumeWait = 30 * time.Second

// run does the transfer and tells everybody how it ended.
func (t *transfer) run(ctx context.Context) {
	c := t.cache
	c.metrics.running.Inc()
	defer c.metrics.running.Dec()
	err := t.lead(ctx)
	defer t.release()

	// Only now, when the blob is stored or has failed: whoever comes between the
	// two finds either this transfer or the stored blob.
	c.transfers.mu.Lock()
	if c.transfers.running[t.digest] == t {
		delete(c.transfers.running, t.digest)
	}
	c.transfers.mu.Unlock()
	if err != nil && !errors.Is(err, errLeft) {
		c.metrics.transfers.WithLabelValues("failed").Inc()
		// Whoever waits is told, and writes the line of his request or scan.
		level := slog.LevelDebug
		if t.deserted() {
			level = slog.LevelWarn
		}
		c.cfg.Log.Log(ctx, level, "Transfer failed", "digest", t.digest, "source", t.sources[0].key, "err", err)
		if t.spool != nil {
			t.spool.Abort(err)
		}
	}
	t.result = err
	select {
	case <-t.begun:
	default:
		t.err = err
		t.letIn()
	}
	close(t.done)
}

// deserted reports whether all who asked have left.
func (t *transfer) deserted() bool {
	t.cache.transfers.mu.Lock()
	defer t.cache.transfers.mu.Unlock()
	return !slices.ContainsFunc(t.askers, func(left func() error) bool { return left() == nil })
}

// stored reports whether the blob is there; then readers may have it.
func (t *transfer) stored(ctx context.Context) (bool, error) {
	size, err := t.cache.blobs.Stat(ctx, t.digest)
	switch {
	case errors.Is(err, pratique.ErrNotFound):
		return false, nil
	case err != nil:
		return false, t.cache.storage(err)
	case t.fixed && size != t.size:
		return false, sizeLie(pratique.Descriptor{Digest: t.digest, Size: t.size}, size)
	case !t.fixed:
		t.size = size
	}
	t.letIn()
	return true, nil
}

// pull brings the blob in from the first source that has it whole. Bytes of one
// source and the rest from another are fine: the digest is over all of them.
func (t *transfer) pull(ctx context.Context) error {
	c := t.cache
	var last error
	for {
		from, ok := t.next()
		if !ok {
			return last
		}
		err := t.from(ctx, from)
		if err == nil {
			return t.commit(ctx, from)
		}
		var ours *localError
		if errors.As(err, &ours) {
			return ours.error
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		last = err
		c.transfers.mu.Lock()
		t.errs[from.key] = err
		c.transfers.mu.Unlock()
	}
}

// localError ends the transfer whatever the source: our disk, or bytes that are
// wrong already.
type localError struct{ error }

// from copies until the end of the blob, resuming where the upstream broke off
// while that makes progress.
func (t *transfer) from(ctx context.Context, from origin) error {
	stuck := 0
	for resumes := 0; ; resumes++ {
		before := t.received()
		err := t.copy(ctx, from)
		if err == nil {
			return nil
		}
		now := t.received()
		if stuck++; now > before {
			stuck = 0
		}
		if now == 0 || !Down(err) || resumes == t.cache.cfg.MaxResumes || stuck > 1 {
			return err
		}
		pause := t.cache.cfg.ResumePause << resumes
		var e *Error
		if errors.As(err, &e) && e.RetryAfter > pause {
			pause = e.RetryAfter
		}
		if pause > maxResumeWait {
			return err
		}
		t.cache.metrics.resumes.Inc()
		t.cache.cfg.Log.DebugContext(ctx, "Transfer broke off; resuming", "digest", t.digest, "source", from.key, "offset", now, "err", err)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

func (t *transfer) received() int64 {
	if t.spool == nil {
		return 0
	}
	return t.spool.Size()
}

// copy asks once, for what is missing, and writes it to the spool.
func (t *transfer) copy(ctx context.Context, from origin) error {
	if t.spool != nil && t.received() == t.size {
		return nil // it broke after the last byte
	}
	body, size, err := from.up.Blob(ctx, from.repo, t.digest, t.received())
	if err != nil {
		return err
	}
	defer body.Close()
	if size >= 0 && t.size >= 0 && size != t.size {
		return Unavailable(http.StatusBadGateway, "%s has %d bytes for %s, expected %d: %w", from.key, size, t.digest, t.size, store.ErrMismatch)
	}
	if limit := t.cache.cfg.MaxBlobSize; size > limit {
		return &localError{t.cache.tooLarge(t.digest, size)}
	}
	if t.spool == nil {
		if err := t.begin(ctx, size); err != nil {
			return err
		}
	}
	w := spoolWriter{spool: t.spool, limit: t.cache.cfg.MaxBlobSize, wrote: t.letIn}
	if _, err := io.CopyBuffer(&w, body, make([]byte, copyBuffer)); err != nil {
		switch {
		case errors.Is(w.err, errTooLarge):
			return &localError{t.cache.tooLarge(t.digest, t.received())}
		case errors.Is(w.err, store.ErrMismatch):
			return &localError{t.wrong(from, w.err)}
		case w.err != nil:
			return &localError{t.cache.storage(w.err)}
		case Down(err):
			return err
		}
		return Unavailable(http.StatusBadGateway, "%s: %w", from.key, err)
	}
	if got := t.received(); t.size >= 0 && got < t.size {
		return Unavailable(http.StatusBadGateway, "%s ended %s after %d of %d bytes: %w", from.key, t.digest, got, t.size, io.ErrUnexpectedEOF)
	}
	return nil
}

// begin makes the spool when the first source answers.
func (t *transfer) begin(ctx context.Context, size int64) error {
	if t.size < 0 {
		t.size = size
	}
	spool, err := t.cache.blobs.Create(ctx, t.digest, t.size)
	if err != nil {
		return &localError{t.cache.storage(err)}
	}
	t.spool = spool
	return nil
}

// letIn lets readers in, once a byte is there: as long as there is none, a
// failure can still be told with a status.
func (t *transfer) letIn() {
	select {
	case <-t.begun:
	default:
		close(t.begun) // before ready: who is answered finds it
	}
	t.answer()
}

// answer has requesters answered, whether there is a byte or not.
func (t *transfer) answer() {
	if !t.fixed {
		t.fixed = true
		close(t.ready)
	}
}

// commit verifies and stores. Upstream bytes are hashed while they arrive, so
// this costs a sync.
func (t *transfer) commit(ctx context.Context, from origin) error {
	err := t.spool.Commit(ctx)
	switch {
	case errors.Is(err, store.ErrMismatch):
		return t.wrong(from, err)
	case err != nil:
		return t.cache.storage(err)
	}
	t.cache.metrics.transfers.WithLabelValues("stored").Inc()
	t.cache.metrics.bytes.Add(float64(t.received()))
	return nil
}

// wrong is the answer for bytes that are not what their digest says.
func (t *transfer) wrong(from origin, err error) error {
	e := wrongBytes(t.digest, err)
	e.Err = fmt.Errorf("%s: %w", from.key, err) // for the log: others who wait may not know that repository
	return e
}

func wrongBytes(d digest.Digest, err error) *Error {
	return Unavailable(http.StatusBadGateway, "the upstream sent wrong bytes for %s: %w", d, err)
}

// errTooLarge: a blob whose size nobody said has more than MaxBlobSize bytes.
var errTooLarge = errors.New("too large")

// spoolWriter remembers whether a failed copy was the spool's fault.
type spoolWriter struct {
	spool *store.Spool
	limit int64
	wrote func() // called after each write that brought something
	err   error
}

func (w *spoolWriter) Write(p []byte) (int, error) {
	if w.spool.Size()+int64(len(p)) > w.limit {
		w.err = errTooLarge
		return 0, w.err
	}
	n, err := w.spool.Write(p)
	if n > 0 {
		w.wrote()
	}
	w.err = err
	return n, err
}
