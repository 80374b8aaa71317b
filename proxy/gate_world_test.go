package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
	"pratique/store"
)

// world is a registry, a catalog and a scanner in memory: a Registry that
// serves whatever exists, as Cache does, and counts what it was asked.
type world struct {
	mu       sync.Mutex
	repos    map[string]*repo // "docker.io/library/app"
	calls    []string
	fail     func(op string, ref pratique.Ref) error // nil = nothing fails
	catalog  *memCatalog
	scans    *memScans
	stamps   *store.Stamps // of catalog and scans
	policies Policies
	payload  digest.Digest // of the last signature
}

type repo struct {
	manifests map[digest.Digest]content
	tags      map[string]digest.Digest
	blobs     map[digest.Digest][]byte
}

type content struct {
	mediaType string
	raw       []byte
}

func newWorld(t testing.TB) *world {
	t.Helper()
	policies, err := policy.Load(policy.File{Name: "test.yaml", Data: []byte(`
name: test
default: allow
rules:
  - {name: critical, vulnerability: {severity: CRITICAL, fixable: true}, action: deny}
  - {name: secrets, secret: {}, action: warn}
`)})
	if err != nil {
		t.Fatal(err)
	}
	stamps := store.NewStamps()
	return &world{
		repos:    map[string]*repo{},
		catalog:  &memCatalog{images: map[digest.Digest]pratique.Image{}, links: map[string][]digest.Digest{}, stamps: stamps},
		scans:    &memScans{reports: map[digest.Digest]pratique.Report{}, open: map[digest.Digest]chan struct{}{}, stamps: stamps},
		stamps:   stamps,
		policies: policies,
	}
}

// gate is wired as the product wires it, memories included: every attempt to
// get around it is one to get around them.

func (w *world) gate(cfg GateConfig) *Gate { return w.gateOver(w, cfg) }

// gateOver is gate over another registry, which has the same catalog.
func (w *world) gateOver(next Registry, cfg GateConfig) *Gate {
	if cfg.Platforms == nil {
		cfg.Platforms = []pratique.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}
	}
	cfg.Stamps = w.stamps
	return NewGate(next, w.scans, RememberCatalog(w.catalog, w.stamps), w.policies, cfg)
}

func (w *world) repo(name string) *repo {
	r, ok := w.repos[name]
	if !ok {
		r = &repo{manifests: map[digest.Digest]content{}, tags: map[string]digest.Digest{}, blobs: map[digest.Digest][]byte{}}
		w.repos[name] = r
	}
	return r
}

// blob puts bytes into a repository.
func (w *world) blob(repo, mediaType, data string) pratique.Descriptor {
	d := pratique.Descriptor{MediaType: mediaType, Digest: digest.FromString(data), Size: int64(len(data))}
	w.repo(repo).blobs[d.Digest] = []byte(data)
	return d
}

// manifest puts a manifest into a repository, under a tag if it is not empty.
func (w *world) manifest(t *testing.T, repo, tag, mediaType string, doc map[string]any) pratique.Descriptor {
	t.Helper()
	doc["schemaVersion"], doc["mediaType"] = 2, mediaType
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	d := pratique.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	r := w.repo(repo)
	r.manifests[d.Digest] = content{mediaType, raw}
	if tag != "" {
		r.tags[tag] = d.Digest
	}
	return d
}

const (
	layerType = "application/vnd.oci.image.layer.v1.tar+gzip"
	amd64     = "linux/amd64"
	arm64     = "linux/arm64"
)

// secretOf is in every byte sequence of the image called name, so that a test
// can look for it in what clients got.
func secretOf(name string) string { return "CONTENT-OF-" + name + "-END" }

// image puts an image with a config and one layer into a repository.
func (w *world) image(t *testing.T, repo, tag, name string) pratique.Descriptor {
	t.Helper()
	return w.manifest(t, repo, tag, pratique.MediaTypeImageManifest, map[string]any{
		"config":      w.blob(repo, pratique.MediaTypeImageConfig, `{"config": "`+secretOf(name)+`"}`),
		"layers":      []any{w.blob(repo, layerType, "layer "+secretOf(name))},
		"annotations": map[string]string{"x": secretOf(name)},
	})
}

// configOf and layerOf name the blobs of an image made by image.
func configOf(name string) digest.Digest {
	return digest.FromString(`{"config": "` + secretOf(name) + `"}`)
}
func layerOf(name string) digest.Digest { return digest.FromString("layer " + secretOf(name)) }

