package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/evidence"
	"pratique/evidence/exception"
	"pratique/evidence/exploit"
	"pratique/evidence/lineage"
	"pratique/evidence/trust"
	"pratique/evidence/vex"
	"pratique/internal/config"
	"pratique/internal/rungroup"
	"pratique/policy"
	"pratique/proxy"
	"pratique/store"
)

// facts are the sources of what decisions read besides reports. Who is trusted
// and what vendors say is replaced when the configuration is read again.
type facts struct {
	*evidence.Evidence
	exceptions *exception.Exceptions
	trust      *attestors
	lineage    *lineage.Lineage
	parts      []rungroup.Part
}

// newFacts makes the sources; l decides whether a newer version may be had.
func newFacts(ctx context.Context, cfg config.Config, state state, l *live, fetch http.RoundTripper) (*facts, error) {
	log, metrics := l.log, l.metrics
	registry, newer := reader{l.cache}, l.newerVersions()
	f := &facts{
		exceptions: exception.New(state, exception.Config{
			Files: cfg.Exceptions.Files, MaxDuration: cfg.Exceptions.MaxDuration, Log: log, Metrics: metrics,
		}),
		lineage: lineage.New(registry, state, lineage.Config{
			Compliant: newer.compliant, Request: newer.request, Upstreams: l.upstreamOf, Tags: l.tags, Log: log, Metrics: metrics,
		}),
		trust: &attestors{registry: registry, store: state, log: log, metrics: metrics, swapped: make(chan struct{}, 1)},
	}
	if err := f.exceptions.Reload(ctx); err != nil {
		return nil, err
	}
	next, err := f.prepare(cfg)
	if err != nil {
		return nil, err
	}
	lists := exploit.New(exploit.Config{
		Dir: filepath.Join(cfg.DataDir, "exploits"), KEV: cfg.Exploits.KEV, EPSS: cfg.Exploits.EPSS, Refresh: cfg.Exploits.Refresh,
		Transport: fetch, Log: log, Metrics: metrics,
	})
	f.Evidence = evidence.New(evidence.Config{
		Lineages: f.lineage, Attestors: f.trust, Exceptions: f.exceptions, Exploits: lists, History: state, Welcome: welcome(cfg),
	})
	f.use(next)
	f.parts = []rungroup.Part{
		{Name: "exploits", Run: untilStopped(lists.Run)},
		{Name: "lineage", Run: untilStopped(f.lineage.Run)},
		{Name: "trust", Run: untilStopped(f.trust.Run)},
	}
	return f, nil
}

// welcome are facts that can help an image though no rule reads them.
func welcome(cfg config.Config) policy.Needs {
	if len(cfg.VEX.SignedBy) > 0 {
		return policy.NeedAttestations
	}
	return 0
}

// prepared is what a configuration says of facts, made before anything changes.
type prepared struct {
	statements *policy.Statements
	trust      *trust.Trust
}

// prepare reads what the configuration names, and checks the files of exceptions.
func (f *facts) prepare(cfg config.Config) (prepared, error) {
	statements, err := vex.Load(cfg.VEX.Files)
	if err != nil {
		return prepared{}, err
	}
	// Without the limit, which is for new ones: one that stands outlives a lower one.
	if err := exception.Check(cfg.Exceptions.Files, 0, time.Now()); err != nil {
		return prepared{}, err
	}
	t, err := f.trust.prepare(cfg)
	if err != nil {
		return prepared{}, err
	}
	return prepared{statements: policy.NewStatements(statements), trust: t}, nil
}

// checkFacts reads the files that the configuration names besides its policies,
// as a server that starts with it would.
func checkFacts(cfg config.Config) error {
	if err := exception.Check(cfg.Exceptions.Files, cfg.Exceptions.MaxDuration, time.Now()); err != nil {
		return err
	}
	if _, err := vex.Load(cfg.VEX.Files); err != nil {
		return err
	}
	_, err := new(attestors).prepare(cfg)
	return err
}

// use has the gate read what was prepared.
func (f *facts) use(p prepared) {
	f.UseStatements(p.statements)
	f.trust.use(p.trust)
}

// attestors are the identities trusted now. It implements evidence.Attestors and
// outlives every trust.Trust.
type attestors struct {
	registry evidence.Registry
	store    state
	log      *slog.Logger
	metrics  prometheus.Registerer

	current atomic.Pointer[trusted]
	swapped chan struct{} // holds a word when current is another one
}

// trusted are the identities of one configuration; their stamps begin beyond all
// that their predecessors can reach.
type trusted struct {
	trust *trust.Trust
	base  uint64
}

func (t *trusted) stamp() uint64 { return t.base + t.trust.Stamp() }

// stampsApart is more than one trust.Trust moves its stamp while it is replaced.
const stampsApart = 1 << 32

// prepare reads keys and certificates.
func (a *attestors) prepare(cfg config.Config) (*trust.Trust, error) {
	ids := make(map[string]trust.Identity, len(cfg.Trust.Identities))
	var errs []error
	read := func(of, path string) []byte {
		if path == "" {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", of, err))
		}
		return data
	}
	for name, id := range cfg.Trust.Identities {
		of := "trust.identities." + name
		out := trust.Identity{
			Key:      read(of, id.Key),
			Sigstore: trust.Sigstore{Issuer: id.Sigstore.Issuer, Subject: id.Sigstore.Subject},
			Notation: trust.Notation{Subjects: id.Notation.Subjects},
		}
		for _, path := range id.Notation.CA {
			out.Notation.CA = append(out.Notation.CA, read(of, path))
		}
		for _, path := range id.Notation.TSA {
			out.Notation.TSA = append(out.Notation.TSA, read(of, path))
		}
		ids[name] = out
	}
	root := read("trust.trustedRoot", cfg.Trust.TrustedRoot)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return trust.New(a.registry, a.store, trust.Config{
		Identities: ids, TrustedRoot: root, SignedBy: cfg.VEX.SignedBy, ParseVEX: vex.ParseOpenVEX, Parents: a.store,
		Recheck: cfg.Trust.Recheck, Log: a.log, Metrics: a.metrics,
	})
}

// use trusts t from now on.
func (a *attestors) use(t *trust.Trust) {
	next := &trusted{trust: t}
	old := a.current.Load()
	if old != nil {
		next.base = old.stamp() + stampsApart
	}
	a.current.Store(next)
	if old == nil {
		return // Run begins with it
	}
	select {
	case a.swapped <- struct{}{}:
	default:
	}
}

// Attestations implements evidence.Attestors.
func (a *attestors) Attestations(ctx context.Context, ref pratique.Ref, img pratique.Image, wait bool) (pratique.Attestations, error) {
	return a.current.Load().trust.Attestations(ctx, ref, img, wait)
}

// Stamp implements evidence.Stamped.
func (a *attestors) Stamp() uint64 { return a.current.Load().stamp() }

// Run rechecks in the background what the identities trusted now have found.
func (a *attestors) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		one, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- a.current.Load().trust.Run(one) }()
		var err error
		select {
		case <-a.swapped:
			cancel()
			err = <-done
		case err = <-done:
		}
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return ctx.Err()
}

// tags are those that rules in force name in full.
func (l *live) tags() []string { return l.current.Load().tags }

// newHistory writes down who pulled what.
func newHistory(cfg config.Config, state state, log *slog.Logger, metrics prometheus.Registerer) *proxy.History {
	var reach store.Reach
	if cfg.State.Redis.URL != "" {
		reach = state
	}
	return proxy.NewHistory(state, proxy.HistoryConfig{Retention: cfg.History.Retention, Reach: reach, Log: log, Metrics: metrics})
}
