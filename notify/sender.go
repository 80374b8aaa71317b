package notify

import (
	"context"
	"errors"
	"time"

	"pratique/store"
)

// sender takes the events of one sink out of the outbox. A crash between send and
// Settle sends the event again, with the same id.
type sender struct {
	n    *Notifier
	sink *sink
	wake <-chan struct{}

	failures int // of the sink as a whole, one after another
	broken   bool
	settled  []store.Delivery // to be written
	since    time.Time        // of the first of them
}

const (
	// batch is how many deliveries are looked at together.
	batch = 1000
	// chatBatch is how many a summary can hold.
	chatBatch = 10_000
	// settled is how many deliveries, and for how long, are kept in memory after they
	// were taken: they are written together, because each write waits for the disk.
	maxSettled   = 100
	settledFor   = 200 * time.Millisecond
	settleAtExit = 5 * time.Second
)

func (s *sender) run(ctx context.Context) {
	for ctx.Err() == nil {
		pause, err := s.round(ctx)
		if err != nil && ctx.Err() == nil {
			if !s.broken {
				s.n.cfg.Log.ErrorContext(ctx, "the outbox of events does not answer", "sink", s.sink.name, "error", err)
			}
			s.broken, pause = true, s.n.cfg.Poll
		} else if err == nil {
			s.broken = false
		}
		var wake <-chan struct{}
		if pause == 0 {
			pause, wake = s.n.cfg.Poll, s.wake
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-wake:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// round sends what is due, and returns for how long the sink is to be left alone.
func (s *sender) round(ctx context.Context) (pause time.Duration, err error) {
	limit := batch
	if s.sink.Format.chat() {
		limit = chatBatch
	}
	for {
		now := s.n.cfg.Now() // before what came by then is read
		ds, err := s.n.box.Pending(ctx, s.sink.name, now, limit)
		if err != nil {
			return 0, err
		}
		groups := s.groups(ds, now, limit)
		if len(groups) == 0 {
			return 0, nil
		}
		for _, g := range groups {
			pause, err := s.deliver(ctx, g)
			if err == nil && (pause > 0 || len(s.settled) >= maxSettled || time.Since(s.since) > settledFor) {
				err = s.settleAll(ctx)
			}
			if err != nil || pause > 0 {
				return pause, errors.Join(err, s.settleStopping(ctx))
			}
		}
		if err := s.settleAll(ctx); err != nil {
			return 0, err
		}
	}
}

// settleAll writes what became of deliveries. What cannot be written is forgotten
// here, and stays open there: it is sent again.
func (s *sender) settleAll(ctx context.Context) error {
	ds := s.settled
	s.settled = nil
	if len(ds) == 0 {
		return nil
	}
	return s.n.box.Settle(ctx, ds)
}

// settleStopping writes it when the process stops, so that what was taken is not
// sent again by the next one.
func (s *sender) settleStopping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleAtExit)
	defer cancel()
	return s.settleAll(ctx)
}

// groups are deliveries by request: each on its own, but for many changes or scans
// with one cause to a sink that people read. Those wait until no more of them come.
func (s *sender) groups(ds []store.Delivery, now time.Time, limit int) [][]store.Delivery {
	var out [][]store.Delivery
	var causes []string
	same := map[string][]store.Delivery{}
	for _, d := range ds {
		if !s.sink.Format.chat() || d.Event.Type != TypeChanged && d.Event.Type != TypeScanned {
			out = append(out, []store.Delivery{d})
			continue
		}
		c := d.Event.Type + " " + d.Event.Cause
		if len(same[c]) == 0 {
			causes = append(causes, c)
		}
		same[c] = append(same[c], d)
	}
	for _, c := range causes {
		g := same[c]
		oldest, newest := g[0].Event.At, g[0].Event.At
		for _, d := range g {
			if d.Event.At.Before(oldest) {
				oldest = d.Event.At
			}
			if d.Event.At.After(newest) {
				newest = d.Event.At
			}
		}
		switch {
		case now.Sub(newest) < s.n.cfg.Gather && now.Sub(oldest) < 20*s.n.cfg.Gather && len(g) < limit:
		case len(g) > s.n.cfg.Threshold:
			out = append(out, g)
		default:
			for _, d := range g {
				out = append(out, []store.Delivery{d})
			}
		}
	}
	return out
}

// deliver sends one request for a group and settles it. It returns how long the
// sink is to be left alone.
func (s *sender) deliver(ctx context.Context, g []store.Delivery) (time.Duration, error) {
	e := g[0].Event
	if len(g) > 1 {
		var err error
		if e, err = summary(g, s.n.cfg.Now()); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	m, err := s.sink.render(e)
	if err != nil {
		err = &failure{text: line("cannot be written: " + err.Error())}
	} else {
		err = s.sink.send(ctx, m, s.n.cfg.Now(), s.n.cfg.Timeout)
		s.n.metrics.seconds.WithLabelValues(s.sink.name).Observe(time.Since(began).Seconds())
	}
	if ctx.Err() != nil {
		return 0, ctx.Err() // stopping: whether it arrived is not known, so it is open
	}
	now := s.n.cfg.Now()
	var f *failure
	if err != nil && !errors.As(err, &f) {
		f = &failure{text: line(err.Error())}
	}
	dead := 0
	for i := range g {
		if s.settle(&g[i], f, now); g[i].State == store.DeliveryDead {
			dead++
		}
	}
	s.report(ctx, g, f, dead)
	pause := time.Duration(0)
	if f != nil && f.wide {
		pause = max(f.after, backoff(s.n.cfg.Backoff, min(s.n.cfg.MaxBackoff, time.Minute), s.failures))
	}
	if len(s.settled) == 0 {
		s.since = time.Now()
	}
	s.settled = append(s.settled, g...)
	return pause, nil
}

// settle writes what became of a delivery into it.
func (s *sender) settle(d *store.Delivery, f *failure, now time.Time) {
	if f == nil {
		d.State, d.Settled, d.NotBefore, d.Error = store.DeliveryDone, now, time.Time{}, ""
		return
	}
	d.Attempts++
	d.Error = f.text
	if d.Attempts >= s.n.cfg.Attempts {
		d.State, d.Settled, d.NotBefore = store.DeliveryDead, now, time.Time{}
		return
	}
	d.NotBefore = now.Add(max(f.after, backoff(s.n.cfg.Backoff, s.n.cfg.MaxBackoff, d.Attempts)))
}

// report counts and logs. A sink that stays down is logged once.
func (s *sender) report(ctx context.Context, g []store.Delivery, f *failure, dead int) {
	outcome := "done"
	switch {
	case f == nil:
		if s.failures > 0 {
			s.n.cfg.Log.InfoContext(ctx, "sink takes events again", "sink", s.sink.name)
		}
		s.failures = 0
	case dead > 0:
		outcome = "dead"
		s.n.cfg.Log.ErrorContext(ctx, "event given up; see `pratique events list --dead`", "sink", s.sink.name, "event", g[0].Event.ID, "error", f.text)
	default:
		outcome = "retry"
	}
	if f != nil && f.wide {
		if s.failures == 0 {
			s.n.cfg.Log.WarnContext(ctx, "sink takes no events, they wait", "sink", s.sink.name, "error", f.text)
		}
		s.failures++
	}
	s.n.metrics.deliveries.WithLabelValues(s.sink.name, outcome).Add(float64(len(g)))
}

// backoff doubles with every failure but the first.
func backoff(first, most time.Duration, failures int) time.Duration {
	d := first
	for range failures - 1 {
		if d *= 2; d >= most {
			return most
		}
	}
	return min(d, most)
}
