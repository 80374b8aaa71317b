package trust_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/evidence/trust"
)

// Types under which signatures are kept, as they stand in registries.
const (
	typeSimple    = "application/vnd.dev.cosign.simplesigning.v1+json"
	typeDSSE      = "application/vnd.dsse.envelope.v1+json"
	typeBundle    = "application/vnd.dev.sigstore.bundle.v0.3+json"
	typeNotation  = "application/vnd.cncf.notary.signature"
	noteSignature = "dev.cosignproject.cosign/signature"
)

// shelf is a registry in memory. It implements evidence.Registry and
// trust.Parents.
type shelf struct {
	mu        sync.Mutex
	manifests map[string]stored // by REPOSITORY@DIGEST and REPOSITORY:TAG
	blobs     map[string][]byte // by REPOSITORY@DIGEST
	referrers map[string][]pratique.Descriptor
	parents   map[string][]digest.Digest

	asked []string                      // everything that was asked for
	fail  func(what, name string) error // if not nil, is asked before every answer
	hold  chan struct{}                 // if not nil, Referrers waits for it
}

type stored struct {
	image pratique.Image
	raw   []byte
}

func newShelf() *shelf {
	return &shelf{
		manifests: make(map[string]stored), blobs: make(map[string][]byte),
		referrers: make(map[string][]pratique.Descriptor), parents: make(map[string][]digest.Digest),
	}
}

func (s *shelf) answer(what, name string) error {
	s.asked = append(s.asked, what+" "+name)
	if s.fail != nil {
		return s.fail(what, name)
	}
	return nil
}

// breaks sets or, with nil, ends a failure.
func (s *shelf) breaks(fail func(what, name string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

// holds has every list of referrers wait until the channel is closed.
func (s *shelf) holds(until chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = until
}

// drop removes a manifest, or a name of one.
func (s *shelf) drop(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.manifests, name)
}

func (s *shelf) asks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

func (s *shelf) Manifest(_ context.Context, ref pratique.Ref) (pratique.Image, []byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.answer("manifest", ref.String()); err != nil {
		return pratique.Image{}, nil, err
	}
	m, ok := s.manifests[ref.String()]
	if !ok {
		return pratique.Image{}, nil, fmt.Errorf("%s: %w", ref, pratique.ErrNotFound)
	}
	return m.image, m.raw, nil
}

func (s *shelf) Blob(_ context.Context, ref pratique.Ref, d pratique.Descriptor, _ int64) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := ref.Repository() + "@" + d.Digest.String()
	if err := s.answer("blob", name); err != nil {
		return nil, err
	}
	b, ok := s.blobs[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, pratique.ErrNotFound)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (s *shelf) Referrers(ctx context.Context, ref pratique.Ref) ([]pratique.Descriptor, error) {
	s.mu.Lock()
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.answer("referrers", ref.String()); err != nil {
		return nil, err
	}
	return s.referrers[ref.String()], nil
}

func (s *shelf) Tags(context.Context, pratique.Ref) ([]string, error) {
	panic("nobody verifies by the list of tags")
}

func (s *shelf) Resolve(context.Context, pratique.Ref) (digest.Digest, error) {
	panic("nobody verifies by what a tag names")
}

func (s *shelf) Parents(_ context.Context, ref pratique.Ref) ([]digest.Digest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parents[ref.String()], nil
}

// layer is one layer to push.
type layer struct {
	mediaType string
	content   []byte
	notes     map[string]string
}

// put pushes a document as a manifest.
func (s *shelf) put(t testing.TB, repo pratique.Ref, mediaType string, doc any) pratique.Ref {
	t.Helper()
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	img, err := pratique.ParseManifest(mediaType, raw)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := pratique.Ref{Registry: repo.Registry, Repo: repo.Repo, Digest: img.Digest}
	s.manifests[at.String()] = stored{img, raw}
	return at
}

// blob pushes a blob.
func (s *shelf) blob(repo pratique.Ref, l layer) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := digest.FromBytes(l.content)
	s.blobs[repo.Repository()+"@"+d.String()] = l.content
	out := map[string]any{"mediaType": l.mediaType, "digest": d, "size": len(l.content)}
	if len(l.notes) > 0 {
		out["annotations"] = l.notes
	}
	return out
}

// push pushes a manifest of layers.
func (s *shelf) push(t testing.TB, repo pratique.Ref, configType, artifactType string, subject *pratique.Ref, layers ...layer) pratique.Ref {
	t.Helper()
	doc := map[string]any{
		"schemaVersion": 2, "mediaType": pratique.MediaTypeImageManifest,
		"config": s.blob(repo, layer{mediaType: configType, content: []byte("{}")}),
	}
	ls := []any{}
	for _, l := range layers {
		ls = append(ls, s.blob(repo, l))
	}
	doc["layers"] = ls
	if artifactType != "" {
		doc["artifactType"] = artifactType
	}
	if subject != nil {
		doc["subject"] = map[string]any{"mediaType": pratique.MediaTypeImageManifest, "digest": subject.Digest, "size": 1}
	}
	return s.put(t, repo, pratique.MediaTypeImageManifest, doc)
}

