package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/store"
)

// anyUse is a store.Usage by which every blob of every manifest may go, in a
// random order.
type anyUse struct{ *proxytest.State }

func (u anyUse) Usage(ctx context.Context, _ func(pratique.Ref) bool) iter.Seq2[store.Use, error] {
	return func(yield func(store.Use, error) bool) {
		seen := map[digest.Digest]bool{}
		for k, err := range u.Images(ctx) {
			if err != nil {
				yield(store.Use{}, err)
				return
			}
			for _, d := range append([]pratique.Descriptor{k.Image.Config}, k.Image.Layers...) {
				if seen[d.Digest] {
					continue
				}
				seen[d.Digest] = true
				if !yield(store.Use{Blob: d.Digest, Image: k.Image.Digest, At: time.Unix(rand.Int64N(1e9), 0)}, nil) {
					return
				}
			}
		}
	}
}

func (p *pulled) evictor(maxSize int64) *store.Evictor {
	return store.NewEvictor(p.blobs, anyUse{p.state}, store.EvictorConfig{MaxSize: maxSize, Log: slog.New(slog.DiscardHandler)})
}

// TestPullsWhileTheCacheIsEmptied: 30 clients pull images, and an analysis reads
// them, while everything is removed all the time. Nobody gets a wrong byte or an
// error, and what stays in the end is within the limit.
func TestPullsWhileTheCacheIsEmptied(t *testing.T) {
	p := newPulled(t)
	type image struct {
		name   string
		layers [][]byte
	}
	base := noise(100, 400_000)
	images := make([]image, 6)
	for i := range images {
		images[i] = image{name: string(rune('a' + i)), layers: [][]byte{base, noise(byte(i), 150_000), noise(byte(50+i), 5_000)}}
		p.lab.Image(images[i].name, "v1", images[i].layers...)
	}
	const limit = 300_000
	ev := p.evictor(limit)
	ctx, cancel := context.WithCancel(t.Context())
	emptied := make(chan int64)
	go func() {
		var removed int64
		for ctx.Err() == nil {
			out, err := ev.Evict(ctx)
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			removed += out.Bytes
		}
		emptied <- removed
	}()
	pull := func(img image) error {
		m, err := p.manifest("lab/" + img.name + ":v1")
		if err != nil {
			return err
		}
		for i, l := range m.Image.Layers {
			got, err := p.pull("lab/"+img.name, l.Digest)
			if err != nil {
				return err
			}
			if !bytes.Equal(got, img.layers[i]) {
				return errors.New("wrong bytes")
			}
		}
		return nil
	}
	read := func(img image) error {
		r := ref(t, "lab/"+img.name+":v1")
		m, err := p.manifest(r.String())
		if err != nil {
			return err
		}
		for i, l := range m.Image.Layers {
			body, err := p.OpenBlob(t.Context(), r, l)
			if err != nil {
				return err
			}
			got, err := io.ReadAll(body)
			if err = errors.Join(err, body.Close()); err != nil {
				return err
			}
			if !bytes.Equal(got, img.layers[i]) {
				return errors.New("wrong bytes")
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			do := pull
			if i%5 == 0 {
				do = read
			}
			for n := range 6 {
				if err := do(images[(i+n)%len(images)]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	cancel()
	if removed := <-emptied; removed < limit {
		t.Errorf("only %d bytes were removed meanwhile: this proves little", removed)
	}
	if !p.exists(digest.FromString("nothing")) { // waits for transfers
		out, err := ev.Evict(t.Context())
		if err != nil || out.Kept > limit {
			t.Errorf("%+v, %v", out, err)
		}
	}
}

// What is linked and was removed comes from the upstream again; when that does not
// answer, it is an outage and not a name that is unknown.
func TestEvictedBlobComesAgain(t *testing.T) {
	p := newPulled(t)
	layer := noise(1, 100_000)
	l, line := p.linked(layer)
	if got, err := p.pull("lab/app", l); err != nil || !bytes.Equal(got, layer) {
		t.Fatal(err)
	}
	p.lab.Expect(line)
	empty := func() {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			out, err := p.evictor(1).Evict(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.blobs.Stat(t.Context(), l); errors.Is(err, pratique.ErrNotFound) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%+v", out)
			}
		}
	}
	// Between the answer that it is here and its opening.
	p.joined(l, 0)
	b, err := p.blob("lab/app", l)
	if err != nil || !b.Hit {
		t.Fatalf("%+v, %v", b, err)
	}
	empty()
	p.lab.Seen()
	if got, err := read(b, 1000); err != nil || !bytes.Equal(got, layer[1000:]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	p.lab.Expect(line)

	p.joined(l, 0)
	empty()
	down(p.lab)
	_, err = p.blob("lab/app", l)
	if e := wants(t, err, proxy.CodeTooManyRequests, 502); e.RetryAfter == 0 {
		t.Error("no Retry-After")
	}
	// Its manifest is here, and what is known of its size is said.
	p.mustManifest("lab/app:v1", p.tagged("lab/app:v1"))
	head, err := p.Blob(t.Context(), proxy.Request{Ref: ref(t, "lab/app@"+l.String()), Head: true})
	if err != nil || head.Size != int64(len(layer)) {
		t.Errorf("%+v, %v", head, err)
	}
	p.lab.Heal()
	if got, err := p.pull("lab/app", l); err != nil || !bytes.Equal(got, layer) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if !slices.Contains(p.lab.Seen(), line) {
		t.Error("it did not come from the upstream")
	}
}

// tagged is what a tag named last.
func (p *pulled) tagged(s string) digest.Digest {
	p.t.Helper()
	st, err := p.state.Tag(p.t.Context(), ref(p.t, s))
	if err != nil {
		p.t.Fatal(err)
	}
	return st.Digest
}
