package proxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique/proxy/proxytest"
	"pratique/proxy/upstream"
)

// resident is the memory of this process, in bytes, after what can be given
// back was.
func resident(t *testing.T) int64 {
	t.Helper()
	debug.FreeOSMemory()
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(raw), "VmRSS:")
	var kib int64
	if _, err := fmt.Sscan(after, &kib); !ok || err != nil {
		t.Fatalf("VmRSS: %v", err)
	}
	return kib << 10
}

// TestSlowReaders: a thousand clients that take a few bytes of a layer and then
// nothing, half of them behind its transfer and half after it. What they cost is
// counted with their own ends of the connections in it.
func TestSlowReaders(t *testing.T) {
	const clients, perClient = 1000, 128 << 10
	f := newFaultyOn(t, "", func(cfg *upstream.Config) { cfg.StallTimeout = time.Minute })
	layer := noise(9, 24<<20)
	f.lab.Image("big", "1", layer)
	if g := f.ask("lab/big/manifests/1"); g.status != 200 {
		t.Fatalf("%d %s", g.status, g.message)
	}
	path := "lab/big/blobs/" + digest.FromBytes(layer).String()
	release := make(chan struct{})
	f.lab.Fault("GET /v2/big/blobs", 1, proxytest.Stall(12<<20, release))

	before := resident(t)
	var mu sync.Mutex
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	sip := func() {
		d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { // the kernel's buffers are not what is measured
				_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 32<<10)
			})
		}}
		c, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(f.url, "http://"))
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		conns = append(conns, c)
		mu.Unlock()
		if _, err := fmt.Fprintf(c, "GET /v2/%s HTTP/1.1\r\nHost: pratique\r\n\r\n", path); err != nil {
			t.Error(err)
		}
		head := make([]byte, 1024)
		if _, err := io.ReadFull(c, head); err != nil || !bytes.HasPrefix(head, []byte("HTTP/1.1 200 OK\r\n")) {
			t.Errorf("%q, %v", head, err)
		}
	}
	all := func() {
		var wg sync.WaitGroup
		for range clients / 2 {
			wg.Go(sip)
		}
		wg.Wait()
	}
	all()
	if grown := resident(t) - before; grown > clients/2*perClient && !raceDetector {
		t.Errorf("behind the transfer %d slow readers cost %d MiB", clients/2, grown>>20)
	}
	close(release)
	if g := f.ask(path); g.status != 200 || g.err != nil || !bytes.Equal(g.body, layer) {
		t.Errorf("beside them: %d, %d bytes, %v %s", g.status, len(g.body), g.err, g.message)
	}
	f.quiet()
	all()
	grown := resident(t) - before
	t.Logf("%d slow readers cost %d KiB each", clients, grown/clients>>10)
	if grown > clients*perClient && !raceDetector {
		t.Errorf("%d slow readers cost %d MiB", clients, grown>>20)
	}
	f.pullCached()
	f.lab.Seen()
}
