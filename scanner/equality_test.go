package scanner_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/scanner"
	"pratique/scanner/database"
	"pratique/scanner/match"
	"pratique/scanner/worker"
	"pratique/scanner/worker/workertest"
)

var update = flag.Bool("update", false, "renew testdata/database/inventories.jsonl.zst and packages.txt")

const testdata = "../testdata"

// layout is testdata/images, unpacked in memory: content by digest.
type layout struct {
	blobs  map[digest.Digest][]byte
	images []entry
}

// entry is one line of images.json.
type entry struct {
	Name, MediaType string
	Digest          digest.Digest
	Scan            bool
}

func readLayout(t *testing.T) layout {
	t.Helper()
	l := layout{blobs: make(map[digest.Digest][]byte)}
	raw, err := os.ReadFile(filepath.Join(testdata, "images", "images-small.tar"))
	if err != nil {
		t.Fatal(err)
	}
	eachFile(t, bytes.NewReader(raw), func(name string, body []byte) {
		switch dir, base := filepath.Split(filepath.Clean(name)); {
		case base == "images.json":
			if err := json.Unmarshal(body, &l.images); err != nil {
				t.Fatal(err)
			}
		case strings.HasSuffix(dir, "blobs/sha256/"):
			l.blobs[digest.NewDigestFromEncoded(digest.SHA256, base)] = body
		}
	})
	if len(l.images) < 40 {
		t.Fatalf("%d images in the layout", len(l.images))
	}
	return l
}

func eachFile(t *testing.T, r io.Reader, fn func(name string, body []byte)) {
	t.Helper()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		fn(h.Name, body)
	}
}

func unzstd(t *testing.T, elem ...string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out, err := z.DecodeAll(raw, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// OpenBlob hands out content as the cache does: at the end it is an error when
// size or digest are not the descriptor's.
func (l layout) OpenBlob(_ context.Context, _ pratique.Ref, d pratique.Descriptor) (io.ReadCloser, error) {
	b, ok := l.blobs[d.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, pratique.ErrNotFound)
	}
	r := io.Reader(bytes.NewReader(b))
	if int64(len(b)) != d.Size || digest.FromBytes(b) != d.Digest {
		r = io.MultiReader(r, failingReader{errors.New("content is not what its descriptor says")})
	}
	return io.NopCloser(r), nil
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

// image resolves a manifest to the image that a linux/amd64 client runs.
func (l layout) image(d digest.Digest, mediaType string) (pratique.Image, error) {
	img, err := pratique.ParseManifest(mediaType, l.blobs[d])
	if err != nil || img.Kind != pratique.KindIndex {
		return img, err
	}
	wanted := img.Wanted([]pratique.Platform{{OS: "linux", Architecture: "amd64"}})
	if len(wanted) == 0 {
		return pratique.Image{}, fmt.Errorf("%w image: nothing in the index is for linux/amd64", pratique.ErrNotFound)
	}
	return l.image(wanted[0].Digest, wanted[0].MediaType)
}

// real is a scanner with nothing faked but the upstream.
type real struct {
	layout
	*scanner.Scanner
	state    *sqlite.DB
	pool     *worker.Pool
	matcher  *match.Matcher
	database *database.Database

	mu       sync.Mutex
	analysed map[digest.Digest]int
}

func newReal(t *testing.T) *real {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	r := &real{layout: readLayout(t), analysed: make(map[digest.Digest]int)}
	var err error
	if r.state, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db")); err != nil {
		t.Fatal(err)
	}
	java := database.NewJava(database.Config{Dir: t.TempDir(), Path: filepath.Join(testdata, "database", "java.tar.gz"), Log: quiet})
	if err := java.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir, _ := java.Dir()
	if r.pool, err = worker.NewPool(t.Context(), worker.Config{Path: workertest.Binary(t), TempDir: t.TempDir(), Options: worker.Options{JavaDB: dir}}); err != nil {
		t.Fatal(err)
	}
	clock := func() time.Time { return now }
	r.matcher = match.New(match.Config{Now: clock, Log: quiet})
	t.Cleanup(func() {
		if err := errors.Join(r.pool.Close(), r.matcher.Close(), r.state.Close()); err != nil {
			t.Error(err)
		}
	})
	r.database = database.New(database.Config{Dir: t.TempDir(), Log: quiet, Now: clock}, r.matcher)
	r.Scanner = scanner.New(r.layout, r.pool, r.matcher, r.state, scanner.Config{Now: clock, Log: quiet, OnAnalysis: func(d digest.Digest) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.analysed[d]++
	}})
	return r
}

