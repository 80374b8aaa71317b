package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/proxy"
	"pratique/proxy/proxytest"
	"pratique/store"
)

// shared are leases of several replicas that a test can break.
type shared struct {
	store.Alone
	held  atomic.Int64 // answers that another replica has it
	mute  atomic.Bool  // words of releases are lost
	fail  atomic.Bool  // Redis is away
	taken atomic.Int64
}

func (s *shared) Lease(ctx context.Context, name string, ttl time.Duration) (store.Lease, error) {
	if s.fail.Load() {
		return nil, errors.Join(errors.New("dial tcp: refused"), store.ErrUnreachable)
	}
	l, err := s.Alone.Lease(ctx, name, ttl)
	if errors.Is(err, store.ErrHeld) {
		s.held.Add(1)
	} else if err == nil {
		s.taken.Add(1)
	}
	return l, err
}

func (s *shared) Freed(name string) (<-chan struct{}, func()) {
	if s.mute.Load() {
		return make(chan struct{}), func() {}
	}
	return s.Alone.Freed(name)
}

// replicas are caches over one storage and one state.
func (p *pulled) replicas(n int, change ...func(*proxy.CacheConfig)) []*proxy.Cache {
	caches := make([]*proxy.Cache, n)
	for i := range caches {
		p.start(change...)
		caches[i] = p.Cache
	}
	return caches
}

func sharing(leases store.Leases) func(*proxy.CacheConfig) {
	return func(cfg *proxy.CacheConfig) { cfg.Leases, cfg.FollowPoll = leases, 10*time.Millisecond }
}

