package redis

import (
	"context"
	"fmt"
	"strconv"
)

// The schema key tells which releases may share the state:
//
//	version  the newest schema that was ever written
//	oldest   the oldest whose releases may still write
//
// A release opens a state whose version it knows or whose oldest it is not below.
func (db *DB) ensureSchema(ctx context.Context) error {
	key := db.cfg.Prefix + ":{schema}"
	if err := db.rdb.HSetNX(ctx, key, "version", schema).Err(); err != nil {
		return err
	}
	if err := db.rdb.HSetNX(ctx, key, "oldest", schema).Err(); err != nil {
		return err
	}
	found, err := db.rdb.HGetAll(ctx, key).Result()
	if err != nil {
		return err
	}
	oldest, err := strconv.Atoi(found["oldest"])
	if err != nil {
		return fmt.Errorf("the key %s does not tell the oldest schema: %q", key, found["oldest"])
	}
	if oldest > schema {
		return fmt.Errorf("the state is of schema %s and may be written by releases of schema %d or later; this release is of schema %d: update it", found["version"], oldest, schema)
	}
	return nil
}
