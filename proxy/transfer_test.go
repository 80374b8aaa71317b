package proxy_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/proxy"
	"pratique/proxy/proxytest"
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

func TestResume(t *testing.T) {
	tests := []struct {
		name  string
		fault proxytest.Fault
		times int
		ok    bool
	}{
		{"breaks once", proxytest.Truncate(200_000), 1, true},
		{"breaks five times", proxytest.Truncate(100_000), 5, true},
		{"breaks for ever", proxytest.Truncate(100_000), 0, false},
		{"stalls", proxytest.Stall(300_000, make(chan struct{})), 1, true},
		{"no progress", proxytest.Truncate(0), 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newStalling(t, 300*time.Millisecond)
			layer := noise(5, 1<<20)
			d, line := p.linked(layer)
			p.lab.Fault("GET", tt.times, tt.fault)
			got, err := p.pull("lab/app", d)
			seen := p.lab.Seen()
			if ok := p.exists(d); ok != tt.ok {
				t.Errorf("stored: %v", ok)
			}
			if len(p.spool()) > 0 {
				t.Errorf("left: %v", p.spool())
			}
			if tt.ok && (err != nil || !bytes.Equal(got, layer)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if !tt.ok && (err == nil || len(got) == len(layer)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if len(seen) > 6 {
				t.Errorf("asked %d times", len(seen))
			}
			for i, s := range seen {
				if i > 0 && tt.times > 0 && !strings.HasPrefix(s, line+" Range: bytes=") {
					t.Errorf("request %d was %s", i, s)
				}
			}
		})
	}
}

// Wrong bytes are kept by nobody, and no client gets as many as there should be.
func TestWrongBytes(t *testing.T) {
	for name, tt := range map[string]struct {
		fault proxytest.Fault
	}{
		"first byte":        {proxytest.Corrupt(0)},
		"last byte":         {proxytest.Corrupt(1<<20 - 1)},
		"too short":         {proxytest.Alter(func(b []byte) []byte { return b[:len(b)-1] })},
		"too long":          {proxytest.Alter(func(b []byte) []byte { return append(b, 0) })},
		"too long, chunked": {chunked(func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) })},
		"short, chunked":    {chunked(func(b []byte) []byte { return b[:len(b)/2] })},
		"wrong, chunked":    {chunked(func(b []byte) []byte { b[7] ^= 1; return b })},
		"empty":             {proxytest.Alter(func([]byte) []byte { return nil })},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPulled(t)
			layer := noise(6, 1<<20)
			d, _ := p.linked(layer)
			p.lab.Fault("GET", 0, tt.fault)
			var wg sync.WaitGroup
			for i := range 5 {
				wg.Go(func() {
					time.Sleep(time.Duration(i) * time.Millisecond)
					got, err := p.pull("lab/app", d)
					if err == nil || len(got) >= len(layer)-1 {
						t.Errorf("client %d: %d of %d bytes, %v", i, len(got), len(layer), err)
					}
				})
			}
			wg.Wait()
			if p.exists(d) {
				t.Error("it exists")
			}
			if len(p.spool()) > 0 {
				t.Errorf("left: %v", p.spool())
			}
			p.lab.Heal()
			p.start()
			if got, err := p.pull("lab/app", d); err != nil || !bytes.Equal(got, layer) {
				t.Errorf("afterwards: %d bytes, %v", len(got), err)
			}
		})
	}
}

// chunked sends a changed body without a length.
func chunked(change func([]byte) []byte) proxytest.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		proxytest.Alter(change)(&chunkedWriter{w}, r, next)
	}
}

type chunkedWriter struct{ http.ResponseWriter }

func (w *chunkedWriter) WriteHeader(status int) {
	w.Header().Del("Content-Length")
	w.ResponseWriter.WriteHeader(status)
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// A small blob is told whole or as an error with a status.
func TestSmallBlobIsWholeOrAnError(t *testing.T) {
	p := newPulled(t)
	layer := noise(7, 20_000)
	d, _ := p.linked(layer)
	p.lab.Fault("GET", 1, proxytest.Corrupt(5))
	_, err := p.blob("lab/app", d)
	wants(t, err, proxy.CodeTooManyRequests, 502)
	if got, err := p.pull("lab/app", d); err != nil || !bytes.Equal(got, layer) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestBlobFailures(t *testing.T) {
	for name, tt := range map[string]struct {
		fault  proxytest.Fault
		code   proxy.Code
		status int
	}{
		"404":      {proxytest.Status(404), proxy.CodeBlobUnknown, 404},
		"403":      {proxytest.Status(403), proxy.CodeDenied, 403},
		"429":      {proxytest.Status(429, "Retry-After", "60"), proxy.CodeTooManyRequests, 429},
		"500":      {proxytest.Status(500), proxy.CodeTooManyRequests, 502},
		"reset":    {proxytest.Reset(), proxy.CodeTooManyRequests, 502},
		"metadata": {proxytest.Redirect("http://169.254.169.254/"), proxy.CodeTooManyRequests, 502},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPulled(t)
			d, _ := p.linked(noise(8, 100_000))
			p.lab.Fault("GET", 0, tt.fault)
			_, err := p.blob("lab/app", d)
			wants(t, err, tt.code, tt.status)
		})
	}
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

// A manifest that lies about a size harms its own image only.
func TestSizeLie(t *testing.T) {
	p := newPulled(t)
	layer := noise(10, 100_000)
	d, _ := p.linked(layer)
	liar := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[{"mediaType":"x","digest":%q,"size":99999}]}`,
		pratique.MediaTypeImageManifest, pratique.MediaTypeImageConfig, digest.FromString("{}"), d)
	m := p.hub.Manifest("liar", "v1", pratique.MediaTypeImageManifest, liar)
	p.hub.Blob("liar", "", layer)
	p.mustManifest("hub/liar:v1", m)

	release := make(chan struct{})
	p.hub.Fault("GET /v2/liar/blobs", 0, proxytest.Stall(-1, release))
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := p.pull("hub/liar", d); err == nil {
			t.Error("the liar got it")
		}
	})
	p.joined(d, 1)
	wg.Go(func() {
		if got, err := p.pull("lab/app", d); err != nil || !bytes.Equal(got, layer) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	time.Sleep(50 * time.Millisecond)
	close(release)
	wg.Wait()
	_, err := p.OpenBlob(t.Context(), ref(t, "hub/liar:v1"), pratique.Descriptor{Digest: d, Size: 99_999})
	if !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("OpenBlob: %v", err)
	}
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
	p := newPulled(t, func(cfg *proxy.CacheConfig) { cfg.MaxTransfers = 2 })
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

// A disk that fails is not the upstream's fault, and afterwards all is well.
func TestStorageFailsDuringTransfer(t *testing.T) {
	p := newPulled(t)
	layer := noise(16, 100_000)
	d, _ := p.linked(layer)
	spool := filepath.Join(p.dir, "spool")
	if err := os.Rename(spool, spool+".away"); err != nil {
		t.Fatal(err)
	}
	_, err := p.blob("lab/app", d)
	if err == nil || proxy.Down(err) {
		t.Errorf("got %v", err)
	}
	if err := os.Rename(spool+".away", spool); err != nil {
		t.Fatal(err)
	}
	if got, err := p.pull("lab/app", d); err != nil || !bytes.Equal(got, layer) {
		t.Errorf("afterwards: %d bytes, %v", len(got), err)
	}
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
