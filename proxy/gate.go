package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/policy"
	"pratique/store"
)

// Policies decide. Implemented by *policy.Set and by what swaps one for
// another. Decide is pure and safe for concurrent use.
//
// Verdicts are remembered (GateConfig.Stamps) only for Policies that have
// Version() string as well: it changes with whatever a verdict depends on that
// is not in policy.Facts, and Decide returns it in Verdict.Policy. Those without
// ReadsClient() bool, or where it is true, are asked for each client anew. Those
// with Needs() policy.Needs get the facts that it names, others all there are.
type Policies interface {
	Decide(policy.Facts) pratique.Verdict
}

// Evidence completes the facts of a decision with what is not in a report.
// Implemented by evidence.Evidence.
type Evidence interface {
	// Complete fills in the fields of f that needs names, and the exceptions and
	// statements in force; Ref, Image, Report, Client and Now are there already.
	// With wait it may ask upstreams and take as long as ctx lets it; without, it
	// looks at what is here. What is not known yet is an error wrapping
	// pratique.ErrPending, and is being found out; a decision is impossible then.
	// It is safe for concurrent use.
	Complete(ctx context.Context, needs policy.Needs, f *policy.Facts, wait bool) error
	// Stamp moves before Complete says something else about any image, unless the
	// image's own stamp moves (GateConfig.Stamps) or time alone changes it.
	Stamp() uint64
}

// Defaults of GateConfig.
const (
	defaultHold        = 25 * time.Second
	defaultMaxHeld     = 1000
	defaultRetryAfter  = 5 * time.Second
	defaultMaxChildren = 64
	defaultFailureAge  = 24 * time.Hour
)

// GateConfig is what NewGate may be told besides its collaborators.
type GateConfig struct {
	// Platforms whose images make an index worth serving, the most wanted first.
	// If empty, every runnable child is wanted.
	Platforms []pratique.Platform
	// Hold is how long a GET waits for the first verdict on an image, from its
	// arrival. containerd and docker wait 30 s for a header. If zero, 25 s.
	Hold time.Duration
	// MaxHeld requests wait at once; further ones are told to come again. If
	// zero, 1000.
	MaxHeld int
	// RetryAfter is when to ask again for what is not decided yet. If zero, 5 s.
	RetryAfter time.Duration
	// MaxChildren of an index, nested ones included, are looked at for one
	// request; an index that wants more is refused. If zero, 64.
	MaxChildren int
	// Help ends every refusal: how to ask for an exception here. If empty, a
	// sentence that names the operator.
	Help string
	// Upstreams complete references given to Check. If nil, they are taken as
	// they are.
	Upstreams *UpstreamIndex
	// Evidence completes the facts. If nil, there are no exceptions, nothing was
	// served before or is signed, and what rules about tags, versions and bases
	// need cannot be had, so that nothing is served under such rules.
	Evidence Evidence
	// Record is told of every answered request for a manifest. If nil, nobody is.
	Record Recorder
	// Stamps tell whether a report may have changed, so that a verdict made
	// before need not be made again. If nil, every request is decided anew.
	Stamps store.Stamper
	// Reach tells whether the state answers that replicas share. If nil, it always
	// does.
	Reach store.Reach
	// Failure is what is answered while it does not. If empty, serve-last: with Stamps,
	// decisions that this gate made before are given again; without, none are.
	Failure FailureMode
	// FailureAge is how old the report behind such a decision may be. If zero, 24 h.
	FailureAge time.Duration
	// Metrics registers the gate's metrics. If nil, nothing is exported.
	Metrics prometheus.Registerer
	// Now is the clock of decisions. If nil, time.Now.
	Now func() time.Time
}

// Gate is a Registry that serves only what may be had: for every way to
// content it finds the manifests that the content belongs to, the reports on
// those, and what the policies say of them now.
//
// It embeds a registry that refuses everything, so that a method that Registry
// grows and nobody writes here denies.
type Gate struct {
	refusing //nolint:unused // for methods that do not exist yet

	next     Registry
	scans    Scans
	catalog  store.Catalog
	policies Policies
	cfg      GateConfig
	metrics  *gateMetrics
	reach    *reach
	memory   *verdicts
	held     atomic.Int64 // requests that wait now
}

var _ Registry = (*Gate)(nil)

