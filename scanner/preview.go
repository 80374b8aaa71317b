package scanner

import (
	"slices"
	"time"

	"pratique"
	"pratique/store"
)

// Preview is the report that would stand if the image's components had been matched
// as found says, by engine, at the time now: what Rematch makes, and stores nothing.
// A report without components (failed, unsupported) stays as it is. A component that
// found lacks is an error, never one without vulnerabilities.
//
// Findings that the report has go on where they were; others begin now, even those
// that an earlier report had.
func Preview(standing pratique.Report, occurrences []pratique.Occurrence, components map[pratique.ComponentID]pratique.Component,
	found map[pratique.ComponentID][]pratique.Vulnerability, engine pratique.Engine, now time.Time) (pratique.Report, error) {
	if standing.State != pratique.StateScanned && standing.State != pratique.StateIncomplete {
		return standing, nil
	}
	next := standing
	var err error
	if next.Findings, err = store.Join(components, occurrences, found); err != nil {
		return pratique.Report{}, err
	}
	for i := range standing.Findings {
		if f := &standing.Findings[i]; f.Kind != pratique.KindVulnerability {
			next.Findings = append(next.Findings, *f)
		}
	}
	slices.SortStableFunc(next.Findings, worseFirst)
	engine.Analyzer = standing.Engine.Analyzer
	next.Engine, next.ScannedAt = engine, now
	next.Findings, _ = store.Carry(standing, nil, next)
	return next, nil
}
