//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"pratique/tools/images"
)

const (
	block  = 32 // of a secret; see find
	window = 64 // so many bytes of a secret in a row are a leak
)

// anyDigest is taken out before contents are compared: a refusal names digests,
// and a digest is no content.
var anyDigest = regexp.MustCompile(`[0-9a-f]{64}`)

// secrets are contents that must not be sent, by their blocks.
type secrets map[[block]byte][]place

// place is where a block lies.
type place struct {
	name    string
	content []byte // without digests
	at      int
}

// add makes content a secret.
func (s secrets) add(t testing.TB, name string, content []byte) {
	t.Helper()
	content = anyDigest.ReplaceAll(content, []byte("#"))
	if len(content) < window {
		t.Fatalf("%s is shorter than %d bytes: it cannot be told from others", name, window)
	}
	for at := 0; at+block <= len(content); at += block {
		key := [block]byte(content[at:])
		if key != [block]byte{} { // the zeros between the files of a tar
			s[key] = append(s[key], place{name, content, at})
		}
	}
}

// addImage makes manifest, config and layers of img secrets.
func (s secrets) addImage(t testing.TB, name string, img v1.Image) {
	t.Helper()
	for what, read := range map[string]func() ([]byte, error){"manifest": img.RawManifest, "config": img.RawConfigFile} {
		raw, err := read()
		if err != nil {
			t.Fatal(err)
		}
		s.add(t, what+" of "+name, raw)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range layers {
		s.add(t, fmt.Sprintf("layer %d of %s", i, name), layerBytes(t, l))
	}
}

// find names the secret of which an answer holds a window. A window holds at
// least one whole block, wherever it begins; from there it is grown.
func (s secrets) find(answer []byte) string {
	answer = anyDigest.ReplaceAll(answer, []byte("#"))
	for i := 0; i+block <= len(answer); i++ {
		for _, p := range s[[block]byte(answer[i:])] {
			from, to := 0, block
			for from < i && from < p.at && answer[i-from-1] == p.content[p.at-from-1] {
				from++
			}
			for i+to < len(answer) && p.at+to < len(p.content) && answer[i+to] == p.content[p.at+to] {
				to++
			}
			if from+to >= window {
				return fmt.Sprintf("%d bytes of the %s", from+to, p.name)
			}
		}
	}
	return ""
}

func layerBytes(t testing.TB, l v1.Layer) []byte {
	t.Helper()
	r, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Besides the samples, the upstream of a siege holds these.
const (
	copied = "demo/copy:1.0"   // Vulnerable under another name
	shared = "demo/shared:1.0" // refused; its first layer is Clean's as well
	fresh  = "demo/fresh:1.0"  // never decided: its blobs do not arrive
)

// siege is a Pratique with refused and undecided content behind it.
type siege struct {
	*Pratique
	u       *Upstream
	secrets secrets
	refused []string // digests of manifests and indexes
	words   *strings.Replacer
}

// besiege starts one in which everything but fresh is decided and cached.
func besiege(t *testing.T) *siege {
	t.Helper()
	u := StartUpstream(t)
	s := &siege{u: u, secrets: secrets{}}
	push := func(name string, img v1.Image) {
		t.Helper()
		if err := images.Push(t.Context(), u.Addr, name, img); err != nil {
			t.Fatal(err)
		}
	}
	bad, clean := u.Child(t, images.Vulnerable, "amd64"), u.Child(t, images.Clean, "amd64")
	undecided, err := random.Image(4096, 2)
	if err != nil {
		t.Fatal(err)
	}
	mixture := stack(t, clean, bad)
	push(copied, bad)
	push(shared, mixture)
	push(fresh, undecided)
	u.sample[shared] = mixture

	s.secrets.addImage(t, "refused image", bad)
	s.secrets.addImage(t, "refused child for arm64", u.Child(t, images.AllRefused, "arm64"))
	s.secrets.addImage(t, "image not decided", undecided)
	s.refused = []string{digestOf(t, bad), digestOf(t, mixture), digestOf(t, undecided),
		u.Digest(t, images.AllRefused), digestOf(t, u.Child(t, images.AllRefused, "arm64"))}

	m, err := bad.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	cm, err := clean.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	um, err := undecided.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	last := func(m *v1.Manifest) string { return m.Layers[len(m.Layers)-1].Digest.String() }
	hex := func(d string) string { return strings.TrimPrefix(d, "sha256:") }
	s.words = strings.NewReplacer(
		"{bad}", digestOf(t, bad), "{hex}", hex(digestOf(t, bad)), "{HEX}", strings.ToUpper(hex(digestOf(t, bad))),
		"{config}", m.Config.Digest.String(), "{first}", m.Layers[0].Digest.String(), "{layer}", last(m),
		"{index}", u.Digest(t, images.AllRefused), "{arm64}", digestOf(t, u.Child(t, images.AllRefused, "arm64")),
		"{clean}", digestOf(t, clean), "{cleanlayer}", cm.Layers[0].Digest.String(),
		"{fresh}", digestOf(t, undecided), "{freshconfig}", um.Config.Digest.String(), "{freshlayer}", last(um),
		"{host}", u.Addr, "{port}", u.Addr[strings.LastIndexByte(u.Addr, ':')+1:], "{128}", strings.Repeat("a1", 64),
		"{long}", strings.Repeat("a", 4096), "{elements}", strings.Repeat("a/", 120),
	)

	s.Pratique = StartPratique(t, u, Options{Hold: 300 * time.Millisecond, TagTTL: "1h"})
	for _, name := range []string{"docker.io/" + images.Clean, "docker.io/" + images.Vulnerable, "lab/" + images.Vulnerable,
		"docker.io/" + images.AllRefused, "docker.io/" + images.Mixed, "docker.io/" + copied, "docker.io/" + shared} {
		s.decide(t, name)
	}
	u.Slow(func(r *http.Request) time.Duration {
		if strings.HasPrefix(r.URL.Path, "/v2/demo/fresh/blobs/") {
			return time.Hour
		}
		return 0
	})
	t.Cleanup(func() { // else stopping waits for these transfers
		u.Slow(nil)
		u.tap.CloseClientConnections()
	})
	s.send(t, "GET /v2/docker.io/demo/fresh/manifests/1.0") // its scan begins
	u.Forget()
	return s
}

// decide waits until there is a verdict on an image.
func (p *Pratique) decide(t testing.TB, name string) {
	t.Helper()
	if r := p.Command(t, "check", "--wait", "2m", name); r.exit != 0 && r.exit != 3 {
		t.Fatalf("pratique check %s: exit %d\n%s", name, r.exit, r.output)
	}
}

// stack is an image of all layers of the given ones.
func stack(t testing.TB, base v1.Image, more ...v1.Image) v1.Image {
	t.Helper()
	for _, img := range more {
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		if base, err = mutate.AppendLayers(base, layers...); err != nil {
			t.Fatal(err)
		}
	}
	return base
}

// wire is a request as it goes over the socket: "METHOD TARGET" and headers,
// one a line, with Host and Connection: close added; after "RAW " nothing is
// added or changed. No library has a say in it that would clean names.
func (s *siege) wire(request string) string {
	request = s.words.Replace(request)
	if raw, ok := strings.CutPrefix(request, "RAW "); ok {
		return raw
	}
	line, header, _ := strings.Cut(request, "\n")
	if !strings.Contains(line, " HTTP/") {
		line += " HTTP/1.1"
	}
	if header != "" {
		header = strings.ReplaceAll(header, "\n", "\r\n") + "\r\n"
	}
	if !strings.Contains(header, "Host: ") {
		header = "Host: registry.example\r\n" + header
	}
	return line + "\r\n" + header + "Connection: close\r\n\r\n"
}

// send sends one request on a connection of its own and returns every byte that
// comes back.
func (s *siege) send(t testing.TB, request string) []byte {
	t.Helper()
	return sendRaw(t, s.Registry, s.wire(request))
}

func sendRaw(t testing.TB, addr, request string) []byte {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return nil // hung up on: nothing came
	}
	got, err := io.ReadAll(conn)
	if err != nil && os.IsTimeout(err) {
		t.Errorf("no end of the answer to %.200q: %q", request, got[:min(len(got), 200)])
	}
	return got
}

var (
	statusLine = regexp.MustCompile(`(?m)^HTTP/[12](?:\.[01])? (\d{3})`)
	validator  = regexp.MustCompile(`(?mi)^(?:Docker-Content-Digest|ETag): *"?([a-z0-9]+:[0-9a-f]+)`)
)

// check holds an answer to the law: no content, no validator of content and, of
// anything but HEAD, no success. An attempt that asks for something harmless
// too may succeed with that.
func (s *siege) check(t *testing.T, request string, answer []byte, harmless bool) {
	t.Helper()
	if leak := s.secrets.find(answer); leak != "" {
		t.Errorf("%s\nleaked %s", request, leak)
	}
	for _, m := range validator.FindAllSubmatch(answer, -1) {
		if slices.Contains(s.refused, string(m[1])) {
			t.Errorf("%s\nwas answered with the validator %s: a client that has it takes it for pulled", request, m[0])
		}
	}
	if bytes.Contains(bytes.ToLower(answer), []byte("\ncontent-encoding:")) {
		t.Errorf("%s\nhas an encoded answer: what is in it was not seen", request)
	}
	head := strings.HasPrefix(request, "HEAD ")
	for _, m := range statusLine.FindAllSubmatch(answer, -1) {
		if status := string(m[1]); !head && !harmless && status < "400" && status != "100" {
			t.Errorf("%s\nwas answered with %s", request, status)
		}
	}
	if _, body, _ := bytes.Cut(answer, []byte("\r\n\r\n")); head && len(body) > 0 {
		t.Errorf("%s\nhas a body: %.200q", request, body)
	}
}

// saw are the requests that reached the upstream since Forget, without those
// for the image whose scan goes on all the time.
func (s *siege) saw() []Request {
	return slices.DeleteFunc(s.u.Requests(), func(r Request) bool { return strings.HasPrefix(r.Path, "/v2/demo/fresh/") })
}
