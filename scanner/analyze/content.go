//go:build goexperiment.jsonv2

package analyze

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"pratique"
)

// errTooLarge ends the reading of a layer that unpacks to more than the limit.
var errTooLarge = errors.New("larger than the limit")

// maxWindow is how far back a zstd stream may refer: `zstd --ultra --long=27`.
const maxWindow = 128 << 20

// content is a layer's uncompressed bytes, and what is known of the stream once
// it has been read: both digests, both sizes, how it was compressed.
type content struct {
	claimed pratique.Descriptor
	limit   int64

	source       *sourceReader // r, so that its failures are told from the content's
	digest       digest.Digester
	compressed   int64
	form         string // gzip, zstd, tar
	plain        io.Reader
	err          error // why plain ended, io.EOF apart
	ended        bool  // plain was read to its end
	archived     bool  // the archive's end was seen: from here on only padding
	stray        bool  // something else than padding came after it
	diff         hash.Hash
	uncompressed int64
}

// sourceReader remembers why reading failed.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func newContent(d pratique.Descriptor, r io.Reader, limit int64) *content {
	c := &content{claimed: d, limit: limit, source: &sourceReader{r: r}, diff: sha256.New()}
	algorithm := digest.SHA256
	if d.Digest.Validate() == nil {
		algorithm = d.Digest.Algorithm()
	}
	c.digest = algorithm.Digester()
	counted := io.TeeReader(c.source, writerFunc(func(p []byte) (int, error) {
		c.compressed += int64(len(p))
		return c.digest.Hash().Write(p)
	}))
	b := bufio.NewReaderSize(counted, 1<<20)
	c.plain = b
	head, err := b.Peek(4)
	if err != nil && err != io.EOF {
		c.err = err
		return c
	}
	switch {
	case len(head) >= 2 && head[0] == 0x1f && head[1] == 0x8b:
		c.form = "gzip"
		z, err := gzip.NewReader(b)
		if err != nil {
			c.err = fmt.Errorf("gzip: %w", err)
			return c
		}
		c.plain = z
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) || len(head) == 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18}):
		c.form = "zstd"
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			c.err = fmt.Errorf("zstd: %w", err)
			return c
		}
		c.plain = z
	default:
		c.form = "tar"
	}
	return c
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Read gives uncompressed bytes.
func (c *content) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.plain.Read(p)
	_, _ = c.diff.Write(p[:n]) // a hash never fails
	c.uncompressed += int64(n)
	if c.archived && !c.stray {
		c.stray = len(bytes.TrimLeft(p[:n], "\x00")) > 0
	}
	switch {
	case c.limit > 0 && c.uncompressed > c.limit:
		c.err = errTooLarge
	case err == io.EOF:
		c.ended = true
		return n, err
	case err != nil:
		c.err = fmt.Errorf("%s: %w", c.form, err)
	}
	return n, c.err
}

// drain reads what the archive reader left: padding, and after a failure the
// rest, so that both digests are those of the whole.
func (c *content) drain() {
	c.archived = true
	buf := make([]byte, 256<<10)
	for c.err == nil && !c.ended {
		_, _ = c.Read(buf)
	}
	// What follows a broken compressed stream still counts into the digest. Past
	// the limit there is no end in sight.
	if c.err != nil && !errors.Is(c.err, errTooLarge) && c.source.err == nil {
		_, _ = io.Copy(io.Discard, io.TeeReader(c.source, writerFunc(func(p []byte) (int, error) {
			c.compressed += int64(len(p))
			return c.digest.Hash().Write(p)
		})))
	}
}

// diffID is the digest of the uncompressed bytes; empty unless all were read.
func (c *content) diffID() digest.Digest {
	if !c.ended {
		return ""
	}
	return digest.NewDigest(digest.SHA256, c.diff)
}

// problems of the stream itself, all of them fatal: what was not read whole, or
// is not what was asked for, has no inventory. Only a verified digest
// makes an inventory one of that digest, so a layer named by the wrong media type
// or size must not spoil it for others: see scanner.Analyzer.
func (c *content) problems() []pratique.Problem {
	var out []pratique.Problem
	fatal := func(source, format string, args ...any) {
		out = append(out, pratique.Problem{Source: source, Message: printable(fmt.Sprintf(format, args...)), Fatal: true})
	}
	if errors.Is(c.err, errTooLarge) {
		fatal("size", "the layer is larger than %d bytes uncompressed", c.limit)
		return out
	}
	if d := c.digest.Digest(); d != c.claimed.Digest {
		fatal("digest", "the bytes are %s, not %s", d, c.claimed.Digest)
	}
	if c.compressed != c.claimed.Size {
		fatal("size", "the layer has %d bytes, the manifest says %d", c.compressed, c.claimed.Size)
	}
	if want := formOf(c.claimed.MediaType); want != "" && want != c.form {
		fatal("mediatype", "the media type %q says %s, the bytes are %s", c.claimed.MediaType, want, c.form)
	}
	if c.err != nil {
		fatal("compression", "%v", c.err)
	}
	return out
}

// formOf is what a media type says of the compression; empty when it says
// nothing that is known here.
func formOf(mediaType string) string {
	switch {
	case strings.HasSuffix(mediaType, "gzip"):
		return "gzip"
	case strings.HasSuffix(mediaType, "zstd"):
		return "zstd"
	case strings.HasSuffix(mediaType, "tar"):
		return "tar"
	}
	return ""
}
