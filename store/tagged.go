package store

import (
	"context"
	"iter"

	"pratique"
)

// Tagged lists the tags that are known here.
type Tagged interface {
	// Tagged yields every tag that named something when its upstream was last asked,
	// as a reference with tag and digest, by repository and tag. It holds no lock
	// while the caller's loop body runs. An error ends the sequence.
	Tagged(ctx context.Context) iter.Seq2[pratique.Ref, error]
}
