package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"pratique"
	"pratique/store"
)

var (
	_ store.Outbox   = (*DB)(nil)
	_ store.EventLog = (*DB)(nil)
	_ store.Marks    = (*DB)(nil)
)

// outboxPart holds all events and marks: they are appended together or not at all.
const outboxPart part = "outbox"

// outboxKeys are the KEYS of its scripts.
func (db *DB) outboxKeys() []string {
	names := []string{
		"events", "events.meta", "events.seq", "events.at", "events.causes", "events.line", "events.ready", "events.later",
		"events.dead", "events.sinks", "events.number", "marks", "marks.due",
	}
	for i, name := range names {
		names[i] = db.key(outboxPart, name)
	}
	return names
}

func (db *DB) outboxKey(name string) string { return db.key(outboxPart, name) }

// eventMeta is what scripts know of an event.
type eventMeta struct {
	Number string                  `json:"q"`
	At     string                  `json:"t"`
	Cause  string                  `json:"c"`
	Order  string                  `json:"o"`
	By     map[string]deliveryMeta `json:"d"` // sink
}

type deliveryMeta struct {
	State     store.DeliveryState `json:"s"`
	Attempts  int                 `json:"a"`
	NotBefore string              `json:"n"`
	Settled   string              `json:"e"`
	Error     string              `json:"r"`
}

func (m deliveryMeta) delivery(e store.Event, sink string) (d store.Delivery, err error) {
	d = store.Delivery{Event: e, Sink: sink, State: m.State, Attempts: m.Attempts, Error: m.Error}
	n, err := parseDigits(m.NotBefore)
	d.NotBefore = at(n)
	if err == nil {
		n, err = parseDigits(m.Settled)
		d.Settled = at(n)
	}
	return d, err
}

// readEvent reads a document and its meta.
func (db *DB) readEvent(doc, meta string) (e store.Event, m eventMeta, err error) {
	if err := db.Decode([]byte(doc), &e); err != nil {
		return e, m, err
	}
	if err := json.Unmarshal([]byte(meta), &m); err != nil {
		return e, m, fmt.Errorf("stored event %s: %w", e.ID, err)
	}
	return e, m, nil
}

// eventArgs are what scripts append: id, time, cause, order, document.
func (db *DB) eventArgs(e store.Event, sinks ...string) ([]any, error) {
	for _, s := range append(sinks, e.ID, e.Cause, e.Order) {
		if strings.ContainsRune(s, 0) {
			return nil, fmt.Errorf("%w event %q: a zero byte in %q", pratique.ErrInvalid, e.ID, s)
		}
	}
	doc, err := db.Encode(e)
	if err != nil {
		return nil, annotate(err, "event %s", e.ID)
	}
	return []any{e.ID, digits(nanos(e.At)), e.Cause, e.Order, doc}, nil
}

func markArgs(m store.Mark) []any { return []any{m.Key, digits(nanos(m.Due)), m.Doc} }

// Append implements store.Outbox: one script. Several processes may append at once;
// whose event with one id comes first is the one that is kept.
func (db *DB) Append(ctx context.Context, es []store.Addressed, ms []store.Mark) error {
	if len(es) == 0 && len(ms) == 0 {
		return ctx.Err()
	}
	args := []any{len(es)}
	for _, e := range es {
		event, err := db.eventArgs(e.Event, e.Sinks...)
		if err != nil {
			return err
		}
		args = append(append(args, event...), len(e.Sinks))
		for _, s := range e.Sinks {
			args = append(args, s)
		}
	}
	for _, m := range ms {
		args = append(args, markArgs(m)...)
	}
	return annotate(done(scriptAppendEvents.Run(ctx, db.rdb, db.outboxKeys(), args...).Err()), "append events")
}

// Pending implements store.Outbox.
func (db *DB) Pending(ctx context.Context, sink string, now time.Time, limit int) ([]store.Delivery, error) {
	texts, err := scriptPending.Run(ctx, db.rdb, db.outboxKeys(), sink, digits(nanos(now)), max(limit, 0)).StringSlice()
	if err != nil {
		return nil, annotate(err, "events for %s", sink)
	}
	var out []store.Delivery
	for i := 0; i+1 < len(texts); i += 2 {
		e, m, err := db.readEvent(texts[i], texts[i+1])
		if err != nil {
			return nil, annotate(err, "events for %s", sink)
		}
		d, err := m.By[sink].delivery(e, sink)
		if err != nil {
			return nil, annotate(err, "events for %s", sink)
		}
		out = append(out, d)
	}
	return out, nil
}

// settleBatch bounds what one script settles.
const settleBatch = 500

// Settle implements store.Outbox. Who settles second, of two, changes nothing.
func (db *DB) Settle(ctx context.Context, ds []store.Delivery) error {
	for len(ds) > 0 {
		n := min(len(ds), settleBatch)
		var args []any
		for _, d := range ds[:n] {
			args = append(args, d.Event.ID, d.Sink, string(d.State), d.Attempts, digits(nanos(d.NotBefore)), digits(nanos(d.Settled)), d.Error)
		}
		if err := scriptSettle.Run(ctx, db.rdb, db.outboxKeys(), args...).Err(); err != nil {
			return annotate(err, "settle events")
		}
		ds = ds[n:]
	}
	return nil
}
