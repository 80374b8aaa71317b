package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// maxLifted is as in pratique.Verdict.
const maxLifted = 100

// fetches of child manifests that one request has open at a time.
const fetches = 8

// index decides on an index through the children that clients here want. It
// may be served when one of them may; each child is gated again when it is
// asked for, so the index itself gives nothing away. Its verdict says which.
//
// What is already known is looked at first, so that a warm index costs no
// upstream request; then missing manifests are fetched and all scans opened,
// the most wanted platform first; then one verdict is waited for.
func (g *Gate) index(ctx context.Context, ref pratique.Ref, img pratique.Image, q *inquiry, depth int) (pratique.Decision, error) {
	d := pratique.Decision{Ref: ref, Image: img}
	wanted := img.Wanted(g.cfg.Platforms)
	switch {
	case depth > pratique.MaxIndexDepth:
		return denied(d, "index-depth", fmt.Sprintf("indexes nest more than %d deep", pratique.MaxIndexDepth)), nil
	case len(wanted) == 0:
		return denied(d, "platform", g.unwanted(img)), nil
	case !q.spend(wanted):
		return denied(d, "index-size", fmt.Sprintf("the index wants more than %d manifests looked at; pull one of its images by digest", g.cfg.MaxChildren)), nil
	}
	p := &panel{d: d, wanted: wanted, errs: make([]error, len(wanted)), all: q.all}
	p.d.Children = make([]pratique.Decision, len(wanted))

	for i := range wanted {
		p.d.Children[i], p.errs[i] = g.known(ctx, ref, wanted[i], q, depth)
	}
	if q.local || p.settled() {
		return p.decision()
	}
	g.fetch(ctx, p)
	for _, i := range p.open() {
		if child := p.d.Children[i]; child.Image.Kind != "" {
			p.d.Children[i], p.errs[i] = g.decide(ctx, child.Ref, child.Image, q.glance(), depth+1)
		}
	}
	if !q.wait || p.settled() {
		return p.decision()
	}
	race(ctx, p.open(), func(ctx context.Context, i int) (pratique.Decision, error) {
		child := p.d.Children[i]
		if child.Image.Kind == "" {
			return child, p.errs[i]
		}
		return g.decide(ctx, child.Ref, child.Image, q, depth+1)
	}, p.set)
	return p.decision()
}

// unwanted words why no child of an index counts.
func (g *Gate) unwanted(img pratique.Image) string {
	if len(img.Children) == 0 {
		return "the index is empty"
	}
	if len(g.cfg.Platforms) == 0 {
		return "the index holds no image that could be run"
	}
	names := make([]string, len(g.cfg.Platforms))
	for i, p := range g.cfg.Platforms {
		names[i] = p.String()
	}
	return "the index holds no image for the platforms served here: " + strings.Join(names, ", ")
}

// glance is the inquiry without waiting.
func (q *inquiry) glance() *inquiry {
	if !q.wait {
		return q
	}
	return &inquiry{gate: q.gate, client: q.client, local: q.local, all: q.all, whole: q.whole, explained: q.explained, ledger: q.ledger}
}

// errAbsent: the child's manifest is not here yet.
var errAbsent = fmt.Errorf("manifest not fetched: %w", pratique.ErrPending)

// known decides on a child without asking an upstream and without waiting. A
// child that is here gets its scan opened when it has none.
func (g *Gate) known(ctx context.Context, ref pratique.Ref, c pratique.Descriptor, q *inquiry, depth int) (pratique.Decision, error) {
	d := pratique.Decision{Ref: ref.At(c.Digest), Image: pratique.Image{Digest: c.Digest}}
	// Known through another repository is not enough: fetching it through this
	// one is what links its blobs here.
	holders, err := g.catalog.Holders(ctx, d.Ref, c.Digest)
	if err == nil && holders[0] != c.Digest {
		err = pratique.ErrNotFound
	}
	var img pratique.Image
	if err == nil {
		img, err = g.catalog.Image(ctx, c.Digest)
	}
	switch {
	case errors.Is(err, pratique.ErrNotFound):
		return d, errAbsent
	case err != nil:
		return d, err
	}
	return g.decide(ctx, d.Ref, img, q.glance(), depth+1)
}

// fetch gets the manifests that are not here, a few at a time, and notes what
// cannot be had: a child that the upstream does not have, or has in a form that
// is not accepted, is one that nobody can run from here.
func (g *Gate) fetch(ctx context.Context, p *panel) {
	var wg sync.WaitGroup
	places := make(chan struct{}, fetches)
	for _, i := range p.open() {
		if !errors.Is(p.errs[i], errAbsent) {
			continue
		}
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			child := &p.d.Children[i]
			ref := child.Ref
			ref.Tag = "" // by digest; the tag names the index
			m, err := g.next.Manifest(ctx, Request{Ref: ref, N: -1})
			var e *Error
			switch {
			case err == nil && !named(child.Image.Digest, m):
				p.errs[i] = fmt.Errorf("asked for %s, got %s", child.Image.Digest, m.Image.Digest)
			case err == nil:
				child.Image, child.Ref = m.Image, child.Ref.At(m.Image.Digest)
			case errors.As(err, &e) && (e.Status() == 404 || e.Code == CodeManifestInvalid):
				*child, p.errs[i] = denied(*child, "child", "its manifest cannot be had: "+clean(e.Message, 200)), nil
			case ctx.Err() == nil:
				p.errs[i] = err
			}
		})
	}
	wg.Wait()
}