func (r *real) adopt(t *testing.T, generation string) {
	t.Helper()
	f, err := database.OpenPath(filepath.Join(testdata, "database", generation+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := r.database.Import(t.Context(), f, false); err != nil {
		t.Fatal(err)
	}
}

// link stores an image of the layout as the proxy would.
func (r *real) link(t *testing.T, e entry) (pratique.Ref, error) {
	t.Helper()
	img, err := r.image(e.Digest, e.MediaType)
	if err != nil {
		return pratique.Ref{}, err
	}
	ref := pratique.Ref{Registry: "lab", Repo: "images/sample", Digest: img.Digest}
	return ref, r.state.Link(t.Context(), ref, img, now)
}

// expectation is one entry of expected.json.
type expectation struct {
	Error       string
	OS          string
	EOSL        bool
	Secrets     []string
	ImageConfig []string `json:"image_config"`
}

// expected holds what the trivy program found, by image and database.
type expected struct {
	summary  map[string]map[string]expectation
	findings map[string][]string
}

func readExpected(t *testing.T) expected {
	t.Helper()
	e := expected{findings: make(map[string][]string)}
	raw, err := os.ReadFile(filepath.Join(testdata, "expected", "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &e.summary); err != nil {
		t.Fatal(err)
	}
	eachFile(t, bytes.NewReader(unzstd(t, testdata, "expected", "findings.tar.zst")), func(name string, body []byte) {
		e.findings[strings.TrimSuffix(filepath.Base(name), ".txt")] = strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")
	})
	return e
}

// compare holds a report against what trivy found.
func (e expected) compare(t *testing.T, name, generation string, r pratique.Report) int {
	t.Helper()
	want, ok := e.summary[name][generation]
	if !ok || want.Error != "" {
		t.Fatalf("expected.json has no result: %+v", want)
	}
	var lines, secrets, config []string
	for _, f := range r.Findings {
		switch f.Kind {
		case pratique.KindVulnerability:
			lines = append(lines, strings.Join([]string{f.Ecosystem, f.Package, f.Installed, f.ID, string(f.Severity), f.Status, f.Fixed, f.Path}, "\t"))
		case pratique.KindSecret:
			secrets = append(secrets, f.ID)
		case pratique.KindMisconfiguration:
			config = append(config, f.ID)
		case pratique.KindLicense: // trivy was not asked for them
			if f.Category == "" {
				t.Errorf("license %q has no category", f.ID)
			}
		default:
			t.Errorf("finding of kind %q", f.Kind)
		}
	}
	for _, s := range []*[]string{&lines, &secrets, &config} {
		slices.Sort(*s)
	}
	got := expectation{OS: strings.TrimSpace(r.OS.Family + " " + r.OS.Name), EOSL: r.EOL, Secrets: secrets, ImageConfig: config}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("%s, %s database (-trivy +pratique):\n%s", name, generation, diff)
	}
	if diff := gocmp.Diff(e.findings[name+"."+generation], lines); diff != "" {
		t.Errorf("%s, %s database (-trivy +pratique):\n%s", name, generation, diff)
	}
	return len(lines)
}

// TestEquality: for every image that is to be scanned and both databases, what
// Pratique finds equals what the trivy program found, finding by finding; each
// layer is analysed once, and the newer database costs no analysis at all.
func TestEquality(t *testing.T) {
	r, want := newReal(t), readExpected(t)
	if *update {
		r.writeInventories(t)
	}
	r.adopt(t, "old")
	refs := make(map[string]pratique.Ref)
	total := 0
	for _, e := range r.images {
		if !e.Scan {
			continue
		}
		ref, err := r.link(t, e)
		if err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		refs[e.Name] = ref
		report, err := r.Scan(t.Context(), ref)
		if err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		total += want.compare(t, e.Name, "old", report)
		if s := report.State; s != pratique.StateScanned && s != pratique.StateIncomplete {
			t.Errorf("%s is %s: %+v", e.Name, s, report.Problems)
		}
	}
	for d, n := range r.analysed {
		if n != 1 {
			t.Errorf("%s was analysed %d times", d, n)
		}
	}
	analysed := len(r.analysed)
	r.adopt(t, "new")
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		report, err := r.Rematch(t.Context(), refs[name].Digest)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		total += want.compare(t, name, "new", report)
		if at := report.Engine.DatabaseAt; !at.Equal(time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)) {
			t.Errorf("%s: matched with the database of %s", name, at)
		}
	}
	if len(r.analysed) != analysed {
		t.Errorf("the newer database had %d layers and configs analysed", len(r.analysed)-analysed)
	}
	if len(refs) < 20 || total < 1000 {
		t.Errorf("%d images with %d findings compared", len(refs), total)
	}
}