// NewGate guards next.
func NewGate(next Registry, scans Scans, catalog store.Catalog, policies Policies, cfg GateConfig) *Gate {
	if cfg.Hold == 0 {
		cfg.Hold = defaultHold
	}
	if cfg.MaxHeld == 0 {
		cfg.MaxHeld = defaultMaxHeld
	}
	if cfg.RetryAfter == 0 {
		cfg.RetryAfter = defaultRetryAfter
	}
	if cfg.MaxChildren == 0 {
		cfg.MaxChildren = defaultMaxChildren
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Failure == "" {
		cfg.Failure = FailureServeLast
	}
	if cfg.FailureAge == 0 {
		cfg.FailureAge = defaultFailureAge
	}
	g := &Gate{next: next, scans: scans, catalog: catalog, policies: policies, cfg: cfg, reach: &reach{state: cfg.Reach}}
	g.metrics = newGateMetrics(cfg.Metrics, g.reach)
	g.memory = newVerdicts(cfg, policies, g.reach, g.metrics)
	return g
}

// inquiry is what one request may spend on its verdict.
type inquiry struct {
	gate   *Gate
	client netip.Addr
	wait   bool // a scan may be waited for, until ctx ends
	local  bool // only what is already here is looked at
	all    bool // every child is decided, even when one is enough
	whole  bool // the decision is for a person: made now, with its report

	explained *explanations // if set, every rule's part is noted

	once    sync.Once
	holding bool

	ledger *ledger
}

// ledger counts the manifests that one request looks at.
type ledger struct {
	mu   sync.Mutex
	seen map[digest.Digest]struct{}
}

// inquire opens an inquiry; the caller closes it.
func (g *Gate) inquire(r Request) *inquiry {
	return &inquiry{gate: g, client: r.Client.Addr, wait: !r.Head, local: r.Head, ledger: &ledger{}}
}

// hold takes one of the places for waiting requests, for the whole request.
func (q *inquiry) hold() bool {
	q.once.Do(func() {
		q.holding = q.gate.held.Add(1) <= int64(q.gate.cfg.MaxHeld)
		if !q.holding {
			q.gate.held.Add(-1)
			q.gate.metrics.overflow.Inc()
			return
		}
		q.gate.metrics.held.Inc()
	})
	return q.holding
}

// close gives the place back.
func (q *inquiry) close() {
	q.once.Do(func() {})
	if q.holding {
		q.gate.held.Add(-1)
		q.gate.metrics.held.Dec()
	}
}

// spend counts manifests against the limit of one request; those counted
// before are free.
func (q *inquiry) spend(ds []pratique.Descriptor) bool {
	q.ledger.mu.Lock()
	defer q.ledger.mu.Unlock()
	for _, d := range ds {
		if _, ok := q.ledger.seen[d.Digest]; ok {
			continue
		}
		if len(q.ledger.seen) >= q.gate.cfg.MaxChildren {
			return false
		}
		if q.ledger.seen == nil {
			q.ledger.seen = make(map[digest.Digest]struct{}, len(ds))
		}
		q.ledger.seen[d.Digest] = struct{}{}
	}
	return true
}

// Manifest serves a manifest that may be had now. What is refused and what is
// undecided are *Errors that say so.
func (g *Gate) Manifest(ctx context.Context, r Request) (Manifest, error) {
	arrived := time.Now()
	if err := g.admit(); err != nil {
		return Manifest{}, err
	}
	m, err := g.next.Manifest(ctx, r)
	if err != nil {
		return Manifest{}, g.failed(unfit(err))
	}
	if r.Ref.Digest != "" && !named(r.Ref.Digest, m) {
		return Manifest{}, fmt.Errorf("asked for %s, got %s", r.Ref.Digest, m.Image.Digest)
	}
	d, err := g.settle(ctx, arrived, r, m.Image)
	if err == nil && g.cfg.Record != nil {
		g.cfg.Record.Record(Asked{Ref: d.Ref, Client: r.Client.Addr, At: g.cfg.Now(), Head: r.Head, Verdict: d.Verdict})
	}
	if err := g.answer(ctx, d, err); err != nil {
		return Manifest{}, err
	}
	m.Verdict = d.Verdict.ID
	m.Warnings = append(m.Warnings, warningTexts(d.Verdict)...)
	return m, nil
}

// settle decides on the manifest that a request led to, by a verdict that still
// stands or by making one, for as long as a request that arrived then is held.
func (g *Gate) settle(ctx context.Context, arrived time.Time, r Request, img pratique.Image) (pratique.Decision, error) {
	ref := r.Ref.At(img.Digest)
	if v, ok := g.memory.recall(ref, img.Digest, r.Client.Addr); ok {
		g.metrics.decided(v.Outcome)
		return pratique.Decision{Ref: ref, Image: img, Verdict: v}, nil
	}
	q := g.inquire(r)
	defer q.close()
	ctx, cancel := context.WithDeadline(ctx, arrived.Add(g.cfg.Hold))
	defer cancel()
	return g.decide(ctx, ref, img, q, 1)
}

// Tags passes through: a list of names is no content.
func (g *Gate) Tags(ctx context.Context, r Request) (TagList, error) { return g.next.Tags(ctx, r) }

// Referrers serves the list of what refers to a manifest that may be had. A
// manifest that does not exist has nothing to hide.
func (g *Gate) Referrers(ctx context.Context, r Request) (Referrers, error) {
	arrived := time.Now()
	if err := g.admit(); err != nil {
		return Referrers{}, err
	}
	subject := r
	subject.Ref.Tag = ""
	m, err := g.next.Manifest(ctx, subject)
	var e *Error
	switch {
	case errors.As(err, &e) && e.Status() == 404:
		return g.next.Referrers(ctx, r)
	case err != nil:
		return Referrers{}, g.failed(unfit(err))
	}
	d, err := g.settle(ctx, arrived, subject, m.Image)
	if err := g.answer(ctx, d, err); err != nil {
		return Referrers{}, err
	}
	return g.next.Referrers(ctx, r)
}

// Check decides like Manifest, for a person: every wanted child of an index is
// decided, refusal is no error, and the wait is the caller's. An error wraps
// pratique.ErrPending when the wait ends without a verdict; the scan goes on,
// and the Decision says of what. Other errors are *Error or internal.
func (g *Gate) Check(ctx context.Context, ref pratique.Ref, client netip.Addr, wait time.Duration) (pratique.Decision, error) {
	return g.check(ctx, ref, client, wait, nil)
}

func (g *Gate) check(ctx context.Context, ref pratique.Ref, client netip.Addr, wait time.Duration, x *explanations) (pratique.Decision, error) {
	if g.cfg.Upstreams != nil {
		var err error
		if ref, err = g.cfg.Upstreams.Ref(ref); err != nil {
			return pratique.Decision{}, err
		}
	}
	r := Request{Ref: ref, N: -1, Client: Client{Addr: client}}
	if r.Ref.Digest != "" {
		r.Ref.Tag = ""
	}
	q := g.inquire(r)
	defer q.close()
	q.all, q.whole, q.wait, q.explained = true, true, wait > 0, x
	hctx, cancel := ctx, context.CancelFunc(func() {})
	if wait > 0 {
		hctx, cancel = context.WithTimeout(ctx, wait)
	}
	defer cancel()
	m, err := g.next.Manifest(ctx, r)
	if err != nil {
		return pratique.Decision{Ref: ref}, g.failed(err)
	}
	d, err := g.decide(hctx, r.Ref.At(m.Image.Digest), m.Image, q, 1)
	if err == nil && !serves(d.Verdict) {
		d.Advice = g.advise(ctx, d)
	}
	return d, g.failed(err)
}

// answer turns a decision into nil or the error that the client gets. ctx is
// the request's own, without the hold's deadline.
func (g *Gate) answer(ctx context.Context, d pratique.Decision, err error) error {
	var e *Error
	switch err = g.failed(err); {
	case err == nil && serves(d.Verdict):
		return nil
	case err == nil:
		d.Advice = g.advise(ctx, d)
		return refused(d, g.cfg.Help)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, store.ErrUnreachable) && errors.As(err, &e):
		return e
	case errors.Is(err, pratique.ErrPending):
		return undecided(d, g.cfg.RetryAfter, err)
	case errors.As(err, &e) && e.Status() == 404:
		// A part is missing, the manifest asked for is not: a 404 would be false
		// and send clients elsewhere.
		return &Error{
			Code: CodeTooManyRequests, HTTPStatus: 502, RetryAfter: g.cfg.RetryAfter, Bare: true, Err: err,
			Message: "no verdict can be had on " + clean(d.Ref.String(), 400) + ": a part of it is missing at the upstream: " + clean(e.Message, 200),
		}
	case errors.As(err, &e):
		return e
	}
	return &Error{
		Code:       codeInternal,
		HTTPStatus: 503,
		Message:    "no verdict can be had on " + clean(d.Ref.String(), 400) + " just now, and nothing is served without one; the log of Pratique tells more",
		RetryAfter: g.cfg.RetryAfter,
		Bare:       true,
		Err:        err,
	}
}

