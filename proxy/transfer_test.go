package proxy_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/proxy/upstream"
)

// linked puts an image with one layer into lab/app and its manifest into the
// cache, and returns the layer's digest and the start of its request line.
func (p *pulled) linked(layer []byte) (digest.Digest, string) {
	p.t.Helper()
	d, _ := p.lab.Image("app", "v1", layer)
	p.mustManifest("lab/app:v1", d)
	p.lab.Seen()
	l := digest.FromBytes(layer)
	return l, "GET /v2/app/blobs/" + l.String()
}

// joined waits until n repositories wait for the transfer of d.
func (p *pulled) joined(d digest.Digest, n int) {
	p.t.Helper()
	for end := time.Now().Add(5 * time.Second); p.Sources(d) != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("%d repositories wait for the transfer, want %d", p.Sources(d), n)
		}
	}
}

// The promise: any number of clients, one transfer, the same bytes.
func TestOneTransferForAll(t *testing.T) {
	p := newPulled(t)
	layer := noise(2, 50<<20)
	d, line := p.linked(layer)
	want := sha256.Sum256(layer)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			b, err := p.blob("lab/app", d)
			if err != nil {
				t.Error(err)
				return
			}
			if b.Size != int64(len(layer)) {
				t.Errorf("size %d", b.Size)
			}
			r, err := b.Open(0)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			h := sha256.New()
			if n, err := io.Copy(h, r); err != nil || n != int64(len(layer)) || [32]byte(h.Sum(nil)) != want {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
	wg.Wait()
	if !p.exists(d) {
		t.Error("not stored")
	}
	p.lab.Expect(line)
	b, err := p.blob("lab/app", d)
	if err != nil || !b.Hit {
		t.Errorf("afterwards: %+v, %v", b, err)
	}
	r, err := b.Open(1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, ok := r.(*os.File); !ok {
		t.Errorf("a %T cannot be sent by sendfile", r)
	}
}

// The client that asked first leaves in the middle; nobody notices.
func TestClientLeaves(t *testing.T) {
	p := newPulled(t)
	layer := noise(3, 1<<20)
	d, line := p.linked(layer)
	release := make(chan struct{})
	p.lab.Fault("GET", 0, proxytest.Stall(500_000, release))
	ctx, cancel := context.WithCancel(t.Context())
	b, err := p.Blob(ctx, proxy.Request{Ref: ref(t, "lab/app@"+d.String())})
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.CopyN(io.Discard, r, 300_000); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
		t.Errorf("the one who left got %v", err)
	}
	close(release)
	if !p.exists(d) {
		t.Error("the transfer ended with its first client")
	}
	p.lab.Expect(line)
}

// A range of a blob in arrival waits for its bytes.
func TestRangeOfGrowingBlob(t *testing.T) {
	p := newPulled(t)
	layer := noise(4, 1<<20)
	d, line := p.linked(layer)
	release := make(chan struct{})
	p.lab.Fault("GET", 0, proxytest.Stall(400_000, release))
	b, err := p.blob("lab/app", d)
	if err != nil {
		t.Fatal(err)
	}
	early, err := b.Open(300_000)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 50_000)
	if _, err := io.ReadFull(early, got); err != nil || !bytes.Equal(got, layer[300_000:350_000]) {
		t.Errorf("bytes that are there: %v", err)
	}
	early.Close()
	late, err := b.Open(900_000)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	done := make(chan []byte)
	go func() {
		got, err := io.ReadAll(late)
		if err != nil {
			t.Error(err)
		}
		done <- got
	}()
	select {
	case <-done:
		t.Fatal("bytes that cannot be there")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if got := <-done; !bytes.Equal(got, layer[900_000:]) {
		t.Errorf("%d bytes from 900,000", len(got))
	}
	p.lab.Expect(line)
}

// What one repository's upstream does not have another's may: each requester's
// own is asked, and each is told his own upstream's answer.
func TestSecondSource(t *testing.T) {
	layer := noise(9, 100_000)
	t.Run("the first has it not", func(t *testing.T) {
		p := newPulled(t)
		d, _ := p.linked(layer)
		image, _ := p.hub.Image("app", "v1", layer)
		p.mustManifest("hub/app:v1", image)
		p.lab.Remove("app", d)
		release := make(chan struct{})
		p.lab.Fault("GET", 0, proxytest.Stall(-1, release))
		var wg sync.WaitGroup
		for i, repo := range []string{"lab/app", "hub/app"} {
			wg.Go(func() {
				if got, err := p.pull(repo, d); err != nil || !bytes.Equal(got, layer) {
					t.Errorf("%s: %d bytes, %v", repo, len(got), err)
				}
			})
			p.joined(d, i+1)
		}
		close(release)
		wg.Wait()
	})
	t.Run("the first breaks for good in the middle", func(t *testing.T) {
		p := newPulled(t)
		d, _ := p.linked(layer)
		image, _ := p.hub.Image("app", "v1", layer)
		p.mustManifest("hub/app:v1", image)
		p.hub.Seen()
		release := make(chan struct{})
		p.lab.Fault("GET", 1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			<-release
			proxytest.Truncate(40_000)(w, r, next)
		})
		p.lab.Fault("GET", 0, proxytest.Status(403))
		var wg sync.WaitGroup
		for i, repo := range []string{"lab/app", "hub/app"} {
			wg.Go(func() {
				if got, err := p.pull(repo, d); err != nil || !bytes.Equal(got, layer) {
					t.Errorf("%s: %d bytes, %v", repo, len(got), err)
				}
			})
			p.joined(d, i+1)
		}
		close(release)
		wg.Wait()
		p.hub.Expect("GET /v2/app/blobs/" + d.String() + " Range: bytes=40000-")
	})
	t.Run("neither has it", func(t *testing.T) {
		p := newPulled(t)
		d, _ := p.linked(layer)
		image, _ := p.hub.Image("other", "v1", layer)
		p.mustManifest("hub/other:v1", image)
		release := make(chan struct{})
		p.lab.Fault("GET", 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			<-release
			proxytest.Status(403)(w, r, next)
		})
		p.hub.Remove("other", d)
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, repo := range []string{"lab/app", "hub/other"} {
			wg.Go(func() { _, errs[i] = p.pull(repo, d) })
			p.joined(d, i+1)
		}
		close(release)
		wg.Wait()
		wants(t, errs[0], proxy.CodeDenied, 403)
		if e := wants(t, errs[1], proxy.CodeBlobUnknown, 404); strings.Contains(e.Message, "lab") {
			t.Errorf("told of another's repository: %s", e.Message)
		}
	})
}

