package store

import (
	"context"
	"iter"
)

// Documents are derived and large: inventories, and what `pratique rebuild` makes
// state of again. They are kept beside the blobs, compressed, by name. A name is a
// path of elements of letters, digits, dots, dashes, underscores, colons and @,
// joined by slashes; an element is never "." or "..". Blobs implements it.
type Documents interface {
	// Document returns what was put last; none is pratique.ErrNotFound.
	Document(ctx context.Context, name string) ([]byte, error)
	// PutDocument stores doc, replacing what is there.
	PutDocument(ctx context.Context, name string, doc []byte) error
	// DeleteDocument removes it; one that is not there is no error.
	DeleteDocument(ctx context.Context, name string) error
	// DocumentNames yields the names below a folder ("" is all), in no particular
	// order. An error ends the sequence.
	DocumentNames(ctx context.Context, folder string) iter.Seq2[string, error]
}