// TestNotScannable: what is broken, hostile or no image never counts as clean.
func TestNotScannable(t *testing.T) {
	const parse, transfer = "not parsed", "not transferred"
	want := map[string]string{
		"broken-truncated-gzip": string(pratique.StateFailed),
		"broken-diffid":         string(pratique.StateFailed),
		"broken-not-gzip":       string(pratique.StateFailed),
		"broken-size":           transfer,
		"hostile-tar":           string(pratique.StateIncomplete),
		"hostile-metadata":      string(pratique.StateIncomplete),
		"hostile-deep-json":     string(pratique.StateIncomplete),
		"windows":               string(pratique.StateIncomplete),
		"foreign-layer":         string(pratique.StateFailed),
		"schema1":               parse,
		"empty-index":           parse,
		"helm-chart":            string(pratique.StateUnsupported),
		"referrer-sbom":         string(pratique.StateUnsupported),
		"referrer-sigstore":     string(pratique.StateUnsupported),
		"artifact-unknown":      string(pratique.StateUnsupported),
		"wasm":                  string(pratique.StateUnsupported),
		"subject-not-here":      string(pratique.StateUnsupported),
		"cosign":                string(pratique.StateUnsupported),
	}
	r := newReal(t)
	r.adopt(t, "new")
	for _, e := range r.images {
		if e.Scan {
			continue
		}
		name := e.Name
		if regexp.MustCompile(`^sha256-.*\.(sig|att)$`).MatchString(name) {
			name = "cosign"
		}
		t.Run(e.Name, func(t *testing.T) {
			ref, err := r.link(t, e)
			got := parse
			var report pratique.Report
			if err == nil {
				if report, err = r.Scan(t.Context(), ref); err != nil {
					got = transfer
				} else {
					got = report.State.String()
				}
			}
			if got != want[name] {
				t.Errorf("%s, want %s (%v, %+v)", got, want[name], err, report.Problems)
			}
			if err == nil && len(report.Problems) == 0 {
				t.Error("the report does not say why")
			}
		})
	}
}

// writeInventories renews the files from which the matcher's own tests work.
func (r *real) writeInventories(t *testing.T) {
	t.Helper()
	var out bytes.Buffer
	names := make(map[string]bool)
	enc := json.NewEncoder(&out)
	images := slices.Clone(r.images)
	slices.SortFunc(images, func(a, b entry) int { return cmp.Compare(a.Name, b.Name) })
	for _, e := range images {
		if !e.Scan {
			continue
		}
		inv := r.analyse(t, e)
		if err := enc.Encode(map[string]any{"name": e.Name, "inventory": inv}); err != nil {
			t.Fatal(err)
		}
		cs, _ := inv.Components()
		for _, c := range cs {
			for _, n := range []string{c.Name, c.SrcName} {
				// As it is, and as PyPI's and others' names are normalised.
				for _, form := range []string{n, strings.ToLower(n), regexp.MustCompile(`[-_.]+`).ReplaceAllString(strings.ToLower(n), "-")} {
					names[form] = form != ""
				}
			}
		}
	}
	var list strings.Builder
	for _, n := range slices.Sorted(maps.Keys(names)) {
		if names[n] {
			fmt.Fprintln(&list, n)
		}
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"inventories.jsonl.zst": z.EncodeAll(out.Bytes(), nil), "packages.txt": []byte(list.String())} {
		if err := os.WriteFile(filepath.Join(testdata, "database", name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// analyse merges an image without a Scanner around it.
func (r *real) analyse(t *testing.T, e entry) pratique.Inventory {
	t.Helper()
	img, err := r.image(e.Digest, e.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	var layers []pratique.Inventory
	for _, l := range img.Layers {
		inv, err := r.pool.Layer(t.Context(), l, bufio.NewReader(bytes.NewReader(r.blobs[l.Digest])))
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, inv)
	}
	return pratique.Merge(layers, &pratique.Inventory{Analyzer: r.pool.Key()})
}
