package store_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/service/s3"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique/store"
	"pratique/store/s3test"
)

// filledDirectory is a directory with n blobs.
func filledDirectory(t *testing.T, n int) (dir string, b *store.Blobs, raws map[digest.Digest][]byte) {
	t.Helper()
	dir, raws = t.TempDir(), make(map[digest.Digest][]byte)
	b = openFilesystem(t, dir)
	for i := range n {
		raw := noise(uint64(100+i), 1000*i)
		d := digest.FromBytes(raw)
		raws[d] = raw
		if err := b.Put(t.Context(), d, raw); err != nil {
			t.Fatal(err)
		}
	}
	return dir, b, raws
}

func held(t *testing.T, b *store.Blobs) map[digest.Digest][]byte {
	t.Helper()
	out := make(map[digest.Digest][]byte)
	for d := range walk(t, b) {
		raw, err := b.ReadAll(t.Context(), d, 1<<20)
		if err != nil {
			t.Error(err)
		}
		out[d] = raw
	}
	return out
}

// TestCopyBlobs: what was cut off goes on, and what is damaged is left out and named.
func TestCopyBlobs(t *testing.T) {
	drivers(t, func(t *testing.T, open func(*testing.T) *store.Blobs) {
		dir, from, raws := filledDirectory(t, 12)
		to := open(t)
		damaged := digest.FromBytes(noise(107, 7000))
		hex := damaged.Encoded()
		if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", hex[:2], hex), noise(1, 7000), 0o600); err != nil {
			t.Fatal(err)
		}
		delete(raws, damaged)

		ctx, cut := context.WithCancel(t.Context())
		first, err := store.CopyBlobs(ctx, from, to, func(c store.CopiedBlobs) {
			if c.Blobs == 3 {
				cut()
			}
		})
		if err == nil || first.Blobs < 3 {
			t.Fatalf("cut off: %+v, %v", first, err)
		}
		second, err := store.CopyBlobs(t.Context(), from, to, nil)
		if err != nil {
			t.Fatal(err)
		}
		// What was on its way when it was cut off may have arrived.
		if second.Present < first.Blobs || second.Blobs+second.Present != 11 {
			t.Errorf("the second copied %d, %d were there; the first had copied %d", second.Blobs, second.Present, first.Blobs)
		}
		if d := cmp.Diff([]digest.Digest{damaged}, second.Damaged); d != "" {
			t.Errorf("damaged (-want +got):\n%s", d)
		}
		if d := cmp.Diff(raws, held(t, to)); d != "" {
			t.Errorf("blobs (-want +got):\n%s", d)
		}
	})
}

// TestPlainCopy: a directory has the layout of a bucket, so that any program that copies
// files into one will do.
func TestPlainCopy(t *testing.T) {
	t.Parallel()
	dir, _, raws := filledDirectory(t, 4)
	server := s3test.Start(t)
	bucket, client := server.Bucket(), server.Client()
	err := filepath.WalkDir(filepath.Join(dir, "blobs"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		raw, err := os.ReadFile(path)
		if err == nil {
			_, err = client.PutObjectWithContext(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: aws.String(filepath.ToSlash(name)), Body: strings.NewReader(string(raw))})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(raws, held(t, openS3(t, server.Parameters(bucket), 0))); d != "" {
		t.Errorf("blobs (-want +got):\n%s", d)
	}
}