// image pushes an image that has the name in it.
func (s *shelf) image(t testing.TB, repo pratique.Ref, name string) pratique.Ref {
	t.Helper()
	return s.push(t, repo, pratique.MediaTypeImageConfig, "", nil, layer{mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", content: []byte(name)})
}

// index pushes an index, and has it known as the parent of what it lists.
func (s *shelf) index(t testing.TB, repo pratique.Ref, children ...pratique.Ref) pratique.Ref {
	t.Helper()
	list := []any{}
	for _, c := range children {
		s.mu.Lock()
		m := s.manifests[c.String()]
		s.mu.Unlock()
		list = append(list, map[string]any{"mediaType": m.image.MediaType, "digest": c.Digest, "size": len(m.raw), "platform": map[string]string{"os": "linux", "architecture": "amd64"}})
	}
	at := s.put(t, repo, pratique.MediaTypeImageIndex, map[string]any{"schemaVersion": 2, "mediaType": pratique.MediaTypeImageIndex, "manifests": list})
	for _, c := range children {
		s.adopt(c, at)
	}
	return at
}

// adopt has parent known as an index that lists the child.
func (s *shelf) adopt(child, parent pratique.Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parents[child.String()] = append([]digest.Digest{parent.Digest}, s.parents[child.String()]...)
}

// tag names a manifest as cosign does: sha256-HEX.sig.
func (s *shelf) tag(image, at pratique.Ref, suffix string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tag := pratique.Ref{Registry: image.Registry, Repo: image.Repo, Tag: "sha256-" + image.Digest.Encoded() + suffix}
	s.manifests[tag.String()] = s.manifests[at.String()]
}

// refer lists a manifest as a referrer of the image.
func (s *shelf) refer(image, at pratique.Ref, artifactType string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.manifests[at.String()]
	s.referrers[image.String()] = append(s.referrers[image.String()],
		pratique.Descriptor{MediaType: m.image.MediaType, Digest: at.Digest, Size: int64(len(m.raw)), ArtifactType: artifactType})
}

// attach pushes layers under cosign's tag for the image.
func (s *shelf) attach(t testing.TB, image pratique.Ref, suffix string, layers ...layer) pratique.Ref {
	t.Helper()
	at := s.push(t, image, pratique.MediaTypeImageConfig, "", nil, layers...)
	s.tag(image, at, suffix)
	return at
}

// attachBundle pushes a bundle as a referrer of the image.
func (s *shelf) attachBundle(t testing.TB, image pratique.Ref, bundle []byte) pratique.Ref {
	t.Helper()
	at := s.push(t, image, pratique.MediaTypeEmptyJSON, typeBundle, &image, layer{mediaType: typeBundle, content: bundle})
	s.refer(image, at, typeBundle)
	return at
}

// memory keeps attestations. It implements store.Attestations.
type memory struct {
	mu   sync.Mutex
	docs map[digest.Digest][]byte
	err  error // of every call, if not nil
	puts int
}

func newMemory() *memory { return &memory{docs: make(map[digest.Digest][]byte)} }

func (m *memory) Attestations(_ context.Context, image digest.Digest) (a pratique.Attestations, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return a, m.err
	}
	doc, ok := m.docs[image]
	if !ok {
		return a, fmt.Errorf("attestations of %s: %w", image, pratique.ErrNotFound)
	}
	return a, json.Unmarshal(doc, &a)
}

func (m *memory) PutAttestations(_ context.Context, a pratique.Attestations) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	doc, err := json.Marshal(a)
	m.docs[a.Image] = doc
	m.puts++
	return err
}

func (m *memory) lookups() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.puts
}

var app = pratique.Ref{Registry: "docker.io", Repo: "library/app"}

// newTrust makes a Trust over the shelf that keeps what it finds in m.
func newTrust(t testing.TB, s *shelf, m *memory, cfg trust.Config) *trust.Trust {
	t.Helper()
	cfg.Parents = s
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	tr, err := trust.New(s, m, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// verified is what there is about an image that was never looked at before.
func verified(t testing.TB, s *shelf, cfg trust.Config, image pratique.Ref) pratique.Attestations {
	t.Helper()
	a, err := newTrust(t, s, newMemory(), cfg).Attestations(t.Context(), image, pratique.Image{Digest: image.Digest}, true)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// by are the names that signed.
func by(a pratique.Attestations) []string {
	out := []string{}
	for _, s := range a.Signatures {
		out = append(out, s.By)
	}
	return out
}
