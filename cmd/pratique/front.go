package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/internal/config"
	"pratique/policy"
	"pratique/proxy"
	"pratique/store"
	"pratique/web"
)

// front is what stands between clients and the cache: names, policies, gate and
// answers. It is cheap, and made anew when the configuration is read again; a
// request is answered by the front that it met, under the policies in force when
// its verdict is made.
type front struct {
	cfg       config.Config
	policies  *policy.Set
	tags      []string // that the policies name in full
	upstreams *upstreams
	gate      *proxy.Gate
	open      http.Handler // answers requests
	closed    http.Handler // turns them away while the process stops
}

// behind is what a front is put before; it outlives all of them.
type behind struct {
	cache   *proxy.Cache
	scans   proxy.Scans
	catalog store.Catalog
	stamps  store.Stamper
	reach   store.Reach // nil: the state is this process' own
	facts   *facts
	record  proxy.Recorder
	own     map[string]proxy.Own
	log     *slog.Logger
	metrics prometheus.Registerer
}

// live is the front in use. It implements web.Gate and web.Upstreams.
type live struct {
	behind
	current atomic.Pointer[front]
}

var (
	_ web.Gate      = (*live)(nil)
	_ web.Upstreams = (*live)(nil)
)

// put makes a front and has it meet clients from now on.
func (l *live) put(cfg config.Config, policies *policy.Set, ups *upstreams) {
	f := &front{cfg: cfg, policies: policies, tags: policies.Tags(), upstreams: ups}
	f.gate = proxy.NewGate(l.cache, l.scans, l.catalog, inForce{policies, l}, l.gateConfig(cfg, ups.names))
	server := proxy.ServerConfig{
		Upstreams: ups.names, BareHead: cfg.Refusal.Head == config.HeadBare, Log: l.log, Metrics: l.metrics,
	}
	f.open = proxy.NewServer(proxy.NewCanary(proxy.NewOwn(f.gate, l.own)), server)
	f.closed = proxy.NewServer(proxy.Closed(), server)
	// A name is known no sooner than its upstream, and a front that is still
	// answering refuses what is gone.
	l.cache.Use(ups.byKey())
	l.current.Store(f)
	l.facts.lineage.Reconsider() // other policies may let other versions through
}

// renewEvery is how long a verdict that lost its ground may be missing in an outage.
const renewEvery = time.Second

// renewing keeps what was decided decided, for the time when nothing can be.
func (l *live) renewing(ctx context.Context) error {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			l.current.Load().gate.Renew(ctx)
		}
	}
}

// handler answers by the front in use: open while the process runs, closed
// while it stops.
func (l *live) handler() *proxy.Drain {
	return proxy.NewDrain(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { l.current.Load().open.ServeHTTP(w, r) }),
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { l.current.Load().closed.ServeHTTP(w, r) }))
}

// Check implements web.Gate.
func (l *live) Check(ctx context.Context, ref pratique.Ref, client netip.Addr, wait time.Duration) (pratique.Decision, error) {
	return l.current.Load().gate.Check(ctx, ref, client, wait)
}

// Standing implements web.Gate.
func (l *live) Standing(ctx context.Context, ref pratique.Ref, img pratique.Image) (pratique.Decision, error) {
	return l.current.Load().gate.Standing(ctx, ref, img)
}

// Lookup implements web.Upstreams.
func (l *live) Lookup(name string) (string, bool) {
	return l.current.Load().upstreams.names.Lookup(name)
}

// Keys implements web.Upstreams.
func (l *live) Keys() []string { return l.current.Load().upstreams.names.Keys() }

// inForce are the policies of one front for as long as it is in use, and after
// that those of its successor: who was held while they changed is judged by the
// new ones.
type inForce struct {
	own  *policy.Set
	live *live
}

var _ proxy.Policies = inForce{}

// now are the policies that judge. A front asks before it is in use only for
// its version.
func (p inForce) now() *policy.Set {
	if f := p.live.current.Load(); f != nil {
		return f.policies
	}
	return p.own
}

// Decide implements proxy.Policies.
func (p inForce) Decide(f policy.Facts) pratique.Verdict { return p.now().Decide(f) }

// Version is that of the verdicts that the gate may remember: none, once other
// policies judge, because what this gate took for granted of them (ReadsClient)
// need not be so any more.
func (p inForce) Version() string {
	if p.now() != p.own {
		return ""
	}
	return p.own.Version()
}

// ReadsClient implements what the gate asks once.
func (p inForce) ReadsClient() bool { return p.own.ReadsClient() }

// Needs are those of the policies that judge.
func (p inForce) Needs() policy.Needs { return p.now().Needs() }

// NeedsFor are those for one repository.
func (p inForce) NeedsFor(ref pratique.Ref) policy.Needs { return p.now().NeedsFor(ref) }
