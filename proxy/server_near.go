package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
)

// near reports whether the client runs on this machine and what it reads is not
// encrypted on the way.
func near(r *http.Request, client netip.Addr) bool {
	if r.TLS != nil {
		return false
	}
	if client.IsLoopback() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && client.IsValid() && local.AddrPort().Addr().Unmap() == client
}

const (
	// nearChunk is copied at a time to a client on this machine: it stays in a
	// core's cache from the read of the file to the write to the socket, and is
	// what one packet of the loopback device holds.
	nearChunk = 64 << 10
	// nearQueue bounds what waits in the socket of a client on this machine. On
	// a network a connection needs a queue that grows with the distance. Here the
	// reader is as near as memory: what waits only grows cold, and is sent by the
	// reader's own processor when it acknowledges what it got.
	nearQueue = 128 << 10
)

// nearFile sends a file to a client on this machine. There sendfile saves the
// server a copy and charges the reader for it: see docs/benchmarks.md. It holds
// a buffer while the socket takes bytes and none while it waits for a slow
// reader.
type nearFile struct {
	file    *os.File
	from    int64 // the next byte
	end     int64 // behind the last
	buffers *sync.Pool
	err     error // of the file
}

// Read is for writers that are no socket, and for what net/http sends together
// with the header.
func (n *nearFile) Read(p []byte) (int, error) {
	m, err := n.read(p)
	n.from += int64(m)
	return m, err
}

// read does not advance.
func (n *nearFile) read(p []byte) (int, error) {
	if n.from >= n.end {
		return 0, io.EOF
	}
	m, err := n.file.ReadAt(p[:min(int64(len(p)), n.end-n.from)], n.from)
	if m > 0 {
		return m, nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // somebody truncated it
	}
	n.err = err
	return 0, err
}

// WriteTo is how net's ReadFrom hands over the socket.
func (n *nearFile) WriteTo(w io.Writer) (int64, error) {
	socket, ok := w.(interface {
		syscall.Conn
		SetWriteBuffer(bytes int) error
	})
	if !ok {
		return io.Copy(w, struct{ io.Reader }{n})
	}
	if err := socket.SetWriteBuffer(nearQueue); err != nil {
		return 0, err
	}
	conn, err := socket.SyscallConn()
	if err != nil {
		return 0, err
	}
	begun := n.from
	var failed error
	err = conn.Write(func(fd uintptr) (done bool) {
		done, failed = n.burst(int(fd))
		return done
	})
	if failed != nil {
		err = failed
	}
	return n.from - begun, err
}

// burst writes until the socket takes no more, and is not done then. What was
// read and not taken is read again.
func (n *nearFile) burst(fd int) (done bool, err error) {
	buf := n.buffers.Get().(*[nearChunk]byte) //nolint:forcetypeassert // nothing else is put
	defer n.buffers.Put(buf)
	for n.from < n.end {
		m, err := n.read(buf[:])
		if err != nil {
			return true, err
		}
		written, err := syscall.Write(fd, buf[:m])
		n.from += int64(max(0, written))
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return false, nil
		case err != nil && !errors.Is(err, syscall.EINTR):
			return true, os.NewSyscallError("write", err)
		}
	}
	return true, nil
}

func newNearBuffers() *sync.Pool {
	return &sync.Pool{New: func() any { return new([nearChunk]byte) }}
}
