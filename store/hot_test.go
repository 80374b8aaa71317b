package store_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
	"pratique/store/s3test"
)

// hotWorld is one bucket behind a proxy, for replicas.
type hotWorld struct {
	*s3test.Proxy
	bucket string
	t      *testing.T
}

func newHotWorld(t *testing.T) *hotWorld {
	t.Helper()
	s := s3test.Start(t)
	return &hotWorld{s.Proxy(t), s.Bucket(), t}
}

// replica opens one; dir is its hot cache, "" for a new one.
func (w *hotWorld) replica(dir string, budget int64) *store.Blobs {
	w.t.Helper()
	if dir == "" {
		dir = w.t.TempDir()
	}
	return open(w.t, store.BlobsConfig{Driver: "s3", Parameters: w.Parameters(w.bucket), Spool: w.t.TempDir(), Hot: store.HotConfig{Dir: dir, MaxBytes: budget}, Log: slog.New(slog.DiscardHandler)})
}

func (w *hotWorld) put(b *store.Blobs, raw []byte) digest.Digest {
	w.t.Helper()
	d := digest.FromBytes(raw)
	if err := b.Put(w.t.Context(), d, raw); err != nil {
		w.t.Fatal(err)
	}
	return d
}

// read reads a blob from an offset; file tells whether it came as a file.
func read(t *testing.T, b *store.Blobs, d digest.Digest, offset int64) (raw []byte, file bool, err error) {
	t.Helper()
	r, _, err := b.Open(t.Context(), d, offset)
	if err != nil {
		return nil, false, err
	}
	defer r.Close()
	_, file = r.(*os.File)
	raw, err = io.ReadAll(r)
	return raw, file, err
}

