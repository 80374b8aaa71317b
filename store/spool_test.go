package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"pratique"
	"pratique/store"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("PRATIQUE_TEST_CRASH"); dir != "" {
		crash(dir)
	}
	goleak.VerifyTestMain(m)
}

// write gives raw to the spool in pieces and commits it.
func write(t *testing.T, s *store.Spool, raw []byte, piece int) {
	t.Helper()
	for len(raw) > 0 {
		n := min(piece, len(raw))
		if _, err := s.Write(raw[:n]); err != nil {
			t.Error(err)
			s.Abort(err)
			return
		}
		raw = raw[n:]
	}
	if err := s.Commit(context.Background()); err != nil {
		t.Error(err)
	}
}

// Readers that come at any time and read at any speed all get the same bytes,
// and the end only when there is one.
func TestReadersFollow(t *testing.T) {
	raw := noise(3, 3<<20)
	d := digest.FromBytes(raw)
	for _, want := range []int64{int64(len(raw)), -1} {
		drivers(t, func(t *testing.T, open func(*testing.T) *store.Blobs) {
			b := open(t)
			s, err := b.Create(t.Context(), d, want)
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					time.Sleep(time.Duration(i) * time.Millisecond)
					offset := int64(i) * int64(len(raw)) / 20
					r, err := s.NewReader(t.Context(), offset)
					if err != nil {
						t.Error(err)
						return
					}
					defer r.Close()
					var got []byte
					if i%2 == 0 {
						got, err = io.ReadAll(struct{ io.Reader }{r})
					} else {
						var buf bytes.Buffer
						_, err = io.Copy(&buf, r) // by WriteTo
						got = buf.Bytes()
					}
					if err != nil || !bytes.Equal(got, raw[offset:]) {
						t.Errorf("reader %d: %d bytes, %v", i, len(got), err)
					}
				})
			}
			write(t, s, raw, 10_007)
			wg.Wait()
			r, err := s.NewReader(t.Context(), 5) // after the end: the stored one
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, raw[5:]) {
				t.Errorf("late reader: %d bytes, %v", len(got), err)
			}
		})
	}
}