// The scanner reads behind the transfer that a client started, and the other
// way round.
func TestOpenBlob(t *testing.T) {
	p := newPulled(t)
	layer := noise(11, 1<<20)
	d, line := p.linked(layer)
	desc := pratique.Descriptor{Digest: d, Size: int64(len(layer))}
	release := make(chan struct{})
	p.lab.Fault("GET", 0, proxytest.Stall(100_000, release))
	r, err := p.OpenBlob(t.Context(), ref(t, "lab/app:v1"), desc)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		if got, err := p.pull("lab/app", d); err != nil || !bytes.Equal(got, layer) {
			t.Errorf("client: %d bytes, %v", len(got), err)
		}
	})
	close(release)
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, layer) {
		t.Errorf("scanner: %d bytes, %v", len(got), err)
	}
	wg.Wait()
	if !p.exists(d) {
		t.Error("not stored")
	}
	stored, err := p.OpenBlob(t.Context(), ref(t, "lab/app:v1"), desc)
	if err != nil {
		t.Fatal(err)
	}
	defer stored.Close()
	p.lab.Expect(line)
}

// A HEAD of what a manifest describes costs nothing; opening it does.
func TestHeadBlob(t *testing.T) {
	p := newPulled(t)
	layer := noise(12, 100_000)
	d, line := p.linked(layer)
	b, err := p.Blob(t.Context(), proxy.Request{Ref: ref(t, "lab/app@"+d.String()), Head: true})
	if err != nil || b.Size != 100_000 || b.Hit {
		t.Fatalf("%+v, %v", b, err)
	}
	p.lab.Expect()
	if got, err := read(b, 99_000); err != nil || !bytes.Equal(got, layer[99_000:]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	p.lab.Expect(line)
}

// A blob that no manifest describes comes with what the upstream says of it.
func TestBlobWithoutDescriptor(t *testing.T) {
	p := newPulled(t)
	raw := noise(13, 100_000)
	d := p.lab.Blob("app", "", raw).Digest
	b, err := p.blob("lab/app", d)
	if err != nil || b.Size != 100_000 {
		t.Fatalf("%+v, %v", b, err)
	}
	if got, err := read(b, 0); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	other := noise(14, 100_000)
	o := p.lab.Blob("app", "", other).Digest
	p.lab.Fault("GET", 0, chunked(func(b []byte) []byte { return b }))
	b, err = p.blob("lab/app", o)
	if err != nil || b.Size != -1 {
		t.Fatalf("%+v, %v", b, err)
	}
	if got, err := read(b, 0); err != nil || !bytes.Equal(got, other) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestTransfersAreBounded(t *testing.T) {
	p := newPulled(t)
	p.clients = append(p.clients, func(cfg *upstream.Config) { cfg.MaxTransfers = 2 })
	p.start()
	var mu sync.Mutex
	running, most := 0, 0
	p.lab.Fault("GET", 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		time.Sleep(20 * time.Millisecond)
		next.ServeHTTP(w, r)
		mu.Lock()
		running--
		mu.Unlock()
	})
	var wg sync.WaitGroup
	for i := range 8 {
		raw := noise(byte(20+i), 1000)
		d := p.lab.Blob("app", "", raw).Digest
		wg.Go(func() {
			if got, err := p.pull("lab/app", d); err != nil || !bytes.Equal(got, raw) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	if most > 2 {
		t.Errorf("%d at once", most)
	}
}

// Close waits for what is arriving, and breaks it off when its time is over.
func TestCloseDuringTransfer(t *testing.T) {
	layer := noise(15, 1<<20)
	t.Run("in time", func(t *testing.T) {
		p := newPulled(t)
		d, _ := p.linked(layer)
		release := make(chan struct{})
		p.lab.Fault("GET", 0, proxytest.Stall(100_000, release))
		if _, err := p.blob("lab/app", d); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(50*time.Millisecond, func() { close(release) })
		if !p.exists(d) {
			t.Error("Close did not wait")
		}
	})
	t.Run("too slow", func(t *testing.T) {
		p := newPulled(t)
		d, _ := p.linked(layer)
		p.lab.Fault("GET", 0, proxytest.Stall(100_000, make(chan struct{})))
		b, err := p.blob("lab/app", d)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := p.Close(ctx); err == nil {
			t.Error("nothing was broken off")
		}
		if got, err := read(b, 0); err == nil {
			t.Errorf("%d bytes without an error", len(got))
		}
		if p.exists(d) || len(p.spool()) > 0 {
			t.Errorf("left: %v", p.spool())
		}
	})
}

// A large cold blob costs a buffer, not its size.
func TestTransferMemory(t *testing.T) {
	p := newPulled(t)
	layer := noise(17, 64<<20)
	d, _ := p.linked(layer)
	var before, peak runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	b, err := p.blob("lab/app", d)
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n, err := io.Copy(io.Discard, struct{ io.Reader }{r})
	if err != nil || n != int64(len(layer)) {
		t.Errorf("%d bytes, %v", n, err)
	}
	runtime.ReadMemStats(&peak)
	if grown := int64(peak.TotalAlloc - before.TotalAlloc); grown > 8<<20 {
		t.Errorf("%d bytes were allocated for a blob of %d", grown, len(layer))
	}
}
