//go:build goexperiment.jsonv2

package analyze

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"pratique"
)

// layoutFile is the OCI layout of small images, from this package's directory.
const layoutFile = "../../testdata/images/images-small.tar"

// entry is one image of the layout, indexes resolved.
type image struct {
	name   string
	scan   bool // findings are expected of it
	image  pratique.Image
	config v1.ConfigFile
	raw    []byte // of the config
	layers [][]byte
}

var readLayout = sync.OnceValues(func() (map[string][]byte, error) {
	f, err := os.Open(layoutFile)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	files := make(map[string][]byte)
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if files[strings.TrimPrefix(h.Name, "./")], err = io.ReadAll(tr); err != nil {
			return nil, err
		}
	}
})

// images returns every image of the layout, artifacts left out.
func images(t *testing.T) []image {
	t.Helper()
	files, err := readLayout()
	if err != nil {
		t.Fatal(err)
	}
	blob := func(d digest.Digest) []byte { return files["blobs/sha256/"+d.Encoded()] }
	var entries []struct {
		Name, MediaType string
		Digest          digest.Digest
		Scan            bool
	}
	if err := json.Unmarshal(files["images.json"], &entries); err != nil {
		t.Fatal(err)
	}
	var out []image
	var add func(name string, scan bool, mediaType string, d digest.Digest)
	add = func(name string, scan bool, mediaType string, d digest.Digest) {
		img, err := pratique.ParseManifest(mediaType, blob(d))
		if err != nil {
			return // schema 1
		}
		for _, c := range img.Children {
			add(name, scan, c.MediaType, c.Digest)
		}
		if img.Kind != pratique.KindImage {
			return
		}
		i := image{name: name, scan: scan, image: img, raw: blob(img.Config.Digest)}
		if err := json.Unmarshal(i.raw, &i.config); err != nil {
			t.Fatalf("%s: config: %v", name, err)
		}
		for _, l := range img.Layers {
			i.layers = append(i.layers, blob(l.Digest))
		}
		out = append(out, i)
	}
	for _, e := range entries {
		add(e.Name, e.Scan, e.MediaType, e.Digest)
	}
	if len(out) < 30 {
		t.Fatalf("only %d images in %s", len(out), layoutFile)
	}
	return out
}

func (i image) diffIDs() []digest.Digest {
	var out []digest.Digest
	for _, d := range i.config.RootFS.DiffIDs {
		out = append(out, digest.Digest(d.String()))
	}
	return out
}

// testAnalyzer is the process's one analyzer.
var testAnalyzer = sync.OnceValues(func() (*Analyzer, error) { return New(Options{}) })

func theAnalyzer(t *testing.T) *Analyzer {
	t.Helper()
	a, err := testAnalyzer()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (i image) analyse(t *testing.T, a *Analyzer) (layers []pratique.Inventory, config pratique.Inventory) {
	t.Helper()
	for n, d := range i.image.Layers {
		inv, err := a.Layer(t.Context(), d, bytes.NewReader(i.layers[n]))
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, inv)
	}
	config, err := a.Config(t.Context(), i.raw, pratique.OS{})
	if err != nil {
		t.Fatal(err)
	}
	return layers, config
}
