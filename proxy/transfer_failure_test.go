package proxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/proxy"
	"pratique/proxy/proxytest"
)

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
