package redis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

// moveField of the schema key is a store.Move, as JSON, as long as the state is one
// that another is moved to. Then only a process with Config.Moving opens it.
const moveField = "move"

// errMoving says that a state is not whole yet.
var errMoving = errors.New("another state is being moved here: finish it with pratique migrate")

func (db *DB) ensureWhole(ctx context.Context) error {
	_, err := db.Move(ctx)
	switch {
	case errors.Is(err, pratique.ErrNotFound):
		return nil
	case err == nil && !db.cfg.Moving:
		return errMoving
	}
	return err
}

// Move implements store.MoveTarget.
func (db *DB) Move(ctx context.Context) (m store.Move, err error) {
	doc, err := db.rdb.HGet(ctx, db.schemaKey(), moveField).Bytes()
	if err == nil {
		err = json.Unmarshal(doc, &m)
	}
	if err != nil {
		return store.Move{}, fmt.Errorf("note of a move: %w", missing(err))
	}
	return m, nil
}

// NoteMove implements store.MoveTarget.
func (db *DB) NoteMove(ctx context.Context, m store.Move) error {
	doc, err := json.Marshal(m)
	if err == nil {
		err = db.rdb.HSet(ctx, db.schemaKey(), moveField, doc).Err()
	}
	if err != nil {
		return fmt.Errorf("note of a move: %w", err)
	}
	return nil
}

// EndMove implements store.MoveTarget. What was loaded is on disk when it returns,
// as far as the server keeps anything there. What was lost before is made up for.
func (db *DB) EndMove(ctx context.Context) error {
	err := db.sync(ctx)
	if err == nil {
		err = db.rdb.HDel(ctx, db.schemaKey(), moveField, lostField).Err()
	}
	if err != nil {
		return fmt.Errorf("note of a move: %w", err)
	}
	return nil
}

// syncDelay is how long it takes, without a disk that hangs, until a server with
// appendfsync everysec has written to disk what it answered.
const syncDelay = 2 * time.Second

// movedWait is how long a disk may take for all that a move wrote.
const movedWait = time.Minute

// sync waits until what was written is on disk at every server that has some of it, where
// the servers can tell.
func (db *DB) sync(ctx context.Context) error {
	seen := make(map[string]bool)
	for n := range partitions {
		key := db.key(partNumber(n), "version")
		node, err := db.node(ctx, key)
		if err != nil {
			return err
		}
		address := node.Options().Addr
		if seen[address] {
			continue
		}
		seen[address] = true
		if err := syncNode(ctx, node, key); err != nil {
			return away(ctx, err)
		}
	}
	return nil
}

// syncNode writes something on a connection of its own, and waits for the disk there:
// files are in the order of writes.
func syncNode(ctx context.Context, node *redis.Client, key string) error {
	conn := node.WithTimeout(movedWait + time.Second).Conn()
	defer conn.Close()
	promise, err := durability(ctx, conn.Process)
	if err == nil && promise == DurableEverySecond {
		select {
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-time.After(syncDelay):
		}
	}
	if err != nil || promise != DurableWaited {
		return err
	}
	if err := conn.IncrBy(ctx, key, 0).Err(); err != nil {
		return err
	}
	synced, err := conn.WaitAOF(ctx, 1, 0, movedWait).Result()
	if err == nil && (len(synced) == 0 || synced[0] < 1) {
		err = errNotSynced
	}
	return err
}

// Fingerprint implements store.MoveSource: the versions of all partitions.
func (db *DB) Fingerprint(ctx context.Context) (string, error) {
	versions, err := db.changes.versions(ctx)
	if err != nil {
		return "", fmt.Errorf("versions: %w", err)
	}
	sum := sha256.Sum256(fmt.Append(nil, db.prefix, versions))
	return "redis:" + hex.EncodeToString(sum[:16]), nil
}

// ownWord is for how long Others waits until this process' own subscription is
// counted, and one that has just ended is not.
const ownWord = 2 * time.Second

// Others counts the other processes that use the state now: those that listen to its
// changes.
func (db *DB) Others(ctx context.Context) (int, error) {
	end, one := time.Now().Add(ownWord), false
	for {
		n, err := db.listeners(ctx)
		if err != nil {
			return 0, fmt.Errorf("processes that use the state: %w", err)
		}
		// One, and it may be another's: this process has asked, and is not counted yet.
		if n <= 1 && one || time.Now().After(end) {
			return max(0, n-1), nil
		}
		one = n <= 1
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(ownWord / 4):
		}
	}
}

func (db *DB) listeners(ctx context.Context) (int, error) {
	channel := db.channel(changesChannel)
	cluster, ok := db.rdb.(*redis.ClusterClient)
	if !ok {
		counts, err := db.rdb.PubSubNumSub(ctx, channel).Result()
		return int(counts[channel]), err
	}
	var n atomic.Int64
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		counts, err := node.PubSubNumSub(ctx, channel).Result()
		n.Add(counts[channel])
		return err
	})
	return int(n.Load()), err
}
