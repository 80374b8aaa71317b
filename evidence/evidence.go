// Package evidence gathers the facts about an image that are not in its report:
// who signed it, which tags named it, which newer versions there are, when it was
// served, which exceptions and VEX statements concern it, which vulnerabilities
// are exploited.
//
// It owns the question in which order and at what price facts are to be had; each
// kind of fact has its folder below. It judges nothing (policy does) and answers
// no client (proxy does).
package evidence

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Registry is the ungated registry in which evidence is looked for: what is not
// cached is pulled through. What is not there is an error wrapping
// pratique.ErrNotFound; every other error says nothing about what is there.
// Implemented in cmd/pratique over proxy.Cache.
type Registry interface {
	// Manifest returns the manifest that ref names, by tag or digest.
	Manifest(ctx context.Context, ref pratique.Ref) (pratique.Image, []byte, error)
	// Blob opens a blob of ref's repository; limit is the most bytes that are to be
	// had, more is an error.
	Blob(ctx context.Context, ref pratique.Ref, d pratique.Descriptor, limit int64) (io.ReadCloser, error)
	// Referrers lists what refers to ref.Digest, by the API or the tag schema.
	Referrers(ctx context.Context, ref pratique.Ref) ([]pratique.Descriptor, error)
	// Tags lists all tags of ref's repository, from the upstream when the list here
	// is older than the cache believes.
	Tags(ctx context.Context, ref pratique.Ref) ([]string, error)
	// Resolve returns what ref's tag names, asking the upstream when the answer here
	// is older than the cache believes.
	Resolve(ctx context.Context, ref pratique.Ref) (digest.Digest, error)
}
