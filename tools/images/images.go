// Package images hands out the small real images under testdata/images, by
// name, and puts them into registries. It owns the names under which the sample
// upstream, `make run` and e2e know them, and the indexes put together from
// them. It knows nothing of Pratique.
package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Archive is where the images lie in a checkout of Pratique.
const Archive = "testdata/images/images-small.tar"

// Sample images: what the sample upstream serves, and where each comes from.
const (
	Clean      = "demo/clean:1.0"       // Debian 12 with every fix: no finding
	Vulnerable = "demo/vulnerable:1.0"  // Debian 12, Python, npm, gems, Composer, Redis: fixable CRITICAL ones
	MultiArch  = "demo/multiarch:1.0"   // index of amd64 and arm64, both may be had
	Mixed      = "demo/mixed:1.0"       // index: amd64 may not be had, arm64 may
	AllRefused = "demo/all-refused:1.0" // index: neither may be had
)

// part is how a sample image is put together: layers of one archived image on
// top of another.
type part struct{ base, top string }

// singles maps sample names to what they are made of.
var singles = map[string]part{
	Clean:      {base: "debian-bookworm-patched-skeleton"},
	Vulnerable: vulnerable,
}

var vulnerable = part{base: "bitnami-sbom", top: "app-skeleton"}

// indexes maps sample names to what they hold for linux/amd64 and linux/arm64.
var indexes = map[string][2]part{
	MultiArch:  {{base: "distroless-amd64-skeleton"}, {base: "distroless-arm64-skeleton"}},
	Mixed:      {vulnerable, {base: "distroless-arm64-skeleton"}},
	AllRefused: {vulnerable, {base: "bitnami-sbom"}},
}

// Set is an opened archive. Close removes what it unpacked.
type Set struct {
	dir   string
	index v1.ImageIndex
}

// Open unpacks the OCI layout in the tar file at path into a temporary folder.
func Open(path string) (*Set, error) {
	dir, err := os.MkdirTemp("", "pratique-images-")
	if err != nil {
		return nil, err
	}
	s := &Set{dir: dir}
	if err := unpack(path, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("unpack %s: %w", path, err), s.Close())
	}
	if s.index, err = layout.ImageIndexFromPath(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", path, err), s.Close())
	}
	return s, nil
}

// Close removes the temporary folder.
func (s *Set) Close() error { return os.RemoveAll(s.dir) }

// Sample returns the sample images by name: v1.Image or v1.ImageIndex.
func (s *Set) Sample() (map[string]remote.Taggable, error) {
	out := make(map[string]remote.Taggable)
	for sample, p := range singles {
		img, err := s.assemble(p)
		if err != nil {
			return nil, err
		}
		out[sample] = img
	}
	for sample, children := range indexes {
		idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
		for i, arch := range []string{"amd64", "arm64"} {
			img, err := s.assemble(children[i])
			if err != nil {
				return nil, err
			}
			idx = mutate.AppendManifests(idx, mutate.IndexAddendum{
				Add:        img,
				Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
			})
		}
		out[sample] = idx
	}
	return out, nil
}

func (s *Set) assemble(p part) (v1.Image, error) {
	img, err := s.Image(p.base)
	if err != nil || p.top == "" {
		return img, err
	}
	top, err := s.Image(p.top)
	if err != nil {
		return nil, err
	}
	layers, err := top.Layers()
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(img, layers...)
}

// Image returns an image of the archive by its name there.
func (s *Set) Image(archived string) (v1.Image, error) {
	m, err := s.index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, d := range m.Manifests {
		if d.Annotations["org.opencontainers.image.ref.name"] == archived {
			return s.index.Image(d.Digest)
		}
	}
	return nil, fmt.Errorf("no image %q in the archive", archived)
}

// Push writes content to host (host:port, plain HTTP) under repository:tag.
func Push(ctx context.Context, host, repositoryTag string, content remote.Taggable) error {
	ref, err := name.ParseReference(host+"/"+repositoryTag, name.Insecure)
	if err != nil {
		return err
	}
	switch c := content.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, c, remote.WithContext(ctx))
	case v1.Image:
		err = remote.Write(ref, c, remote.WithContext(ctx))
	default:
		err = fmt.Errorf("neither an image nor an index: %T", content)
	}
	if err != nil {
		return fmt.Errorf("push %s: %w", repositoryTag, err)
	}
	return nil
}

// PushSample writes every sample image to host.
func (s *Set) PushSample(ctx context.Context, host string) error {
	sample, err := s.Sample()
	if err != nil {
		return err
	}
	for repositoryTag, content := range sample {
		if err := Push(ctx, host, repositoryTag, content); err != nil {
			return err
		}
	}
	return nil
}

// Registry is a read-only registry in memory that holds the sample images.
func (s *Set) Registry(ctx context.Context) (http.Handler, error) {
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))
	loader := httptest.NewServer(h)
	defer loader.Close()
	if err := s.PushSample(ctx, strings.TrimPrefix(loader.URL, "http://")); err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "the sample registry is read-only", http.StatusMethodNotAllowed)
			return
		}
		h.ServeHTTP(w, r)
	}), nil
}

func unpack(path, dir string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for t := tar.NewReader(f); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		file := filepath.Clean(h.Name)
		if err := root.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		raw, err := io.ReadAll(t)
		if err != nil {
			return err
		}
		if err := root.WriteFile(file, raw, 0o644); err != nil {
			return err
		}
	}
}
