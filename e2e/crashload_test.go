//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"pratique/tools/images"
)

// crashUpstream is a registry in memory that drips blobs, and knows the truth.
type crashUpstream struct {
	addr  string
	close func()
	clean v1.Image // bases of the images of each round
	bad   v1.Image

	mu        sync.Mutex
	images    []*crashImage
	forbidden map[string]bool   // digests of content that no client may have
	content   map[string][]byte // all of it by digest: bases are there once
	blobs     map[string]int    // how often each blob was asked for
}

// crashImage is one image of the upstream's.
type crashImage struct {
	name, digest string // repository; manifest
	refused      bool
	blobs        []string // config and layers
}

func startCrashUpstream(t *testing.T) *crashUpstream {
	t.Helper()
	return startCrashUpstreamAt(t, "127.0.0.1")
}

// startCrashUpstreamAt starts one on another address.
func startCrashUpstreamAt(t *testing.T, host string) *crashUpstream {
	t.Helper()
	set, err := images.Open(filepath.Join("..", images.Archive))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = set.Close() })
	sample, err := set.Sample()
	if err != nil {
		t.Fatal(err)
	}
	u := &crashUpstream{clean: sample[images.Clean].(v1.Image), bad: sample[images.Vulnerable].(v1.Image), forbidden: map[string]bool{}, content: map[string][]byte{}}
	reg := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	u.blobs = map[string]int{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, blob, ok := strings.Cut(r.URL.Path, "/blobs/"); ok && r.Method == http.MethodGet {
			w = &drip{w}
			u.mu.Lock()
			u.blobs[blob]++
			u.mu.Unlock()
		}
		reg.ServeHTTP(w, r)
	}))
	_ = server.Listener.Close()
	if server.Listener, err = net.Listen("tcp", host+":0"); err != nil {
		t.Fatal(err)
	}
	server.Start()
	u.addr = strings.TrimPrefix(server.URL, "http://")
	u.close = sync.OnceFunc(func() { server.CloseClientConnections(); server.Close() })
	t.Cleanup(u.close)
	return u
}

// drip sends in pieces, with pauses, so that there is a middle to be killed in.
type drip struct{ http.ResponseWriter }

func (d *drip) Write(p []byte) (int, error) {
	const piece = 32 << 10
	for sent := 0; sent < len(p); {
		n, err := d.ResponseWriter.Write(p[sent:min(sent+piece, len(p))])
		if sent += n; err != nil {
			return sent, err
		}
		_ = http.NewResponseController(d.ResponseWriter).Flush()
		time.Sleep(rand.N(3 * time.Millisecond))
	}
	return len(p), nil
}

// perRound is how many images add adds.
const perRound = 4

// add pushes the images of a round: three to be served, one to be refused, each
// with a layer of its own.
func (u *crashUpstream) add(t *testing.T, round int, random *rand.Rand) {
	t.Helper()
	for n := range perRound {
		base, refused := u.clean, n == 0
		if refused {
			base = u.bad
		}
		img, err := mutate.AppendLayers(base, crashLayer(t, 10_000+random.IntN(200_000), random))
		if err != nil {
			t.Fatal(err)
		}
		i := &crashImage{name: fmt.Sprintf("crash/round%d-%d", round, n), refused: refused}
		u.read(t, i, img)
		if err := images.Push(t.Context(), u.addr, i.name+":1", img); err != nil {
			t.Fatal(err)
		}
		u.mu.Lock()
		u.images = append(u.images, i)
		if refused { // the manifest, the config and the layer of its own
			u.forbidden[i.digest], u.forbidden[i.blobs[0]], u.forbidden[i.blobs[len(i.blobs)-1]] = true, true, true
		}
		u.mu.Unlock()
	}
}

