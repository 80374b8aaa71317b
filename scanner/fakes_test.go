package scanner_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/scanner"
)

const (
	tarType  = "application/vnd.oci.image.layer.v1.tar"
	gzipType = "application/vnd.oci.image.layer.v1.tar+gzip"
	key      = "fake-1"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// lab is a scanner over a real state file, with fakes for everything that it
// asks. A layer's bytes are lines that fakeAnalyzer reads.
type lab struct {
	t        *testing.T
	db       *sqlite.DB
	layers   *fakeLayers
	analyzer *fakeAnalyzer
	matcher  *fakeMatcher
	scanner  *scanner.Scanner

	mu       sync.Mutex
	analysed map[digest.Digest]int
	clock    time.Time
}

func newLab(t *testing.T, cfg scanner.Config) *lab {
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &lab{t: t, db: db, layers: &fakeLayers{blobs: map[digest.Digest][]byte{}}, analyzer: &fakeAnalyzer{}, matcher: newFakeMatcher(), analysed: map[digest.Digest]int{}, clock: now}
	cfg.Log = slog.New(slog.DiscardHandler)
	cfg.Now = func() time.Time { return l.clock }
	cfg.OnAnalysis = func(d digest.Digest) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.analysed[d]++
	}
	l.scanner = scanner.New(l.layers, l.analyzer, l.matcher, db, cfg)
	return l
}

// draft is an image in the making; the hooks of a test case spoil it.
type draft struct {
	image   pratique.Image
	diffIDs []digest.Digest
	os      string
	config  []byte // instead of the one made of the fields above
}

// image links an image over the given layers, base first.
func (l *lab) image(name string, spoil func(*draft), layers ...string) pratique.Ref {
	l.t.Helper()
	d := draft{os: "linux", image: pratique.Image{MediaType: pratique.MediaTypeImageManifest, Kind: pratique.KindImage}}
	for _, content := range layers {
		d.image.Layers = append(d.image.Layers, l.blob(gzipType, content))
		d.diffIDs = append(d.diffIDs, diffID(content))
	}
	d.image.Config.MediaType = pratique.MediaTypeImageConfig
	if spoil != nil {
		spoil(&d)
	}
	if d.config == nil {
		d.config, _ = json.Marshal(map[string]any{"os": d.os, "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": d.diffIDs}, "comment": name})
	}
	if d.image.Config.Digest == "" {
		mt := d.image.Config.MediaType
		d.image.Config = l.blob(mt, string(d.config))
	}
	d.image.Digest = digest.FromString("manifest of " + name)
	ref := pratique.Ref{Registry: "docker.io", Repo: "library/" + name, Tag: "v1", Digest: d.image.Digest}
	if err := l.db.Link(l.t.Context(), ref, d.image, now.Add(-time.Hour)); err != nil {
		l.t.Fatal(err)
	}
	return ref
}

func (l *lab) blob(mediaType, content string) pratique.Descriptor {
	d := digest.FromString(content)
	l.layers.blobs[d] = []byte(content)
	return pratique.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

func diffID(content string) digest.Digest { return digest.FromString("uncompressed " + content) }

func (l *lab) scan(ref pratique.Ref) pratique.Report {
	l.t.Helper()
	r, err := l.scanner.Scan(l.t.Context(), ref)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

// fakeLayers has blobs, and hooks for failures.
type fakeLayers struct {
	mu     sync.Mutex
	blobs  map[digest.Digest][]byte
	opened []digest.Digest
	open   int
	// fail, if not nil, may refuse a blob or replace its reader.
	fail func(d pratique.Descriptor, r io.Reader) (io.Reader, error)
}

func (f *fakeLayers) OpenBlob(_ context.Context, _ pratique.Ref, d pratique.Descriptor) (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened = append(f.opened, d.Digest)
	b, ok := f.blobs[d.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, pratique.ErrNotFound)
	}
	var r io.Reader = bytes.NewReader(b)
	if f.fail != nil {
		var err error
		if r, err = f.fail(d, r); err != nil {
			return nil, err
		}
	}
	f.open++
	return &closer{Reader: r, f: f}, nil
}

func (f *fakeLayers) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened = nil
}

type closer struct {
	io.Reader
	f *fakeLayers
}

func (c *closer) Close() error {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.f.open--
	return nil
}

// fakeAnalyzer reads layers of lines: "os FAMILY NAME", "pkg NAME VERSION
// LICENSE…", "app TYPE PATH NAME LICENSE…", "license NAME PATH", "secret RULE PATH", "problem TEXT", "fatal TEXT".
type fakeAnalyzer struct {
	key string // if empty, the constant
	// layer, if not nil, may change or replace what Layer answers.
	layer func(pratique.Inventory, error) (pratique.Inventory, error)
	// config, likewise.
	config func(pratique.Inventory, error) (pratique.Inventory, error)
	// begin, if not nil, is called before a layer is read.
	begin func(ctx context.Context, d pratique.Descriptor)
	// unread is a layer that is not read to its end.
	unread digest.Digest
}

func (a *fakeAnalyzer) Key() string { return cmp.Or(a.key, key) }