// at gives a descriptor the platform of an index's child.
func at(d pratique.Descriptor, platform string) pratique.Descriptor {
	if p, err := pratique.ParsePlatform(platform); err == nil {
		d.Platform = &p
	}
	return d
}

func (w *world) index(t *testing.T, repo, tag string, children ...pratique.Descriptor) pratique.Descriptor {
	t.Helper()
	return w.manifest(t, repo, tag, pratique.MediaTypeImageIndex, map[string]any{
		"manifests": children, "annotations": map[string]string{"x": secretOf("index-" + tag)},
	})
}

// clean, critical and scanned set the standing report.
func (w *world) clean(d pratique.Descriptor) { w.scans.set(report(d.Digest, pratique.StateScanned)) }
func (w *world) critical(d pratique.Descriptor) {
	w.scans.set(report(d.Digest, pratique.StateScanned, critical))
}

var critical = pratique.Finding{
	ID: "CVE-2024-0001", Kind: pratique.KindVulnerability, Package: "openssl", Installed: "3.0.1", Fixed: "3.0.2", Severity: pratique.SeverityCritical,
}

func report(d digest.Digest, s pratique.State, fs ...pratique.Finding) pratique.Report {
	return pratique.Report{Image: d, State: s, Findings: fs, ScannedAt: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
}

func (w *world) called(op string, ref pratique.Ref) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, op+" "+ref.String())
	if w.fail != nil {
		return w.fail(op, ref)
	}
	return nil
}

