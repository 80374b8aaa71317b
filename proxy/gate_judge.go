package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"pratique"
	"pratique/policy"
)

// needing are Policies that can say which facts their rules read. Without it
// they get all there are.
type needing interface{ Needs() policy.Needs }

// narrowing are Policies that can say so for one repository: what only rules
// about others read is not gathered.
type narrowing interface {
	NeedsFor(ref pratique.Ref) policy.Needs
}

// lineage are the facts that cannot be left out: an image without moved tags and
// newer versions is one that rules about them let through.
const lineage = policy.NeedTags | policy.NeedNewer | policy.NeedBase | policy.NeedNames

// everything is all facts that there are.
const everything = policy.NeedClient | policy.NeedServed | policy.NeedAttestations | policy.NeedExploits | lineage

// needs are the facts that the policies in force read of an image of ref's
// repository.
func (g *Gate) needs(ref pratique.Ref) policy.Needs {
	if p, ok := g.policies.(narrowing); ok {
		return p.NeedsFor(ref)
	}
	if p, ok := g.policies.(needing); ok {
		return p.Needs()
	}
	return everything
}

// judge asks the policies. It is the one place where facts become a verdict,
// and where one is remembered: stamp is the image's, from before its report was
// read.
func (g *Gate) judge(ctx context.Context, d pratique.Decision, q *inquiry, stamp uint64) (pratique.Decision, error) {
	f, needs, err := g.facts(ctx, d, q)
	for err == nil {
		d.Verdict = g.policies.Decide(f)
		now := g.needs(d.Ref)
		if needs.Has(now) {
			break
		}
		// The policies were replaced, and read what the facts do not hold.
		f, needs, err = g.facts(ctx, d, q)
	}
	if err != nil {
		d.Verdict = pratique.Verdict{}
		return d, err
	}
	if q.explained != nil {
		q.explained.note(d.Image.Digest, g.policies, f)
	}
	if !q.whole || g.memory.has(d.Ref, d.Image.Digest, q.client) {
		// What nobody pulls is not to drive out what somebody does, when all images are
		// looked at.
		g.memory.keep(d.Ref, q.client, d.Report, d.Verdict, stamp, f.Now)
	}
	return d, nil
}

// facts are those of a decision, and which of them there are. What is not here
// is waited for if the inquiry may wait.
func (g *Gate) facts(ctx context.Context, d pratique.Decision, q *inquiry) (policy.Facts, policy.Needs, error) {
	f := policy.Facts{Ref: d.Ref, Image: d.Image, Report: d.Report, Client: q.client, Now: g.cfg.Now()}
	needs := g.needs(d.Ref)
	if g.cfg.Evidence == nil {
		if _, ok := g.policies.(needing); ok && needs&lineage != 0 {
			return f, needs, errors.New("rules read tags, versions or bases, and nobody here knows them")
		}
		return f, needs, nil
	}
	err := g.cfg.Evidence.Complete(ctx, needs, &f, false)
	if errors.Is(err, pratique.ErrPending) && q.wait && q.hold() {
		begun := time.Now()
		err = g.cfg.Evidence.Complete(ctx, needs, &f, true)
		g.metrics.gathered.Observe(time.Since(begun).Seconds())
		f.Now = g.cfg.Now()
	}
	switch {
	case err == nil:
		return f, needs, nil
	case unanswered(err):
		return f, needs, fmt.Errorf("%s: %w", d.Ref, err)
	case errors.Is(err, pratique.ErrPending):
		return f, needs, fmt.Errorf("%s: %w", d.Ref, err)
	case ctx.Err() != nil:
		return f, needs, fmt.Errorf("%s: %w: %w", d.Ref, pratique.ErrPending, err)
	}
	return f, needs, unfounded(d, err, g.cfg.RetryAfter)
}

// unfounded is the answer when facts cannot be had. An upstream's own error is
// about what was looked up, not about the image asked for: its 404 would be
// false here.
func unfounded(d pratique.Decision, err error, retryAfter time.Duration) error {
	out := &Error{
		Code: codeInternal, HTTPStatus: http.StatusServiceUnavailable, RetryAfter: retryAfter, Bare: true, Err: err,
		Message: "no verdict can be had on " + clean(d.Ref.String(), 400) + " just now: what its rules need to know cannot be found out, and nothing is served without; the log of Pratique tells more",
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Status() == http.StatusTooManyRequests {
		out.Code, out.HTTPStatus, out.RetryAfter = CodeTooManyRequests, 0, max(e.RetryAfter, retryAfter)
	}
	return out
}

// advise finds a version of what was refused that may be had, among what is
// known here: nobody waits for advice.
func (g *Gate) advise(ctx context.Context, d pratique.Decision) *pratique.Newer {
	if g.cfg.Evidence == nil || d.Ref.Repo == "" || g.reach.away() {
		return nil
	}
	f := policy.Facts{Ref: d.Ref, Image: d.Image, Report: d.Report, Now: g.cfg.Now()}
	// Without it the refusal is as good, so that an error is no reason for another
	// answer.
	_ = g.cfg.Evidence.Complete(ctx, policy.NeedAdvice, &f, false)
	for i := range f.Lineage.Newer {
		if f.Lineage.Newer[i].Compliant {
			return &f.Lineage.Newer[i]
		}
	}
	return nil
}
