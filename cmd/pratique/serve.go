package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/internal/config"
	"pratique/internal/rungroup"
	"pratique/internal/sqlite"
	"pratique/proxy"
	"pratique/scanner"
	"pratique/scanner/database"
	"pratique/scanner/match"
	"pratique/scheduler"
	"pratique/store"
	"pratique/web"
)

func serveCommand() command {
	return command{
		name:  "serve",
		short: "run the registry",
		long: `
Runs the registry (default :5000) and its admin listener (default
127.0.0.1:5001) until SIGTERM or Ctrl-C, then lets running requests finish for
up to 30 seconds; a second signal ends it at once.

Without --config the built-in configuration applies: Docker Hub, data under
/var/lib/pratique, the default policy. Every key can be set by a PRATIQUE_
variable too; docs/configuration.md is the manual.

Exit code: 0 stopped as asked, 1 could not start or failed.`,
		example: []string{
			"pratique serve",
			"pratique serve --config /etc/pratique/pratique.yaml",
			"pratique serve --set registry.listen=127.0.0.1:8080 --set dataDir=$HOME/.pratique",
		},
		setup: func(fs *flag.FlagSet) func(context.Context, *console, []string) error {
			file := fs.String("config", "", "configuration `file`; without it, the built-in one")
			sets := setFlag(fs)
			return func(ctx context.Context, c *console, args []string) error {
				if err := want("serve", args); err != nil {
					return err
				}
				cfg, err := config.Load(*file, c.environ, *sets)
				if err != nil {
					return err
				}
				log, flush := newLog(cfg.Log, c.err)
				defer flush()
				slog.SetDefault(slog.New(match.Quiet(log.Handler()))) // libraries know no other
				return serve(ctx, cfg, log)
			}
		},
	}
}

// serve runs the product until ctx ends. Each part is made from those above it,
// runs beside them, and is stopped before them: first the listeners, which let
// running requests finish, then what works in the background, the state last.
func serve(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	metrics := newMetrics()
	parts := &rungroup.Group{Log: log}
	if err := assemble(ctx, cfg, log, metrics, parts); err != nil {
		return errors.Join(err, parts.Close(context.WithoutCancel(ctx)))
	}
	return parts.Run(ctx)
}

// assemble is the whole of Pratique on one screen.
func assemble(ctx context.Context, cfg config.Config, log *slog.Logger, metrics *prometheus.Registry, parts *rungroup.Group) error {
	policies, err := cfg.LoadPolicies()
	if err != nil {
		return err
	}
	names, upstreams, fetch, err := newUpstreams(cfg, metrics)
	if err != nil {
		return err
	}

	// What is kept: bytes, and everything else.
	blobs, err := store.OpenBlobs(ctx, blobsConfig(cfg))
	if err != nil {
		return err
	}
	parts.Add(closing("blobs", blobs.Close))
	state, err := sqlite.Open(ctx, cfg.State.SQLite.Path)
	if err != nil {
		return err
	}
	parts.Add(closing("state", state.Close))
	orphans := store.NewOrphans(blobs, state, store.OrphansConfig{Log: log, Metrics: metrics})
	parts.Add(rungroup.Part{Name: "orphans", Run: orphans.Run})

	// Pull through and keep.
	catalog := proxy.RememberCatalog(state, state)
	cache := proxy.NewCache(upstreams, blobs, catalog, state, cacheConfig(cfg, log, metrics))
	parts.Add(rungroup.Part{Name: "transfers", Stop: cache.Close})

	// Analyse, match, and look again when the database moves.
	matcher := match.New(match.Config{Log: log, Metrics: metrics})
	parts.Add(closing("matcher", matcher.Close))
	analyzers := newAnalyzers(cfg, log, metrics)
	java := database.NewJava(javaConfig(cfg, fetch, log, metrics, analyzers.javaChanged))
	if err := analyzers.start(ctx, java); err != nil {
		return err
	}
	parts.Add(closing("workers", analyzers.Close))
	scans := scheduler.New(state,
		scanner.New(cache, analyzers, matcher, state, scanner.Config{Log: log, Metrics: metrics}),
		state, scheduler.Config{Log: log, Metrics: metrics})
	db := database.New(databaseConfig(cfg, fetch, log, metrics, func(_, _ pratique.Engine) { scans.DatabaseChanged(ctx) }), matcher)
	parts.Add(
		rungroup.Part{Name: "java database", Run: untilStopped(java.Run)},
		rungroup.Part{Name: "database", Run: untilStopped(db.Run)},
		rungroup.Part{Name: "scheduler", Run: scans.Run},
	)

	// Decide, and answer.
	gate := proxy.NewGate(cache, scans, catalog, policies, gateConfig(cfg, names, state, metrics))
	admin, err := listen(ctx, "admin", cfg.Admin.Listen, config.TLS{}, web.New(web.Config{
		Gate: gate, Catalog: state, Database: &databaseAPI{db, cfg.Database}, Upstreams: names,
		Probes: probes(ctx, state, analyzers, matcher), Metrics: metrics,
		Hosts: adminHosts(cfg.Admin), Spool: cfg.TempDir(), Log: log,
	}), log)
	if err != nil {
		return err
	}
	parts.Add(admin)
	registry, err := listen(ctx, "registry", cfg.Registry.Listen, cfg.Registry.TLS,
		proxy.NewServer(proxy.NewCanary(gate), proxy.ServerConfig{
			Upstreams: names, BareHead: cfg.Refusal.Head == config.HeadBare, Log: log, Metrics: metrics,
		}), log)
	if err != nil {
		return err
	}
	parts.Add(registry)
	return nil
}