func (w *world) count(prefix string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, c := range w.calls {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

// Manifest implements Registry as Cache does: it links what it serves.
func (w *world) Manifest(ctx context.Context, r Request) (Manifest, error) {
	if err := w.called("manifest", r.Ref); err != nil {
		return Manifest{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	rp := w.repos[r.Ref.Repository()]
	if rp == nil {
		return Manifest{}, Errorf(CodeNameUnknown, "no repository %s", r.Ref.Repository())
	}
	d := r.Ref.Digest
	if d == "" {
		d = rp.tags[r.Ref.Tag]
	}
	c, ok := rp.manifests[d]
	if !ok {
		return Manifest{}, Errorf(CodeManifestUnknown, "no manifest %s", r.Ref)
	}
	img, err := pratique.ParseManifest(c.mediaType, c.raw)
	if err != nil {
		return Manifest{}, Errorf(CodeManifestInvalid, "%w", err)
	}
	if err := w.catalog.Link(ctx, r.Ref, img, time.Now()); err != nil {
		return Manifest{}, err
	}
	return Manifest{Image: img, Raw: c.raw, Hit: true}, nil
}

func (w *world) Blob(_ context.Context, r Request) (Blob, error) {
	if err := w.called("blob", r.Ref); err != nil {
		return Blob{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	rp := w.repos[r.Ref.Repository()]
	if rp == nil || rp.blobs[r.Ref.Digest] == nil {
		return Blob{}, Errorf(CodeBlobUnknown, "no blob")
	}
	data := rp.blobs[r.Ref.Digest]
	return Blob{Digest: r.Ref.Digest, Size: int64(len(data)), Hit: true, Open: func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data[offset:])), nil
	}}, nil
}

func (w *world) Tags(_ context.Context, r Request) (TagList, error) {
	if err := w.called("tags", r.Ref); err != nil {
		return TagList{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	rp := w.repos[r.Ref.Repository()]
	if rp == nil {
		return TagList{}, Errorf(CodeNameUnknown, "no repository %s", r.Ref.Repository())
	}
	l := TagList{}
	for tag := range rp.tags {
		l.Tags = append(l.Tags, tag)
	}
	slices.Sort(l.Tags)
	return l, nil
}

func (w *world) Referrers(_ context.Context, r Request) (Referrers, error) {
	if err := w.called("referrers", r.Ref); err != nil {
		return Referrers{}, err
	}
	return Referrers{Index: []byte(`{"schemaVersion":2,"mediaType":"` + pratique.MediaTypeImageIndex + `","manifests":[]}`)}, nil
}

// memCatalog is a store.Catalog in memory.
type memCatalog struct {
	mu     sync.Mutex
	images map[digest.Digest]pratique.Image
	links  map[string][]digest.Digest
	stamps *store.Stamps
	asked  int   // calls but Link
	err    error // if set, every call fails
}

var _ store.Catalog = (*memCatalog)(nil)

func (c *memCatalog) Link(_ context.Context, ref pratique.Ref, img pratique.Image, _ time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	c.images[img.Digest] = img
	if !slices.Contains(c.links[ref.Repository()], img.Digest) {
		c.links[ref.Repository()] = append(c.links[ref.Repository()], img.Digest)
		c.stamps.Changed(img.Digest, img.Config.Digest)
		for _, l := range img.Layers {
			c.stamps.Changed(l.Digest)
		}
	}
	return nil
}

func (c *memCatalog) Image(_ context.Context, d digest.Digest) (pratique.Image, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if c.err != nil {
		return pratique.Image{}, c.err
	}
	if img, ok := c.images[d]; ok {
		return img, nil
	}
	return pratique.Image{}, fmt.Errorf("image %s: %w", d, pratique.ErrNotFound)
}

func (c *memCatalog) Holders(_ context.Context, ref pratique.Ref, d digest.Digest) ([]digest.Digest, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if c.err != nil {
		return nil, c.err
	}
	var out []digest.Digest
	for _, h := range c.links[ref.Repository()] {
		img := c.images[h]
		names := func(l pratique.Descriptor) bool { return l.Digest == d }
		switch {
		case h == d:
			out = slices.Insert(out, 0, h)
		case img.Config.Digest == d || slices.ContainsFunc(img.Layers, names):
			out = append(out, h)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("holders of %s: %w", d, pratique.ErrNotFound)
	}
	return out, nil
}

func (c *memCatalog) Images(context.Context) iter.Seq2[store.Known, error] {
	return func(func(store.Known, error) bool) {}
}

// memScans is a Scans whose scans end when a test says so.
type memScans struct {
	mu       sync.Mutex
	reports  map[digest.Digest]pratique.Report
	open     map[digest.Digest]chan struct{} // closed when the scan ends
	asked    []digest.Digest                 // in order of their first request
	waiting  int
	err      error // if set, every call fails
	awaitErr error // if set, Await of what has no report fails
	stamps   *store.Stamps
	read     int // calls of Report
}

func (s *memScans) set(r pratique.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports[r.Image] = r
	s.stamps.Changed(r.Image)
	if done, ok := s.open[r.Image]; ok {
		close(done)
		delete(s.open, r.Image)
	}
}

func (s *memScans) Report(_ context.Context, d digest.Digest) (pratique.Report, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read++
	if s.err != nil {
		return pratique.Report{}, s.err
	}
	if r, ok := s.reports[d]; ok {
		return r, nil
	}
	return pratique.Report{}, fmt.Errorf("report on %s: %w", d, pratique.ErrNotFound)
}

func (s *memScans) Request(_ context.Context, ref pratique.Ref) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if ref.Digest == "" {
		return errors.New("a scan without a digest")
	}
	s.request(ref.Digest)
	return nil
}

func (s *memScans) request(d digest.Digest) chan struct{} {
	if !slices.Contains(s.asked, d) {
		s.asked = append(s.asked, d)
	}
	done, ok := s.open[d]
	if !ok {
		done = make(chan struct{})
		s.open[d] = done
	}
	return done
}

func (s *memScans) Await(ctx context.Context, ref pratique.Ref) (pratique.Report, error) {
	if r, err := s.Report(ctx, ref.Digest); err == nil || !errors.Is(err, pratique.ErrNotFound) {
		return r, err
	}
	s.mu.Lock()
	done, failure := s.request(ref.Digest), s.awaitErr
	s.waiting++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
	}()
	if failure != nil {
		return pratique.Report{}, failure
	}
	select {
	case <-done:
		return s.Report(ctx, ref.Digest)
	case <-ctx.Done():
		return pratique.Report{}, fmt.Errorf("%w: %s", pratique.ErrPending, ref)
	}
}

func (s *memScans) askedFor() []digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func ref(repo, reference string) pratique.Ref {
	registry, name, _ := strings.Cut(repo, "/")
	r := pratique.Ref{Registry: registry, Repo: name}
	if strings.Contains(reference, ":") {
		r.Digest = digest.Digest(reference)
	} else {
		r.Tag = reference
	}
	return r
}

func get(repo, reference string) Request  { return Request{Ref: ref(repo, reference), N: -1} }
func head(repo, reference string) Request { r := get(repo, reference); r.Head = true; return r }

// code is the code and status of an error, for tables: "" for none.
func code(err error) string {
	if err == nil {
		return ""
	}
	e := asError(err)
	return fmt.Sprintf("%d %s", e.Status(), e.Code)
}

var (
	deniedCode  = fmt.Sprintf("%d %s", http.StatusForbidden, CodeDenied)
	pendingCode = fmt.Sprintf("%d %s", http.StatusTooManyRequests, CodeTooManyRequests)
)
