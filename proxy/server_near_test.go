package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// file writes content to a file and returns how to open it from an offset.
func file(t *testing.T, content string) (path string, open func(int64) (io.ReadCloser, error)) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, func(offset int64) (io.ReadCloser, error) {
		f, err := os.Open(path)
		if err == nil {
			_, err = f.Seek(offset, io.SeekStart)
		}
		return f, err
	}
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return string(b)
}

// readFromRecorder is a ResponseWriter that notes what it was asked to read
// from, as net/http's own does for sendfile.
type readFromRecorder struct {
	*httptest.ResponseRecorder
	src io.Reader
}

func (r *readFromRecorder) ReadFrom(src io.Reader) (int64, error) {
	r.src = src
	return io.Copy(r.ResponseRecorder, src)
}

// How a committed blob is sent depends on where the client is, and on nothing
// that the client says.
func TestServerFiles(t *testing.T) {
	_, open := file(t, blobText)
	h := NewServer(registryFuncs{blob: blobOf(blobText, open)}, ServerConfig{Upstreams: testIndex(t), Log: slog.New(slog.DiscardHandler)})
	tests := []struct {
		name, local, remote string
		tls                 bool
		near                bool
	}{
		{"another machine", "192.0.2.1:5000", "192.0.2.2:40000", false, false},
		{"loopback", "127.0.0.1:5000", "127.0.0.1:40000", false, true},
		{"loopback, IPv6", "[::1]:5000", "[::1]:40000", false, true},
		{"this machine by its own address", "192.0.2.1:5000", "192.0.2.1:40000", false, true},
		{"the same in a socket for both", "[::ffff:192.0.2.1]:5000", "192.0.2.1:40000", false, true},
		{"encrypted", "127.0.0.1:5000", "127.0.0.1:40000", true, false},
		{"no address", "127.0.0.1:5000", "@", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			local, err := net.ResolveTCPAddr("tcp", tt.local)
			if err != nil {
				t.Fatal(err)
			}
			ctx := context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(local))
			for _, part := range []struct{ header, body string }{{"", blobText}, {"bytes=3-9", blobText[3:10]}} {
				r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/v2/lab/app/blobs/"+hexDigest, nil)
				r.RemoteAddr = tt.remote
				r.Header.Set("X-Forwarded-For", "127.0.0.1")
				if part.header != "" {
					r.Header.Set("Range", part.header)
				}
				if tt.tls {
					r.TLS = &tls.ConnectionState{}
				}
				w := &readFromRecorder{ResponseRecorder: httptest.NewRecorder()}
				h.ServeHTTP(w, r)
				_, near := w.src.(*nearFile)
				if limited, ok := w.src.(*io.LimitedReader); ok {
					if _, ok = limited.R.(*os.File); !ok { // sendfile needs it bare
						t.Errorf("limited reader over a %T", limited.R)
					}
				} else if !near {
					t.Errorf("ReadFrom got a %T", w.src)
				}
				if near != tt.near || w.Body.String() != part.body {
					t.Errorf("near = %v, want %v; body %q, want %q", near, tt.near, w.Body, part.body)
				}
			}
		})
	}
}

// Whole and in parts, over one connection, read slowly enough to fill the socket.
func TestServerNearBytes(t *testing.T) {
	content := random(3<<20 + 7)
	_, open := file(t, content)
	s := serve(t, registryFuncs{blob: blobOf(content, open)}, true)
	for header, want := range map[string]string{
		"":                       content,
		"bytes=0-0":              content[:1],
		"bytes=65535-65536":      content[65535:65537],
		"bytes=100-2000000":      content[100:2000001],
		"bytes=-7":               content[3<<20:],
		"bytes=1048577-":         content[1<<20+1:],
		"bytes=3145734-99999999": content[3<<20+6:],
	} {
		var h []string
		if header != "" {
			h = []string{"Range", header}
		}
		if resp, body := s.do(t, http.MethodGet, "/v2/lab/app/blobs/"+hexDigest, h...); body != want || resp.ContentLength != int64(len(want)) {
			t.Errorf("%q: %s, %d bytes, want %d", header, resp.Status, len(body), len(want))
		}
	}
	sum := 0.0
	for _, line := range s.lines(t, 7) {
		sum += line["bytes"].(float64)
	}
	if want := float64(len(content) + 1 + 2 + 1999901 + 7 + len(content) - 1<<20 - 1 + 1); sum != want {
		t.Errorf("the log counts %.0f bytes, want %.0f", sum, want)
	}
}