// onDisk are the bytes of all files below dir, locks aside.
func onDisk(t *testing.T, dir string) (total int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		total += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

// What a replica fetched it has; what another one stored it asks for once, however
// many want it.
func TestHot(t *testing.T) {
	t.Parallel()
	w := newHotWorld(t)
	a, b := w.replica("", 1<<30), w.replica("", 1<<30)
	raw := noise(1, 6<<20)
	d := w.put(a, raw)
	if got, file, err := read(t, a, d, 1000); err != nil || !file || !bytes.Equal(got, raw[1000:]) {
		t.Errorf("where it was stored: %d bytes, a file: %v, %v", len(got), file, err)
	}
	if n := w.Seen("GET", d.Encoded()); n != 0 {
		t.Errorf("%d requests for what was just stored", n)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got, _, err := read(t, b, d, 0); err != nil || !bytes.Equal(got, raw) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	store.Filled(b)
	if n := w.Seen("GET", d.Encoded()); n != 1 {
		t.Errorf("%d requests for one blob", n)
	}
	if got, file, err := read(t, b, d, 17); err != nil || !file || !bytes.Equal(got, raw[17:]) {
		t.Errorf("hot: %d bytes, a file: %v, %v", len(got), file, err)
	}
	if err := a.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if _, _, err := read(t, a, d, 0); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("removed here: %v", err)
	}
}

// The budget holds at every moment, and what was used last stays.
func TestHotBudget(t *testing.T) {
	t.Parallel()
	w := newHotWorld(t)
	const size, budget = 200_000, 1_000_000
	dir := t.TempDir()
	a, b := w.replica("", 1<<30), w.replica(dir, budget)
	var ds []digest.Digest
	for i := range 9 {
		ds = append(ds, w.put(a, noise(uint64(i), size)))
	}
	for _, d := range ds {
		for _, of := range []digest.Digest{ds[0], d} { // the first is always wanted
			if _, _, err := read(t, b, of, 0); err != nil {
				t.Fatal(err)
			}
			if n := max(store.HotBytes(b), onDisk(t, dir)); n > budget {
				t.Errorf("%d of %d bytes", n, budget)
			}
			store.Filled(b)
		}
	}
	for i, d := range ds {
		if want := i == 0 || i > 4; store.IsHot(b, d) != want {
			t.Errorf("blob %d is hot: %v", i, !want)
		}
	}
	big := noise(99, budget+1)
	if got, _, err := read(t, b, w.put(a, big), 0); err != nil || !bytes.Equal(got, big) {
		t.Errorf("more than the budget: %d bytes, %v", len(got), err)
	}
	if !store.IsHot(b, ds[0]) {
		t.Error("what can never be kept drove out what is")
	}
}

// A restart finds what was kept, also while the object store is away, and nothing
// of what was on its way.
func TestHotRestart(t *testing.T) {
	t.Parallel()
	w := newHotWorld(t)
	dir := t.TempDir()
	start := func(budget int64) *store.Blobs {
		b, err := store.OpenBlobs(t.Context(), store.BlobsConfig{Driver: "s3", Parameters: w.Parameters(w.bucket), Spool: t.TempDir(),
			Hot: store.HotConfig{Dir: dir, MaxBytes: budget}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := start(1 << 30)
	kept := noise(1, 100_000)
	d := w.put(b, kept)
	if _, err := store.OpenBlobs(t.Context(), store.BlobsConfig{Driver: "s3", Parameters: w.Parameters(w.bucket), Spool: t.TempDir(), Hot: store.HotConfig{Dir: dir, MaxBytes: 1}}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("two processes in one directory: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"fill/half": noise(2, 1000), "blobs/sha256/zz/zz": noise(3, 10), "blobs/lost": nil} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, raw, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	w.Set(s3test.Faults{Refuse: true})
	b = start(1 << 30)
	if got, file, err := read(t, b, d, 0); err != nil || !file || !bytes.Equal(got, kept) {
		t.Errorf("after a restart: %d bytes, a file: %v, %v", len(got), file, err)
	}
	if n := store.HotBytes(b); n != int64(len(kept)) {
		t.Errorf("%d bytes counted", n)
	}
	if _, err := os.Stat(filepath.Join(dir, "fill", "half")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a fill: %v", err)
	}
	if _, _, err := read(t, b, digest.FromString("another"), 0); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("what is not hot: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if b = start(int64(len(kept)) - 1); store.IsHot(b, d) || onDisk(t, filepath.Join(dir, "blobs", "sha256", d.Encoded()[:2])) > 0 {
		t.Error("more than a budget that became smaller")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// Bytes that are wrong, cut or late never become hot, and nobody gets the whole of a
// wrong blob.
func TestHotSpoilt(t *testing.T) {
	t.Parallel()
	w := newHotWorld(t)
	a, b := w.replica("", 1<<30), w.replica("", 1<<30)
	raw := noise(1, 1<<20)
	d := w.put(a, raw)
	w.Set(s3test.Faults{Flip: true})
	if got, _, err := read(t, b, d, 0); !errors.Is(err, store.ErrMismatch) || len(got) >= len(raw) {
		t.Errorf("flipped: %d bytes, %v", len(got), err)
	}
	if _, err := b.ReadAll(t.Context(), d, 1<<20); !errors.Is(err, store.ErrMismatch) {
		t.Errorf("flipped: %v", err)
	}
	store.Filled(b)
	if store.IsHot(b, d) || store.HotBytes(b) != 0 {
		t.Error("wrong bytes are hot")
	}
	w.Set(s3test.Faults{Cut: 300_000})
	if got, _, err := read(t, b, d, 0); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("cut again and again: %d bytes, %v", len(got), err)
	}
	store.Filled(b)
	if !store.IsHot(b, d) {
		t.Error("bytes that came in pieces are not hot")
	}
}

// A local file that is spoilt is not used.
func TestHotFileSpoilt(t *testing.T) {
	t.Parallel()
	w := newHotWorld(t)
	dir := t.TempDir()
	b := w.replica(dir, 1<<30)
	raw := noise(1, 100_000)
	d := w.put(b, raw)
	path := blobFile(dir, d)
	flipped := bytes.Clone(raw)
	flipped[7] ^= 1
	for name, spoil := range map[string]func() error{
		"removed": func() error { return os.Remove(path) },
		"cut":     func() error { return os.Truncate(path, 10) },
		"flipped": func() error { return os.WriteFile(path, flipped, 0o644) },
	} {
		if !store.IsHot(b, d) {
			t.Fatalf("%s: not hot before", name)
		}
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if got, err := b.ReadAll(t.Context(), d, 1<<20); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		store.Filled(b)
	}
}

// A disk that takes nothing costs the cache, not the client.
func TestHotDiskFull(t *testing.T) {
	t.Parallel()
	w := newHotWorld(t)
	a, b := w.replica("", 1<<30), w.replica("", 1<<30)
	raw := noise(1, 1<<20)
	d := w.put(a, raw)
	store.FailStep(b, "sync", func(func() error) error { return syscall.ENOSPC })
	for range 2 {
		if got, _, err := read(t, b, d, 0); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		store.Filled(b)
	}
	w.put(b, noise(2, 1000))
	if n := store.HotBytes(b); n != 0 {
		t.Errorf("%d bytes are hot", n)
	}
	if n := w.Seen("GET", d.Encoded()); n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestFallback(t *testing.T) {
	t.Parallel()
	broken := func(err error) io.ReadCloser {
		return io.NopCloser(io.MultiReader(strings.NewReader("abc"), failing{err}))
	}
	rest := func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("abcdef"[offset:])), nil
	}
	if got, err := io.ReadAll(store.NewFallback(broken(syscall.ENOSPC), rest)); err != nil || string(got) != "abcdef" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := io.ReadAll(store.NewFallback(broken(store.ErrMismatch), rest)); !errors.Is(err, store.ErrMismatch) || string(got) != "abc" {
		t.Errorf("wrong bytes: %q, %v", got, err)
	}
	gone := func(int64) (io.ReadCloser, error) { return nil, pratique.ErrNotFound }
	if _, err := io.ReadAll(store.NewFallback(broken(syscall.ENOSPC), gone)); !errors.Is(err, pratique.ErrNotFound) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("neither: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
