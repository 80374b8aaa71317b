package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
	"pratique/web"
)

var _ web.Explainer = (*live)(nil)

// Explain implements web.Explainer.
func (l *live) Explain(ctx context.Context, ref pratique.Ref, client netip.Addr, wait time.Duration) (pratique.Decision, map[digest.Digest][]policy.Evaluation, error) {
	return l.current.Load().gate.Explain(ctx, ref, client, wait)
}

// Explain tells the part of every rule of the policies that judge.
func (p inForce) Explain(f policy.Facts) []policy.Evaluation { return p.now().Explain(f) }
