package proxy

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Revalidate asks the upstream what ref's tag names now, whatever TagTTL says,
// fetches the manifest if it is not here, and records the answer: the next pull
// finds it. d is empty when the upstream says that there is no such tag. moved
// reports whether d is another digest than the one recorded before, where none
// is one as well; several who ask at the same time may all be told so.
//
// It shares its question with the pulls that ask it at the same time, but an
// answer that was asked for before the call does not count: what moved the tag
// may have happened in between.
func (c *Cache) Revalidate(ctx context.Context, ref pratique.Ref) (d digest.Digest, moved bool, err error) {
	if !pratique.ValidTag(ref.Tag) {
		return "", false, fmt.Errorf("revalidate %s: %w tag", ref, pratique.ErrInvalid)
	}
	ref.Digest = ""
	up, err := c.upstream(ref)
	if err != nil {
		return "", false, err
	}
	before, err := c.tagState(ctx, ref)
	if err != nil {
		return "", false, err
	}
	var asked atomic.Bool
	m, err := c.revalidate(ctx, up, ref, before, &asked)
	if !asked.Load() && ctx.Err() == nil {
		// That question was under way already, whatever came of it. The next one
		// begins after its end: it is ours, or of somebody who came after us.
		now, stateErr := c.tagState(ctx, ref)
		if stateErr != nil {
			return "", false, stateErr
		}
		m, err = c.revalidate(ctx, up, ref, now, &asked)
	}
	if err != nil && !isUnknown(err) {
		return "", false, err
	}
	return m.Image.Digest, m.Image.Digest != before.Digest, nil
}
