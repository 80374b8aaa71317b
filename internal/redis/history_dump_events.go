package redis

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"

	"pratique/store"
)

// outboxAtOnce is how many events or marks one script stores: the server does nothing
// else meanwhile.
const outboxAtOnce = 100

// dumpEvents yields them by number, which is the order in which they were appended.
func (db *DB) dumpEvents(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		from := "-inf"
		if after != "" {
			number, err := db.rdb.ZScore(ctx, db.outboxKey("events.seq"), after).Result()
			if err != nil {
				yield(store.Record{}, annotate(missing(err), "event %s", after))
				return
			}
			from = "(" + strconv.FormatFloat(number, 'f', 0, 64)
		}
		for {
			page, err := db.rdb.ZRangeByScoreWithScores(ctx, db.outboxKey("events.seq"), &redis.ZRangeBy{Min: from, Max: "+inf", Count: dumpPage}).Result()
			var rs []store.Record
			if err == nil {
				rs, err = db.eventsOf(ctx, page)
			}
			if err != nil {
				yield(store.Record{}, err)
				return
			}
			for _, r := range rs {
				if !yield(r, nil) {
					return
				}
			}
			if len(page) < dumpPage {
				return
			}
			from = "(" + strconv.FormatFloat(page[len(page)-1].Score, 'f', 0, 64)
		}
	}
}

func (db *DB) eventsOf(ctx context.Context, page []redis.Z) ([]store.Record, error) {
	if len(page) == 0 {
		return nil, nil
	}
	ids := make([]string, len(page))
	for i, z := range page {
		ids[i], _ = z.Member.(string)
	}
	events, err := db.eventRecords(ctx, ids)
	if err != nil {
		return nil, err
	}
	if len(events) != len(ids) {
		return nil, fmt.Errorf("%d of %d events are missing", len(ids)-len(events), len(ids))
	}
	out := make([]store.Record, len(events))
	for i, e := range events {
		v := store.DumpedEvent{Event: e.Event}
		for _, d := range e.Deliveries {
			v.Deliveries = append(v.Deliveries, store.DumpedDelivery{
				Sink: d.Sink, State: d.State, Attempts: d.Attempts, NotBefore: d.NotBefore, Settled: d.Settled, Error: d.Error,
			})
		}
		if out[i], err = store.NewRecord(store.KindEvents, ids[i], v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (db *DB) loadEvents(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.DumpedEvent](rs)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(docs, outboxAtOnce) {
		var args []any
		for _, v := range part {
			sinks := make([]string, len(v.Deliveries))
			for i, d := range v.Deliveries {
				sinks[i] = d.Sink
			}
			event, err := db.eventArgs(v.Event, sinks...)
			if err != nil {
				return err
			}
			args = append(append(args, event...), len(v.Deliveries))
			for _, d := range v.Deliveries {
				args = append(args, d.Sink, string(d.State), d.Attempts, timeText(d.NotBefore), timeText(d.Settled), d.Error)
			}
		}
		if err := done(scriptLoadEvents.Run(ctx, db.rdb, db.outboxKeys(), args...).Err()); err != nil {
			return err
		}
	}
	return nil
}