// A file that became shorter truncates, and is not the client's fault.
func TestServerNearTruncates(t *testing.T) {
	content := random(1 << 20)
	path, open := file(t, content)
	if err := os.Truncate(path, 300_000); err != nil {
		t.Fatal(err)
	}
	s := serve(t, registryFuncs{blob: blobOf(content, open)}, true)
	resp, err := s.Client().Get(s.URL + "/v2/lab/app/blobs/" + hexDigest)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) || string(body) != content[:300_000] {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	if line := s.lines(t, 1)[0]; line["outcome"] != "upstream" || line["bytes"] != 300_000.0 {
		t.Errorf("log: %v", line)
	}
}

// A client that leaves in the middle is told apart from a file that broke.
func TestServerNearClientLeaves(t *testing.T) {
	content := random(32 << 20)
	_, open := file(t, content)
	s := serve(t, registryFuncs{blob: blobOf(content, open)}, true)
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /v2/lab/app/blobs/"+hexDigest+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if line := s.lines(t, 1)[0]; line["outcome"] != "canceled" {
		t.Errorf("log: %v", line)
	}
}

// sockets are the two ends of a connection on loopback.
func sockets(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a, b = accepted.(*net.TCPConn), dialed.(*net.TCPConn)
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// While it waits for a reader it has no buffer, and what the socket did not take
// comes later.
func TestNearFileWaitsWithoutBuffer(t *testing.T) {
	content := random(16 << 20)
	path, _ := file(t, content)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var made atomic.Int64
	n := &nearFile{file: f, end: int64(len(content)), buffers: &sync.Pool{New: func() any {
		made.Add(1)
		return new([nearChunk]byte)
	}}}
	to, from := sockets(t)
	if err := from.SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	if err := to.SetWriteBuffer(nearQueue); err != nil {
		t.Fatal(err)
	}
	conn, err := to.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	const bursts = 100
	full := 0
	for range bursts {
		if err := conn.Control(func(fd uintptr) {
			if done, err := n.burst(int(fd)); !done && err == nil {
				full++
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	// The race detector makes the pool forget a quarter of what it is given.
	if full != bursts || made.Load() > bursts*2/3 {
		t.Errorf("%d buffers in %d bursts, of which the socket was full in %d", made.Load(), bursts, full)
	}
	if n.from == 0 || n.from > 4<<20 {
		t.Errorf("%d bytes in the socket", n.from)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() { _ = to.CloseWrite() }()
		begun := n.from
		if m, err := n.WriteTo(to); err != nil || m != int64(len(content))-begun {
			t.Errorf("WriteTo: %d, %v", m, err)
		}
	})
	var got bytes.Buffer
	_, err = io.CopyBuffer(&got, struct{ io.Reader }{from}, make([]byte, 3001))
	wg.Wait()
	if err != nil || got.String() != content {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}

// The queue is bounded by us, and a deadline of the connection ends the wait.
func TestNearFileQueueAndDeadline(t *testing.T) {
	path, _ := file(t, random(16<<20))
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	to, _ := sockets(t)
	if err := to.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	n := &nearFile{file: f, end: 16 << 20, buffers: newNearBuffers()}
	if m, err := n.WriteTo(to); !errors.Is(err, os.ErrDeadlineExceeded) || m != n.from || n.err != nil {
		t.Errorf("%d of %d, %v, %v", m, n.from, err, n.err)
	}
	conn, err := to.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var size int
	if ctlErr := conn.Control(func(fd uintptr) { size, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF) }); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
	if size != 2*nearQueue { // Linux counts its own overhead
		t.Errorf("SO_SNDBUF = %d", size)
	}
}

// What is no socket gets the same bytes.
func TestNearFileToAnyWriter(t *testing.T) {
	content := random(200_000)
	path, _ := file(t, content)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var got strings.Builder
	m, err := (&nearFile{file: f, from: 5, end: 199_000, buffers: newNearBuffers()}).WriteTo(&got)
	if err != nil || m != 198_995 || got.String() != content[5:199_000] {
		t.Errorf("%d bytes, %v", m, err)
	}
}
