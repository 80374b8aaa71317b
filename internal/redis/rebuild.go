package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

var _ store.RebuildState = (*DB)(nil)

// Fields of the schema key, each a time in nanoseconds.
const (
	// lostField says that the state was found empty while the object store was not:
	// until it is made anew, Unlinked answers nothing, and so no blob is removed.
	lostField = "lost"
	// rebuildField says that it is being made anew, and rebuiltField when it last was:
	// who used what before is not known (usage.go).
	rebuildField = "rebuild"
	rebuiltField = "rebuilt"
)

// linkFolder holds the documents of links (linkDocument).
const linkFolder = "links"

// Links implements store.RebuildState.
func (db *DB) Links(ctx context.Context) iter.Seq2[string, error] {
	return db.docs.DocumentNames(ctx, linkFolder)
}

// LinkOf implements store.RebuildState.
func (db *DB) LinkOf(ctx context.Context, name string) (store.Known, error) {
	doc, err := db.docs.Document(ctx, name)
	if err != nil {
		return store.Known{}, annotate(err, "link %s", name)
	}
	var known store.Known
	if err := json.Unmarshal(doc, &known); err != nil {
		return store.Known{}, annotate(fmt.Errorf("%w: %w", store.ErrMismatch, err), "link %s", name)
	}
	// Under another name it would be a link to another repository.
	if d, err := pratique.ParseDigest(known.Image.Digest.String()); err != nil || known.Ref.Digest != d || linkDocument(known.Ref, d) != name {
		return store.Known{}, annotate(store.ErrMismatch, "link %s", name)
	}
	return known, nil
}

// Inventoried implements store.RebuildState.
func (db *DB) Inventoried(ctx context.Context) iter.Seq2[digest.Digest, error] {
	return func(yield func(digest.Digest, error) bool) {
		for name, err := range db.docs.DocumentNames(ctx, inventoryFolder) {
			if err != nil {
				yield("", annotate(err, "inventories"))
				return
			}
			if d, _, err := inventoryOf(name); err == nil && !yield(d, nil) {
				return
			}
		}
	}
}

// Rebuild implements store.RebuildState.
func (db *DB) Rebuild(ctx context.Context) (time.Time, error) {
	n, err := db.rdb.HGet(ctx, db.schemaKey(), rebuildField).Int64()
	if err != nil {
		return time.Time{}, annotate(missing(err), "note of a rebuild")
	}
	return at(n), nil
}

// NoteRebuild implements store.RebuildState.
func (db *DB) NoteRebuild(ctx context.Context, began time.Time) error {
	return annotate(db.rdb.HSet(ctx, db.schemaKey(), rebuildField, nanos(began)).Err(), "note of a rebuild")
}

// EndRebuild implements store.RebuildState.
func (db *DB) EndRebuild(ctx context.Context) error {
	_, err := db.rdb.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.HSet(ctx, db.schemaKey(), rebuiltField, nanos(time.Now()))
		pipe.HDel(ctx, db.schemaKey(), rebuildField, lostField)
		return nil
	})
	return annotate(err, "note of a rebuild")
}

// rebuiltAt is when the state was last made anew, 0 if never.
func (db *DB) rebuiltAt(ctx context.Context) (int64, error) {
	n, err := db.rdb.HGet(ctx, db.schemaKey(), rebuiltField).Int64()
	if err = missing(err); isMissing(err) {
		return 0, nil
	}
	return n, err
}

// holding is a key that only a state has that was used.
type holding struct {
	part       part
	name, what string
}

// holdings are those of which one is enough. What a replica writes that nobody has
// pulled from (engines, marks) is not among them.
func holdings() []holding {
	out := []holding{{exceptionsPart, "exceptions", "exceptions"}, {outboxPart, "events", "events"}, {queuePart, "jobs", "jobs"}}
	for n := range partitions {
		p := partNumber(n)
		out = append(out, holding{p, "repositories", "repositories"}, holding{p, "images", "images"}, holding{p, "reports", "reports"}, holding{p, "served", "pulls"})
	}
	return out
}

// Holds implements store.RebuildState.
func (db *DB) Holds(ctx context.Context) (string, error) {
	all := holdings()
	cmds := make([]*redis.IntCmd, len(all))
	if _, err := db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, h := range all {
			cmds[i] = pipe.Exists(ctx, db.key(h.part, h.name))
		}
		return nil
	}); err != nil {
		return "", annotate(err, "what the state holds")
	}
	for i, cmd := range cmds {
		if cmd.Val() > 0 {
			return all[i].what, nil
		}
	}
	return "", nil
}

// errLost says why nothing is known to be without a name.
var errLost = errors.New("the state was lost and the objects were not: until `pratique rebuild` has made it anew, no blob is known to be of no use")

// noteLost notes, before a schema is first written, that the object store holds links
// of a state that is gone. Where that cannot be told nothing is opened: what is not
// known to be lost is removed after a while.
func (db *DB) noteLost(ctx context.Context) error {
	if db.cfg.Moving {
		return nil // what is moved here is whole
	}
	begun, err := db.rdb.HExists(ctx, db.schemaKey(), "version").Result()
	if err != nil || begun {
		return err
	}
	for _, err := range db.Links(ctx) {
		if err != nil {
			return fmt.Errorf("whether an empty state was lost: %w", err)
		}
		db.cfg.Log.ErrorContext(ctx, "the state is empty and the object store is not: was Redis lost? `pratique rebuild` makes anew what can be; until then no blob is removed")
		return db.rdb.HSet(ctx, db.schemaKey(), lostField, nanos(time.Now())).Err()
	}
	return nil
}

// ensureKept fails when the state was lost, is being lost now or made anew.
func (db *DB) ensureKept(ctx context.Context) error {
	found, err := db.rdb.HMGet(ctx, db.schemaKey(), "version", lostField, rebuildField).Result()
	if err == nil && (found[0] == nil || found[1] != nil || found[2] != nil) {
		err = errLost
	}
	return err
}
