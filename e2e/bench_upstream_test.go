//go:build e2e && bench

package e2e

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// benchUpstream is a registry that costs next to nothing: files over HTTP, at
// the speed of one shared line. What is measured behind it is the proxy.
type benchUpstream struct {
	Addr string
	dir  string

	mu        sync.Mutex
	manifests map[string][]byte // by repository/reference
	gets      map[string]int    // of blobs, by digest
	sent      map[string]int64
	rate      int64     // bytes a second for all together; 0 = no limit
	free      time.Time // when the line is free again
}

func startBenchUpstream(t *testing.T) *benchUpstream {
	t.Helper()
	u := &benchUpstream{dir: workdir(t, "content"), manifests: map[string][]byte{}, gets: map[string]int{}, sent: map[string]int64{}}
	s := httptest.NewServer(u)
	t.Cleanup(s.Close)
	u.Addr = strings.TrimPrefix(s.URL, "http://")
	return u
}

func (u *benchUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	if repo, reference, ok := strings.Cut(path, "/manifests/"); ok {
		u.mu.Lock()
		raw, ok := u.manifests[repo+"/"+reference]
		u.mu.Unlock()
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", sha256Of(raw))
		w.Header().Set("Content-Length", fmt.Sprint(len(raw)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(raw)
		}
		return
	}
	_, d, ok := strings.Cut(path, "/blobs/")
	if !ok {
		return // /v2/
	}
	f, err := os.Open(filepath.Join(u.dir, filepath.Base(d)))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer func() { _ = f.Close() }()
	if r.Method == http.MethodHead {
		http.ServeContent(w, r, "", time.Time{}, f)
		return
	}
	u.mu.Lock()
	u.gets[d]++
	u.mu.Unlock()
	w.Header().Set("Docker-Content-Digest", d)
	http.ServeContent(&line{ResponseWriter: w, u: u, digest: d}, r, "", time.Time{}, f)
}

// line is one connection on the shared line. It hides ReadFrom.
type line struct {
	http.ResponseWriter
	u      *benchUpstream
	digest string
}

func (l *line) Write(p []byte) (int, error) {
	u := l.u
	u.mu.Lock()
	u.sent[l.digest] += int64(len(p))
	var wait time.Duration
	if u.rate > 0 {
		now := time.Now()
		// A sleep that lasts too long on a busy machine is made up for.
		if earliest := now.Add(-50 * time.Millisecond); u.free.Before(earliest) {
			u.free = earliest
		}
		u.free = u.free.Add(time.Duration(int64(len(p)) * int64(time.Second) / u.rate))
		wait = u.free.Sub(now)
	}
	u.mu.Unlock()
	if wait > time.Millisecond {
		time.Sleep(wait)
	}
	return l.ResponseWriter.Write(p)
}

func (u *benchUpstream) limit(rate int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.rate = rate
}

func (u *benchUpstream) asked(d string) (int, int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.gets[d], u.sent[d]
}

// benchImage is an image at the upstream.
type benchImage struct {
	repo, digest, config string
	manifest             []byte
	layers               []string
	sizes                []int64
}

type benchDescriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

// push makes an image of n layers of about size bytes on the wire. Compressed
// layers hold what compresses two to one.
func (u *benchUpstream) push(t *testing.T, repo string, n int, size int64, compressed bool) benchImage {
	t.Helper()
	img := benchImage{repo: repo}
	var layers []benchDescriptor
	var diffs []string
	mediaType := "application/vnd.oci.image.layer.v1.tar"
	if compressed {
		mediaType += "+gzip"
	}
	for i := range n {
		d, diff, length := u.layer(t, fmt.Sprintf("%s/%d", repo, i), size, compressed)
		layers = append(layers, benchDescriptor{mediaType, d, length})
		diffs = append(diffs, diff)
		img.layers, img.sizes = append(img.layers, d), append(img.sizes, length)
	}
	config := mustJSON(t, map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{}, "rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	img.config = sha256Of(config)
	if err := os.WriteFile(filepath.Join(u.dir, img.config), config, 0o600); err != nil {
		t.Fatal(err)
	}
	img.manifest = mustJSON(t, map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": benchDescriptor{"application/vnd.oci.image.config.v1+json", img.config, int64(len(config))}, "layers": layers,
	})
	img.digest = sha256Of(img.manifest)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.manifests[repo+"/1.0"], u.manifests[repo+"/"+img.digest] = img.manifest, img.manifest
	return img
}

// layer writes a tar of one file to where it is served from.
func (u *benchUpstream) layer(t *testing.T, name string, size int64, compressed bool) (d, diff string, length int64) {
	t.Helper()
	f, err := os.CreateTemp(u.dir, "layer-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	wire, plain := &hashed{w: f, h: sha256.New()}, sha256.New()
	buffered := bufio.NewWriterSize(wire, 1<<20)
	out := io.MultiWriter(buffered, plain)
	var zip *gzip.Writer
	mask, content := byte(0xff), size
	if compressed {
		zip, _ = gzip.NewWriterLevel(buffered, gzip.HuffmanOnly) // the level is right
		out = io.MultiWriter(zip, plain)
		mask, content = 0x0f, 2*size
	}
	w := tar.NewWriter(out)
	err = w.WriteHeader(&tar.Header{Name: "opt/data.bin", Mode: 0o644, Size: content})
	source := rand.NewChaCha8(sha256.Sum256([]byte(name)))
	buf := make([]byte, 1<<20)
	for left := content; left > 0 && err == nil; left -= int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), left)]
		_, _ = source.Read(buf) // never fails
		for i := range buf {
			buf[i] &= mask
		}
		_, err = w.Write(buf)
	}
	for _, end := range []func() error{w.Close, func() error {
		if zip == nil {
			return nil
		}
		return zip.Close()
	}, buffered.Flush} {
		if err == nil {
			err = end()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	d = fmt.Sprintf("sha256:%x", wire.h.Sum(nil))
	if err := os.Rename(f.Name(), filepath.Join(u.dir, d)); err != nil {
		t.Fatal(err)
	}
	return d, fmt.Sprintf("sha256:%x", plain.Sum(nil)), wire.n
}

type hashed struct {
	w io.Writer
	h hash.Hash
	n int64
}

func (s *hashed) Write(p []byte) (int, error) {
	s.h.Write(p)
	n, err := s.w.Write(p)
	s.n += int64(n)
	return n, err
}

func sha256Of(p []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(p)) }

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
