package redis

import (
	"context"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"pratique/store"
)

// RecordVerdicts implements store.PullLog.
func (db *DB) RecordVerdicts(ctx context.Context, js []store.Judged) error {
	byPart := make(map[part][]any)
	for i := range js {
		doc, err := db.Encode(js[i])
		if err != nil {
			return annotate(err, "verdict %s", js[i].Verdict.ID)
		}
		p := partOf(js[i].Verdict.ID)
		byPart[p] = append(byPart[p], js[i].Verdict.ID, nanos(js[i].At)/1000, doc)
	}
	_, err := db.runAll(ctx, db.verdictCalls(scriptVerdicts, byPart))
	return annotate(err, "verdicts")
}

func (db *DB) verdictCalls(script *redis.Script, byPart map[part][]any) []scriptCall {
	var calls []scriptCall
	for p, args := range byPart {
		for chunk := range slices.Chunk(args, 3000) {
			calls = append(calls, scriptCall{script, []string{db.key(p, "verdicts"), db.key(p, "verdicts.at")}, chunk})
		}
	}
	return calls
}

// Verdict implements store.PullLog.
func (db *DB) Verdict(ctx context.Context, id string) (store.Judged, error) {
	var j store.Judged
	doc, err := db.rdb.HGet(ctx, db.key(partOf(id), "verdicts"), id).Bytes()
	if err == nil {
		err = db.Decode(doc, &j)
	}
	if err != nil {
		return store.Judged{}, annotate(missing(err), "verdict %s", id)
	}
	return j, nil
}

// ForgetPulls implements store.PullLog. Each step is right on its own, and calling it
// again goes on where it was broken off; several processes may call it at once.
func (db *DB) ForgetPulls(ctx context.Context, before time.Time) error {
	byHour, err := db.pullHours(ctx)
	if err == nil {
		err = db.dropPulls(ctx, byHour, nanos(before))
	}
	if err == nil {
		err = db.forgetVerdicts(ctx, nanos(before))
	}
	return annotate(err, "forget pulls")
}

func (db *DB) dropPulls(ctx context.Context, byHour map[int64][]part, before int64) error {
	for _, hour := range sortedKeys(byHour) {
		if hour > hourOf(before) {
			return nil
		}
		cut := min(before-hour*hourNanos, hourNanos)
		if cut == 0 {
			return nil
		}
		var calls []scriptCall
		for _, p := range byHour[hour] {
			calls = append(calls, scriptCall{scriptPullsDrop, db.pullKeys(p, hour), []any{hour, cut}})
		}
		if _, err := db.runAll(ctx, calls); err != nil {
			return err
		}
	}
	return nil
}

// forgetVerdicts removes verdicts from before a time that no pull names. It looks for
// them before it looks at the pulls, so that one that is named meanwhile stays; the
// moment between the two looks and the removal is open, for a verdict that nobody met
// for as long as pulls are kept.
func (db *DB) forgetVerdicts(ctx context.Context, before int64) error {
	old, err := db.verdictsBefore(ctx, before)
	if err != nil || len(old) == 0 {
		return err
	}
	byHour, err := db.pullHours(ctx)
	if err != nil {
		return err
	}
	boundary := dayOf(hourOf(before))
	seen := make(map[string]bool)
	var cmds []*redis.StringSliceCmd
	_, err = db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for hour, parts := range byHour {
			if dayOf(hour) == boundary {
				continue // what was asked may name more than the pulls that are left
			}
			for _, p := range parts {
				if key := db.askedKey(p, hour); !seen[key] {
					seen[key] = true
					cmds = append(cmds, pipe.HKeys(ctx, key))
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, cmd := range cmds {
		for _, text := range cmd.Val() {
			p, err := parseAsked(text)
			if err != nil {
				return err
			}
			delete(old, p.Verdict)
		}
	}
	for rows, err := range db.pullRows(ctx, boundary*24*hourNanos) {
		if err != nil {
			return err
		}
		if len(rows) > 0 && dayOf(hourOf(rows[0].at)) > boundary {
			break
		}
		for _, r := range rows {
			delete(old, r.asked.Verdict)
		}
	}
	byPart := make(map[part][]any)
	for id := range old {
		byPart[partOf(id)] = append(byPart[partOf(id)], id)
	}
	_, err = db.runAll(ctx, db.verdictCalls(scriptVerdictsForget, byPart))
	return err
}

// verdictsBefore are the ids of those that were met before a time. Their times are
// kept in microseconds, as exact as a score can be.
func (db *DB) verdictsBefore(ctx context.Context, before int64) (map[string]bool, error) {
	if before == math.MinInt64 {
		return nil, nil
	}
	var cmds []*redis.StringSliceCmd
	_, err := db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for n := range partitions {
			cmds = append(cmds, pipe.ZRangeByScore(ctx, db.key(partNumber(n), "verdicts.at"), &redis.ZRangeBy{Min: "-inf", Max: "(" + strconv.FormatInt(before/1000, 10)}))
		}
		return nil
	})
	out := make(map[string]bool)
	for _, cmd := range cmds {
		for _, id := range cmd.Val() {
			out[id] = true
		}
	}
	return out, err
}
