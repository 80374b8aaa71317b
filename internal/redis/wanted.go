package redis

import (
	"context"
	"fmt"
	"strconv"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

var _ store.Shelf = (*DB)(nil)

// fleetPart is the partition of what is one for the whole fleet. What is wanted is
// there because it is a fence for engines, which are there.
const fleetPart part = "fleet"

// wantedKey is the key of what is wanted of a kind of database.
func (db *DB) wantedKey(kind string) string { return db.key(fleetPart, "wanted."+kind) }

// WantedDatabase implements store.Shelf.
func (db *DB) WantedDatabase(ctx context.Context, kind string) (store.WantedDatabase, error) {
	fields, err := db.rdb.HMGet(ctx, db.wantedKey(kind), "version", "database", "doc").Result()
	if err != nil {
		return store.WantedDatabase{}, fmt.Errorf("wanted %s database: %w", kind, err)
	}
	version, ok := fields[0].(string)
	if !ok {
		return store.WantedDatabase{}, fmt.Errorf("wanted %s database: %w", kind, pratique.ErrNotFound)
	}
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return store.WantedDatabase{}, fmt.Errorf("wanted %s database: version: %w", kind, err)
	}
	d, _ := fields[1].(string)
	doc, _ := fields[2].(string)
	return store.WantedDatabase{Database: digest.Digest(d), Version: n, Doc: []byte(doc)}, nil
}

// PutWantedDatabase implements store.Shelf.
func (db *DB) PutWantedDatabase(ctx context.Context, kind string, before int64, next store.WantedDatabase) error {
	if next.Version <= before || next.Database == "" {
		return fmt.Errorf("wanted %s database: %w version %d after %d, digest %q", kind, pratique.ErrInvalid, next.Version, before, next.Database)
	}
	put, err := scriptWant.Run(ctx, db.rdb, []string{db.wantedKey(kind)}, before, next.Version, string(next.Database), next.Doc).Int()
	if err == nil && put == 0 {
		err = store.ErrSuperseded
	}
	if err != nil {
		return fmt.Errorf("wanted %s database: %w", kind, err)
	}
	return nil
}
