package redis

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"pratique"
	"pratique/store"
)

// dumpPulls yields minutes.
func (db *DB) dumpPulls(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		since := int64(0)
		if after != "" {
			minute, err := strconv.ParseInt(after, 10, 64)
			if err != nil {
				yield(store.Record{}, fmt.Errorf("%w minute %q", pratique.ErrInvalid, after))
				return
			}
			since = time.Unix(minute+60, 0).UnixNano()
		}
		for rows, err := range db.pullRows(ctx, since) { // an hour
			if err != nil {
				yield(store.Record{}, err)
				return
			}
			for len(rows) > 0 {
				minute := store.MinuteOf(at(rows[0].at))
				n := slices.IndexFunc(rows, func(r pullRow) bool { return store.MinuteOf(at(r.at)) != minute })
				if n < 0 {
					n = len(rows)
				}
				v := store.DumpedPulls{Pulls: make([]store.Pull, n)}
				for i := range n {
					v.Pulls[i] = rows[i].pull()
				}
				rows = rows[n:]
				r, err := store.NewRecord(store.KindPulls, strconv.FormatInt(minute, 10), v)
				if !yield(r, err) || err != nil {
					return
				}
			}
		}
	}
}

// loadPulls removes the minutes first: when it is broken off between, it is done
// again.
func (db *DB) loadPulls(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.DumpedPulls](rs)
	if err != nil {
		return err
	}
	minutes := make(map[int64][]any) // of an hour, those to remove
	var pulls []store.Pull
	for i, v := range docs {
		minute, err := strconv.ParseInt(rs[i].Key, 10, 64)
		if err != nil || minute%60 != 0 || minute < 0 {
			return fmt.Errorf("%w minute %q", pratique.ErrInvalid, rs[i].Key)
		}
		hour := hourOf(time.Unix(minute, 0).UnixNano())
		minutes[hour] = append(minutes[hour], minute/60%60)
		for _, p := range v.Pulls {
			if store.MinuteOf(p.At) != minute {
				return fmt.Errorf("%w pull of %s in the minute %d", pratique.ErrInvalid, p.At, minute)
			}
		}
		pulls = append(pulls, v.Pulls...)
	}
	byHour, err := db.pullHours(ctx)
	if err != nil {
		return err
	}
	var calls []scriptCall
	for hour, gone := range minutes {
		for _, p := range byHour[hour] {
			calls = append(calls, scriptCall{scriptPullsDrop, db.pullKeys(p, hour), append([]any{hour, 0}, gone...)})
		}
	}
	if _, err := db.runAll(ctx, calls); err != nil {
		return err
	}
	calls, err = db.pullWrites(pulls)
	if err == nil {
		_, err = db.runAll(ctx, calls)
	}
	return err
}
