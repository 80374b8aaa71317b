package redis

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

var _ store.Exceptions = (*DB)(nil)

// exceptionsPart holds all exceptions: they are few, and read together. It is the
// partition of store.ExceptionsKey, so that the script that writes one tells it too.
const exceptionsPart part = "31"

func (db *DB) exceptionsKey() string { return db.key(exceptionsPart, "exceptions") }

// writeException calls a script that writes one, and tells everybody: this process also
// when it failed.
func (db *DB) writeException(ctx context.Context, script *redis.Script, args ...any) (done bool, err error) {
	defer func() { db.changes.wrote(err, []digest.Digest{store.ExceptionsKey}) }()
	args = append([]any{db.channel(changesChannel), string(exceptionsPart), string(store.ExceptionsKey)}, args...)
	return db.durably(ctx, []string{db.exceptionsKey(), db.key(exceptionsPart, "version")}, script, args...)
}

// CreateException implements store.Exceptions. It returns nil when the exception is
// on disk, as far as the server can tell (exceptions_durable.go).
func (db *DB) CreateException(ctx context.Context, e pratique.Exception) error {
	doc, err := db.Encode(e)
	if err != nil {
		return annotate(err, "exception %s", e.ID)
	}
	created, err := db.writeException(ctx, scriptCreateException, e.ID, doc)
	if err == nil && !created {
		err = store.ErrExists
	}
	return annotate(err, "exception %s", e.ID)
}

// RevokeException implements store.Exceptions. One that is revoked is written again
// as it is, so that it is durable even if whoever revoked it was not told so.
func (db *DB) RevokeException(ctx context.Context, id, by, why string, when time.Time) (pratique.Exception, error) {
	for {
		e, revised, err := db.revoke(ctx, id, by, why, when)
		if err != nil {
			return pratique.Exception{}, annotate(err, "exception %s", id)
		}
		if revised {
			return e, nil
		}
	}
}

// revoke revokes what stands, unless it is another one by then.
func (db *DB) revoke(ctx context.Context, id, by, why string, when time.Time) (e pratique.Exception, revised bool, err error) {
	before, err := db.rdb.HGet(ctx, db.exceptionsKey(), id).Bytes()
	if err == nil {
		err = db.Decode(before, &e)
	}
	if err != nil {
		return e, false, missing(err)
	}
	after := before
	if e.Revoked.IsZero() {
		e.Revoked, e.RevokedBy, e.RevokedWhy = when, by, why
		if after, err = db.Encode(e); err != nil {
			return e, false, err
		}
	}
	revised, err = db.writeException(ctx, scriptReviseException, id, before, after)
	return e, revised, err
}

// Exceptions implements store.Exceptions.
func (db *DB) Exceptions(ctx context.Context) ([]pratique.Exception, error) {
	docs, err := db.rdb.HVals(ctx, db.exceptionsKey()).Result()
	if err != nil {
		return nil, annotate(err, "exceptions")
	}
	var out []pratique.Exception
	for _, doc := range docs {
		var e pratique.Exception
		if err := db.Decode([]byte(doc), &e); err != nil {
			return nil, annotate(err, "exceptions")
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b pratique.Exception) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}
