package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/internal/config"
	"pratique/internal/rungroup"
	"pratique/notify"
	"pratique/proxy/upstream"
	"pratique/scanner/match"
	"pratique/scheduler"
)

// reported tells the watcher of every report that a scanner makes. Before there is
// a watcher it tells nobody, which is no loss: it begins by looking at all images.
type reported struct {
	scheduler.Scanner
	peers   *peers // may be nil
	watcher atomic.Pointer[notify.Watcher]
}

// Scan implements scheduler.Scanner.
func (r *reported) Scan(ctx context.Context, ref pratique.Ref) (pratique.Report, error) {
	report, err := r.Scanner.Scan(ctx, ref)
	r.tell(ctx, ref.Digest)
	return report, err
}

// Rematch implements scheduler.Scanner.
func (r *reported) Rematch(ctx context.Context, image digest.Digest) (pratique.Report, error) {
	report, err := r.Scanner.Rematch(ctx, image)
	r.tell(ctx, image)
	return report, err
}

// tell is for failures too: the last of them makes a failed report.
func (r *reported) tell(ctx context.Context, image digest.Digest) {
	if r.elsewhere(ctx, image) {
		return
	}
	if w := r.watcher.Load(); w != nil {
		w.Changed(image)
	}
}

// elsewhere announces images to all replicas, of which one watches; false when there
// are no others. What is not announced for want of Redis is found by that one when
// Redis is back: then any image may have changed.
func (r *reported) elsewhere(ctx context.Context, images ...digest.Digest) bool {
	if r.peers == nil || r.peers.announce == nil {
		return false
	}
	return r.peers.announce(context.WithoutCancel(ctx), images...) == nil
}

// changed tells of images whose components are known otherwise than before:
// scheduler.RescanConfig.Changed.
func (r *reported) changed(ctx context.Context, images []digest.Digest) {
	if r.elsewhere(ctx, images...) {
		return
	}
	if w := r.watcher.Load(); w != nil {
		w.ChangedAll(images)
	}
}

// rescanned tells what a database did: scheduler.RescanConfig.Done.
func (r *reported) rescanned(_ context.Context, d scheduler.Rescanned) {
	if w := r.watcher.Load(); w != nil {
		w.Updated(notify.Update{
			Database: d.Engine.Database, All: d.All, Components: d.Components, Changed: d.Changed, Images: d.Images, Took: d.Took,
		})
	}
}

// settle is how long the event of an update waits for the rescan to tell what it did.
const settle = 10 * time.Minute

// events are those that go out. It implements web.Events.
type events struct {
	state
	notifier *notify.Notifier
	parts    []rungroup.Part
}

// newEvents tells the configured sinks what happens; without any it does nothing.
func newEvents(cfg config.Config, state state, l *live, matcher *match.Matcher, reports *reported, log *slog.Logger, metrics prometheus.Registerer) (*events, error) {
	sinks, err := newSinks(cfg)
	if err != nil {
		return nil, err
	}
	n, err := notify.New(state, sinks, notify.Config{Source: cfg.Notify.Name, Link: cfg.Notify.Link, Log: log, Metrics: metrics})
	if err != nil {
		return nil, fmt.Errorf("notify: %w", err)
	}
	e := &events{state: state, notifier: n}
	if len(sinks) == 0 {
		return e, nil
	}
	w := notify.NewWatcher(n, notify.Sources{
		Gate: l, Catalog: state, Pulls: state, Exceptions: state, Tags: state, Marks: state, Near: state, Stamps: state, Database: matcher.Engine,
		Version: func() string {
			return l.current.Load().policies.Version() + " " + strconv.FormatUint(l.facts.Stamp(), 10)
		},
	}, notify.WatcherConfig{Settle: settle})
	reports.watcher.Store(w)
	e.parts = []rungroup.Part{
		{Name: "notify", Run: untilStopped(n.Run)},
		{Name: "watch for events", Run: untilStopped(w.Run)},
	}
	return e, nil
}

// checkSinks reads the files of sinks as a server that starts would.
func checkSinks(cfg config.Config) error {
	sinks, err := newSinks(cfg)
	if err != nil {
		return err
	}
	_, err = notify.New(nil, sinks, notify.Config{Source: cfg.Notify.Name})
	return err
}

// newSinks reads the files that the sinks name.
func newSinks(cfg config.Config) (map[string]notify.Sink, error) {
	out := make(map[string]notify.Sink, len(cfg.Notify.Sinks))
	var errs []error
	for name, s := range cfg.Notify.Sinks {
		read := func(path string) []byte {
			if path == "" {
				return nil
			}
			data, err := os.ReadFile(path)
			if err != nil {
				errs = append(errs, fmt.Errorf("notify.sinks.%s: %w", name, err))
			}
			return data
		}
		secret := bytes.TrimSpace(read(s.SecretFile))
		if s.SecretFile != "" && len(secret) == 0 {
			errs = append(errs, fmt.Errorf("notify.sinks.%s: %s holds no secret", name, s.SecretFile))
		}
		out[name] = notify.Sink{
			URL: s.URL, Format: notify.Format(s.Format), Template: string(read(s.Template)), Secret: secret,
			Types: s.Types, Repositories: s.Repositories, Transport: upstream.Guarded(s.Private),
		}
	}
	return out, errors.Join(errs...)
}

// Replay implements web.Events: what is open again is sent at once.
func (e *events) Replay(ctx context.Context, id string) (int, error) {
	n, err := e.state.Replay(ctx, id)
	e.notifier.Wake()
	return n, err
}
