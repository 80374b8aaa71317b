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
)

// maxSwaps is how many swaps of the database under one report are borne before
// it is an error.
const maxSwaps = 5

// match makes and stores the report of an image whose content was read.
func (s *Scanner) match(ctx context.Context, img pratique.Image, key string, inv pratique.Inventory, claims pratique.ConfigFacts) (pratique.Report, error) {
	components, occurrences := inv.Components()
	if err := s.state.PutImage(ctx, img.Digest, components, occurrences); err != nil {
		return pratique.Report{}, err
	}
	byID := make(map[pratique.ComponentID]pratique.Component, len(components))
	for _, c := range components {
		byID[c.ID()] = c
	}
	found, engine, err := s.vulnerabilities(ctx, byID)
	if err != nil {
		return pratique.Report{}, err
	}
	findings, err := join(byID, occurrences, found)
	if err != nil {
		return pratique.Report{}, err
	}
	engine.Analyzer = key
	findings = append(findings, contentFindings(inv)...)
	findings = append(findings, s.licenseFindings(inv)...)
	slices.SortStableFunc(findings, worseFirst)
	eol, ends := s.matcher.EOL(ctx, inv.OS)
	return s.put(ctx, pratique.Report{
		Image: img.Digest, State: inv.State(), OS: inv.OS, EOL: eol, EOLAt: ends, Config: claims,
		Findings: findings, Problems: inv.Problems, Engine: engine,
		ScannedAt: s.cfg.Now().UTC(), FirstSeen: img.FirstSeen,
	})
}

// Rematch renews the standing report of an image with the database in use now
// and returns what stands then. No content is read: components and occurrences
// are those of the last scan. A report without them (failed, unsupported), and
// one made with this database already, stands as it is.
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
	engine, err := s.matcher.Engine() // before a report is read: without a database, a fleet is asked for nothing
	if err != nil {
		return pratique.Report{}, err
	}
	r, err := s.state.Report(ctx, image)
	if err != nil {
		return pratique.Report{}, err
	}
	if r.State != pratique.StateScanned && r.State != pratique.StateIncomplete || matchKey(engine) == matchKey(r.Engine) {
		return r, nil
	}
	occurrences, byID, err := s.state.Occurrences(ctx, image)
	if err != nil {
		return pratique.Report{}, err
	}
	found, engine, err := s.vulnerabilities(ctx, byID)
	if err != nil {
		return pratique.Report{}, err
	}
	findings, err := join(byID, occurrences, found)
	if err != nil {
		return pratique.Report{}, err
	}
	for _, f := range r.Findings {
		if f.Kind != pratique.KindVulnerability {
			findings = append(findings, f)
		}
	}
	slices.SortStableFunc(findings, worseFirst)
	engine.Analyzer = r.Engine.Analyzer
	r.EOL, r.EOLAt = s.matcher.EOL(ctx, r.OS)
	r.Findings, r.Engine, r.ScannedAt = findings, engine, s.cfg.Now().UTC()
	s.metrics.rematches.Inc()
	return s.put(ctx, r)
}

