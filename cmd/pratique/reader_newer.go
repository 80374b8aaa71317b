package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// standing is the gate, as far as it is asked about images that nobody pulls.
type standing interface {
	Standing(ctx context.Context, ref pratique.Ref, img pratique.Image) (pratique.Decision, error)
	Check(ctx context.Context, ref pratique.Ref, client netip.Addr, wait time.Duration) (pratique.Decision, error)
}

// manifests are those that are here. Implemented by store.Catalog.
type manifests interface {
	Image(ctx context.Context, d digest.Digest) (pratique.Image, error)
}

// newerVersions tells lineage.Config what the gate says of newer versions.
type newerVersions struct {
	gate      standing
	manifests manifests
	platforms func() []pratique.Platform // wanted of an index
}

// newerVersions asks the gate in use.
func (l *live) newerVersions() newerVersions {
	return newerVersions{gate: l, manifests: l.catalog, platforms: func() []pratique.Platform { return l.current.Load().cfg.WantedPlatforms() }}
}

// upstreamOf completes what an image claims to be built on with the key of a
// configured upstream.
func (l *live) upstreamOf(ref pratique.Ref) (pratique.Ref, error) {
	return l.current.Load().upstreams.names.Ref(ref)
}

// compliant reports whether ref may be had now, by what is here: an index if each
// of its wanted images may, because it is not known which of them will be pulled.
// What is not here or not scanned is an error wrapping pratique.ErrPending.
func (n newerVersions) compliant(ctx context.Context, ref pratique.Ref) (bool, error) {
	img, err := n.image(ctx, ref)
	if err != nil {
		return false, err
	}
	return n.stands(ctx, ref, img, pratique.MaxIndexDepth)
}

func (n newerVersions) image(ctx context.Context, ref pratique.Ref) (pratique.Image, error) {
	img, err := n.manifests.Image(ctx, ref.Digest)
	if errors.Is(err, pratique.ErrNotFound) {
		return img, fmt.Errorf("%s is not here: %w", ref, pratique.ErrPending)
	}
	return img, err
}

func (n newerVersions) stands(ctx context.Context, ref pratique.Ref, img pratique.Image, depth int) (bool, error) {
	if img.Kind != pratique.KindIndex {
		d, err := n.gate.Standing(ctx, ref.At(img.Digest), img)
		if err != nil {
			return false, err
		}
		if s := d.Report.State; img.Runnable() && (s == pratique.StateUnknown || s == pratique.StatePending) {
			return false, fmt.Errorf("%s: %w", ref.At(img.Digest), pratique.ErrPending)
		}
		return d.Verdict.Outcome == pratique.OutcomeAllow || d.Verdict.Outcome == pratique.OutcomeWarn, nil
	}
	wanted := img.Wanted(n.platforms())
	if depth == 0 || len(wanted) == 0 {
		return false, nil
	}
	var pending error
	for _, c := range wanted {
		child, err := n.image(ctx, ref.At(c.Digest))
		ok := false
		if err == nil {
			ok, err = n.stands(ctx, ref, child, depth-1)
		}
		switch {
		case errors.Is(err, pratique.ErrPending):
			pending = err
		case err != nil:
			return false, err
		case !ok:
			return false, nil
		}
	}
	return pending == nil, pending
}

// request has ref, and of an index the wanted images, fetched and scanned, and
// waits for neither verdict nor scan.
func (n newerVersions) request(ctx context.Context, ref pratique.Ref) error {
	_, err := n.gate.Check(ctx, ref, netip.Addr{}, 0)
	return err
}
