//go:build goexperiment.jsonv2

package analyze

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	xio "github.com/aquasecurity/trivy/pkg/x/io"
	xos "github.com/aquasecurity/trivy/pkg/x/os"
)

// inMemory is up to which size a file is held in memory while it is analysed.
// Trivy's walker holds files up to 100 MiB, five at a time.
const inMemory = 16 << 20

// walk is trivy's walker.LayerTar.Walk, with two differences: see is given every
// header, links and devices too, and large files go to disk sooner. fn is given
// the regular files. The archive's end is not the stream's: the caller drains.
func walk(layer io.Reader, see func(*tar.Header), fn func(string, os.FileInfo, analyzer.Opener) error) (opaque, whiteouts []string, err error) {
	tr := tar.NewReader(layer)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return opaque, whiteouts, nil
		}
		if err != nil {
			return nil, nil, err
		}
		name := strings.TrimLeft(path.Clean(h.Name), "/")
		dir, base := path.Split(name)
		if base == ".wh..wh..opq" {
			opaque = append(opaque, dir)
			continue
		}
		if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
			whiteouts = append(whiteouts, path.Join(dir, hidden))
			continue
		}
		see(h)
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := visit(name, h.FileInfo(), tr, fn); err != nil {
			return nil, nil, fmt.Errorf("file %q: %w", name, err)
		}
	}
}

func visit(name string, info fs.FileInfo, r io.Reader, fn func(string, os.FileInfo, analyzer.Opener) error) error {
	f := &file{size: info.Size(), r: r}
	defer f.remove()
	return fn(name, info, f.open)
}

// file is one file of the archive, read when the first analyzer asks.
type file struct {
	size    int64
	r       io.Reader
	read    bool
	err     error
	content []byte
	temp    string
}

func (f *file) open() (xio.ReadSeekCloserAt, error) {
	if !f.read {
		f.read = true
		f.err = f.fetch()
	}
	if f.err != nil {
		return nil, f.err
	}
	if f.temp != "" {
		return os.Open(f.temp)
	}
	return xio.NopCloser(bytes.NewReader(f.content)), nil
}

func (f *file) fetch() error {
	if f.size < inMemory {
		var err error
		f.content, err = io.ReadAll(f.r)
		return err
	}
	t, err := xos.CreateTemp("", "file-")
	if err != nil {
		return err
	}
	f.temp = t.Name()
	_, err = io.Copy(t, f.r)
	return errors.Join(err, t.Close())
}

// remove takes the name away; who has the file open goes on reading.
func (f *file) remove() {
	if f.temp != "" {
		_ = os.Remove(f.temp)
	}
}