// vulnerabilities says what one database has on each component. Components that
// were matched against it before are not matched again.
func (s *Scanner) vulnerabilities(ctx context.Context, byID map[pratique.ComponentID]pratique.Component) (map[pratique.ComponentID][]pratique.Vulnerability, pratique.Engine, error) {
	ids := make([]pratique.ComponentID, 0, len(byID))
	for id := range byID {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for range maxSwaps {
		engine, err := s.matcher.Engine()
		if err != nil {
			return nil, pratique.Engine{}, err
		}
		if engine.Database == "" { // would be mistaken for any other without a name
			return nil, pratique.Engine{}, fmt.Errorf("%w: it has no digest", pratique.ErrNoDatabase)
		}
		found, err := s.state.Matches(ctx, matchKey(engine), ids)
		if err != nil {
			return nil, pratique.Engine{}, err
		}
		same, err := s.matchMissing(ctx, engine, ids, byID, found)
		if err != nil {
			return nil, pratique.Engine{}, err
		}
		if same {
			return found, engine, nil
		}
		// The database was swapped in between. A report is never made of two.
	}
	return nil, pratique.Engine{}, errors.New("the vulnerability database is swapped faster than it answers")
}

// matchMissing matches the components that found lacks, adds and keeps what the
// database says of them, and reports whether engine is what said it.
func (s *Scanner) matchMissing(ctx context.Context, engine pratique.Engine, ids []pratique.ComponentID, byID map[pratique.ComponentID]pratique.Component, found map[pratique.ComponentID][]pratique.Vulnerability) (bool, error) {
	var missing []pratique.ComponentID
	var components []pratique.Component
	for _, id := range ids {
		if _, ok := found[id]; !ok {
			missing = append(missing, id)
			components = append(components, byID[id])
		}
	}
	s.metrics.matchesReused.Add(float64(len(found)))
	if len(missing) == 0 {
		return true, nil
	}
	start := time.Now()
	results, by, err := s.matcher.Match(ctx, components)
	if err != nil {
		return false, err
	}
	if len(results) != len(components) {
		return false, fmt.Errorf("matcher answered for %d of %d components", len(results), len(components))
	}
	s.metrics.matchSeconds.Observe(time.Since(start).Seconds())
	fresh := make(map[pratique.ComponentID][]pratique.Vulnerability, len(missing))
	for i, id := range missing {
		fresh[id] = results[i]
		found[id] = results[i]
	}
	if by.Database == "" {
		return false, fmt.Errorf("%w: it has no digest", pratique.ErrNoDatabase)
	}
	if err := s.state.PutMatches(ctx, matchKey(by), fresh); err != nil {
		return false, err
	}
	return matchKey(by) == matchKey(engine), nil
}

// matchKey names what decides matches: the database, and the version of the
// matcher, whose version comparers and aliases are compiled in.
func matchKey(e pratique.Engine) digest.Digest {
	if e.Database == "" {
		return ""
	}
	return digest.FromString(e.Version + " " + e.Database.String())
}

// join makes the vulnerability findings of an image: what is known of each
// component, at each place where the image has it.
func join(byID map[pratique.ComponentID]pratique.Component, occurrences []pratique.Occurrence, found map[pratique.ComponentID][]pratique.Vulnerability) ([]pratique.Finding, error) {
	// As in trivy's result.Filter, one finding for packages that differ in what
	// a person does not see (architecture).
	type key struct{ target, id, pkg, installed, path string }
	seen := make(map[key]bool)
	var out []pratique.Finding
	for _, o := range occurrences {
		c, known := byID[o.Component]
		vs, matched := found[o.Component]
		if !known || !matched { // never read as "no vulnerabilities"
			return nil, fmt.Errorf("component %s at %q was not matched", o.Component, o.Path)
		}
		for _, v := range vs {
			k := key{o.Target, v.ID, c.Name, o.Installed, o.Path}
			if seen[k] {
				continue
			}
			seen[k] = true
			out = append(out, pratique.Finding{
				ID: v.ID, Kind: pratique.KindVulnerability, Component: o.Component,
				Package: c.Name, Ecosystem: c.Context.Type, Installed: o.Installed,
				Fixed: v.Fixed, Status: v.Status, Severity: v.Severity,
				Path: o.Path, Target: o.Target, Layer: o.Layer, PURL: o.PURL,
				Title: v.Title, URL: v.URL, CVSS: v.CVSS, Source: v.Source, VendorIDs: v.VendorIDs,
			})
		}
	}
	return out, nil
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

// worseFirst orders findings: severity, then id, package and place, so that
// equal facts make equal reports.
func worseFirst(a, b pratique.Finding) int {
	return cmp.Or(
		cmp.Compare(b.Severity.Rank(), a.Severity.Rank()),
		cmp.Compare(a.ID, b.ID),
		cmp.Compare(a.Package, b.Package),
		cmp.Compare(a.Path, b.Path),
		cmp.Compare(a.Target, b.Target),
		cmp.Compare(a.Installed, b.Installed),
		cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(a.Layer, b.Layer),
		cmp.Compare(a.Component, b.Component),
	)
}