// crashLayer is a layer with one file of n bytes that are nowhere else.
func crashLayer(t *testing.T, n int, random *rand.Rand) v1.Layer {
	t.Helper()
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	if err := w.WriteHeader(&tar.Header{Name: "data/noise", Mode: 0o644, Size: int64(n), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// read keeps every byte of img and says what i is made of.
func (u *crashUpstream) read(t *testing.T, i *crashImage, img v1.Image) {
	t.Helper()
	keep := func(h v1.Hash, r io.ReadCloser, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.content[h.String()] == nil {
			if u.content[h.String()], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
		return h.String()
	}
	inMemory := func(raw []byte, err error) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), err }
	h, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	r, err := inMemory(img.RawManifest())
	i.digest = keep(h, r, err)
	if h, err = img.ConfigName(); err != nil {
		t.Fatal(err)
	}
	r, err = inMemory(img.RawConfigFile())
	i.blobs = append(i.blobs, keep(h, r, err))
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		if h, err = l.Digest(); err != nil {
			t.Fatal(err)
		}
		r, err = l.Compressed()
		i.blobs = append(i.blobs, keep(h, r, err))
	}
}

func (u *crashUpstream) byDigest(d string) *crashImage {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, i := range u.images {
		if i.digest == d {
			return i
		}
	}
	return nil
}

// pick prefers the last round's images, which are cold.
func (u *crashUpstream) pick(random *rand.Rand) *crashImage {
	u.mu.Lock()
	defer u.mu.Unlock()
	if random.IntN(3) > 0 {
		return u.images[len(u.images)-1-random.IntN(perRound)]
	}
	return u.images[random.IntN(len(u.images))]
}

// crashUser is one client. It holds what it gets against the truth, byte by
// byte, also what breaks off.
type crashUser struct {
	c        *crash
	random   *rand.Rand
	http     http.Client
	wrong    []string
	answered []string // images about which it got an answer that only a known one gets
	seen     []int    // statuses of manifests
}

// get asks for path, which must be content's bytes from offset; nil: nothing
// may be sent. It returns the status, 0 when there is no answer.
func (u *crashUser) get(path, d string, content []byte) int {
	req, err := http.NewRequest(http.MethodGet, "http://"+u.c.Registry+path, nil)
	if err != nil {
		u.wrong = append(u.wrong, err.Error())
		return 0
	}
	offset := 0
	if len(content) > 1 && strings.Contains(path, "/blobs/") && u.random.IntN(4) == 0 {
		offset = u.random.IntN(len(content)-1) + 1
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	res, err := u.http.Do(req)
	if err != nil {
		return 0 // killed
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusPartialContent {
		return res.StatusCode
	}
	if res.StatusCode == http.StatusOK {
		offset = 0
	}
	say := func(format string, args ...any) {
		u.wrong = append(u.wrong, fmt.Sprintf("GET %s (%s, from %d) = %s, %d bytes: ", path, d, offset, res.Status, len(body))+fmt.Sprintf(format, args...))
	}
	switch {
	case content == nil:
		say("this may not be had")
	case err == nil && !bytes.Equal(body, content[offset:]):
		say("a complete answer with wrong bytes, of %d", len(content)-offset)
	case err != nil && !bytes.HasPrefix(content[offset:], body):
		say("broken off (%v), and the bytes so far are wrong", err)
	}
	if err != nil {
		return 0
	}
	return res.StatusCode
}

// pull fetches an image by tag or digest and everything in it, and tries the
// content of a refused one whatever the manifest's answer was. It returns the
// worst status.
func (u *crashUser) pull(i *crashImage, reference string) int {
	may := func(d string) []byte {
		u.c.up.mu.Lock()
		defer u.c.up.mu.Unlock()
		if u.c.up.forbidden[d] || i.refused {
			return nil
		}
		return u.c.up.content[d]
	}
	base := "/v2/docker.io/" + i.name
	status := u.get(base+"/manifests/"+reference, i.digest, may(i.digest))
	u.seen = append(u.seen, status)
	switch status {
	case http.StatusOK, http.StatusForbidden, http.StatusTooManyRequests:
		u.answered = append(u.answered, i.digest)
	}
	if status == http.StatusForbidden && !i.refused {
		u.wrong = append(u.wrong, i.name+" was refused, and may be had")
	}
	if status == 0 || status != http.StatusOK && !i.refused {
		return status
	}
	for _, b := range i.blobs {
		switch got := u.get(base+"/blobs/"+b, b, may(b)); got {
		case http.StatusOK, http.StatusPartialContent:
		case 0:
			return 0
		default:
			status = got
		}
	}
	return status
}

// crashLoad is several users at once.
type crashLoad struct {
	done  chan struct{}
	users []*crashUser
	wg    sync.WaitGroup
}

func startLoad(c *crash, random *rand.Rand) *crashLoad {
	l := &crashLoad{done: make(chan struct{})}
	for range 6 {
		u := &crashUser{c: c, random: rand.New(rand.NewPCG(random.Uint64(), random.Uint64()))}
		u.http.Transport = &http.Transport{}
		l.users = append(l.users, u)
		l.wg.Go(func() {
			defer u.http.CloseIdleConnections()
			for {
				select {
				case <-l.done:
					return
				default:
				}
				i := c.up.pick(u.random)
				reference := "1"
				if u.random.IntN(2) == 0 {
					reference = i.digest
				}
				if u.pull(i, reference) == 0 {
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	return l
}

// stop waits for the users; the server is gone by then.
func (l *crashLoad) stop() {
	close(l.done)
	l.wg.Wait()
}

func (l *crashLoad) wrong() (out []string) {
	for _, u := range l.users {
		out = append(out, u.wrong...)
	}
	return out
}

func (l *crashLoad) answered() (out []string) {
	for _, u := range l.users {
		out = append(out, u.answered...)
	}
	return out
}
