package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/internal/config"
	"pratique/internal/rungroup"
	"pratique/proxy"
	"pratique/scanner/database"
	"pratique/scanner/match"
	"pratique/scheduler"
	"pratique/store"
	"pratique/web"
)

// This file says what each key of the configuration is for the part that obeys
// it. In the configuration 0s means "no time"; in the parts' Config a zero means
// "the default", hence least.

// least is d, or the least positive duration for none.
func least(d time.Duration) time.Duration { return max(d, time.Nanosecond) }

func blobsConfig(cfg config.Config, log *slog.Logger, metrics prometheus.Registerer) store.BlobsConfig {
	return store.BlobsConfig{
		Driver: string(cfg.Storage.Driver), Parameters: cfg.Storage.Parameters, Spool: cfg.Storage.Spool,
		Hot: store.HotConfig{Dir: cfg.Storage.Hot.Dir, MaxBytes: int64(cfg.Storage.Hot.MaxSize)}, Redirect: cfg.Storage.Redirect,
		Log: log, Metrics: metrics,
	}
}

func cacheConfig(cfg config.Config, room *eviction, state state, log *slog.Logger, metrics prometheus.Registerer) proxy.CacheConfig {
	stale := cfg.Cache.StaleIfError
	var leases store.Leases // of a state of its own, a process needs none
	var reach store.Reach
	var stamps store.Stamper
	if cfg.State.Redis.URL != "" {
		leases, reach, stamps = state, state, state
	}
	orNever := func(d time.Duration) time.Duration {
		if d == 0 {
			return -1
		}
		return d
	}
	return proxy.CacheConfig{
		TagTTL:       least(cfg.Cache.TagTTL),
		StaleIfError: proxy.StaleIfError{Semver: orNever(stale.Semver), Latest: orNever(stale.Latest), Other: orNever(stale.Other)},
		MaxBlobSize:  int64(cfg.Cache.MaxBlobSize),
		DiskFull:     room.DiskFull,
		Leases:       leases,
		Reach:        reach,
		Stamps:       stamps,
		Log:          log,
		Metrics:      metrics,
	}
}

func (b *behind) gateConfig(cfg config.Config, names *proxy.UpstreamIndex) proxy.GateConfig {
	return proxy.GateConfig{
		Platforms: cfg.WantedPlatforms(),
		Hold:      least(cfg.Registry.Hold),
		MaxHeld:   cfg.Registry.MaxHeld,
		Help:      cfg.Refusal.Help,
		Upstreams: names,
		Evidence:  b.facts,
		Record:    b.record,
		Stamps:    b.stamps,
		Reach:     b.reach,
		Failure:   proxy.FailureMode(cfg.State.Failure), FailureAge: cfg.State.FailureAge,
		Metrics: b.metrics,
	}
}

func schedulerConfig(cfg config.Config, analyzer func() string, log *slog.Logger, metrics prometheus.Registerer) scheduler.Config {
	out := scheduler.Config{Analyzer: analyzer, Log: log, Metrics: metrics}
	if cfg.State.Redis.URL != "" {
		out.Shared, out.Lease = true, jobLease
	}
	return out
}

// jobLease is how long the scans of a replica that hangs are its own; those of one
// that died are taken over sooner.
const jobLease = 10 * time.Second

func databaseConfig(cfg config.Config, fetch *fetcher, log *slog.Logger, metrics prometheus.Registerer, moved func(prev, next pratique.Engine)) database.Config {
	return database.Config{
		Dir: cfg.DatabaseDir(), Path: cfg.Database.Path, Sources: cfg.Database.Sources, Refresh: cfg.Database.Refresh,
		Transport: fetch, Keychain: fetch, OnAdopt: moved, Log: log, Metrics: metrics,
	}
}

// javaRefresh is how often the Java database is looked at. It changes daily by a
// little, and each change makes every layer's inventory one of another analyzer.
const javaRefresh = 7 * 24 * time.Hour

func javaConfig(cfg config.Config, fetch *fetcher, log *slog.Logger, metrics prometheus.Registerer, changed func(prev, next pratique.Engine)) database.Config {
	return database.Config{
		Dir: cfg.JavaDatabaseDir(), Path: cfg.JavaDatabase.Path, Sources: cfg.JavaDatabase.Sources, Refresh: javaRefresh,
		Transport: fetch, Keychain: fetch, OnAdopt: changed, Log: log, Metrics: metrics,
	}
}

// adminHosts are the names that the admin address may be asked for: those of
// the configuration, and the one that it listens on when that is a name.
func adminHosts(cfg config.Admin) []string {
	host, _, err := net.SplitHostPort(cfg.Listen)
	if err != nil || host == "" {
		return cfg.Hosts
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return cfg.Hosts
	}
	return append([]string{host}, cfg.Hosts...)
}

// closing is a part that only has to be closed.
func closing(name string, c func() error) rungroup.Part {
	return rungroup.Part{Name: name, Stop: func(context.Context) error { return c() }}
}

