// Package packed turns documents into stored bytes and back: what the backends
// of the state have in common. It owns no storage and interprets nothing.
package packed

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// maxDoc bounds a document when it is decompressed, against damaged storage.
const maxDoc = 1 << 30

// compressAbove is the size from which a document is compressed: a component,
// mostly, is not worth a frame.
const compressAbove = 512

// zstdMagic begins every compressed document; no JSON text begins like it.
var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// Codec turns documents into stored bytes and back. The zero Codec is not ready:
// use NewCodec. Safe for concurrent use.
type Codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// NewCodec returns a Codec.
func NewCodec() (Codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return Codec{}, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxDoc))
	return Codec{enc, dec}, err
}

// Encode writes v as JSON, compressed when that is smaller.
func (c Codec) Encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return c.Compress(b, compressAbove), nil
}

// Decode reads what Encode wrote.
func (c Codec) Decode(b []byte, v any) error {
	b, err := c.Decompress(b)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("stored document: %w", err)
	}
	return nil
}

// Compress returns b compressed if it has at least so many bytes and is smaller
// then, else b. What begins as a compressed frame does must not be passed.
func (c Codec) Compress(b []byte, above int) []byte {
	if len(b) >= above {
		if z := c.enc.EncodeAll(b, nil); len(z) < len(b) {
			return z
		}
	}
	return b
}

// Decompress undoes Compress.
func (c Codec) Decompress(b []byte) ([]byte, error) {
	if !bytes.HasPrefix(b, zstdMagic) {
		return b, nil
	}
	out, err := c.dec.DecodeAll(b, nil)
	if err != nil {
		return nil, fmt.Errorf("stored document: %w", err)
	}
	return out, nil
}
