package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique/evidence/exception"
	"pratique/internal/config"
	"pratique/internal/redis"
	"pratique/internal/rungroup"
	"pratique/internal/sqlite"
	"pratique/scheduler"
	"pratique/store"
)

// peers is what a state that others write to tells this process, as far as the
// parts that want to know are there already.
type peers struct {
	changed   atomic.Pointer[func(ds []digest.Digest)] // written by anybody; nil = everything
	announced atomic.Pointer[func(images []digest.Digest)]
	job       atomic.Pointer[func()]
	// announce tells other processes of images; nil: there are none.
	announce func(ctx context.Context, images ...digest.Digest) error
	replica  string // this process' name among them
	// mend ends what processes that died had begun; nil: nobody else writes.
	mend func(ctx context.Context) error
}

// openState opens the backend that the configuration names.
func openState(ctx context.Context, cfg config.Config, docs store.Documents, log *slog.Logger, metrics prometheus.Registerer) (state, *peers, error) {
	s := new(peers)
	if cfg.State.Redis.URL == "" {
		db, err := sqlite.Open(ctx, cfg.State.SQLite.Path)
		return db, s, err
	}
	rc, err := redisConfig(cfg, docs, log, metrics)
	if err != nil {
		return nil, nil, err
	}
	rc.OnChanged = func(ds []digest.Digest) {
		if f := s.changed.Load(); f != nil {
			(*f)(ds)
		}
	}
	rc.OnAnnounced = func(images []digest.Digest) {
		if f := s.announced.Load(); f != nil {
			(*f)(images)
		}
	}
	rc.OnJob = func() {
		if f := s.job.Load(); f != nil {
			(*f)()
		}
	}
	redis.LogTo(log)
	host, _ := os.Hostname()
	s.replica = fmt.Sprintf("%s-%d", host, os.Getpid())
	db, err := redis.Open(ctx, rc)
	if err != nil {
		return nil, nil, err
	}
	s.announce, s.mend = db.Announce, db.Mend
	return db, s, nil
}

// mendEvery is how often is looked for what processes that died had begun: an image
// whose new findings nobody told of is judged by its old ones so long.
const mendEvery = 10 * time.Second

// mending is the part that calls mend.
func (s *peers) mending(log *slog.Logger) rungroup.Part {
	return rungroup.Part{Name: "mending", Run: func(ctx context.Context) error {
		tick := time.NewTicker(mendEvery)
		defer tick.Stop()
		for {
			if err := s.mend(ctx); err != nil && ctx.Err() == nil {
				log.WarnContext(ctx, "what a replica left half done cannot be ended, and is tried again", "error", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}}
}

// redisConfig reads the files that the configuration of Redis names.
func redisConfig(cfg config.Config, docs store.Documents, log *slog.Logger, metrics prometheus.Registerer) (redis.Config, error) {
	r := cfg.State.Redis
	out := redis.Config{
		URL: r.URL, Username: r.Username, Prefix: r.Prefix, Skew: r.Skew, Documents: docs, Log: log, Metrics: metrics,
	}
	if r.Skew == 0 {
		out.Skew = -1
	}
	var errs []error
	read := func(path string) []byte {
		if path == "" {
			return nil
		}
		data, err := os.ReadFile(path)
		if err == nil && len(bytes.TrimSpace(data)) == 0 {
			err = fmt.Errorf("%s is empty", path)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("state.redis: %w", err))
		}
		return bytes.TrimSpace(data)
	}
	out.Password, out.SentinelPassword = string(read(r.PasswordFile)), string(read(r.SentinelPasswordFile))
	if r.CA != "" || r.Cert != "" {
		out.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if r.CA != "" {
		out.TLS.RootCAs = x509.NewCertPool()
		if !out.TLS.RootCAs.AppendCertsFromPEM(read(r.CA)) {
			errs = append(errs, fmt.Errorf("state.redis.ca: no certificate in %s", r.CA))
		}
	}
	if r.Cert != "" {
		pair, err := tls.LoadX509KeyPair(r.Cert, r.Key)
		if err != nil {
			errs = append(errs, fmt.Errorf("state.redis: %w", err))
		}
		out.TLS.Certificates = []tls.Certificate{pair}
	}
	return out, errors.Join(errs...)
}

// dutyLease is how long a duty's lease outlives a process that died: so long nobody
// does it.
const dutyLease = 8 * time.Second

// duties are parts of which one process at a time does each, of all that share the
// state.
type duties struct {
	leases store.Leases
	log    *slog.Logger
}

// part makes a duty of a part: its Run ends when the lease is lost and begins again
// when this process has it.
func (d duties) part(p rungroup.Part) rungroup.Part {
	return d.group(p.Name, p)
}

// group is several parts that one process does together, under one lease.
func (d duties) group(name string, parts ...rungroup.Part) rungroup.Part {
	return rungroup.Part{Name: name, Run: func(ctx context.Context) error {
		return store.Lead(ctx, d.leases, "duty/"+name, dutyLease, func(ctx context.Context) error {
			d.log.DebugContext(ctx, "duty taken", "duty", name)
			defer d.log.DebugContext(ctx, "duty given back", "duty", name)
			ctx, cancel := context.WithCancelCause(ctx)
			defer cancel(nil)
			var running sync.WaitGroup
			for _, p := range parts {
				running.Go(func() {
					if err := p.Run(ctx); err != nil && ctx.Err() == nil {
						cancel(fmt.Errorf("%s: %w", p.Name, err))
					}
				})
			}
			running.Wait()
			if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		})
	}}
}

// follow is the part that takes in what other processes wrote.
func (s *peers) follow(scans *scheduler.Scheduler, exceptions *exception.Exceptions, reports *reported, log *slog.Logger) rungroup.Part {
	reload := make(chan struct{}, 1)
	changed := func(ds []digest.Digest) {
		scans.Changed(ds)
		if ds == nil || slices.Contains(ds, store.ExceptionsKey) {
			signalTo(reload)
		}
		if w := reports.watcher.Load(); w != nil && ds == nil {
			w.ChangedAny()
		}
	}
	announced := func(images []digest.Digest) {
		if w := reports.watcher.Load(); w != nil {
			w.ChangedAll(images)
		}
	}
	wake := scans.Wake
	s.changed.Store(&changed)
	s.announced.Store(&announced)
	s.job.Store(&wake)
	return rungroup.Part{Name: "other replicas", Run: func(ctx context.Context) error {
		for {
			select {
			case <-reload:
			case <-ctx.Done():
				return nil
			}
			err := exceptions.Reload(ctx)
			if err != nil && ctx.Err() == nil {
				log.WarnContext(ctx, "exceptions that changed cannot be read", "error", err)
			}
			if errors.Is(err, store.ErrUnreachable) {
				select {
				case <-time.After(time.Second):
					signalTo(reload)
				case <-ctx.Done():
				}
			}
		}
	}}
}
