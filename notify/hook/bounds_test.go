package hook

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestFlood: calls without the secret use up nothing of what the registry may call,
// are told to come again, and leave few lines behind.
func TestFlood(t *testing.T) {
	d := newDesk(t, Receiver{Type: Distribution, Auth: Header, Rate: 60})
	codes := map[int]int{}
	for i := range 5000 {
		w := d.call("/hooks/lab", body(fmt.Sprint(i), "team/app", "1"), "Authorization", fmt.Sprint("guess ", i))
		codes[w.Code]++
		if w.Code == 429 && w.Header().Get("Retry-After") == "" {
			t.Fatal("no Retry-After")
		}
	}
	if diff := cmp.Diff(map[int]int{401: 60, 429: 4940}, codes); diff != "" {
		t.Error(diff)
	}
	if n := strings.Count(d.log.String(), "\n"); n == 0 || n > 10 {
		t.Errorf("%d lines in the log", n)
	}
	if w := d.call("/hooks/lab", body("x", "team/app", "1"), "Authorization", secret); w.Code != 202 {
		t.Errorf("the registry itself: %d", w.Code)
	}
	for i := range 100 {
		d.call("/hooks/lab", body(fmt.Sprint("y", i), "team/app", fmt.Sprint(i)), "Authorization", secret)
	}
	if got := len(d.all()); got != 60 {
		t.Errorf("%d of 101 calls taken, want 60", got)
	}
	d.now = d.now.Add(10 * time.Second)
	if w := d.call("/hooks/lab", body("z", "team/app", "9"), "Authorization", secret); w.Code != 202 {
		t.Errorf("ten seconds later: %d", w.Code)
	}
	if d.count("limited") != 4940+41 {
		t.Errorf("%v limited", d.count("limited"))
	}
}

// TestSlowBodies: those who send slowly, or not at all, take a few places and no more.
func TestSlowBodies(t *testing.T) {
	d := newDesk(t, Receiver{Type: Distribution, Auth: HMAC})
	var wg sync.WaitGroup
	var ends []*io.PipeWriter
	begun := make(chan struct{}, reading)
	for range reading {
		in, out := io.Pipe()
		ends = append(ends, out)
		wg.Go(func() {
			r := httptest.NewRequest(http.MethodPost, "/hooks/lab", begins{in, begun})
			r.Header.Set("X-Hub-Signature-256", "sha256=00")
			d.ServeHTTP(httptest.NewRecorder(), r)
		})
	}
	for range reading {
		<-begun
	}
	sent := body("1", "team/app", "1")
	if w := d.call("/hooks/lab", sent, "X-Hub-Signature-256", sign(sent)); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("with all places taken: %d", w.Code)
	}
	for _, e := range ends {
		_ = e.Close()
	}
	wg.Wait()
	if w := d.call("/hooks/lab", sent, "X-Hub-Signature-256", sign(sent)); w.Code != 202 {
		t.Errorf("after them: %d", w.Code)
	}
}

// TestNeverArrives: a call without the secret whose body never comes does not hold its
// connection.
func TestNeverArrives(t *testing.T) {
	h, err := New(t.Context(), map[string]Receiver{"lab": {Type: Distribution, Upstream: "lab", Auth: Header, Secret: []byte(secret)}}, &taken{}, Config{Arrive: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	for _, auth := range []string{"wrong", secret} {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = fmt.Fprintf(c, "POST /hooks/lab HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: 100\r\n\r\n{", auth)
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("%s: the connection stays: %v", auth, err)
		}
		_ = c.Close()
	}
}

// begins tells of its first read.
type begins struct {
	io.Reader
	begun chan struct{}
}

func (b begins) Read(p []byte) (int, error) {
	select {
	case b.begun <- struct{}{}:
	default:
	}
	return b.Reader.Read(p)
}
