package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
	"pratique/store/s3test"
)

// drivers are the filesystem, memory, and an S3 server without and with a hot cache.
func drivers(t *testing.T, run func(t *testing.T, open func(t *testing.T) *store.Blobs)) {
	t.Helper()
	t.Run("filesystem", func(t *testing.T) {
		run(t, func(t *testing.T) *store.Blobs { return openFilesystem(t, t.TempDir()) })
	})
	t.Run("inmemory", func(t *testing.T) {
		run(t, func(t *testing.T) *store.Blobs {
			return open(t, store.BlobsConfig{Driver: "inmemory", Spool: t.TempDir()})
		})
	})
	t.Run("s3", func(t *testing.T) {
		s := s3test.Start(t)
		run(t, func(t *testing.T) *store.Blobs { return openS3(t, s.Parameters(s.Bucket()), 0) })
	})
	t.Run("s3 hot", func(t *testing.T) {
		s := s3test.Start(t)
		run(t, func(t *testing.T) *store.Blobs { return openS3(t, s.Parameters(s.Bucket()), 1<<30) })
	})
}

// openS3 opens a replica with folders of its own.
func openS3(t *testing.T, parameters map[string]any, hot int64) *store.Blobs {
	t.Helper()
	return open(t, store.BlobsConfig{Driver: "s3", Parameters: parameters, Spool: t.TempDir(), Hot: store.HotConfig{Dir: t.TempDir(), MaxBytes: hot}})
}