// named reports whether want is the digest of the manifest, under which it is
// known here or by another algorithm.
func named(want digest.Digest, m Manifest) bool {
	if want == m.Image.Digest {
		return true
	}
	a := want.Algorithm()
	return a != m.Image.Digest.Algorithm() && a.Available() && len(m.Raw) > 0 && a.FromBytes(m.Raw) == want
}

// serves reports whether a verdict lets content through; any outcome but the
// two that do denies.
func serves(v pratique.Verdict) bool {
	return v.Outcome == pratique.OutcomeAllow || v.Outcome == pratique.OutcomeWarn
}

// unfit marks the error of content that exists and cannot be accepted
// (schema 1, nonsense): that is a refusal, and no reason to look elsewhere.
func unfit(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Code == CodeManifestInvalid {
		marked := *e
		marked.Bare = true
		return &marked
	}
	return err
}

// refusing is a Registry that serves nothing.
type refusing struct{}

var errNotGated = &Error{Code: CodeDenied, Message: "this is not served"}

func (refusing) Manifest(context.Context, Request) (Manifest, error) {
	return Manifest{}, errNotGated
}
func (refusing) Blob(context.Context, Request) (Blob, error)    { return Blob{}, errNotGated }
func (refusing) Tags(context.Context, Request) (TagList, error) { return TagList{}, errNotGated }
func (refusing) Referrers(context.Context, Request) (Referrers, error) {
	return Referrers{}, errNotGated
}
