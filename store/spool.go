package store

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// holdBack is how many of a blob's last bytes readers get only after the digest
// is verified, so that nobody ever receives the whole of a wrong blob.
const holdBack = 32 << 10

// spoolState is how far a spool has come.
type spoolState int

const (
	spoolGrowing  spoolState = iota
	spoolVerified            // all bytes are there and right; not yet durable
	spoolDone                // in the store
	spoolFailed
)

// Spool is one blob while it arrives: a growing local file that one goroutine
// writes and any number read. Write, Commit and Abort belong to the writer;
// NewReader and Size may be called by anybody.
type Spool struct {
	blobs  *Blobs
	digest digest.Digest
	want   int64 // -1: not known
	path   string
	// keep makes a verified file what it is to be; nil: a blob of the store.
	keep func() error

	// Owned by the writer.
	file *os.File
	hash hash.Hash

	mu      sync.Mutex
	changed *sync.Cond // size, state or err changed, or a reader was stopped
	size    int64
	state   spoolState
	err     error // why state is spoolFailed, or why a verified blob was not kept
}

// Create starts the arrival of a blob of want bytes (-1 = not known). The
// caller must end it with Commit or Abort. Two at once for the same digest are
// harmless: the last to commit replaces the same bytes by the same bytes.
func (b *Blobs) Create(_ context.Context, d digest.Digest, want int64) (*Spool, error) {
	if _, err := blobPath(d); err != nil {
		return nil, err
	}
	f, err := b.spool.create(d.Encoded()[:16])
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	return newSpool(b, d, want, f), nil
}

func newSpool(b *Blobs, d digest.Digest, want int64, f *os.File) *Spool {
	s := &Spool{blobs: b, digest: d, want: want, path: f.Name(), file: f, hash: d.Algorithm().Hash()}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// Size is the number of bytes written so far.
func (s *Spool) Size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}

// Write appends bytes. More than the size wanted is ErrMismatch.
func (s *Spool) Write(p []byte) (int, error) {
	if s.want >= 0 && s.Size()+int64(len(p)) > s.want {
		return 0, fmt.Errorf("blob %s: more than the %d bytes expected: %w", s.digest, s.want, ErrMismatch)
	}
	n, err := s.file.Write(p)
	s.hash.Write(p[:n])
	s.mu.Lock()
	s.size += int64(n)
	s.changed.Broadcast()
	s.mu.Unlock()
	if err != nil {
		return n, fmt.Errorf("blob %s: %w", s.digest, err)
	}
	return n, nil
}

// Commit checks size and digest and makes the blob durable and visible. On
// ErrMismatch nothing is kept and all readers fail too. After any other failure
// the blob is there whole or not at all, and may be committed again. Readers get
// the last bytes and their end as soon as the digest is right.
func (s *Spool) Commit(ctx context.Context) error {
	if size := s.Size(); s.want >= 0 && size != s.want {
		err := fmt.Errorf("blob %s: %d bytes, expected %d: %w", s.digest, size, s.want, ErrMismatch)
		s.Abort(err)
		return err
	}
	if got := digest.NewDigest(s.digest.Algorithm(), s.hash); got != s.digest {
		err := fmt.Errorf("blob %s: the bytes are %s: %w", s.digest, got, ErrMismatch)
		s.Abort(err)
		return err
	}
	s.mu.Lock()
	s.state = spoolVerified
	s.changed.Broadcast()
	s.mu.Unlock()

	if err := s.persist(ctx); err != nil {
		err = fmt.Errorf("blob %s: %w", s.digest, err)
		s.Abort(err)
		return err
	}
	return nil
}

// persist moves verified bytes into the store.
func (s *Spool) persist(ctx context.Context) error {
	// A crash before the rename loses only the spool file, which the next start
	// removes. A crash after it: the content was synced before, so the name, if
	// it survives, leads to the right bytes.
	if s.keep != nil {
		return errors.Join(s.done(s.keep), s.file.Close())
	}
	if s.blobs.root == "" {
		return s.persistObject(ctx)
	}
	if err := s.blobs.steps.sync(s.file); err != nil {
		return err
	}
	path, err := blobPath(s.digest)
	if err != nil {
		return err
	}
	final := filepath.Join(s.blobs.root, path)
	if err := s.blobs.steps.makeDir(filepath.Dir(final)); err != nil {
		return err
	}
	if err := s.done(func() error { return s.blobs.arrive(s.path, final) }); err != nil {
		return err
	}
	s.blobs.ledger.arrived(s.digest, s.Size(), time.Now())
	return errors.Join(s.file.Close(), s.blobs.steps.syncDir(filepath.Dir(final)))
}

