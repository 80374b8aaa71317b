package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/internal/config"
	"pratique/internal/rungroup"
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
up to registry.drain (30s); a second signal ends it at once. SIGHUP reads the
configuration and the policies again; what cannot be applied while it runs, and
what is wrong with them, is in the log.

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
				load := func() (config.Config, error) { return config.Load(*file, c.environ, *sets) }
				hangup := make(chan os.Signal, 1)
				signal.Notify(hangup, syscall.SIGHUP) // before the first read: what changes after it is read again
				defer signal.Stop(hangup)
				cfg, err := load()
				if err != nil {
					return err
				}
				level := new(slog.LevelVar)
				setLevel(level, cfg.Log)
				log, flush := newLog(everything(cfg.Log), c.err)
				defer flush()
				log = slog.New(leveled{log.Handler(), level})
				slog.SetDefault(slog.New(match.Quiet(log.Handler()))) // libraries know no other
				return serve(ctx, cfg, process{log: log, level: level, metrics: newMetrics(), load: load, hangup: hangup})
			}
		},
	}
}

// process is what all parts share.
type process struct {
	log     *slog.Logger
	level   *slog.LevelVar
	metrics *prometheus.Registry
	load    func() (config.Config, error) // reads the configuration again
	hangup  <-chan os.Signal              // asks for it
}

// serve runs the product until ctx ends. Each part is made from those above it,
// runs beside them, and is stopped before them: first the listeners, which let
// running requests finish, then what works in the background, the state last.
func serve(ctx context.Context, cfg config.Config, p process) error {
	parts := &rungroup.Group{Log: p.log}
	if err := assemble(ctx, cfg, p, parts); err != nil {
		return errors.Join(err, parts.Close(context.WithoutCancel(ctx)))
	}
	return parts.Run(ctx)
}

