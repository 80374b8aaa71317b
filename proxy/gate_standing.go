package proxy

import (
	"context"
	"errors"
	"net/netip"

	"pratique"
)

// Standing decides on a manifest that is here by what stands now, for a list:
// nothing is fetched, waited for or scanned. It is the outcome that a client
// without an address would meet.
func (g *Gate) Standing(ctx context.Context, ref pratique.Ref, img pratique.Image) (pratique.Decision, error) {
	return g.StandingFor(ctx, ref, img, netip.Addr{})
}

// StandingFor is Standing for a client.
func (g *Gate) StandingFor(ctx context.Context, ref pratique.Ref, img pratique.Image, client netip.Addr) (pratique.Decision, error) {
	q := g.inquire(Request{Ref: ref, Head: true, Client: Client{Addr: client}})
	q.whole = true
	defer q.close()
	d := pratique.Decision{Ref: ref.At(img.Digest), Image: img}
	if _, foreign := img.Foreign(); foreign {
		return g.image(ctx, d.Ref, img, q)
	}
	stamp := g.memory.stamp(img.Digest)
	report, err := g.standing(ctx, img)
	switch {
	case errors.Is(err, pratique.ErrNotFound):
		// image would open a scan now.
		d.Report = pratique.Report{Image: img.Digest}
		return g.judge(ctx, d, q, 0)
	case err != nil:
		return d, err
	}
	d.Report = report
	return g.judge(ctx, d, q, stamp)
}
