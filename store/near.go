package store

import (
	"context"

	"github.com/opencontainers/go-digest"
)

// Near is what a store may know besides: which reports cost less when they are read
// one after another, because they share what they are joined of.
type Near interface {
	// Near returns the same digests, each once, with images that share their lower
	// layers next to each other. It is advice: what it does not know comes last.
	Near(ctx context.Context, images []digest.Digest) ([]digest.Digest, error)
}
