package proxy_test

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Clients that come at every moment of a transfer, its very end included, never
// start a second one.
func TestOneTransferAtEveryMoment(t *testing.T) {
	p := newPulled(t)
	var lines []string
	for round := range 40 {
		layer := noise(byte(100+round), 40_000)
		d := p.lab.Blob("app", "", layer).Digest
		lines = append(lines, "GET /v2/app/blobs/"+d.String())
		var wg sync.WaitGroup
		for range 30 {
			wg.Go(func() {
				time.Sleep(time.Duration(rand.IntN(8000)) * time.Microsecond)
				if got, err := p.pull("lab/app", d); err != nil || !bytes.Equal(got, layer) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		}
		wg.Wait()
		if b, err := p.blob("lab/app", digest.FromBytes(layer)); err != nil || b.Size != int64(len(layer)) {
			t.Errorf("%+v, %v", b, err)
		}
	}
	p.lab.Expect(lines...)
}

// A client that looks before the end of a transfer and joins after it finds the
// stored blob.
func TestJoinAfterTheEnd(t *testing.T) {
	p := newPulled(t)
	layer := noise(1, 40_000)
	d, line := p.linked(layer)
	looked, stored := make(chan struct{}), make(chan struct{})
	var once sync.Once
	p.state.Fail = func(method string) error {
		if method == "Holders" { // asked between the look and the join
			once.Do(func() { close(looked); <-stored })
		}
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if got, err := p.pull("lab/app", d); err != nil || !bytes.Equal(got, layer) {
			t.Errorf("late: %d bytes, %v", len(got), err)
		}
	})
	<-looked
	r, err := p.OpenBlob(t.Context(), ref(t, "lab/app:v1"), pratique.Descriptor{Digest: d, Size: int64(len(layer))})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	for p.Sources(d) > 0 {
		time.Sleep(time.Millisecond)
	}
	close(stored)
	wg.Wait()
	p.lab.Expect(line)
}
