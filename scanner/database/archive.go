package database

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// maxMetadata bounds metadata.json, which has four fields.
const maxMetadata = 1 << 16

// unpack reads a .tar.gz to its end and writes the kind's two files into dir,
// synced. Anything else in it refuses the whole: neither a directory nor a link
// nor another name belongs there, and none is ever created. It returns the
// digest of the uncompressed tar.
func unpack(k kind, r io.Reader, dir string, limit int64) (digest.Digest, error) {
	gz, err := gzip.NewReader(r)
	if err != nil {
		return "", archiveError(err)
	}
	diffID := digest.SHA256.Digester()
	in := io.TeeReader(&limited{r: gz, left: limit + 1<<20}, diffID.Hash())
	tr := tar.NewReader(in)
	seen := make(map[string]bool)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", archiveError(err)
		}
		name := path.Clean(h.Name)
		switch {
		case h.Typeflag == tar.TypeXGlobalHeader || h.Typeflag == tar.TypeDir && name == ".":
			continue
		case name != k.file && name != metadataFile || h.Typeflag != tar.TypeReg:
			return "", refusal(ReasonArchive, "unexpected entry %q in the archive: only the files %s and %s belong there", h.Name, k.file, metadataFile)
		case seen[name]:
			return "", refusal(ReasonArchive, "%s is in the archive twice", name)
		}
		seen[name] = true
		// The size is checked here too: a sparse entry grows without input.
		if h.Size > limit || name == metadataFile && h.Size > maxMetadata {
			return "", refusal(ReasonArchive, "%s in the archive has %d bytes", name, h.Size)
		}
		if err := writeFile(filepath.Join(dir, name), tr); err != nil {
			return "", err
		}
	}
	// The gzip trailer, and what may follow the tar's end, count for the digests.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return "", archiveError(err)
	}
	for _, name := range []string{k.file, metadataFile} {
		if !seen[name] {
			return "", refusal(ReasonArchive, "no %s in the archive", name)
		}
	}
	return diffID.Digest(), nil
}

// archiveError makes a refusal of what the format readers find wrong; errors of
// the transfer stay what they are, so that it is tried again.
func archiveError(err error) error {
	switch {
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.Is(err, tar.ErrHeader), errors.Is(err, errTooLarge):
		return refusal(ReasonArchive, "reading the archive: %w", err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return refusal(ReasonDigest, "the archive ends early: %w", err)
	}
	return fmt.Errorf("reading the archive: %w", err)
}

var errTooLarge = errors.New("unpacked database is larger than the limit")

// limited fails, where io.LimitReader would end.
type limited struct {
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errTooLarge
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	return n, err
}

// readFailed marks errors of reading, which writeFile must tell from those of
// the disk.
type readFailed struct{ err error }

func (e readFailed) Error() string { return e.err.Error() }
func (e readFailed) Unwrap() error { return e.err }

type marked struct{ r io.Reader }

func (m marked) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = readFailed{err}
	}
	return n, err
}

func writeFile(name string, r io.Reader) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, marked{r})
	var rf readFailed
	if errors.As(err, &rf) {
		err = archiveError(rf.err)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// verified is a reader that ends with a refusal when the bytes were not the
// announced ones, and fails beyond the announced size.
type verified struct {
	r    io.Reader
	want digest.Digest
	size int64
	read int64
	hash hash.Hash
}

func verify(r io.Reader, want digest.Digest, size int64) *verified {
	return &verified{r: r, want: want, size: size, hash: want.Algorithm().Hash()}
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	v.read += int64(n)
	if v.read > v.size {
		return n, refusal(ReasonDigest, "the layer is larger than the %d bytes announced", v.size)
	}
	if errors.Is(err, io.EOF) {
		if got := digest.NewDigest(v.want.Algorithm(), v.hash); got != v.want || v.read != v.size {
			return n, refusal(ReasonDigest, "the layer has %d bytes and digest %s, announced were %d and %s", v.read, got, v.size, v.want)
		}
	}
	return n, err
}
