package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"pratique/store"
)

// The schema key tells which releases may share the state:
//
//	version  the newest schema that was ever written
//	oldest   the oldest whose releases may still write
//
// and, of other files, move (move.go), lost, rebuild and rebuilt (rebuild.go).
//
// A release whose schema is above version brings the state forward, step by step,
// while older releases go on; one whose schema is below oldest does not open it, and
// stops using it when that comes about while it runs.

// step brings a state from the schema below forward to schema to.
type step struct {
	to int
	// run adds what releases of to need. It may be interrupted anywhere and run again,
	// and older releases read and write meanwhile and, unless final, afterwards.
	run func(ctx context.Context, db *DB) error
	// final says that releases below to must not write once it is done.
	final bool
}

// steps are those of this release, in order. The last one's schema is schema.
func steps() []step { return nil }

// errOutdated says that a newer release changed what this one cannot read.
var errOutdated = errors.New("the state is of a newer release: update this replica")

func (db *DB) schemaKey() string { return db.cfg.Prefix + ":{schema}" }

// ensureSchema makes or checks the schema key, and brings an older state forward.
func (db *DB) ensureSchema(ctx context.Context) error {
	key := db.schemaKey()
	first := db.schema
	if err := db.noteLost(ctx); err != nil {
		return err
	}
	if err := db.rdb.HSetNX(ctx, key, "version", first).Err(); err != nil {
		return err
	}
	if err := db.rdb.HSetNX(ctx, key, "oldest", 1).Err(); err != nil {
		return err
	}
	version, oldest, err := db.readSchema(ctx)
	if err != nil {
		return err
	}
	if oldest > db.schema {
		return fmt.Errorf("%w: it is of schema %d, and may be written by releases of schema %d or later; this one is of schema %d", errOutdated, version, oldest, db.schema)
	}
	if version >= db.schema {
		return nil
	}
	return db.forward(ctx)
}

func (db *DB) readSchema(ctx context.Context) (version, oldest int, err error) {
	found, err := db.rdb.HGetAll(ctx, db.schemaKey()).Result()
	if err != nil {
		return 0, 0, err
	}
	version, err1 := strconv.Atoi(found["version"])
	oldest, err2 := strconv.Atoi(found["oldest"])
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, fmt.Errorf("the key %s does not tell the schema: %w", db.schemaKey(), err)
	}
	return version, oldest, nil
}

// forwardLease is for how long a replica that died in the middle keeps others from
// going on with it.
const forwardLease = 30 * time.Second

// forward does the steps that are missing. One replica does them; others wait.
func (db *DB) forward(ctx context.Context) error {
	for {
		lease, err := db.Lease(ctx, "schema", forwardLease)
		if errors.Is(err, store.ErrHeld) {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(time.Second):
				continue
			}
		}
		if err != nil {
			return err
		}
		err = db.doSteps(lease.Context()) //nolint:contextcheck // it ends with the lease, which has ctx
		lease.Release()
		return err
	}
}

func (db *DB) doSteps(ctx context.Context) error {
	version, _, err := db.readSchema(ctx)
	if err != nil {
		return err
	}
	for _, s := range db.steps {
		if s.to <= version || s.to > db.schema {
			continue
		}
		db.cfg.Log.InfoContext(ctx, "the state is brought forward", "schema", s.to)
		if err := s.run(ctx, db); err != nil {
			return fmt.Errorf("bringing the state forward to schema %d: %w", s.to, err)
		}
		fields := []any{"version", s.to}
		if s.final {
			fields = append(fields, "oldest", s.to)
		}
		if err := db.rdb.HSet(ctx, db.schemaKey(), fields...).Err(); err != nil {
			return err
		}
	}
	return nil
}