// assemble is the whole of Pratique on one screen.
func assemble(ctx context.Context, cfg config.Config, p process, parts *rungroup.Group) error {
	log, metrics := p.log, p.metrics
	policies, err := cfg.LoadPolicies()
	if err != nil {
		return err
	}
	upstreams, err := newUpstreams(cfg, nil, metrics)
	if err != nil {
		return err
	}
	fetch := new(fetcher)
	fetch.use(upstreams)
	drain := &budget{limit: cfg.Registry.Drain}

	// What is kept: bytes, and everything else.
	blobs, err := store.OpenBlobs(ctx, blobsConfig(cfg, log, metrics))
	if err != nil {
		return err
	}
	parts.Add(closing("blobs", blobs.Close))
	state, others, err := openState(ctx, cfg, blobs, log, metrics)
	if err != nil {
		return err
	}
	parts.Add(closing("state", state.Close))
	once := duties{leases: state, log: log}
	if others.mend != nil {
		parts.Add(once.part(others.mending(log)))
	}
	orphans := store.NewOrphans(blobs, state, store.OrphansConfig{Log: log, Metrics: metrics})
	parts.Add(once.part(rungroup.Part{Name: "orphans", Run: orphans.Run}))
	eviction, evict, err := newEviction(cfg, blobs, state, log, metrics)
	if err != nil {
		return err
	}
	parts.Add(once.part(evict))

	// Pull through and keep.
	catalog := proxy.RememberCatalog(state, state)
	cache := proxy.NewCache(upstreams.byKey(), blobs, catalog, proxy.RememberTags(state, state), cacheConfig(cfg, eviction, state, log, metrics))
	parts.Add(drain.transfers(cache.Close))

	// Analyse, match, and look again when the database moves.
	matcher := match.New(match.Config{Log: log, Metrics: metrics})
	parts.Add(closing("matcher", matcher.Close))
	analyzers := newAnalyzers(cfg, log, metrics)
	newJava := make(chan struct{}, 1)
	jars := javaConfig(cfg, fetch, log, metrics, func(prev, next pratique.Engine) { //nolint:contextcheck // a pool outlives what made it; its start has a bound of its own
		analyzers.javaChanged(prev, next)
		signalTo(newJava)
	})
	if cfg.State.Redis.URL != "" {
		jars = sharing(jars, javaKind, state, blobs, others.replica)
	}
	java := database.NewJava(jars)
	if err := analyzers.start(ctx, java); err != nil {
		return err
	}
	parts.Add(closing("workers", analyzers.Close))
	reports := &reported{peers: others}
	// Three layers of an image at a time: then the first is analysed while the next
	// arrive. All at once share the line and end together, and most of the analysis
	// comes after that (docs/benchmarks.md).
	scan := scanner.New(cache, analyzers, matcher, state, scanner.Config{Parallel: 3, OnChanged: reports.moved(state, log), Log: log, Metrics: metrics})
	reports.Scanner = scan
	scans := scheduler.New(state, reports, state, schedulerConfig(cfg, analyzers.Key, log, metrics))
	var rescans *scheduler.Rescanner
	vulnerabilities := databaseConfig(cfg, fetch, log, metrics, func(_, _ pratique.Engine) { rescans.DatabaseChanged(ctx) })
	if cfg.State.Redis.URL != "" {
		vulnerabilities = sharing(vulnerabilities, store.VulnerabilityDatabase, state, blobs, others.replica)
	}
	db := database.New(vulnerabilities, matcher)
	rescans = newRescanner(scan, state, db, reports, log, metrics)
	// Before the rescanner's first look: a process that died between an adoption and
	// the end of its rescan left what has to be matched. Why it fails is in the log.
	_ = db.Open(ctx)
	again := reanalysis{scans: scans, rescans: rescans, state: state, blobs: blobs, key: analyzers.Key, java: newJava, log: log}
	served := &databaseAPI{Database: db, cfg: cfg.Database}
	if cfg.Database.Serve {
		served.served = database.NewArtifact(db)
		parts.Add(rungroup.Part{Name: "database copy", Run: untilStopped(served.served.Run)})
	}
	parts.Add(
		rungroup.Part{Name: "java database", Run: untilStopped(java.Run)},
		rungroup.Part{Name: "database", Run: untilStopped(db.Run)},
		rungroup.Part{Name: "scheduler", Run: scans.Run},
		once.part(rungroup.Part{Name: "reanalysis", Run: untilStopped(again.run)}),
	)
	parts.Add(once.databases(db, java, rescans.Run)...)

	// Decide, and answer; anew when the configuration is read again.
	history := newHistory(cfg, state, log, metrics)
	front := &live{behind: behind{cache: cache, scans: scans, catalog: catalog, stamps: state, record: history, own: served.ownRepositories(), log: log, metrics: metrics}}
	if cfg.State.Redis.URL != "" {
		front.reach = state
	}
	if front.facts, err = newFacts(ctx, cfg, state, front, fetch); err != nil {
		return err
	}
	parts.Add(rungroup.Part{Name: "history", Run: untilStopped(history.Run)})
	parts.Add(front.facts.parts...)
	parts.Add(others.follow(scans, front.facts.exceptions, reports, log))
	front.put(cfg, policies, upstreams)
	if front.reach != nil {
		parts.Add(rungroup.Part{Name: "renewal", Run: untilStopped(front.renewing)})
	}
	events, err := newEvents(cfg, state, front, matcher, reports, log, metrics)
	if err != nil {
		return err
	}
	parts.Add(once.group("events", events.parts...))
	hooks, err := newHooks(ctx, cfg, state, cache, front, log, metrics)
	if err != nil {
		return err
	}
	parts.Add(hooks.parts...)
	if hooks.queue != nil {
		parts.Add(once.part(*hooks.queue))
	}
	timed, part, err := newSchedules(ctx, cfg, state, cache, front, eviction.Evict, rescans.FullPass, log, metrics)
	if err != nil {
		return err
	}
	parts.Add(once.part(part))
	queue := jobs{queue: state, wake: func() { scans.Wake(); timed.Wake() }}
	reload := newReloader(p, front, fetch)
	reload.schedules = timed
	parts.Add(
		rungroup.Part{Name: "reload", Run: func(ctx context.Context) error { return reload.run(ctx, p.hangup) }},
		rungroup.Part{Name: "watch", Run: reload.watch},
	)
	admin, err := listen(ctx, "admin", cfg.Admin.Listen, config.TLS{}, web.New(web.Config{
		Gate: front, Catalog: state, Database: served, Reloader: reload, Upstreams: front,
		Verdicts: state, Exceptions: front.facts.exceptions, Events: events, Cache: eviction, Hooks: hooks.admin,
		Jobs: queue, Schedules: timed,
		Simulator: &simulator{live: front, pulls: state, content: state},
		Probes:    append(probes(ctx, state, cfg.State.Failure == config.FailureServeLast, analyzers, matcher, reload), queue.probe()), Metrics: metrics, //nolint:contextcheck // a note is made without a request, in a time of its own
		Hosts: adminHosts(cfg.Admin), Spool: cfg.TempDir(), Log: log,
	}), log)
	if err != nil {
		return err
	}
	parts.Add(admin)
	registry, err := drain.drained(ctx, "registry", cfg.Registry.Listen, cfg.Registry.TLS, front.handler(), log)
	if err != nil {
		return err
	}
	parts.Add(registry)
	return nil
}
