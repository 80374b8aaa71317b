package simulate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"pratique"
)

// maxReasons of a refusal are told.
const maxReasons = 10

// outcome is what one side says.
type outcome struct {
	served, warned bool
	reasons        []string // of a refusal
	unknown        string   // why it says nothing; "" when it does
}

// ask has both gates decide on what was pulled. The error is one that is not about
// the image: then there is no result at all.
func (s *simulation) ask(ctx context.Context, t *tallied) error {
	var client netip.Addr
	if t.client != "" {
		var bad error
		if client, bad = netip.ParseAddr(t.client); bad != nil {
			t.today.unknown = fmt.Sprintf("the client's address %q is none", t.client)
			return nil //nolint:nilerr // it is about this pull alone, and told
		}
	}
	img, err := s.manifests.Image(ctx, t.ref.Digest)
	switch {
	case errors.Is(err, pratique.ErrNotFound):
		t.today.unknown = "the manifest is not here any more"
		return nil
	case err != nil:
		return err
	}
	if t.today, err = s.outcome(ctx, s.Today, t.ref, img, client, pratique.MaxIndexDepth); err != nil || t.today.unknown != "" {
		return err
	}
	t.draft, err = s.outcome(ctx, s.Draft, t.ref, img, client, pratique.MaxIndexDepth)
	return err
}

// outcome asks one gate. An index is served when one of its wanted images is, as
// proxy.Gate does it; each of those is a pull of its own when somebody takes it.
func (s *simulation) outcome(ctx context.Context, gate Gate, ref pratique.Ref, img pratique.Image, client netip.Addr, depth int) (outcome, error) {
	if img.Kind == pratique.KindIndex {
		return s.index(ctx, gate, ref, img, client, depth)
	}
	d, err := gate.StandingFor(ctx, ref.At(img.Digest), img, client)
	switch {
	case errors.Is(err, pratique.ErrPending):
		return outcome{unknown: "a fact is being found out"}, nil
	case ctx.Err() != nil:
		return outcome{}, context.Cause(ctx)
	case err != nil:
		return outcome{unknown: fmt.Sprintf("no verdict: %.200s", err)}, nil
	}
	o := newOutcome(&d.Verdict)
	if state := d.Report.State; !o.served && img.Runnable() && (state == pratique.StateUnknown || state == pratique.StatePending) {
		return outcome{unknown: "not scanned yet"}, nil // a client would be held until it is
	}
	return o, nil
}

func newOutcome(v *pratique.Verdict) outcome {
	var o outcome
	switch v.Outcome {
	case pratique.OutcomeAllow:
		o.served = true
	case pratique.OutcomeWarn:
		o.served, o.warned = true, true
	default:
		for i := range v.Reasons {
			if r := &v.Reasons[i]; r.Action == pratique.OutcomeDeny && len(o.reasons) < maxReasons {
				o.reasons = append(o.reasons, r.Policy+"/"+r.Rule+": "+r.Message)
			}
		}
	}
	return o
}

func (s *simulation) index(ctx context.Context, gate Gate, ref pratique.Ref, img pratique.Image, client netip.Addr, depth int) (outcome, error) {
	wanted := img.Wanted(s.Platforms)
	if depth == 0 || len(wanted) == 0 {
		return outcome{reasons: []string{"the index holds no image for the platforms served here"}}, nil
	}
	var refused outcome
	unknown, warned, found := "", true, false
	for _, c := range wanted {
		child, err := s.manifests.Image(ctx, c.Digest)
		var o outcome
		switch {
		case errors.Is(err, pratique.ErrNotFound):
			o.unknown = "an image of the index is not here"
		case err != nil:
			return o, err
		default:
			if o, err = s.outcome(ctx, gate, ref.At(c.Digest), child, client, depth-1); err != nil {
				return o, err
			}
		}
		switch {
		case o.unknown != "":
			unknown = o.unknown
		case o.served:
			found, warned = true, warned && o.warned
		case refused.reasons == nil:
			refused = o
		}
	}
	switch {
	case found:
		return outcome{served: true, warned: warned}, nil
	case unknown != "":
		return outcome{unknown: unknown}, nil
	}
	return refused, nil
}
