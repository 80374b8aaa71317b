package images

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func open(t *testing.T) *Set {
	t.Helper()
	s, err := Open(filepath.Join("..", "..", Archive))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
			t.Errorf("temporary folder is left: %v", err)
		}
	})
	return s
}

func TestRegistryServesEverySampleByteExact(t *testing.T) {
	s := open(t)
	h, err := s.Registry(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	sample, err := s.Sample()
	if err != nil {
		t.Fatal(err)
	}
	if len(sample) != len(singles)+len(indexes) {
		t.Fatalf("%d samples, want %d", len(sample), len(singles)+len(indexes))
	}
	for n, content := range sample {
		t.Run(n, func(t *testing.T) {
			ref, err := name.ParseReference(strings.TrimPrefix(srv.URL, "http://") + "/" + n)
			if err != nil {
				t.Fatal(err)
			}
			got, err := remote.Get(ref)
			if err != nil {
				t.Fatal(err)
			}
			want, err := partial.Digest(content.(partial.WithRawManifest))
			if err != nil {
				t.Fatal(err)
			}
			if got.Digest != want {
				t.Errorf("digest %s, want %s", got.Digest, want)
			}
			_, isIndex := content.(v1.ImageIndex)
			if got.MediaType.IsIndex() != isIndex {
				t.Errorf("media type %s, index %v", got.MediaType, isIndex)
			}
		})
	}
}

func TestRegistryIsReadOnly(t *testing.T) {
	h, err := open(t).Registry(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/v2/demo/clean/manifests/1.0", nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d, want 405", method, w.Code)
		}
	}
}

func TestOpenNamesTheFileThatIsMissing(t *testing.T) {
	if _, err := Open("no-such.tar"); err == nil || !strings.Contains(err.Error(), "no-such.tar") {
		t.Errorf("Open = %v", err)
	}
}