// race decides the children with the given places at once, reporting each as
// it is known, until set says that it is enough; then the others are told to
// stop waiting. It returns when all have.
func race(ctx context.Context, places []int, try func(context.Context, int) (pratique.Decision, error), set func(int, pratique.Decision, error) bool) {
	type result struct {
		i   int
		d   pratique.Decision
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result, len(places))
	for _, i := range places {
		go func() {
			d, err := try(ctx, i)
			results <- result{i, d, err}
		}()
	}
	for range places {
		r := <-results
		if set(r.i, r.d, r.err) {
			cancel()
		}
	}
}

// panel is an index's decision in the making. errs[i] is nil when child i is
// decided.
type panel struct {
	d      pratique.Decision
	wanted []pratique.Descriptor
	errs   []error
	all    bool
}

// open are the places that are not decided, in order.
func (p *panel) open() []int {
	var out []int
	for i, err := range p.errs {
		if err != nil {
			out = append(out, i)
		}
	}
	return out
}

// set notes a child's decision and reports whether the index is settled.
func (p *panel) set(i int, d pratique.Decision, err error) bool {
	p.d.Children[i], p.errs[i] = d, err
	return p.settled()
}

// settled reports whether more children could not change what the request is
// answered: one that can be run may be served, or nothing is open.
func (p *panel) settled() bool {
	if len(p.open()) == 0 {
		return true
	}
	if p.all {
		return false
	}
	for i, c := range p.d.Children {
		if p.errs[i] == nil && serves(c.Verdict) && !inert(c) {
			return true
		}
	}
	return false
}

// inert reports whether nobody runs what was decided on: an artifact, or an
// index of nothing else. What could not be looked at is not inert.
func inert(d pratique.Decision) bool {
	switch d.Image.Kind {
	case pratique.KindIndex:
		for _, c := range d.Children {
			if !inert(c) {
				return false
			}
		}
		return len(d.Children) > 0
	case pratique.KindImage, pratique.KindArtifact:
		return !d.Image.Runnable()
	}
	return false
}

// decision combines what is known. A signature or a chart beside refused
// images does not make their index one that may be served; an index of nothing
// but such things is judged by them.
func (p *panel) decision() (pratique.Decision, error) {
	artifacts := true
	for _, c := range p.d.Children {
		artifacts = artifacts && inert(c)
	}
	var served, refused []int
	for i, c := range p.d.Children {
		switch {
		case p.errs[i] != nil:
		case serves(c.Verdict) && (artifacts || !inert(c)):
			served = append(served, i)
		case !serves(c.Verdict):
			refused = append(refused, i)
		}
	}
	if len(served) > 0 {
		p.combine(served)
		return p.d, nil
	}
	var failure error
	for _, err := range p.errs {
		switch {
		case err == nil:
		case errors.Is(err, pratique.ErrPending):
			return p.d, err
		case failure == nil:
			failure = err
		}
	}
	if failure != nil {
		return p.d, failure
	}
	p.combine(refused)
	return p.d, nil
}

// combine makes the index's verdict from the children at the given places: the
// most lenient of them, with the reasons of those that are as lenient.
func (p *panel) combine(places []int) {
	v := pratique.Verdict{}
	for _, i := range places {
		switch c := p.d.Children[i].Verdict.Outcome; {
		case c == pratique.OutcomeAllow, c == pratique.OutcomeWarn && v.Outcome != pratique.OutcomeAllow:
			v.Outcome = c
		}
	}
	sum := sha256.New()
	sum.Write([]byte(p.d.Image.Digest))
	for _, i := range places {
		c := p.d.Children[i].Verdict
		sum.Write([]byte("\x00" + c.ID))
		if v.Policy == "" || v.Policy == gatePolicy {
			v.Policy = c.Policy
		}
		if serves(v) && c.Outcome != v.Outcome {
			continue
		}
		for _, r := range c.Reasons {
			r.Message = childName(p.wanted[i]) + ": " + r.Message
			v.Reasons = append(v.Reasons, r)
		}
		for _, l := range c.Lifted {
			if len(v.Lifted) < maxLifted && !slices.Contains(v.Lifted, l) {
				v.Lifted = append(v.Lifted, l)
			}
		}
	}
	for i, c := range p.d.Children {
		if p.errs[i] == nil { // of those that do not count now too: they may later
			v.Until = earlier(v.Until, c.Verdict.Until)
		}
	}
	v.ID = hex.EncodeToString(sum.Sum(nil)[:6])
	p.d.Verdict = v
}

// earlier is the first of two moments of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// childName is how people tell an index's children apart.
func childName(c pratique.Descriptor) string {
	if c.Platform != nil && c.Platform.OS != "" {
		return clean(c.Platform.String(), 60)
	}
	return short(c.Digest)
}

// short is a digest cut to what people compare.
func short(d digest.Digest) string {
	const n = len("sha256:") + 12
	if len(d) <= n {
		return d.String()
	}
	return d.String()[:n]
}
