// Package notify tells others what happened: that an image is refused now which
// was served yesterday, that a grace or an exception ends, that a tag moved.
//
// It owns the events and their data (docs/events.md), the watcher that finds out
// what changed, and the senders, one for each sink. Events go through a durable
// outbox (store.Outbox) and reach a sink at least once, those about one image in
// order. Nothing here is on the path of a pull, and no sink waits for another. It
// judges nothing: what an image's verdict is, the gate says.
package notify

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pratique/store"
)

// Box is the outbox with what is needed to keep house.
type Box interface {
	store.Outbox
	store.EventLog
}

// Config adjusts a Notifier.
type Config struct {
	// Source is the source of every event: the name of this instance. If empty,
	// "pratique".
	Source string
	// Link is where people reach the admin address: messages end with links there.
	// If empty, none do.
	Link string
	// Attempts is after how many failed ones a delivery is given up. If zero, 24:
	// with the delays of Backoff, half a day.
	Attempts int
	// Backoff is the delay before the second attempt; it doubles up to MaxBackoff.
	// If zero, 1 second and 1 hour.
	Backoff, MaxBackoff time.Duration
	// Timeout of one request. If zero, 10 seconds.
	Timeout time.Duration
	// Gather is how long sinks for people wait for more changes with the same cause,
	// and Threshold how many of them are told one by one. If zero, 15 seconds and 10.
	Gather    time.Duration
	Threshold int
	// Poll is how often the outbox is looked at when nothing wakes a sender. If
	// zero, 5 seconds.
	Poll time.Duration
	// KeepDone is how long events are kept that every sink has, KeepAll how long
	// those that some sink never took. If zero, 7 and 30 days.
	KeepDone, KeepAll time.Duration
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
	// Log receives failures. If nil, they are dropped.
	Log *slog.Logger
	// Metrics receives pratique_notify_*. If nil, none are registered.
	Metrics prometheus.Registerer
}

func (c Config) withDefaults() Config {
	or := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	or(&c.Backoff, time.Second)
	or(&c.MaxBackoff, time.Hour)
	or(&c.Timeout, 10*time.Second)
	or(&c.Gather, 15*time.Second)
	or(&c.Poll, 5*time.Second)
	or(&c.KeepDone, 7*24*time.Hour)
	or(&c.KeepAll, 30*24*time.Hour)
	if c.Attempts <= 0 {
		c.Attempts = 24
	}
	if c.Threshold <= 0 {
		c.Threshold = 10
	}
	if c.Source == "" {
		c.Source = "pratique"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Notifier sends events to sinks. Its methods are safe for concurrent use.
type Notifier struct {
	box     Box
	cfg     Config
	sinks   []*sink
	wakes   []chan struct{} // one for each sink; holds a word when there may be more
	metrics *metrics
}

// New checks the sinks, by name. Nothing is sent before Run.
func New(box Box, sinks map[string]Sink, cfg Config) (*Notifier, error) {
	n := &Notifier{box: box, cfg: cfg.withDefaults()}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(sinks)) {
		s, err := newSink(name, n.cfg.Source, n.cfg.Link, sinks[name])
		errs = append(errs, err)
		n.sinks, n.wakes = append(n.sinks, s), append(n.wakes, make(chan struct{}, 1))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	n.metrics = newMetrics(n.cfg.Metrics)
	return n, nil
}

// wanted tells whether any sink may want events of a type.
func (n *Notifier) wanted(kind string) bool {
	return slices.ContainsFunc(n.sinks, func(s *sink) bool {
		return fits(s.types, kind, strings.TrimPrefix(kind, typePrefix))
	})
}

// append puts events, for the sinks that want them, and marks into the outbox.
func (n *Notifier) append(ctx context.Context, es []store.Event, ms []store.Mark) error {
	if len(es) == 0 && len(ms) == 0 {
		return nil
	}
	out := make([]store.Addressed, len(es))
	for i, e := range es {
		out[i].Event = e
		for _, s := range n.sinks {
			if s.wants(e) {
				out[i].Sinks = append(out[i].Sinks, s.name)
			}
		}
	}
	if err := n.box.Append(ctx, out, ms); err != nil {
		return err
	}
	for _, e := range es {
		n.metrics.events.WithLabelValues(e.Type).Inc()
	}
	if len(es) > 0 {
		n.Wake()
	}
	return nil
}

// Wake has the senders look into the outbox: after a replay, for example.
func (n *Notifier) Wake() {
	for _, w := range n.wakes {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// Run sends until ctx ends. A delivery that is under way then is broken off, and
// made again by the next process.
func (n *Notifier) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, s := range n.sinks {
		wg.Go(func() { (&sender{n: n, sink: s, wake: n.wakes[i]}).run(ctx) })
	}
	house := time.NewTicker(time.Minute)
	defer house.Stop()
	for last := (time.Time{}); ; {
		if now := n.cfg.Now(); now.Sub(last) >= time.Hour {
			last = now
			if err := n.box.ForgetEvents(ctx, now.Add(-n.cfg.KeepDone), now.Add(-n.cfg.KeepAll)); err != nil && ctx.Err() == nil {
				n.cfg.Log.WarnContext(ctx, "old events are not removed", "error", err)
			}
		}
		n.count(ctx)
		select {
		case <-house.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// count shows what waits.
func (n *Notifier) count(ctx context.Context) {
	backlogs, err := n.box.Backlogs(ctx)
	if err != nil {
		return // the senders log that the outbox does not answer
	}
	for _, s := range n.sinks {
		n.metrics.backlog.WithLabelValues(s.name, "open").Set(float64(backlogs[s.name].Open))
		n.metrics.backlog.WithLabelValues(s.name, "dead").Set(float64(backlogs[s.name].Dead))
	}
}
