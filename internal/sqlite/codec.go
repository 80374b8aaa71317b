package sqlite

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"

	"github.com/klauspost/compress/zstd"

	"pratique"
)

// maxDoc bounds a document when it is decompressed, against a damaged file.
const maxDoc = 1 << 30

// zstdMagic begins every compressed document; no JSON text begins like it.
var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// codec turns documents into stored bytes and back; safe for concurrent use.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newCodec() (codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return codec{}, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxDoc))
	return codec{enc, dec}, err
}

// encode writes v as JSON, compressed when that is smaller.
func (c codec) encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(b) < 512 { // a component, mostly: not worth a frame
		return b, nil
	}
	if z := c.enc.EncodeAll(b, nil); len(z) < len(b) {
		return z, nil
	}
	return b, nil
}

// decode reads what encode wrote.
func (c codec) decode(b []byte, v any) error {
	if bytes.HasPrefix(b, zstdMagic) {
		var err error
		if b, err = c.dec.DecodeAll(b, nil); err != nil {
			return fmt.Errorf("stored document: %w", err)
		}
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("stored document: %w", err)
	}
	return nil
}

// hash is a component id as stored.
func hash(id pratique.ComponentID) ([]byte, error) {
	b, err := hex.DecodeString(string(id))
	if err != nil || len(b) != 16 {
		return nil, fmt.Errorf("%w component id %q", pratique.ErrInvalid, string(id))
	}
	return b, nil
}

// hash64 is how names are told apart in indexes: two that collide, which nobody
// will see, make a component be matched once too often.
func hash64(s string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s))
	return int64(h.Sum64()) //nolint:gosec // all bits, as SQLite has them
}

func componentID(hash []byte) pratique.ComponentID {
	return pratique.ComponentID(hex.EncodeToString(hash))
}
