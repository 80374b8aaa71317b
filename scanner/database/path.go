package database

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"pratique"
)

// OpenPath turns a database at hand, a directory with trivy.db and
// metadata.json, a .tar.gz of both, or an OCI layout with the artifact, into
// the .tar.gz stream that Import reads. A layout's layer fails at its end when
// its bytes are not those of its digest.
func OpenPath(path string) (io.ReadCloser, error) {
	r, _, err := openPath(vulnerabilities(), path)
	return r, err
}

// OpenJavaPath is OpenPath for the Java database.
func OpenJavaPath(path string) (io.ReadCloser, error) {
	r, _, err := openPath(java(), path)
	return r, err
}

// openPath also returns what identifies the offer: it changes with the content.
func openPath(k kind, path string) (io.ReadCloser, offer, error) {
	o := offer{source: path}
	info, err := os.Stat(path)
	if err != nil {
		return nil, o, err
	}
	if !info.IsDir() {
		f, err := os.Open(path)
		if err != nil {
			return nil, o, err
		}
		h := sha256.New()
		n, err := io.Copy(h, f)
		if err == nil {
			_, err = f.Seek(0, io.SeekStart)
		}
		if err != nil {
			return nil, o, errors.Join(err, f.Close())
		}
		o.identity = digest.NewDigest(digest.SHA256, h)
		o.layer, o.size = o.identity, n // a file that changes between the two reads is refused
		return f, o, nil
	}
	if _, err := os.Stat(filepath.Join(path, "index.json")); err == nil {
		return openLayout(k, path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, o, err
	}
	d, _, err := content(k, path)
	if err != nil {
		return nil, o, fmt.Errorf("%s: %w", path, err)
	}
	o.identity = d
	r, w := io.Pipe()
	go func() { w.CloseWithError(archive(k, path, w)) }() // ends when r is closed
	return r, o, nil
}

// archive writes the directory's two files as a .tar.gz, uncompressed within:
// it is read again at once.
func archive(k kind, dir string, w io.Writer) error {
	gz, err := gzip.NewWriterLevel(w, gzip.NoCompression)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(gz)
	for _, name := range []string{k.file, metadataFile} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: info.Size()}); err != nil {
			return err
		}
		if _, err := io.Copy(tw, f); err != nil {
			return err
		}
	}
	return errors.Join(tw.Close(), gz.Close())
}

// openLayout finds the one artifact of the kind in an OCI layout.
func openLayout(k kind, dir string) (io.ReadCloser, offer, error) {
	o := offer{source: dir}
	var index v1.IndexManifest
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	if err != nil {
		return nil, o, fmt.Errorf("OCI layout %s: %w", dir, err)
	}
	var found []offer
	for _, desc := range index.Manifests {
		raw, err := layoutBlob(dir, digest.Digest(desc.Digest.String()), pratique.MaxManifestSize)
		if err != nil {
			return nil, o, err
		}
		next, err := fromManifest(k, raw, func(d digest.Digest) ([]byte, error) { return layoutBlob(dir, d, pratique.MaxConfigSize) })
		if errors.Is(err, errOtherArtifact) {
			continue
		}
		if err != nil {
			return nil, o, fmt.Errorf("OCI layout %s: %w", dir, err)
		}
		next.source = dir
		found = append(found, next)
	}
	if len(found) != 1 {
		return nil, o, fmt.Errorf("%w OCI layout %s: %d %s databases in it, want one", pratique.ErrInvalid, dir, len(found), k.name)
	}
	o = found[0]
	f, err := os.Open(layoutFile(dir, o.layer))
	if err != nil {
		return nil, o, err
	}
	return struct {
		io.Reader
		io.Closer
	}{verify(f, o.layer, o.size), f}, o, nil
}

func layoutFile(dir string, d digest.Digest) string {
	return filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded())
}

// layoutBlob reads a small blob and verifies it.
func layoutBlob(dir string, d digest.Digest, limit int64) ([]byte, error) {
	if _, err := pratique.ParseDigest(d.String()); err != nil {
		return nil, err
	}
	f, err := os.Open(layoutFile(dir, d))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, err
	}
	if got := d.Algorithm().FromBytes(raw); got != d {
		return nil, refusal(ReasonDigest, "blob %s of %s reads as %s", d, dir, got)
	}
	return raw, nil
}

// checkPath looks at Path and takes what is new there.
func (d *Database) checkPath(ctx context.Context) error {
	err := d.takePath(ctx)
	if ctx.Err() == nil {
		d.noteSource(ctx, d.cfg.Path, err, time.Time{})
	}
	if isTurnedAway(err) {
		return nil
	}
	return err
}

func (d *Database) takePath(ctx context.Context) error {
	r, o, err := openPath(d.kind, d.cfg.Path)
	if err != nil {
		return d.refuse(o, err)
	}
	defer r.Close()
	if known, err := d.seen(o); known {
		return err
	}
	return d.take(ctx, r, o, false)
}
