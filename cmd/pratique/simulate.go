package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/config"
	"pratique/policy"
	"pratique/policy/simulate"
	"pratique/proxy"
	"pratique/scanner"
	"pratique/store"
	"pratique/web"
)

// simulator tries policies on recorded pulls, beside the gate that is in use.
type simulator struct {
	live    *live
	pulls   simulate.Pulls
	content components
	running sync.Mutex
}

var _ web.Simulator = (*simulator)(nil)

// components are what images are made of. Part of store.Components.
type components interface {
	Occurrences(ctx context.Context, image digest.Digest) ([]pratique.Occurrence, map[pratique.ComponentID]pratique.Component, error)
}

// Simulate implements web.Simulator. Both gates are made for it: they share the
// reports that they read, remember no verdict, count nothing and record nobody.
func (s *simulator) Simulate(ctx context.Context, since time.Time, files []policy.File, db *web.SimulatedDatabase) (web.Simulated, error) {
	if !s.running.TryLock() {
		return web.Simulated{}, web.ErrBusy
	}
	defer s.running.Unlock()
	f := s.live.current.Load()
	draft := f.policies
	if len(files) > 0 {
		var err error
		if draft, err = policy.Load(files...); err == nil {
			err = f.cfg.Provides(draft)
		}
		if err != nil {
			return web.Simulated{}, err
		}
	}
	standing := recently(s.live.scans.Report)
	drafted := standing
	if db != nil {
		drafted = recently(s.preview(standing, db))
	}
	out := web.Simulated{Today: f.policies.Version(), Draft: draft.Version()}
	if db != nil {
		out.Database = &db.Engine
	}
	var err error
	out.Result, err = simulate.Run(ctx, s.pulls, s.live.catalog, since, simulate.Config{
		Today: s.gate(f.cfg, f.policies, standing), Draft: s.gate(f.cfg, draft, drafted),
		ByClient: f.policies.ReadsClient() || draft.ReadsClient(), Platforms: f.cfg.WantedPlatforms(),
	})
	return out, err
}

// gate decides by what stands, and on nothing else.
func (s *simulator) gate(cfg config.Config, policies *policy.Set, report reports) *proxy.Gate {
	return proxy.NewGate(proxy.Closed(), standingScans{report}, s.live.catalog, policies, proxy.GateConfig{
		Platforms: cfg.WantedPlatforms(), Evidence: s.live.facts,
	})
}

// preview is what the reports would be with another database.
func (s *simulator) preview(standing reports, db *web.SimulatedDatabase) reports {
	now := time.Now().UTC()
	return func(ctx context.Context, image digest.Digest) (pratique.Report, error) {
		r, err := standing(ctx, image)
		if err != nil || r.State != pratique.StateScanned && r.State != pratique.StateIncomplete {
			return r, err
		}
		occurrences, byID, err := s.content.Occurrences(ctx, image)
		if err != nil {
			return r, err
		}
		return scanner.Preview(r, occurrences, byID, db.Matches, db.Engine, now)
	}
}

// Components implements web.Simulator.
func (s *simulator) Components(ctx context.Context, since time.Time) iter.Seq2[web.SimulatedComponent, error] {
	return func(yield func(web.SimulatedComponent, error) bool) {
		images, err := s.pulled(ctx, since)
		if err != nil {
			yield(web.SimulatedComponent{}, err)
			return
		}
		seen := make(map[pratique.ComponentID]struct{})
		for image := range images {
			_, byID, err := s.content.Occurrences(ctx, image)
			if errors.Is(err, pratique.ErrNotFound) {
				continue // never scanned
			}
			if err != nil {
				yield(web.SimulatedComponent{}, err)
				return
			}
			for id, c := range byID {
				if _, ok := seen[id]; ok {
					continue
				}
				seen[id] = struct{}{}
				if !yield(web.SimulatedComponent{ID: id, Component: &c}, nil) {
					return
				}
			}
		}
	}
}

// pulled are the images that were pulled since, and those of the indexes that were.
func (s *simulator) pulled(ctx context.Context, since time.Time) (map[digest.Digest]struct{}, error) {
	platforms := s.live.current.Load().cfg.WantedPlatforms()
	out := make(map[digest.Digest]struct{})
	looked := make(map[digest.Digest]struct{})
	var add func(d digest.Digest, depth int) error
	add = func(d digest.Digest, depth int) error {
		if _, ok := looked[d]; ok || depth > pratique.MaxIndexDepth {
			return nil
		}
		looked[d] = struct{}{}
		img, err := s.live.catalog.Image(ctx, d)
		switch {
		case errors.Is(err, pratique.ErrNotFound):
			return nil // undecided in the simulation
		case err != nil:
			return err
		case img.Kind != pratique.KindIndex:
			out[d] = struct{}{}
			return nil
		}
		for _, c := range img.Wanted(platforms) {
			if err := add(c.Digest, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	for p, err := range s.pulls.Pulls(ctx, since) {
		if err == nil {
			err = add(p.Ref.Digest, 0)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// reports are those that stand.
type reports func(ctx context.Context, image digest.Digest) (pratique.Report, error)

// standingScans are proxy.Scans that only read.
type standingScans struct{ report reports }

var _ proxy.Scans = standingScans{}

// Report implements proxy.Scans.
func (s standingScans) Report(ctx context.Context, image digest.Digest) (pratique.Report, error) {
	return s.report(ctx, image)
}

// Await waits for nothing: what does not stand is pending.
func (s standingScans) Await(ctx context.Context, ref pratique.Ref) (pratique.Report, error) {
	r, err := s.report(ctx, ref.Digest)
	if errors.Is(err, pratique.ErrNotFound) {
		err = fmt.Errorf("%s: %w", ref, pratique.ErrPending)
	}
	return r, err
}

// Request opens no scan.
func (standingScans) Request(context.Context, pratique.Ref) error { return nil }

// recentReports are kept by recently: a simulation comes to equal images one after
// another, and to the images of an index soon after each other or not at all.
const recentReports = 256

// recently reads each report once for as long as it is among the last ones.
func recently(read reports) reports {
	type entry struct {
		once   sync.Once
		report pratique.Report
		err    error
	}
	var mu sync.Mutex
	known := make(map[digest.Digest]*entry, recentReports)
	var order []digest.Digest
	return func(ctx context.Context, image digest.Digest) (pratique.Report, error) {
		mu.Lock()
		e := known[image]
		if e == nil {
			if len(order) == recentReports {
				delete(known, order[0])
				order = order[1:]
			}
			e = new(entry)
			known[image] = e
			order = append(order, image)
		}
		mu.Unlock()
		e.once.Do(func() { e.report, e.err = read(ctx, image) })
		return e.report, e.err
	}
}

var _ simulate.Pulls = store.PullLog(nil)
