package store_test

import (
	"io"
	"net"
	"testing"

	"github.com/opencontainers/go-digest"

	"pratique/store"
	"pratique/store/s3test"
)

// BenchmarkOpen sends a stored blob into a connection: from S3 on this machine,
// from the hot cache in front of it, and from the filesystem driver.
func BenchmarkOpen(b *testing.B) {
	s := s3test.Start(b)
	for _, size := range []struct {
		name string
		n    int
	}{{"2MiB", 2 << 20}, {"200MiB", 200 << 20}} {
		raw := noise(1, size.n)
		d := digest.FromBytes(raw)
		bucket := s.Bucket()
		for _, of := range []struct {
			name string
			cfg  store.BlobsConfig
		}{
			{"s3", store.BlobsConfig{Driver: "s3", Parameters: s.Parameters(bucket)}},
			{"hot", store.BlobsConfig{Driver: "s3", Parameters: s.Parameters(bucket), Hot: store.HotConfig{Dir: b.TempDir(), MaxBytes: 1 << 30}}},
			{"filesystem", store.BlobsConfig{Parameters: map[string]any{"rootdirectory": b.TempDir()}}},
		} {
			b.Run(size.name+"/"+of.name, func(b *testing.B) {
				if of.cfg.Driver != "" {
					of.cfg.Spool = b.TempDir()
				}
				blobs, err := store.OpenBlobs(b.Context(), of.cfg)
				if err != nil {
					b.Fatal(err)
				}
				defer blobs.Close()
				if err := blobs.Put(b.Context(), d, raw); err != nil {
					b.Fatal(err)
				}
				r, _, err := blobs.Open(b.Context(), d, 0)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, r)
				r.Close()
				to := sink(b)
				b.SetBytes(int64(size.n))
				for b.Loop() {
					r, _, err := blobs.Open(b.Context(), d, 0)
					if err != nil {
						b.Fatal(err)
					}
					if n, err := io.Copy(to, r); err != nil || n != int64(size.n) {
						b.Fatal(n, err)
					}
					r.Close()
				}
			})
		}
	}
}

// sink is a connection on loopback whose other end reads and forgets.
func sink(b *testing.B) net.Conn {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := l.Accept(); err == nil {
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close(); l.Close(); <-done })
	return conn
}
