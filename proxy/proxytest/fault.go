package proxytest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"
)

// Fault is a way to go wrong; next is the answer as it should be.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

type fault struct {
	prefix string
	times  int
	do     Fault
}

// Fault makes the next requests whose line ("GET /v2/…", as in Seen) starts with
// prefix go wrong: so many times, or always if times is 0. Of several that fit
// the first that was given is used up first.
func (u *Upstream) Fault(prefix string, times int, do Fault) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if times == 0 {
		times = -1
	}
	u.faults = append(u.faults, &fault{prefix, times, do})
}

// Heal ends all faults.
func (u *Upstream) Heal() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.faults = nil
}

// faulty returns what goes wrong with this request, if anything; the caller
// holds mu.
func (u *Upstream) faulty(line string) Fault {
	for _, f := range u.faults {
		if f.times != 0 && strings.HasPrefix(line, f.prefix) {
			f.times--
			return f.do
		}
	}
	return nil
}

// Status answers with a status and headers given in pairs.
func Status(code int, headers ...string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Add(headers[i], headers[i+1])
		}
		fail(w, code, "UNKNOWN")
	}
}

// Reset breaks the connection before any answer.
func Reset() Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset instead of an orderly end
		}
		_ = conn.Close()
	}
}

// Truncate breaks the connection after n bytes of the body.
func Truncate(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&cutWriter{ResponseWriter: w, left: n, then: func() { panic(http.ErrAbortHandler) }}, r)
	}
}

// Stall stops after n bytes of the body (before the header if n < 0) and goes on
// when release is closed; a client that leaves ends it too.
func Stall(n int, release <-chan struct{}) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		hold := func() {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		if n < 0 {
			hold()
			next.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(&cutWriter{ResponseWriter: w, left: n, then: hold}, r)
	}
}

// cutWriter calls then once, when left bytes were sent.
type cutWriter struct {
	http.ResponseWriter
	left int
	then func()
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if w.then == nil {
		return w.ResponseWriter.Write(p)
	}
	n := min(len(p), w.left)
	m, err := w.ResponseWriter.Write(p[:n])
	if w.left -= m; err != nil || w.left > 0 {
		return m, err
	}
	if err := http.NewResponseController(w.ResponseWriter).Flush(); err != nil {
		return m, err
	}
	then := w.then
	w.then = nil
	then()
	rest, err := w.ResponseWriter.Write(p[n:])
	return m + rest, err
}

// Alter answers with a changed body and the headers of the right one, its
// length excepted.
func Alter(change func([]byte) []byte) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		raw := change(rec.Body.Bytes())
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(raw)))
		w.WriteHeader(rec.Code)
		_, _ = w.Write(raw)
	}
}

// Corrupt changes one byte.
func Corrupt(at int) Fault {
	return Alter(func(raw []byte) []byte { raw[at] ^= 1; return raw })
}

// Header answers rightly but for these headers, given in pairs; an empty value
// removes one.
func Header(headers ...string) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Del(headers[i])
			if headers[i+1] != "" {
				w.Header().Set(headers[i], headers[i+1])
			}
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
	}
}

// Redirect sends the client to url.
func Redirect(url string) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, url, http.StatusTemporaryRedirect)
	}
}

// Trickle sends one byte of the body after each pause.
func Trickle(pause time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		for _, b := range rec.Body.Bytes() {
			if _, err := w.Write([]byte{b}); err != nil {
				return
			}
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
			select {
			case <-time.After(pause):
			case <-r.Context().Done():
				return
			}
		}
	}
}

// ResetAfter sends these bytes as they are, instead of an answer, and resets the
// connection when they had time to arrive.
func ResetAfter(raw string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, raw) // the client may hang up first
		time.Sleep(20 * time.Millisecond)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}