func (a *fakeAnalyzer) Layer(ctx context.Context, d pratique.Descriptor, r io.Reader) (pratique.Inventory, error) {
	if a.begin != nil {
		a.begin(ctx, d)
	}
	if a.unread == d.Digest {
		r = io.LimitReader(r, 3)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		return pratique.Inventory{}, err
	}
	inv := pratique.Inventory{Layer: d.Digest, DiffID: diffID(string(raw)), Analyzer: a.Key()}
	if d.MediaType != gzipType {
		inv.Problems = append(inv.Problems, pratique.Problem{Source: "mediatype", Fatal: true, Message: "not " + d.MediaType})
	}
	if int64(len(raw)) != d.Size && a.unread != d.Digest {
		inv.Problems = append(inv.Problems, pratique.Problem{Source: "size", Fatal: true, Message: "not that long"})
	}
	set := pratique.PackageSet{Path: "var/lib/dpkg/status"}
	for line := range strings.Lines(string(raw)) {
		w := append(strings.Fields(line), "", "", "")
		switch w[0] {
		case "os":
			inv.OS = pratique.OS{Family: w[1], Name: w[2]}
		case "pkg":
			set.Packages = append(set.Packages, pratique.Package{ID: w[1] + "@" + w[2], Name: w[1], Version: w[2], SrcName: w[1], SrcVersion: w[2], Licenses: slices.DeleteFunc(w[3:], func(l string) bool { return l == "" })})
		case "app":
			inv.Applications = append(inv.Applications, pratique.Application{Type: w[1], Path: w[2], Packages: []pratique.Package{
				{Name: w[3], Version: "1", Licenses: slices.DeleteFunc(w[4:], func(l string) bool { return l == "" })},
				{Name: "dev-of-" + w[3], Version: "1", Licenses: []string{"GPL-3.0"}, Dev: true},
			}})
		case "license":
			inv.Licenses = append(inv.Licenses, pratique.License{Name: w[1], Path: w[2], Type: "license-file"})
		case "secret":
			inv.Secrets = append(inv.Secrets, pratique.Secret{RuleID: w[1], Path: w[2], Severity: pratique.SeverityCritical, Title: "a secret"})
		case "problem":
			inv.Problems = append(inv.Problems, pratique.Problem{Source: "dpkg", Message: w[1]})
		case "fatal":
			inv.Problems = append(inv.Problems, pratique.Problem{Source: "compression", Fatal: true, Message: w[1]})
		}
	}
	if len(set.Packages) > 0 {
		inv.PackageSets = append(inv.PackageSets, set)
	}
	if a.layer != nil {
		return a.layer(inv, nil)
	}
	return inv, nil
}

func (a *fakeAnalyzer) Config(_ context.Context, raw []byte, _ pratique.OS) (pratique.Inventory, error) {
	inv := pratique.Inventory{Layer: digest.FromBytes(raw), Analyzer: a.Key(),
		Misconfigurations: []pratique.Misconfiguration{{ID: "DS-0002", Title: "runs as root", Severity: pratique.SeverityHigh}, {Path: "checked, nothing failed"}}}
	if a.config != nil {
		return a.config(inv, nil)
	}
	return inv, nil
}

// fakeMatcher knows vulnerabilities by package name.
type fakeMatcher struct {
	mu      sync.Mutex
	engine  pratique.Engine
	noDB    bool
	vulns   map[string][]pratique.Vulnerability
	matched []string // names, in order of matching
	// match, if not nil, is called inside Match, before it answers.
	match func(*fakeMatcher) error
}

func newFakeMatcher() *fakeMatcher {
	m := &fakeMatcher{vulns: map[string][]pratique.Vulnerability{}}
	m.adopt("db1", now.Add(-time.Hour))
	return m
}

func (m *fakeMatcher) adopt(name string, at time.Time) {
	m.engine = pratique.Engine{Version: "v0.74.0", Database: digest.FromString(name), DatabaseAt: at}
}

func (m *fakeMatcher) Match(_ context.Context, cs []pratique.Component) ([][]pratique.Vulnerability, pratique.Engine, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.noDB {
		return nil, pratique.Engine{}, scanner.ErrNoDatabase
	}
	if m.match != nil {
		if err := m.match(m); err != nil {
			return nil, pratique.Engine{}, err
		}
	}
	out := make([][]pratique.Vulnerability, len(cs))
	for i, c := range cs {
		m.matched = append(m.matched, c.Name)
		out[i] = m.vulns[c.Name]
	}
	return out, m.engine, nil
}

func (m *fakeMatcher) Engine() (pratique.Engine, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.noDB {
		return pratique.Engine{}, scanner.ErrNoDatabase
	}
	return m.engine, nil
}

func (m *fakeMatcher) EOL(_ context.Context, os pratique.OS) (bool, time.Time) {
	if os.Name == "8" {
		return true, oldEnds
	}
	return false, time.Time{}
}

// oldEnds is when the release "8" ended.
var oldEnds = now.Add(-1000 * time.Hour)

// License knows two licenses.
func (m *fakeMatcher) License(name string) (string, string, pratique.Severity) {
	switch name {
	case "GPL-3.0":
		return name, "restricted", pratique.SeverityHigh
	case "MIT":
		return name, "notice", pratique.SeverityLow
	}
	return name, "unknown", pratique.SeverityUnknown
}

var errHook = errors.New("injected")
