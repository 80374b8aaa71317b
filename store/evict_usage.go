package store

import (
	"context"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Use says how much a blob is wanted.
type Use struct {
	Blob digest.Digest
	// Image is the most recently used of the manifests that name the blob.
	Image digest.Digest
	// At is when that one was used.
	At time.Time
	// Pinned: one of them, not necessarily Image, is to stay.
	Pinned bool
}

// Usage tells which blobs are wanted least, for whoever makes room.
type Usage interface {
	// Usage yields every config and layer that a manifest of any repository names,
	// in no particular order; none that is a manifest itself. It holds no lock while
	// the caller's loop body runs; what is linked meanwhile may be missing, and then
	// so are all blobs that it names. An error ends the sequence.
	//
	// An image was used when it was last served (Pulls.Served), else when it was
	// first seen. One that was served is as recent as the indexes that list it: a
	// client that holds the image asks for the index alone.
	//
	// pinned is asked about every reference: each repository that holds a manifest,
	// without and with each tag that names it there now. What it says of an index
	// holds for its children. If nil, nothing is pinned.
	Usage(ctx context.Context, pinned func(ref pratique.Ref) bool) iter.Seq2[Use, error]
}
