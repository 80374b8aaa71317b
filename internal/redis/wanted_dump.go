package redis

import (
	"context"
	"iter"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"pratique/store"
)

// dumpsShelf is found by dump.go.
func (db *DB) dumpsShelf() dumps {
	return dumps{store.KindDatabases: {db.dumpDatabases, db.loadDatabases}}
}

func (db *DB) dumpDatabases(ctx context.Context, after string) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		kinds, err := db.wantedKinds(ctx)
		if err != nil {
			yield(store.Record{}, err)
			return
		}
		for _, kind := range kinds {
			if kind <= after {
				continue
			}
			w, err := db.WantedDatabase(ctx, kind)
			var r store.Record
			if err == nil {
				r, err = store.NewRecord(store.KindDatabases, kind, w)
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// wantedKinds are the kinds of databases of which one is wanted, sorted. They are
// nowhere listed, and looked for among all keys.
func (db *DB) wantedKinds(ctx context.Context) ([]string, error) {
	prefix := db.wantedKey("")
	node, err := db.node(ctx, prefix)
	if err != nil {
		return nil, err
	}
	glob := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)
	var kinds []string
	keys := node.Scan(ctx, 0, glob.Replace(prefix)+"*", 1000).Iterator()
	for keys.Next(ctx) {
		kinds = append(kinds, strings.TrimPrefix(keys.Val(), prefix))
	}
	slices.Sort(kinds)
	return slices.Compact(kinds), away(ctx, keys.Err()) // a scan may tell one twice
}

func (db *DB) loadDatabases(ctx context.Context, rs []store.Record) error {
	docs, err := store.Dumped[store.WantedDatabase](rs)
	if err != nil {
		return err
	}
	_, err = db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, w := range docs {
			pipe.HSet(ctx, db.wantedKey(rs[i].Key), "version", w.Version, "database", w.Database.String(), "doc", w.Doc)
		}
		return nil
	})
	return err
}
