package redis

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

// eventPage is how many events are looked at together.
const eventPage = 500

// Events implements store.EventLog.
func (db *DB) Events(ctx context.Context, q store.EventQuery) ([]store.EventRecord, error) {
	if q.Limit < 0 {
		q.Limit = math.MaxInt
	}
	out, err := db.events(ctx, q)
	if err != nil {
		return nil, annotate(err, "events")
	}
	return out, nil
}

func (db *DB) events(ctx context.Context, q store.EventQuery) (out []store.EventRecord, err error) {
	next, err := db.eventIDs(ctx, q)
	if err != nil {
		return nil, err
	}
	for len(out) < q.Limit {
		ids, err := next()
		if err != nil || len(ids) == 0 {
			return out, err
		}
		records, err := db.eventRecords(ctx, ids)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			if len(out) < q.Limit && fitsQuery(r, q) {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

func fitsQuery(r store.EventRecord, q store.EventQuery) bool {
	return (q.ID == "" || r.Event.ID == q.ID) && (q.Type == "" || r.Event.Type == q.Type) &&
		(q.Cause == "" || r.Event.Cause == q.Cause || strings.HasPrefix(r.Event.Cause, q.Cause+"@")) &&
		(!q.Dead || slices.ContainsFunc(r.Deliveries, func(d store.Delivery) bool { return d.State == store.DeliveryDead }))
}

// eventIDs returns what yields ids page by page, the newest first, of events among
// which are all that fit: by the best index there is.
func (db *DB) eventIDs(ctx context.Context, q store.EventQuery) (next func() ([]string, error), err error) {
	switch {
	case q.ID != "":
		return pagesOf([]string{q.ID}), nil
	case q.Cause != "":
		var members []string
		for _, r := range [][2]string{{"\x00", "\x01"}, {"@", "A"}} {
			ms, err := db.rdb.ZRangeByLex(ctx, db.outboxKey("events.causes"), &redis.ZRangeBy{Min: "[" + q.Cause + r[0], Max: "(" + q.Cause + r[1]}).Result()
			if err != nil {
				return nil, err
			}
			members = append(members, ms...)
		}
		return pagesOf(newestOf(members)), nil
	case q.Dead:
		members, err := db.rdb.ZRange(ctx, db.outboxKey("events.dead"), 0, -1).Result()
		return pagesOf(newestOf(members)), err
	}
	before := "+inf"
	return func() ([]string, error) {
		page, err := db.rdb.ZRevRangeByScoreWithScores(ctx, db.outboxKey("events.seq"), &redis.ZRangeBy{Min: "-inf", Max: before, Count: int64(min(eventPage, max(q.Limit, 1)))}).Result()
		var ids []string
		for _, z := range page {
			id, _ := z.Member.(string)
			ids = append(ids, id)
			before = "(" + strconv.FormatFloat(z.Score, 'f', 0, 64)
		}
		return ids, err
	}, nil
}

// newestOf are the ids in members of events.causes or events.dead: behind \0 and 16
// digits.
func newestOf(members []string) []string {
	type numbered struct{ number, id string }
	var found []numbered
	for _, m := range members {
		if _, rest, ok := strings.Cut(m, "\x00"); ok && len(rest) > 16 {
			found = append(found, numbered{rest[:16], rest[16:]})
		}
	}
	slices.SortFunc(found, func(a, b numbered) int { return cmp.Compare(b.number, a.number) })
	var ids []string
	for _, f := range slices.Compact(found) {
		ids = append(ids, f.id)
	}
	return ids
}

func pagesOf(ids []string) func() ([]string, error) {
	return func() ([]string, error) {
		n := min(len(ids), eventPage)
		page := ids[:n]
		ids = ids[n:]
		return page, nil
	}
}

// eventRecords reads events; those that are gone are left out.
func (db *DB) eventRecords(ctx context.Context, ids []string) ([]store.EventRecord, error) {
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	texts, err := scriptEvents.Run(ctx, db.rdb, db.outboxKeys(), args...).StringSlice()
	if err != nil {
		return nil, err
	}
	var out []store.EventRecord
	for i := 0; i+1 < len(texts); i += 2 {
		e, m, err := db.readEvent(texts[i], texts[i+1])
		if err != nil {
			return nil, err
		}
		r := store.EventRecord{Event: e}
		for _, sink := range sortedKeys(m.By) {
			d, err := m.By[sink].delivery(e, sink)
			if err != nil {
				return nil, err
			}
			r.Deliveries = append(r.Deliveries, d)
		}
		out = append(out, r)
	}
	return out, nil
}

// Replay implements store.EventLog.
func (db *DB) Replay(ctx context.Context, id string) (int, error) {
	n, err := scriptReplay.Run(ctx, db.rdb, db.outboxKeys(), id).Int()
	if err == nil && n < 0 {
		n, err = 0, pratique.ErrNotFound
	}
	return n, annotate(err, "replay event %s", id)
}

// Backlogs implements store.EventLog.
func (db *DB) Backlogs(ctx context.Context) (map[string]store.Backlog, error) {
	list, err := scriptBacklogs.Run(ctx, db.rdb, db.outboxKeys()).Slice()
	if err != nil {
		return nil, annotate(err, "count events")
	}
	out := make(map[string]store.Backlog)
	for i := 0; i+2 < len(list); i += 3 {
		sink, _ := list[i].(string)
		open, _ := list[i+1].(int64)
		dead, _ := list[i+2].(int64)
		if open > 0 || dead > 0 {
			out[sink] = store.Backlog{Open: int(open), Dead: int(dead)}
		}
	}
	return out, nil
}

// ForgetEvents implements store.EventLog, a batch at a time.
func (db *DB) ForgetEvents(ctx context.Context, settled, all time.Time) error {
	for after, more := "", true; more; more = after != "" {
		var err error
		if after, err = scriptForgetEvents.Run(ctx, db.rdb, db.outboxKeys(), digits(nanos(settled)), digits(nanos(all)), after, eventPage).Text(); err != nil {
			return annotate(err, "forget events")
		}
	}
	return nil
}
