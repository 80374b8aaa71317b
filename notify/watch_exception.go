package notify

import (
	"context"
	"maps"
	"slices"
	"time"

	"pratique"
	"pratique/store"
)

// exceptionMark is what was told of an exception.
type exceptionMark struct {
	Told map[string]bool `json:"told"` // by type
}

func (w *Watcher) lookExceptions(ctx context.Context, now time.Time) error {
	all, err := w.src.Exceptions.Exceptions(ctx)
	if err != nil {
		return err
	}
	for i := range all {
		if err := w.lookException(ctx, &all[i], now); err != nil {
			return err
		}
	}
	return nil
}

func (w *Watcher) lookException(ctx context.Context, x *pratique.Exception, now time.Time) error {
	facts := exceptionFacts(x, now, w.cfg.Soon)
	facts = slices.DeleteFunc(facts, func(f exceptionFact) bool { return w.seen[x.ID+f.kind] })
	if len(facts) == 0 {
		return nil
	}
	var prev exceptionMark
	if _, err := w.mark(ctx, markExceptions+x.ID, &prev); err != nil {
		return err
	}
	next := exceptionMark{Told: map[string]bool{}}
	maps.Copy(next.Told, prev.Told)
	var es []store.Event
	for _, f := range facts {
		if next.Told[f.kind] {
			continue
		}
		next.Told[f.kind] = true
		e, err := event(f.kind, id(f.kind, x.ID), x.ID, markExceptions+x.ID, "", f.at, Exception{Text: line(f.text), Exception: *x})
		if err != nil {
			return err
		}
		es = append(es, e)
	}
	if len(es) > 0 {
		m, err := note(markExceptions+x.ID, time.Time{}, next)
		if err != nil {
			return err
		}
		if err := w.put(ctx, es, []store.Mark{m}); err != nil {
			return err
		}
	}
	for _, f := range facts {
		w.seen[x.ID+f.kind] = true
	}
	return nil
}

type exceptionFact struct {
	kind, text string
	at         time.Time
}

// exceptionFacts are what is to be told of an exception by now, in order.
func exceptionFacts(x *pratique.Exception, now time.Time, soon time.Duration) []exceptionFact {
	what := "exception " + x.ID + " for " + x.Finding + x.Rule
	if x.Repository != "" {
		what += " in " + x.Repository
	}
	by := " (" + x.Author + ": " + x.Reason + ")"
	out := []exceptionFact{{TypeExceptionMade, what + " is there until " + x.Expires.UTC().Format(time.RFC3339) + by, x.Created}}
	warnAt := x.Expires.Add(-min(soon, x.Expires.Sub(x.Created)/2))
	switch {
	case !x.Revoked.IsZero() && !x.Revoked.After(now):
		out = append(out, exceptionFact{TypeExceptionTaken, what + " was revoked by " + x.RevokedBy + ": " + x.RevokedWhy, x.Revoked})
	case !now.Before(x.Expires):
		out = append(out, exceptionFact{TypeExceptionEnded, what + " has expired" + by, x.Expires})
	case !now.Before(warnAt):
		out = append(out, exceptionFact{TypeExceptionSoon, what + " expires " + x.Expires.UTC().Format(time.RFC3339) + by, warnAt})
	}
	return out
}
