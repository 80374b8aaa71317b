package scanner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// maxSwaps is how many swaps of the database under one report are borne before
// it is an error.
const maxSwaps = 5

// match makes and stores the report of an image whose content was read. The store
// joins the vulnerabilities of its components to it.
func (s *Scanner) match(ctx context.Context, img pratique.Image, key string, inv pratique.Inventory, claims pratique.ConfigFacts) (pratique.Report, error) {
	components, occurrences := inv.Components()
	if err := s.state.PutImage(ctx, img.Digest, components, occurrences); err != nil {
		return pratique.Report{}, err
	}
	byID := make(map[pratique.ComponentID]pratique.Component, len(components))
	for _, c := range components {
		byID[c.ID()] = c
	}
	engine, err := s.vulnerabilities(ctx, byID)
	if err != nil {
		return pratique.Report{}, err
	}
	engine.Analyzer = key
	findings := append(contentFindings(inv), s.licenseFindings(inv)...)
	slices.SortStableFunc(findings, worseFirst)
	eol, ends := s.matcher.EOL(ctx, inv.OS)
	return s.put(ctx, pratique.Report{
		Image: img.Digest, State: inv.State(), OS: inv.OS, EOL: eol, EOLAt: ends, Config: claims,
		Findings: findings, Problems: inv.Problems, Engine: engine,
		ScannedAt: s.cfg.Now().UTC(), FirstSeen: img.FirstSeen,
	})
}

func worseFirst(a, b pratique.Finding) int { return store.WorseFirst(&a, &b) }

// Rematch makes sure that the standing report of an image is current with the
// database in use now, and returns what stands then. No content is read: components
// and occurrences are those of the last scan. A report without them (failed,
// unsupported) stands as it is. Where everything is current already (store.Fleet),
// and a new version of the matcher knows no other end of support, it only reads.
func (s *Scanner) Rematch(ctx context.Context, image digest.Digest) (pratique.Report, error) {
	r, err := s.rematch(ctx, image)
	if err != nil {
		return pratique.Report{}, fmt.Errorf("rematch of %s: %w", image, err)
	}
	return r, nil
}

func (s *Scanner) rematch(ctx context.Context, image digest.Digest) (pratique.Report, error) {
	unlock, err := s.images.lock(ctx, image) // a scan must not be overwritten with what stood before it
	if err != nil {
		return pratique.Report{}, err
	}
	defer unlock()
	engine, err := s.engine(ctx) // before a report is read: without a database, a fleet is asked for nothing
	if err != nil {
		return pratique.Report{}, err
	}
	r, err := s.state.Report(ctx, image)
	if err != nil {
		return pratique.Report{}, err
	}
	if r.State != pratique.StateScanned && r.State != pratique.StateIncomplete {
		return r, nil
	}
	eol, ends := s.matcher.EOL(ctx, r.OS)
	if sameEngine(engine, r.Engine) && eol == r.EOL && ends.Equal(r.EOLAt) {
		return r, nil
	}
	if !sameEngine(engine, r.Engine) {
		_, byID, err := s.state.Occurrences(ctx, image)
		if err != nil {
			return pratique.Report{}, err
		}
		if engine, err = s.vulnerabilities(ctx, byID); err != nil {
			return pratique.Report{}, err
		}
	}
	engine.Analyzer = r.Engine.Analyzer
	r.Findings = slices.DeleteFunc(r.Findings, func(f pratique.Finding) bool { return f.Kind == pratique.KindVulnerability })
	r.EOL, r.EOLAt, r.Engine, r.ScannedAt = eol, ends, engine, s.cfg.Now().UTC()
	s.metrics.rematches.Inc()
	return s.put(ctx, r)
}

