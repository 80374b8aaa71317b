package proxy

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
)

// explaining are Policies that can tell the part of every rule.
type explaining interface {
	Explain(policy.Facts) []policy.Evaluation
}

// explanations are the parts of all rules in a decision, by the manifest that
// was judged.
type explanations struct {
	mu    sync.Mutex
	parts map[digest.Digest][]policy.Evaluation
}

// note keeps the last word on an image: one that was scanned meanwhile is judged
// twice.
func (x *explanations) note(image digest.Digest, policies Policies, f policy.Facts) {
	p, ok := policies.(explaining)
	if !ok {
		return
	}
	part := p.Explain(f)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.parts[image] = part
}

// Explain is Check, with every rule's part in the decision by the digest of the
// image: of an index, by those of its wanted children. What the gate refuses
// before any policy is asked has none.
func (g *Gate) Explain(ctx context.Context, ref pratique.Ref, client netip.Addr, wait time.Duration) (pratique.Decision, map[digest.Digest][]policy.Evaluation, error) {
	x := &explanations{parts: make(map[digest.Digest][]policy.Evaluation)}
	d, err := g.check(ctx, ref, client, wait, x)
	x.mu.Lock()
	defer x.mu.Unlock()
	return d, x.parts, err
}
