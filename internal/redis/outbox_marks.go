package redis

import (
	"context"
	"fmt"
	"time"

	"pratique/store"
)

// Mark implements store.Marks.
func (db *DB) Mark(ctx context.Context, key string) (store.Mark, error) {
	text, err := db.rdb.HGet(ctx, db.outboxKey("marks"), key).Result()
	var m store.Mark
	if err == nil {
		m, err = readMark(key, text)
	}
	if err != nil {
		return store.Mark{}, annotate(missing(err), "mark %s", key)
	}
	return m, nil
}

// readMark reads a due time with a document behind it.
func readMark(key, text string) (store.Mark, error) {
	if len(text) < 20 {
		return store.Mark{}, fmt.Errorf("stored mark %s: too short", key)
	}
	n, err := parseDigits(text[:20])
	return store.Mark{Key: key, Due: at(n), Doc: []byte(text[20:])}, err
}

// Marks implements store.Marks.
func (db *DB) Marks(ctx context.Context, keys []string) (map[string]store.Mark, error) {
	out := make(map[string]store.Mark, len(keys))
	if len(keys) == 0 {
		return out, ctx.Err()
	}
	values, err := db.rdb.HMGet(ctx, db.outboxKey("marks"), keys...).Result()
	if err != nil {
		return nil, annotate(err, "marks")
	}
	for i, v := range values {
		text, ok := v.(string)
		if !ok {
			continue
		}
		m, err := readMark(keys[i], text)
		if err != nil {
			return nil, annotate(err, "marks")
		}
		out[m.Key] = m
	}
	return out, nil
}

// DueMarks implements store.Marks.
func (db *DB) DueMarks(ctx context.Context, now time.Time, limit int) ([]store.Mark, error) {
	texts, err := scriptDueMarks.Run(ctx, db.rdb, db.outboxKeys(), digits(nanos(now)), max(limit, 0)).StringSlice()
	if err != nil {
		return nil, annotate(err, "due marks")
	}
	var out []store.Mark
	for i := 0; i+1 < len(texts); i += 2 {
		m, err := readMark(texts[i], texts[i+1])
		if err != nil {
			return nil, annotate(err, "due marks")
		}
		out = append(out, m)
	}
	return out, nil
}