// vulnerabilities makes sure that what one engine says on each component is stored,
// and returns that engine. Components that were matched with it before, and those
// that are current with it, are not matched again.
func (s *Scanner) vulnerabilities(ctx context.Context, byID map[pratique.ComponentID]pratique.Component) (pratique.Engine, error) {
	ids := make([]pratique.ComponentID, 0, len(byID))
	for id := range byID {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for range maxSwaps {
		engine, err := s.engine(ctx)
		if err != nil {
			return pratique.Engine{}, err
		}
		found, err := s.state.Matches(ctx, engine, ids)
		if err != nil {
			return pratique.Engine{}, err
		}
		var missing []pratique.Component
		for _, id := range ids {
			if _, ok := found[id]; !ok {
				missing = append(missing, byID[id])
			}
		}
		s.metrics.matchesReused.Add(float64(len(found)))
		if len(missing) == 0 {
			return engine, nil
		}
		changed, by, err := s.matchNow(ctx, missing)
		if len(changed) > 0 { // also when an error came after
			s.cfg.OnChanged(ctx, changed)
		}
		switch {
		case errors.Is(err, store.ErrSuperseded):
		case err != nil:
			return pratique.Engine{}, err
		case sameEngine(by, engine):
			return engine, nil
		}
		// The database was swapped in between. A report is never made of two.
	}
	return pratique.Engine{}, errors.New("the vulnerability database is swapped faster than it answers")
}

// Match implements scheduler.Matching.
func (s *Scanner) Match(ctx context.Context, cs []pratique.Component) (changed []pratique.ComponentID, e pratique.Engine, err error) {
	if changed, e, err = s.matchNow(ctx, cs); err != nil {
		return changed, e, fmt.Errorf("match of %d components: %w", len(cs), err)
	}
	return changed, e, nil
}

// matchNow asks the database in use about components and keeps what it says.
func (s *Scanner) matchNow(ctx context.Context, cs []pratique.Component) ([]pratique.ComponentID, pratique.Engine, error) {
	start := time.Now()
	results, by, err := s.matcher.Match(ctx, cs)
	if err != nil {
		return nil, pratique.Engine{}, err
	}
	if len(results) != len(cs) {
		return nil, pratique.Engine{}, fmt.Errorf("matcher answered for %d of %d components", len(results), len(cs))
	}
	s.metrics.matchSeconds.Observe(time.Since(start).Seconds())
	if now, err := s.engine(ctx); err != nil {
		return nil, pratique.Engine{}, err
	} else if !sameEngine(now, by) {
		return nil, by, store.ErrSuperseded
	}
	fresh := make(map[pratique.ComponentID][]pratique.Vulnerability, len(cs))
	for i, c := range cs {
		fresh[c.ID()] = results[i]
	}
	changed, err := s.state.PutMatches(ctx, by, s.cfg.Now().UTC(), fresh)
	if errors.Is(err, store.ErrSuperseded) {
		s.begun.Store(nil) // it may be in use again: whoever asks next begins it
	}
	return changed, by, err
}

// Engine implements scheduler.Matching.
func (s *Scanner) Engine() (pratique.Engine, error) {
	e, err := s.matcher.Engine()
	if err == nil && e.Database == "" { // would be mistaken for any other without a name
		err = fmt.Errorf("%w: it has no digest", pratique.ErrNoDatabase)
	}
	return e, err
}

// engine is the one in use, begun in the store. Whoever swaps the database begins the
// next one after the swap; so an engine is begun here only while it is the one in
// use, and when it was swapped meanwhile, the other one is begun after it.
func (s *Scanner) engine(ctx context.Context) (pratique.Engine, error) {
	for range maxSwaps {
		e, err := s.Engine()
		if err != nil {
			return pratique.Engine{}, err
		}
		if b := s.begun.Load(); b != nil && sameEngine(*b, e) {
			return e, nil
		}
		if err := s.state.Begin(ctx, e); err != nil {
			return pratique.Engine{}, err
		}
		if now, err := s.Engine(); err == nil && sameEngine(now, e) {
			s.begun.Store(&e)
			return e, nil
		}
	}
	return pratique.Engine{}, errors.New("the vulnerability database is swapped faster than it is begun")
}

// sameEngine reports whether two engines say the same: the database decides, and the
// version of the matcher, whose version comparers and aliases are compiled in.
func sameEngine(a, b pratique.Engine) bool {
	return a.Version == b.Version && a.Database == b.Database && a.DatabaseAt.Equal(b.DatabaseAt)
}

// clock is what a Matcher may have besides: see scheduler.Matching.Clock.
type clock interface {
	Clock(since, now time.Time) []string
}

// Clock implements scheduler.Matching. A matcher that does not know tells of nothing.
func (s *Scanner) Clock(since, now time.Time) []string {
	if c, ok := s.matcher.(clock); ok {
		return c.Clock(since, now)
	}
	return nil
}

// contentFindings are those that analysis alone makes, but for licenses.
func contentFindings(inv pratique.Inventory) []pratique.Finding {
	var out []pratique.Finding
	for _, x := range inv.Secrets {
		out = append(out, pratique.Finding{ID: x.RuleID, Kind: pratique.KindSecret, Severity: x.Severity, Path: x.Path, Layer: x.Layer, Title: x.Title, Source: x.Category})
	}
	for _, x := range inv.Misconfigurations {
		if x.ID == "" { // a file that was checked, and nothing failed
			continue
		}
		out = append(out, pratique.Finding{ID: x.ID, Kind: pratique.KindMisconfiguration, Ecosystem: x.Type, Severity: x.Severity, Path: x.Path, Layer: x.Layer, Title: cmp.Or(x.Title, x.Message), URL: x.URL})
	}
	return out
}
