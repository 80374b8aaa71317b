package redis

import (
	"context"
	"fmt"

	"pratique/store"
)

var _ store.Pushes = (*DB)(nil)

// pushesPart holds all pushes: those of a request are opened together.
const pushesPart part = "pushes"

func (db *DB) pushKeys() []string {
	return []string{db.key(pushesPart, "pushes"), db.key(pushesPart, "pushes.at")}
}

// PutPushes implements store.Pushes.
func (db *DB) PutPushes(ctx context.Context, ps []store.Push) error {
	if len(ps) == 0 {
		return nil
	}
	var args []any
	for _, p := range ps {
		doc, err := db.Encode(p)
		if err != nil {
			return annotate(err, "push of %s", p.Ref)
		}
		args = append(args, p.Key(), digits(nanos(p.At)), doc)
	}
	return annotate(done(scriptPutPushes.Run(ctx, db.rdb, db.pushKeys(), args...).Err()), "open pushes")
}

// OpenPushes implements store.Pushes.
func (db *DB) OpenPushes(ctx context.Context, limit int) ([]store.Push, error) {
	docs, err := scriptOpenPushes.Run(ctx, db.rdb, db.pushKeys(), limit).StringSlice()
	if err != nil {
		return nil, annotate(err, "open pushes")
	}
	out := make([]store.Push, len(docs))
	for i, doc := range docs {
		if out[i], err = db.readPush(doc); err != nil {
			return nil, annotate(err, "open pushes")
		}
	}
	return out, nil
}

func (db *DB) readPush(doc string) (p store.Push, err error) {
	if len(doc) < 20 {
		return p, fmt.Errorf("stored push: %q", doc)
	}
	return p, db.Decode([]byte(doc[20:]), &p)
}

// ClosePush implements store.Pushes.
func (db *DB) ClosePush(ctx context.Context, p store.Push) error {
	return annotate(scriptClosePush.Run(ctx, db.rdb, db.pushKeys(), p.Key(), digits(nanos(p.At))).Err(), "close push of %s", p.Ref)
}