func open(t *testing.T, cfg store.BlobsConfig) *store.Blobs {
	t.Helper()
	b, err := store.OpenBlobs(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func openFilesystem(t *testing.T, dir string) *store.Blobs {
	t.Helper()
	return open(t, store.BlobsConfig{Parameters: map[string]any{"rootdirectory": dir}})
}

// noise is n bytes that no compression or accident makes equal to others.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

func TestBlobs(t *testing.T) {
	drivers(t, func(t *testing.T, open func(*testing.T) *store.Blobs) {
		ctx := t.Context()
		b := open(t)
		want := map[digest.Digest]int64{}
		for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			for i, n := range []int{0, 1, 4096, 5 << 20} {
				raw := noise(uint64(i), n)
				d := alg.FromBytes(raw)
				want[d] = int64(n)
				if _, err := b.Stat(ctx, d); !errors.Is(err, pratique.ErrNotFound) {
					t.Fatalf("Stat before Put: %v", err)
				}
				if _, _, err := b.Open(ctx, d, 0); !errors.Is(err, pratique.ErrNotFound) {
					t.Fatalf("Open before Put: %v", err)
				}
				for range 2 { // the second finds it there
					if err := b.Put(ctx, d, raw); err != nil {
						t.Fatalf("Put %d bytes: %v", n, err)
					}
				}
				for _, offset := range []int64{0, int64(n / 2), int64(n)} {
					r, size, err := b.Open(ctx, d, offset)
					if err != nil {
						t.Fatalf("Open %d of %d: %v", offset, n, err)
					}
					got, err := io.ReadAll(r)
					if err != nil || size != int64(n) || !bytes.Equal(got, raw[offset:]) {
						t.Errorf("Open %d of %d: %d bytes of %d, %v", offset, n, len(got), size, err)
					}
					r.Close()
				}
				if _, _, err := b.Open(ctx, d, int64(n)+1); !errors.Is(err, pratique.ErrInvalid) {
					t.Errorf("Open past the end: %v", err)
				}
				if got, err := b.ReadAll(ctx, d, int64(n)); err != nil || !bytes.Equal(got, raw) {
					t.Errorf("ReadAll: %d bytes, %v", len(got), err)
				}
				if n > 0 {
					if _, err := b.ReadAll(ctx, d, int64(n)-1); !errors.Is(err, pratique.ErrInvalid) {
						t.Errorf("ReadAll over the limit: %v", err)
					}
				}
			}
		}
		if diff := cmp.Diff(want, walk(t, b)); diff != "" {
			t.Errorf("Walk (-want +got):\n%s", diff)
		}
		for d := range want {
			if err := b.Delete(ctx, d); err != nil {
				t.Errorf("Delete: %v", err)
			}
			if err := b.Delete(ctx, d); !errors.Is(err, pratique.ErrNotFound) {
				t.Errorf("second Delete: %v", err)
			}
		}
		if got := walk(t, b); len(got) > 0 {
			t.Errorf("after Delete: %v", got)
		}
	})
}

func walk(t *testing.T, b *store.Blobs) map[digest.Digest]int64 {
	t.Helper()
	got := map[digest.Digest]int64{}
	err := b.Walk(t.Context(), func(d digest.Digest, size int64, modified time.Time) error {
		if time.Since(modified) > time.Hour {
			t.Errorf("%s modified %v", d, modified)
		}
		got[d] = size
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestWalkBeforeAnything(t *testing.T) {
	drivers(t, func(t *testing.T, open func(*testing.T) *store.Blobs) {
		if got := walk(t, open(t)); len(got) > 0 {
			t.Errorf("got %v", got)
		}
	})
}

func TestWalkPassesErrorsOn(t *testing.T) {
	drivers(t, func(t *testing.T, open func(*testing.T) *store.Blobs) {
		b := open(t)
		if err := b.Put(t.Context(), digest.FromString("a"), []byte("a")); err != nil {
			t.Fatal(err)
		}
		stop := errors.New("stop")
		if err := b.Walk(t.Context(), func(digest.Digest, int64, time.Time) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
	})
}

// A digest becomes part of a path: nothing but a canonical one may.
func TestDigestsThatAreNone(t *testing.T) {
	drivers(t, func(t *testing.T, open func(*testing.T) *store.Blobs) {
		b, ctx := open(t), t.Context()
		hex := digest.FromString("x").Encoded()
		for _, d := range []digest.Digest{
			"", "sha256:", "sha256:..", "sha256:../../../../etc/passwd", digest.Digest("sha256:" + hex[:63] + "/"),
			digest.Digest("sha256:" + hex + "/.."), digest.Digest("../sha256:" + hex), digest.Digest("SHA256:" + hex),
			digest.Digest("md5:" + hex[:32]), digest.Digest("sha384:" + hex + hex[:32]),
		} {
			if _, err := b.Stat(ctx, d); !errors.Is(err, pratique.ErrInvalid) {
				t.Errorf("Stat %q: %v", d, err)
			}
			if _, _, err := b.Open(ctx, d, 0); !errors.Is(err, pratique.ErrInvalid) {
				t.Errorf("Open %q: %v", d, err)
			}
			if _, err := b.Create(ctx, d, 1); !errors.Is(err, pratique.ErrInvalid) {
				t.Errorf("Create %q: %v", d, err)
			}
			if err := b.Put(ctx, d, nil); !errors.Is(err, pratique.ErrInvalid) {
				t.Errorf("Put %q: %v", d, err)
			}
			if err := b.Delete(ctx, d); !errors.Is(err, pratique.ErrInvalid) {
				t.Errorf("Delete %q: %v", d, err)
			}
		}
	})
}

// Wrong bytes never exist, whichever way they come.
func TestWrongBytes(t *testing.T) {
	right := noise(1, 100_000)
	d := digest.FromBytes(right)
	wrong := bytes.Clone(right)
	wrong[50_000] ^= 1
	tests := []struct {
		name string
		want int64
		give []byte
	}{
		{"another digest", 100_000, wrong},
		{"another digest, length unknown", -1, wrong},
		{"too short", 100_000, right[:99_999]},
		{"too short, length unknown", -1, right[:99_999]},
		{"too long", 100_000, append(bytes.Clone(right), 0)},
		{"too long, length unknown", -1, append(bytes.Clone(right), 0)},
		{"the right digest but not the length announced", 99_999, right},
		{"nothing", 100_000, nil},
	}
	drivers(t, func(t *testing.T, open func(*testing.T) *store.Blobs) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				b := open(t)
				s, err := b.Create(t.Context(), d, tt.want)
				if err != nil {
					t.Fatal(err)
				}
				r, err := s.NewReader(t.Context(), 0)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				_, err = s.Write(tt.give)
				if err != nil {
					s.Abort(err)
				} else {
					err = s.Commit(t.Context())
				}
				if !errors.Is(err, store.ErrMismatch) {
					t.Errorf("err = %v", err)
				}
				if _, err := b.Stat(t.Context(), d); !errors.Is(err, pratique.ErrNotFound) {
					t.Errorf("it exists: %v", err)
				}
				if got := walk(t, b); len(got) > 0 {
					t.Errorf("stored: %v", got)
				}
				got, err := io.ReadAll(r)
				if !errors.Is(err, store.ErrMismatch) {
					t.Errorf("the reader ended with %v", err)
				}
				if len(got) >= len(right)-1 {
					t.Errorf("the reader got %d of %d bytes", len(got), len(right))
				}
				if _, err := s.NewReader(t.Context(), 0); !errors.Is(err, store.ErrMismatch) {
					t.Errorf("a later reader: %v", err)
				}
			})
		}
	})
}

// A disk that changes bytes is noticed where it matters most.
func TestReadAllChecksAgain(t *testing.T) {
	dir := t.TempDir()
	b := openFilesystem(t, dir)
	raw := noise(2, 1000)
	d := digest.FromBytes(raw)
	if err := b.Put(t.Context(), d, raw); err != nil {
		t.Fatal(err)
	}
	path := blobFile(dir, d)
	raw[3] ^= 1
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ReadAll(t.Context(), d, 1000); !errors.Is(err, store.ErrMismatch) {
		t.Errorf("got %v", err)
	}
}

func blobFile(dir string, d digest.Digest) string {
	return filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

// The filesystem driver's files are handed out as files, for sendfile.
func TestOpenReturnsAFile(t *testing.T) {
	b := openFilesystem(t, t.TempDir())
	raw := []byte("layer")
	if err := b.Put(t.Context(), digest.FromBytes(raw), raw); err != nil {
		t.Fatal(err)
	}
	r, _, err := b.Open(t.Context(), digest.FromBytes(raw), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, ok := r.(*os.File); !ok {
		t.Errorf("a %T", r)
	}
}

func TestOpenBlobsErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]store.BlobsConfig{
		"no rootdirectory":        {},
		"rootdirectory is file":   {Parameters: map[string]any{"rootdirectory": file}},
		"unknown driver":          {Driver: "floppy", Spool: t.TempDir()},
		"spool is file":           {Driver: "inmemory", Spool: file},
		"driver refuses":          {Driver: "s3", Spool: t.TempDir()},
		"spool on another disk":   {Parameters: map[string]any{"rootdirectory": t.TempDir()}, Spool: otherDisk(t)},
		"bad driver parameters":   {Parameters: map[string]any{"rootdirectory": t.TempDir(), "maxthreads": "many"}},
		"spool cannot be made":    {Driver: "inmemory", Spool: filepath.Join(file, "spool")},
		"root cannot be made":     {Parameters: map[string]any{"rootdirectory": filepath.Join(file, "root")}},
		"rootdirectory no string": {Parameters: map[string]any{"rootdirectory": 7}},
	} {
		t.Run(name, func(t *testing.T) {
			if b, err := store.OpenBlobs(t.Context(), cfg); err == nil {
				t.Errorf("opened: %v", b.Close())
			}
		})
	}
}

// otherDisk is a directory on another file system than the temporary one: the
// memory of Linux.
func otherDisk(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pratique-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	probe := filepath.Join(dir, "probe")
	if err := os.WriteFile(probe, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Rename(probe, filepath.Join(t.TempDir(), "probe")) == nil {
		return "/proc" // the same file system after all: take one that cannot be written
	}
	return dir
}

// Every driver that the configuration may name is linked in.
func TestDriversAreRegistered(t *testing.T) {
	for _, name := range []string{"s3", "gcs", "azure"} {
		_, err := store.OpenBlobs(context.Background(), store.BlobsConfig{Driver: name, Spool: t.TempDir()})
		if err == nil || fmt.Sprint(err) == fmt.Sprintf("storage driver %s: StorageDriver not registered: %s", name, name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
