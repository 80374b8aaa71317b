package sqlite

import (
	"hash/fnv"

	"pratique"
	"pratique/internal/packed"
)

// codec is packed.Codec under the names of this package.
type codec struct{ packed.Codec }

func newCodec() (codec, error) {
	c, err := packed.NewCodec()
	return codec{c}, err
}

// encode writes v as JSON, compressed when that is smaller.
func (c codec) encode(v any) ([]byte, error) { return c.Encode(v) }

// decode reads what encode wrote.
func (c codec) decode(b []byte, v any) error { return c.Decode(b, v) }

// packAbove is the size from which a packed document is compressed: most are read
// more often than the disk is short of them.
const packAbove = 4<<10 + 1

// hash64 is how names are told apart in indexes: two that collide, which nobody
// will see, make a component be matched once too often.
func hash64(s string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s))
	return int64(h.Sum64()) //nolint:gosec // all bits, as SQLite has them
}

func componentID(hash []byte) pratique.ComponentID { return packed.ComponentID(string(hash)) }
