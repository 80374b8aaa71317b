package notify

import (
	"context"
	"errors"
	"slices"
	"time"

	"pratique"
	"pratique/store"
)

// lookTags tells of tags that moved.
func (w *Watcher) lookTags(ctx context.Context, now time.Time) error {
	var c cursor
	if _, err := w.mark(ctx, markTags, &c); err != nil {
		return err
	}
	moves, err := w.src.Tags.TagMoves(ctx, c.At.Add(-overlap))
	if err != nil {
		return err
	}
	var es []store.Event
	for _, m := range moves {
		if m.Ref.Digest == m.Now {
			continue
		}
		name := m.Ref.Repository() + ":" + m.Ref.Tag
		data := TagMoved{Repository: m.Ref.Repository(), Tag: m.Ref.Tag, From: m.Ref.Digest, To: m.Now}
		if t, err := w.src.Tags.Tag(ctx, m.Ref); err == nil && t.Digest == m.Now {
			data.MediaType, data.Size = t.MediaType, t.Size
		} else if err != nil && !errors.Is(err, pratique.ErrNotFound) {
			return err
		}
		data.Text = line(name + " moved from " + m.Ref.Digest.String() + " to " + m.Now.String())
		if m.Now == "" {
			data.Text = line(name + " is gone upstream; it was " + m.Ref.Digest.String())
		}
		e, err := event(TypeTagMoved, id(TypeTagMoved, name, m.Ref.Digest, m.At), subject(m.Ref.At(m.Now)), name, m.Ref.Repository(), m.At, data)
		if err != nil {
			return err
		}
		es = append(es, e)
	}
	if es = slices.DeleteFunc(es, func(e store.Event) bool { return w.seen[e.ID] }); len(es) == 0 {
		return nil
	}
	m, err := note(markTags, time.Time{}, cursor{latest(c.At, now, es)})
	if err != nil {
		return err
	}
	return w.put(ctx, es, []store.Mark{m})
}

// latest is the time up to which was read: of the last event, but not of one
// whose clock runs ahead.
func latest(at, now time.Time, es []store.Event) time.Time {
	for _, e := range es {
		if e.At.After(at) && !e.At.After(now) {
			at = e.At
		}
	}
	return at
}
