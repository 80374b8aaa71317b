package proxy

import (
	"context"
	"slices"

	"pratique"
)

// renewals bounds the decisions that one Renew makes.
const renewals = 200

// Renew makes decisions anew that were made before and have lost their ground: a
// report changed, an exception was made, an image was served for the first time. A
// client would have them made anyway; but the state may go away before one comes, and
// then what is decided is all there is. It asks no upstream, opens no scan and counts
// nothing as pulled. Call it about once a second; it returns how many it made.
func (g *Gate) Renew(ctx context.Context) int {
	if g.memory == nil || g.reach.away() {
		return 0
	}
	lost := func(k verdictKey, e verdictEntry) bool {
		return e.stamp != g.memory.stamp(k.ref.Digest) || e.verdict.Policy != g.memory.policies.Version()
	}
	keys := g.memory.entries.latest(renewals, lost)
	slices.Reverse(keys) // what is put last is the most recent
	made := 0
	for _, k := range keys {
		if g.reach.away() || ctx.Err() != nil {
			return made
		}
		err := g.renew(ctx, k)
		switch {
		case err == nil:
			made++
			g.metrics.renewed.Inc()
		case g.reach.note(err), ctx.Err() != nil:
			return made
		}
		// What cannot be decided now is decided for the next client.
		g.memory.entries.forget(k, lost)
	}
	return made
}

func (g *Gate) renew(ctx context.Context, k verdictKey) error {
	stamp := g.memory.stamp(k.ref.Digest)
	img, err := g.catalog.Image(ctx, k.ref.Digest)
	if err != nil {
		return err
	}
	report, err := g.standing(ctx, img)
	if err != nil {
		return err
	}
	q := &inquiry{gate: g, client: k.client, local: true, ledger: &ledger{}}
	_, err = g.judge(ctx, pratique.Decision{Ref: k.ref, Image: img, Report: report}, q, stamp)
	return err
}
