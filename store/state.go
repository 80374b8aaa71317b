package store

import (
	"context"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Parents tells which indexes list an image.
type Parents interface {
	// Parents returns the digests of the indexes of ref's repository known here that
	// list ref.Digest, the latest known first. None is an empty list. Link moves the
	// stamp of every child of an index.
	Parents(ctx context.Context, ref pratique.Ref) ([]digest.Digest, error)
}

// Knowns finds manifests by digest.
type Knowns interface {
	// Known returns the manifest with one of the references that lead to it (Tag
	// filled when a tag names it now); none is pratique.ErrNotFound.
	Known(ctx context.Context, image digest.Digest) (Known, error)
	// Knowns are those that are known; others are absent from the map.
	Knowns(ctx context.Context, images []digest.Digest) (map[digest.Digest]Known, error)
}

// State is every contract of state: what a backend is.
type State interface { //nolint:interfacebloat // the sum of all
	Catalog
	Knowns
	Links
	Tags
	Tagged
	TagMoves
	Lineage
	Parents
	Usage
	Inventories
	Components
	Reports
	Fleet
	Shelf
	Near
	Pulls
	PullLog
	Pullers
	Exceptions
	Attestations
	Outbox
	EventLog
	Marks
	Pushes
	Stamper
	Reach
	Leases
	// Close ends its use.
	Close() error
}