// untilStopped runs what returns its context's error in the end.
func untilStopped(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := run(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		return nil
	}
}

// databaseAPI shows the database as the admin API wants it.
type databaseAPI struct {
	*database.Database
	cfg    config.Database
	served *database.Artifact // nil: it is not
}

// Status implements web.Database.
func (d *databaseAPI) Status(context.Context) (web.DatabaseStatus, error) {
	st := d.Database.Status()
	out := web.DatabaseStatus{Sources: d.cfg.Sources, LastError: st.LastError, CheckedAt: instant(st.LastCheck), Previous: st.Previous.String()}
	if d.cfg.Path != "" {
		out.Sources = []string{d.cfg.Path}
	}
	if st.Digest != "" {
		out.Database = &web.DatabaseInfo{
			Digest: st.Digest.String(), UpdatedAt: st.UpdatedAt, AdoptedAt: instant(st.DownloadedAt), Source: st.Source,
			Vulnerabilities: st.Counts.Vulnerabilities, Advisories: st.Counts.Advisories,
		}
	}
	if st.RolledBack != "" {
		out.RolledBack = &web.DatabaseRollback{Digest: st.RolledBack.String(), At: st.RolledBackAt}
	}
	for _, s := range st.Sources {
		if s.LastError != "" {
			out.Failing = append(out.Failing, web.SourceFailure{Source: s.Source, Error: s.LastError, Since: s.FailingAt, NotBefore: instant(s.NotBefore)})
		}
	}
	if t := st.Together; t != nil {
		out.Replica = &web.DatabaseReplica{
			Name: t.Replica, Role: t.Role, Wanted: t.Wanted.String(), Cause: t.Cause, By: t.By, Lag: t.Lag.Seconds(), LastError: t.LastError,
		}
	}
	if d.served != nil {
		s := d.served.Status()
		out.Served = &web.DatabaseServed{
			Name: proxy.OwnName + "/" + servedDatabase + ":" + database.ArtifactTag, Digest: s.Digest.String(),
			Database: s.Database.String(), Bytes: s.Size, LastError: s.LastError,
		}
	}
	return out, nil
}

// servedDatabase is the repository of Pratique's own that holds the vulnerability
// database.
const servedDatabase = "trivy-db"

// ownRepositories are what the registry listener has besides upstreams.
func (d *databaseAPI) ownRepositories() map[string]proxy.Own {
	if d.served == nil {
		return nil
	}
	return map[string]proxy.Own{servedDatabase: d.served}
}

// Rollback implements web.Database.
func (d *databaseAPI) Rollback(ctx context.Context, undo bool) error {
	turn := d.Database.Rollback
	if undo {
		turn = d.UndoRollback
	}
	_, err := turn(ctx)
	return err
}

// Diff implements web.Database.
func (d *databaseAPI) Diff(ctx context.Context, from, to string) (any, error) {
	return d.Compare(ctx, from, to)
}

// Import implements web.Database.
func (d *databaseAPI) Import(ctx context.Context, r io.Reader, force bool) error {
	_, err := d.Database.Import(ctx, r, force)
	return err
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// probes are what must work before this process is sent clients.
func probes(ctx context.Context, state state, servesLast bool, workers *analyzers, matcher *match.Matcher, reload *reloader) []web.Probe {
	return []web.Probe{
		{Name: "process", Check: func(context.Context) error {
			if ctx.Err() != nil {
				return errors.New("stopping")
			}
			return nil
		}},
		stateProbe(state, servesLast),
		{Name: "workers", Check: func(context.Context) error { return workers.ready() }},
		{Name: "database", Check: func(context.Context) error {
			_, err := matcher.Engine()
			if errors.Is(err, pratique.ErrNoDatabase) {
				err = fmt.Errorf("%w: images without a report cannot be decided; see `pratique db status`", err)
			}
			return err
		}},
		reload.probe(),
	}
}

// probed is what the state's probe needs of it.
type probed interface {
	store.Reach
	Len(ctx context.Context) (map[scheduler.Priority]int, error)
}

// stateProbe does not ask a state that is known to be away: an orchestrator waits for
// a second, the answer would take longer. A replica that serves what was decided before
// stays ready: taking all replicas away would end that.
func stateProbe(state probed, servesLast bool) web.Probe {
	away := func() error {
		return fmt.Errorf("no answer for %s: %w", time.Since(state.Confirmed()).Round(time.Second), store.ErrUnreachable)
	}
	return web.Probe{
		Name: "state",
		Check: func(ctx context.Context) (err error) {
			if proxy.Away(state) {
				err = away()
			} else {
				_, err = state.Len(ctx)
			}
			if servesLast && errors.Is(err, store.ErrUnreachable) {
				return nil
			}
			return err
		},
		Note: func() string {
			if !proxy.Away(state) {
				return ""
			}
			return away().Error() + "; only what this replica decided on before is served (state.failure: serve-last)"
		},
	}
}