// readAll reads layer through a replica n times at once and reports what went wrong.
func (p *pulled) readAll(wg *sync.WaitGroup, c *proxy.Cache, n int, layer []byte) {
	r := ref(p.t, "lab/app@"+digest.FromBytes(layer).String())
	for range n {
		wg.Go(func() {
			b, err := c.Blob(p.t.Context(), proxy.Request{Ref: r})
			if err != nil {
				p.t.Error(err)
				return
			}
			if got, err := read(b, 0); err != nil || b.Size != int64(len(layer)) || !bytes.Equal(got, layer) {
				p.t.Errorf("%d bytes of %d, %v", len(got), b.Size, err)
			}
		})
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// The promise: any number of clients of any number of replicas, one transfer. Words
// of releases may be lost.
func TestOneTransferForAllReplicas(t *testing.T) {
	for name, mute := range map[string]bool{"told": false, "not told": true} {
		t.Run(name, func(t *testing.T) {
			p := newPulled(t)
			layer := noise(2, 2<<20)
			_, line := p.linked(layer)
			leases := &shared{}
			leases.mute.Store(mute)
			replicas := p.replicas(3, sharing(leases))
			release := make(chan struct{})
			p.lab.Fault("GET", 0, proxytest.Stall(500_000, release))
			var wg sync.WaitGroup
			for _, c := range replicas {
				p.readAll(&wg, c, 30, layer)
			}
			eventually(t, "two replicas follow the third", func() bool { return leases.held.Load() >= 2 })
			close(release)
			wg.Wait()
			p.lab.Expect(line)
		})
	}
}

// Whoever fetched it fails: one of those that waited fetches it, and one alone.
func TestFollowerTakesOver(t *testing.T) {
	p := newPulled(t)
	layer := noise(3, 1<<20)
	_, line := p.linked(layer)
	leases := &shared{}
	replicas := p.replicas(3, sharing(leases))
	dead, err := leases.Lease(t.Context(), "blob/"+digest.FromBytes(layer).String(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, c := range replicas {
		p.readAll(&wg, c, 10, layer)
	}
	eventually(t, "all wait", func() bool { return leases.held.Load() >= 6 }) // each looked twice
	p.lab.Expect()
	dead.Release() // its time is over, and nothing is stored
	wg.Wait()
	p.lab.Expect(line)
}

// Without Redis there are no leases, and no reason not to serve.
func TestNoLeaseToBeHad(t *testing.T) {
	p := newPulled(t)
	layer := noise(4, 1<<20)
	d, line := p.linked(layer)
	leases := &shared{}
	leases.fail.Store(true)
	replicas := p.replicas(2, sharing(leases))
	var wg sync.WaitGroup
	p.readAll(&wg, replicas[0], 10, layer)
	wg.Wait()
	p.lab.Expect(line)
	// Readers have all bytes before they are stored, and nothing but the storage tells
	// the other replica.
	eventually(t, "it is stored", func() bool {
		_, err := p.blobs.Stat(t.Context(), d)
		return err == nil
	})
	p.readAll(&wg, replicas[1], 10, layer)
	wg.Wait()
	p.lab.Expect()
}

// Redis is lost while another replica fetches: that one goes on, and what it brings
// is found by looking.
func TestLeasesAreLostMeanwhile(t *testing.T) {
	p := newPulled(t)
	layer := noise(5, 1<<20)
	_, line := p.linked(layer)
	leases := &shared{}
	replicas := p.replicas(2, sharing(leases))
	release := make(chan struct{})
	p.lab.Fault("GET", 0, proxytest.Stall(500_000, release))
	var wg sync.WaitGroup
	p.readAll(&wg, replicas[0], 1, layer)
	eventually(t, "one has the lease", func() bool { return leases.taken.Load() == 1 })
	p.readAll(&wg, replicas[1], 1, layer)
	eventually(t, "the other follows", func() bool { return leases.held.Load() >= 1 })
	leases.fail.Store(true)
	close(release)
	wg.Wait()
	p.lab.Expect(line)
}

// A transfer that takes long elsewhere is answered with a header in time, and its
// body comes, or breaks off.
func TestHeaderBeforeTheBlob(t *testing.T) {
	tests := []struct {
		name  string
		after func(p *pulled, layer []byte)
		open  int64
		want  func(layer []byte) []byte // nil: the body fails
	}{
		{"it comes", func(p *pulled, layer []byte) { p.put(layer) }, 0, func(layer []byte) []byte { return layer }},
		{"a range of it", func(p *pulled, layer []byte) { p.put(layer) }, 1000, func(layer []byte) []byte { return layer[1000:] }},
		{"it fails there, not here", func(*pulled, []byte) {}, 0, func(layer []byte) []byte { return layer }},
		{"it fails there and here", func(p *pulled, layer []byte) { p.lab.Remove("app", digest.FromBytes(layer)) }, 0, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPulled(t)
			layer := noise(6, 300_000)
			d, _ := p.linked(layer)
			leases := &shared{}
			c := p.replicas(1, sharing(leases), func(cfg *proxy.CacheConfig) { cfg.FollowHold = 5 * time.Millisecond })[0]
			elsewhere, err := leases.Lease(t.Context(), "blob/"+d.String(), 0)
			if err != nil {
				t.Fatal(err)
			}
			b, err := c.Blob(t.Context(), proxy.Request{Ref: ref(t, "lab/app@"+d.String())})
			if err != nil {
				t.Fatal(err)
			}
			if b.Size != int64(len(layer)) || b.Hit {
				t.Errorf("answered with %d bytes, hit %v", b.Size, b.Hit)
			}
			body, err := b.Open(tt.open)
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			tt.after(p, layer)
			elsewhere.Release()
			got, err := io.ReadAll(body)
			if tt.want == nil {
				wants(t, err, proxy.CodeBlobUnknown, http.StatusNotFound)
				return
			}
			if err != nil || !bytes.Equal(got, tt.want(layer)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

func (p *pulled) put(raw []byte) {
	p.t.Helper()
	if err := p.blobs.Put(p.t.Context(), digest.FromBytes(raw), raw); err != nil {
		p.t.Error(err)
	}
}

// A manifest that lies about a size gets nobody the wrong number of bytes.
func TestFollowerOfALie(t *testing.T) {
	p := newPulled(t)
	layer := noise(7, 300_000)
	d := digest.FromBytes(layer)
	config := p.lab.Blob("app", pratique.MediaTypeImageConfig, []byte("{}"))
	raw := []byte(`{"schemaVersion":2,"mediaType":"` + pratique.MediaTypeImageManifest + `","config":{"mediaType":"` + config.MediaType +
		`","digest":"` + config.Digest.String() + `","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"` + d.String() + `","size":299999}]}`)
	p.mustManifest("lab/app:v1", p.lab.Manifest("app", "v1", pratique.MediaTypeImageManifest, raw))
	leases := &shared{}
	c := p.replicas(1, sharing(leases), func(cfg *proxy.CacheConfig) { cfg.FollowHold = 5 * time.Millisecond })[0]
	elsewhere, err := leases.Lease(t.Context(), "blob/"+d.String(), 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Blob(t.Context(), proxy.Request{Ref: ref(t, "lab/app@"+d.String())})
	if err != nil {
		t.Fatal(err)
	}
	p.put(layer)
	elsewhere.Release()
	if got, err := read(b, 0); !errors.Is(err, pratique.ErrInvalid) || len(got) > 0 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// When all who wanted it have left, nothing is left that waits; who comes then
// starts anew.
func TestFollowersLeave(t *testing.T) {
	p := newPulled(t)
	layer := noise(8, 300_000)
	d, line := p.linked(layer)
	leases := &shared{}
	c := p.replicas(1, sharing(leases))[0]
	elsewhere, err := leases.Lease(t.Context(), "blob/"+d.String(), 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := c.Blob(ctx, proxy.Request{Ref: ref(t, "lab/app@"+d.String())})
		left <- err
	}()
	eventually(t, "it follows", func() bool { return leases.held.Load() >= 2 })
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	eventually(t, "nothing waits", func() bool { return c.Sources(d) == 0 })
	p.lab.Expect()
	elsewhere.Release()
	var wg sync.WaitGroup
	p.readAll(&wg, c, 1, layer)
	wg.Wait()
	p.lab.Expect(line)
}
