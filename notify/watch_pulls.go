package notify

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

const (
	// maxPulls are read in one look, besides those that are read again.
	maxPulls = 50_000
	// maxClients are named of those who had an image.
	maxClients = 20
)

// lookPulls tells of images that somebody was refused, and of those that were
// served for the first time. Refused for the same reasons is the same fact, however
// often and by whomever it is asked for.
func (w *Watcher) lookPulls(ctx context.Context, now time.Time) error {
	var c cursor
	if _, err := w.mark(ctx, markPulls, &c); err != nil {
		return err
	}
	from, read, at := c.At.Add(-overlap), 0, c.At
	var es []store.Event
	for p, err := range w.src.Pulls.Pulls(ctx, from) {
		if err != nil {
			return err
		}
		if p.At.After(c.At) {
			if read++; read > maxPulls && p.At.After(at) {
				break
			}
			if !p.At.After(now) {
				at = p.At
			}
		}
		e, ok, err := w.pull(ctx, p, from)
		if err != nil {
			return err
		}
		if ok {
			es = append(es, e)
		}
	}
	es = slices.DeleteFunc(es, func(e store.Event) bool { return w.seen[e.ID] })
	if len(es) == 0 && at.Sub(c.At) < overlap/4 {
		return nil
	}
	m, err := note(markPulls, time.Time{}, cursor{at})
	if err != nil {
		return err
	}
	return w.put(ctx, es, []store.Mark{m})
}

// pull is the event that a pull makes, if it makes one.
func (w *Watcher) pull(ctx context.Context, p store.Pull, from time.Time) (store.Event, bool, error) {
	if p.Ref.Digest == "" {
		return store.Event{}, false, nil
	}
	kind, key := TypeRefused, id(TypeRefused, p.Ref.Repository(), p.Ref.Digest, p.Verdict)
	if p.Outcome != pratique.OutcomeDeny {
		kind, key = TypeAdmitted, id(TypeAdmitted, p.Ref.Digest)
	}
	if w.seen[key] {
		return store.Event{}, false, nil
	}
	if kind == TypeAdmitted {
		first, _, err := w.src.Pulls.Served(ctx, p.Ref.Digest)
		if err != nil && !errors.Is(err, pratique.ErrNotFound) {
			return store.Event{}, false, err
		}
		if err == nil && first.Before(from) {
			w.seen[key] = true // long ago: spares the next look
			return store.Event{}, false, nil
		}
	}
	v := pratique.Verdict{ID: p.Verdict, Outcome: p.Outcome}
	judged, err := w.src.Pulls.Verdict(ctx, p.Verdict)
	switch {
	case err == nil && judged.Verdict.Outcome == p.Outcome:
		v = judged.Verdict
	case err != nil && !errors.Is(err, pratique.ErrNotFound):
		return store.Event{}, false, err
	}
	data := image(p.Ref, v)
	data.Client = p.Client
	data.Text = line(data.Reference + " is served for the first time")
	if kind == TypeRefused {
		data.Text = line(data.Reference + " was refused" + data.why())
	}
	e, err := event(kind, key, subject(p.Ref), p.Ref.Digest.String(), p.Ref.Repository(), p.At, data)
	return e, true, err
}

// whoPulled is who had an image lately.
func (w *Watcher) whoPulled(ctx context.Context, image digest.Digest, now time.Time) (*Pulled, error) {
	out := &Pulled{Since: now.Add(-w.cfg.Pulled), Clients: []string{}}
	ps, err := w.src.Pulls.PulledBy(ctx, image, out.Since)
	if err != nil {
		return nil, err
	}
	for i, p := range ps { // the latest first
		out.Pulls += p.Pulls
		if i < maxClients {
			out.Clients = append(out.Clients, p.Client)
		}
	}
	if len(ps) > 0 {
		out.Last = ps[0].Last
	}
	out.More = max(0, len(ps)-maxClients)
	return out, nil
}