// Before the digest is verified the last bytes are nobody's.
func TestHoldBack(t *testing.T) {
	raw := noise(4, 200_000)
	for name, want := range map[string]int64{"length known": 200_000, "length unknown": -1} {
		t.Run(name, func(t *testing.T) {
			b := openFilesystem(t, t.TempDir())
			s, err := b.Create(t.Context(), digest.FromBytes(raw), want)
			if err != nil {
				t.Fatal(err)
			}
			r, err := s.NewReader(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if _, err := s.Write(raw); err != nil {
				t.Fatal(err)
			}
			early := make([]byte, len(raw)-32<<10)
			if _, err := io.ReadFull(r, early); err != nil {
				t.Fatal(err)
			}
			rest := make(chan int)
			go func() {
				got, err := io.ReadAll(r)
				if err != nil {
					t.Error(err)
				}
				rest <- len(got)
			}()
			select {
			case n := <-rest:
				t.Fatalf("got the last %d bytes before Commit", n)
			case <-time.After(50 * time.Millisecond):
			}
			if err := s.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := <-rest; n != 32<<10 {
				t.Errorf("the rest was %d bytes", n)
			}
		})
	}
}

// A waiting reader ends when its context does, when it is closed, and when the
// transfer fails.
func TestReadersEnd(t *testing.T) {
	mine := errors.New("mine")
	tests := []struct {
		name string
		end  func(cancel context.CancelCauseFunc, r io.Closer, s *store.Spool)
		want error
	}{
		{"context", func(cancel context.CancelCauseFunc, _ io.Closer, _ *store.Spool) { cancel(mine) }, mine},
		{"close", func(_ context.CancelCauseFunc, r io.Closer, _ *store.Spool) { r.Close() }, os.ErrClosed},
		{"abort", func(_ context.CancelCauseFunc, _ io.Closer, s *store.Spool) { s.Abort(mine) }, mine},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := openFilesystem(t, t.TempDir())
			s, err := b.Create(t.Context(), digest.FromString("x"), 100_000)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Abort(nil)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			r, err := s.NewReader(ctx, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			ended := make(chan error)
			go func() {
				_, err := io.Copy(io.Discard, r)
				ended <- err
			}()
			select {
			case err := <-ended:
				t.Fatalf("ended early: %v", err)
			case <-time.After(20 * time.Millisecond):
			}
			tt.end(cancel, r, s)
			if err := <-ended; !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// An aborted transfer leaves no file, and the blob may come again.
func TestAbortLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	b := openFilesystem(t, dir)
	raw := noise(5, 50_000)
	d := digest.FromBytes(raw)
	s, err := b.Create(t.Context(), d, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(raw[:100]); err != nil {
		t.Fatal(err)
	}
	s.Abort(errors.New("upstream went away"))
	s.Abort(errors.New("again"))
	if got := spoolFiles(t, dir); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
	if err := b.Put(t.Context(), d, raw); err != nil {
		t.Fatal(err)
	}
	if got := spoolFiles(t, dir); len(got) > 0 {
		t.Errorf("left after Put: %v", got)
	}
}

// spoolFiles are the files of blobs in arrival under the root.
func spoolFiles(t *testing.T, root string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "spool", "*", "*-*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A full disk fails clearly, leaves nothing, and is no problem once there is
// room again. /dev/full stands in for the disk.
func TestDiskFull(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Fatal("needs /dev/full")
	}
	dir := t.TempDir()
	b := openFilesystem(t, dir)
	raw := noise(6, 100_000)
	d := digest.FromBytes(raw)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	s, err := b.Create(t.Context(), d, int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	store.ReplaceFile(s, full)
	_, err = s.Write(raw)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Write: %v", err)
	}
	s.Abort(err)
	if _, err := s.NewReader(t.Context(), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("NewReader: %v", err)
	}
	if got := spoolFiles(t, dir); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
	if err := b.Put(t.Context(), d, raw); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// A commit that fails after the bytes were found right keeps nothing, and
// readers that have them get them.
func TestCommitThatCannotStore(t *testing.T) {
	dir := t.TempDir()
	b := openFilesystem(t, dir)
	raw := noise(7, 100_000)
	d := digest.FromBytes(raw)
	s, err := b.Create(t.Context(), d, -1)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.NewReader(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := s.Write(raw); err != nil {
		t.Fatal(err)
	}
	// A file stands where the directory should be.
	if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context()); err == nil || errors.Is(err, store.ErrMismatch) {
		t.Fatalf("Commit: %v", err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("reader: %d bytes, %v", len(got), err)
	}
	if _, err := s.NewReader(t.Context(), 0); err == nil {
		t.Error("a reader of a blob that was not stored")
	}
	if got := spoolFiles(t, dir); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
	if err := os.Remove(filepath.Join(dir, "blobs", "sha256")); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(t.Context(), d, raw); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// crash is the body of a process that dies with a blob half written and another
// just committed.
func crash(dir string) {
	ctx := context.Background()
	b, err := store.OpenBlobs(ctx, store.BlobsConfig{Parameters: map[string]any{"rootdirectory": dir}})
	if err != nil {
		panic(err)
	}
	raw := noise(8, 70_000)
	if err := b.Put(ctx, digest.FromBytes(raw), raw); err != nil {
		panic(err)
	}
	s, err := b.Create(ctx, digest.FromString("half"), 1<<20)
	if err != nil {
		panic(err)
	}
	if _, err := s.Write(raw); err != nil {
		panic(err)
	}
	os.Stdout.WriteString("ready\n")
	select {} // until it is killed
}

// What a killed process left is removed by the next, and nothing else: neither
// what was committed nor what a living process is writing.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	start := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "PRATIQUE_TEST_CRASH="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	kill := func(cmd *exec.Cmd) { cmd.Process.Kill(); cmd.Wait() }
	dead, alive := start(), start()
	defer kill(alive)
	kill(dead)
	if got := len(spoolFiles(t, dir)); got != 2 {
		t.Fatalf("%d spool files before", got)
	}
	b := openFilesystem(t, dir)
	if got := len(spoolFiles(t, dir)); got != 1 {
		t.Errorf("%d spool files after, want the living process's", got)
	}
	raw := noise(8, 70_000)
	if got, err := b.ReadAll(t.Context(), digest.FromBytes(raw), 70_000); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("the committed blob: %d bytes, %v", len(got), err)
	}
	if _, err := b.Stat(t.Context(), digest.FromString("half")); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("the half blob: %v", err)
	}
}

// Over HTTP a growing blob arrives whole, through the sendfile path too.
func TestFollowOverHTTP(t *testing.T) {
	raw := noise(9, 2<<20)
	b := openFilesystem(t, t.TempDir())
	s, err := b.Create(t.Context(), digest.FromBytes(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := s.NewReader(r.Context(), 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer body.Close()
		if _, err := io.Copy(w, body); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	var wg sync.WaitGroup
	wg.Go(func() { write(t, s, raw, 64<<10) })
	defer wg.Wait()
	res, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A thousand readers of one growing blob cost file descriptors, not memory.
func TestManyReadersCostNoMemory(t *testing.T) {
	raw := noise(10, 1<<20)
	b := openFilesystem(t, t.TempDir())
	s, err := b.Create(t.Context(), digest.FromBytes(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	readers := make([]io.ReadCloser, 1000)
	for i := range readers {
		if readers[i], err = s.NewReader(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		defer readers[i].Close()
	}
	write(t, s, raw, 32<<10)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("1,000 readers hold %d bytes", grown)
	}
	for _, r := range readers {
		if n, err := io.Copy(io.Discard, r); err != nil || n != int64(len(raw)) {
			t.Fatalf("%d bytes, %v", n, err)
		}
	}
}
