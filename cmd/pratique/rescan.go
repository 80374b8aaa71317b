package main

import (
	"context"
	"log/slog"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/scanner"
	"pratique/scanner/database"
	"pratique/scheduler"
)

// differ is scheduler.Differ over the databases that are kept.
type differ struct{ kept *database.Database }

// Diff implements scheduler.Differ.
func (d differ) Diff(ctx context.Context, from, to digest.Digest) (scheduler.Delta, error) {
	diff, err := d.kept.Diff(ctx, from, to)
	return scheduler.Delta{All: diff.All, Keys: diff.Keys, Vulnerabilities: diff.Vulnerabilities}, err
}

// newRescanner keeps reports current with the database in use, and tells of the
// images whose facts moved.
func newRescanner(scan *scanner.Scanner, state state, db *database.Database, reports *reported, log *slog.Logger, metrics prometheus.Registerer) *scheduler.Rescanner {
	return scheduler.NewRescanner(scan, state, differ{db}, scheduler.RescanConfig{
		Changed: reports.changed, Done: reports.rescanned,
		Images: state.ReportedImages, Rematch: reports.Rematch,
		Log: log, Metrics: metrics,
	})
}

// moved tells of images that hold components of which a scan under a new database
// said something else, before the rescan came to them.
func (r *reported) moved(state state, log *slog.Logger) func(context.Context, []pratique.ComponentID) {
	return func(ctx context.Context, components []pratique.ComponentID) {
		ctx = context.WithoutCancel(ctx)
		images, err := state.ImagesWith(ctx, components)
		if err != nil {
			log.ErrorContext(ctx, "images of components that changed cannot be told of until their next look", "components", len(components), "error", err)
			return
		}
		r.changed(ctx, images)
	}
}