// persistObject moves verified bytes into an object store. A crash leaves nothing
// there, or all: what is visible is complete.
func (s *Spool) persistObject(ctx context.Context) error {
	b := s.blobs
	release, err := b.holds.hold(ctx, s.digest)
	if err != nil {
		return err
	}
	defer release()
	at, err := b.upload(ctx, s.digest, s.path, s.Size())
	if err != nil {
		return err
	}
	b.ledger.arrived(s.digest, s.Size(), at)
	if b.hot != nil { // before done, so that who comes then finds it there
		b.hot.adopt(s.digest, s.Size(), s.path, b.steps.sync)
	}
	if err := s.done(func() error { return nil }); err != nil {
		return err
	}
	return errors.Join(s.file.Close(), os.Remove(s.path))
}

// done runs move and marks the spool as finished in one step, so that no reader
// looks for the file where it is no longer.
func (s *Spool) done(move func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := move(); err != nil {
		return err
	}
	s.state = spoolDone
	return nil
}

// Abort ends the arrival: the file is removed and readers fail with err, except
// those of verified bytes. After Commit it does nothing.
func (s *Spool) Abort(err error) {
	if err == nil {
		err = errors.New("transfer aborted")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == spoolDone || s.err != nil {
		return
	}
	s.err = err
	if s.state == spoolGrowing {
		s.state = spoolFailed
	}
	s.changed.Broadcast()
	// Nothing depends on these two: readers have files of their own, and the
	// next start removes what could not be removed now.
	_ = s.file.Close()
	_ = os.Remove(s.path)
}

// errKept: a spool that is no blob of the store has become what it was to be.
var errKept = errors.New("kept")

// NewReader returns a reader from offset that waits for bytes as they arrive.
// It ends with io.EOF only after the digest was verified, otherwise with the
// error that ended the transfer, or ctx's. Any number may exist; each holds one
// file descriptor and no buffer.
func (s *Spool) NewReader(ctx context.Context, offset int64) (io.ReadCloser, error) {
	s.mu.Lock()
	if s.state == spoolDone {
		s.mu.Unlock() // opening may take as long as an object store does
		if s.keep != nil {
			return nil, errKept
		}
		r, _, err := s.blobs.Open(ctx, s.digest, offset)
		return r, err
	}
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	f, err := os.Open(s.path)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", s.digest, err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(fmt.Errorf("blob %s: %w", s.digest, err), f.Close())
	}
	t := &tail{spool: s, ctx: ctx, file: f, offset: offset}
	t.stop = context.AfterFunc(ctx, t.wake)
	return t, nil
}

// tail reads a spool behind its writer.
type tail struct {
	spool *Spool
	// ctx is kept because io.Reader has none: it bounds every wait.
	ctx    context.Context //nolint:containedctx // see above
	file   *os.File
	offset int64
	stop   func() bool
	closed bool // guarded by spool.mu
}

func (t *tail) wake() {
	t.spool.mu.Lock()
	defer t.spool.mu.Unlock()
	t.spool.changed.Broadcast()
}

// available waits until bytes after the offset may be read and returns how
// many, or the end.
func (t *tail) available() (int64, error) {
	s := t.spool
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if t.closed {
			return 0, os.ErrClosed
		}
		if s.state == spoolFailed {
			return 0, s.err
		}
		if n := s.visible() - t.offset; n > 0 {
			return n, nil
		}
		if s.state != spoolGrowing {
			return 0, io.EOF
		}
		if err := t.ctx.Err(); err != nil {
			return 0, context.Cause(t.ctx)
		}
		s.changed.Wait()
	}
}

// visible is how many bytes readers may have now; the caller holds mu.
func (s *Spool) visible() int64 {
	switch {
	case s.state != spoolGrowing:
		return s.size
	case s.want >= 0:
		return max(0, min(s.size, s.want-holdBack))
	}
	return max(0, s.size-holdBack)
}

func (t *tail) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := t.available()
	if err != nil {
		return 0, err
	}
	m, err := t.file.Read(p[:min(int64(len(p)), n)])
	t.offset += int64(m)
	return m, t.short(err)
}

// WriteTo hands the file itself to w, so that a network connection can use
// sendfile for what has already arrived.
func (t *tail) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		n, err := t.available()
		if errors.Is(err, io.EOF) {
			return total, nil
		} else if err != nil {
			return total, err
		}
		m, err := io.CopyN(w, t.file, n)
		t.offset += m
		total += m
		if err != nil {
			return total, t.short(err)
		}
	}
}

// short makes sure that a file that is shorter than what was written (somebody
// truncated it) is an error and not the end.
func (t *tail) short(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (t *tail) Close() error {
	t.stop()
	t.spool.mu.Lock()
	t.closed = true
	t.spool.changed.Broadcast()
	t.spool.mu.Unlock()
	return t.file.Close()
}
