package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"pratique/scanner"
	"pratique/scanner/database"
	"pratique/scanner/match"
	"pratique/scheduler"
)

// measured is one update of a fleet. Times are seconds.
type measured struct {
	Import     float64            `json:"import"` // verified, kept and adopted
	Rescan     float64            `json:"rescan"` // from then until every report is current
	Phases     map[string]float64 `json:"phases"` // of the rescan
	CPU        float64            `json:"cpu"`    // of the rescan
	Components int                `json:"components"`
	Changed    int                `json:"changed"` // components of which something else is said
	Images     int                `json:"images"`  // that hold one of those
	Read       float64            `json:"read"`    // reports of those images, each read once, as the watcher does
	FullPass   float64            `json:"fullPass,omitempty"`
	Matched    int                `json:"matched,omitempty"` // by the full pass
	Different  int                `json:"different"`         // found by the full pass
	RSS        int64              `json:"rss"`               // MiB, the most of the process
	// What Redis had to do with it, of the rescan, of the reading and of the full pass.
	Redis     work `json:"redis,omitzero"`
	RedisRead work `json:"redisRead,omitzero"`
	RedisFull work `json:"redisFull,omitzero"`
}

// differ is database.Database as scheduler.Differ.
type differ struct{ *database.Database }

// Diff implements scheduler.Differ.
func (d differ) Diff(ctx context.Context, from, to digest.Digest) (scheduler.Delta, error) {
	x, err := d.Database.Diff(ctx, from, to)
	return scheduler.Delta{All: x.All, Keys: x.Keys, Vulnerabilities: x.Vulnerabilities}, err
}

func updateCommand(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("update", flag.ContinueOnError)
	dir := fs.String("dir", "", "the fleet's directory, which is changed")
	next := fs.String("database", "", "newer database, .tar.gz")
	url := fs.String("redis", "", "URL of the Redis that was filled")
	full := fs.Bool("full", false, "make a full pass afterwards")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *dir == "" || *next == "" {
		return errors.New("update needs -dir and -database")
	}
	m, err := update(ctx, *dir, *url, *next, *full)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(m)
}

// update has the parts of a server adopt a database and follow it.
func update(ctx context.Context, dir, url, archive string, full bool) (out measured, err error) {
	quiet := slog.New(slog.DiscardHandler)
	state, err := openState(ctx, dir, url)
	if err != nil {
		return out, err
	}
	matcher := match.New(match.Config{Log: quiet})
	defer func() { err = errors.Join(err, matcher.Close(), state.Close()) }()
	db := database.New(database.Config{Dir: filepath.Join(dir, "db"), Log: quiet}, matcher)
	if err := db.Open(ctx); err != nil {
		return out, err
	}
	var changed []digest.Digest
	metrics := prometheus.NewRegistry()
	r := scheduler.NewRescanner(scanner.New(nil, nil, matcher, state, scanner.Config{Log: quiet}), state, differ{db}, scheduler.RescanConfig{
		Changed: func(_ context.Context, images []digest.Digest) { changed = append(changed, images...) },
		Done: func(_ context.Context, d scheduler.Rescanned) {
			if d.Components > 0 {
				out.Components, out.Changed, out.Images = d.Components, d.Changed, d.Images
			}
		},
		Log: quiet, Metrics: metrics,
	})
	if err := r.Rescan(ctx); err != nil { // the first look of a process
		return out, err
	}
	in, err := database.OpenPath(archive)
	if err != nil {
		return out, err
	}
	defer func() { _ = in.Close() }()
	before := phases(metrics)
	if out.Import, err = seconds(func() error { _, err := db.Import(ctx, in, true); return err }); err != nil {
		return out, err
	}
	used := cpu()
	if out.Rescan, out.Redis, err = worked(ctx, url, func() error { return r.Rescan(ctx) }); err != nil {
		return out, err
	}
	out.CPU, out.Phases = cpu()-used, phases(metrics)
	for k, v := range before {
		out.Phases[k] -= v
	}
	out.Read, out.RedisRead, err = worked(ctx, url, func() error {
		changed, err := state.Near(ctx, changed)
		if err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(runtime.GOMAXPROCS(0))
		for _, d := range changed {
			g.Go(func() error { _, err := state.Report(ctx, d); return err })
		}
		return g.Wait()
	})
	if err == nil && full {
		var p scheduler.Pass
		out.FullPass, out.RedisFull, err = worked(ctx, url, func() error { p, err = r.FullPass(ctx); return err })
		out.Matched, out.Different = p.Components, p.Differences
	}
	out.RSS = usage().Maxrss >> 10
	return out, err
}

func seconds(f func() error) (float64, error) {
	began := time.Now()
	err := f()
	return time.Since(began).Seconds(), err
}

func usage() (u syscall.Rusage) {
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for this process
	return u
}

func cpu() float64 {
	u := usage()
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// phases are the sums of pratique_scheduler_rescan_seconds.
func phases(reg *prometheus.Registry) map[string]float64 {
	out := map[string]float64{}
	families, _ := reg.Gather() // what cannot be gathered is not there
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == "pratique_scheduler_rescan_seconds" && l.GetName() == "phase" {
					out[l.GetValue()] += m.GetHistogram().GetSampleSum()
				}
			}
		}
	}
	return out
}
