package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

// What a server promises of a write that it has answered.
const (
	// DurableWaited: Redis 7.2 or later with an append-only file. What must be durable
	// is waited for (WAITAOF), the rest is synced as appendfsync says.
	DurableWaited = "waited"
	// DurableAlways: every write is on disk before it is answered (appendfsync always).
	DurableAlways = "always"
	// DurableEverySecond: what was written within the last second or two may be lost
	// (appendfsync everysec).
	DurableEverySecond = "everysec"
	// DurableNever: what was written since the system last wrote its buffers, mostly 30
	// seconds, may be lost (appendfsync no).
	DurableNever = "no"
	// DurableOff: there is no append-only file; what was written since the last snapshot
	// is lost with the server.
	DurableOff = "off"
	// DurableUnknown: the server does not tell (CONFIG is forbidden to this user).
	DurableUnknown = "unknown"
)

// durabilities are in order, the weakest first.
func durabilities() []string {
	return []string{DurableOff, DurableUnknown, DurableNever, DurableEverySecond, DurableAlways, DurableWaited}
}

// Durability is what the servers promise of a write that they have answered: one of
// the constants above, of a cluster that of the weakest master.
func (db *DB) Durability(ctx context.Context) (string, error) {
	nodes := []*redis.Client{}
	switch c := db.rdb.(type) {
	case *redis.ClusterClient:
		masters, err := db.masters(ctx, c)
		if err != nil {
			return "", annotate(err, "durability")
		}
		nodes = masters
	case *redis.Client:
		nodes = append(nodes, c)
	}
	weakest := len(durabilities())
	for _, node := range nodes {
		found, err := durability(ctx, node.Process)
		if err != nil {
			return "", annotate(away(ctx, err), "durability")
		}
		for i, d := range durabilities() {
			if d == found {
				weakest = min(weakest, i)
			}
		}
	}
	if weakest == len(durabilities()) {
		return DurableUnknown, nil
	}
	return durabilities()[weakest], nil
}

// masters are the clients of the masters of a cluster.
func (db *DB) masters(ctx context.Context, c *redis.ClusterClient) ([]*redis.Client, error) {
	found := make(chan *redis.Client, 1)
	var out []*redis.Client
	done := make(chan struct{})
	go func() {
		defer close(done)
		for node := range found {
			out = append(out, node)
		}
	}()
	err := c.ForEachMaster(ctx, func(_ context.Context, node *redis.Client) error {
		found <- node
		return nil
	})
	close(found)
	<-done
	return out, away(ctx, err)
}

// durability asks one server.
func durability(ctx context.Context, process func(context.Context, redis.Cmder) error) (string, error) {
	info := redis.NewSliceCmd(ctx, "command", "info", "waitaof")
	if err := process(ctx, info); err != nil && !refused(err) {
		return "", err
	}
	waits := len(info.Val()) > 0 && info.Val()[0] != nil
	setting := func(name string) (string, error) {
		cmd := redis.NewMapStringStringCmd(ctx, "config", "get", name)
		if err := process(ctx, cmd); err != nil {
			if refused(err) {
				return "", nil
			}
			return "", err
		}
		return cmd.Val()[name], nil
	}
	file, err := setting("appendonly")
	if err != nil {
		return "", err
	}
	policy, err := setting("appendfsync")
	switch {
	case err != nil:
		return "", err
	case file == "no":
		return DurableOff, nil
	case waits: // the answer to WAITAOF tells, also where CONFIG does not
		return DurableWaited, nil
	case policy == DurableAlways, policy == DurableEverySecond, policy == DurableNever:
		return policy, nil
	default:
		return DurableUnknown, nil
	}
}

// refused reports whether a server answered that it will not do this.
func refused(err error) bool {
	return redis.HasErrorPrefix(err, "NOPERM") || redis.HasErrorPrefix(err, "ERR")
}

// syncWait is how long a disk may take before what was written does not count as
// durable.
const syncWait = 2 * time.Second

// errNotSynced says that something was written and is not known to be on disk.
var errNotSynced = fmt.Errorf("%w: written, but not known to be on disk: look whether it is there", store.ErrUnreachable)

// durably calls a script about keys of one slot that returns 0 or 1, on a connection of
// its own, and waits there until what it wrote is on disk, if the server can tell: that
// is about the writes of one connection. Where it cannot, a line in the log says what
// to set.
func (db *DB) durably(ctx context.Context, keys []string, script *redis.Script, args ...any) (bool, error) {
	for attempt := 0; ; attempt++ {
		done, err := db.durablyOnce(ctx, keys, script, args...)
		cluster, ok := db.rdb.(*redis.ClusterClient)
		if !ok || attempt == 3 || !redis.HasErrorPrefix(err, "MOVED") && !redis.HasErrorPrefix(err, "ASK") {
			return done, away(ctx, err)
		}
		cluster.ReloadState(ctx) // the key has moved to another node; nothing was written
	}
}

func (db *DB) durablyOnce(ctx context.Context, keys []string, script *redis.Script, args ...any) (bool, error) {
	node, err := db.node(ctx, keys[0])
	if err != nil {
		return false, err
	}
	conn := node.Conn()
	defer conn.Close()
	promise, err := durability(ctx, conn.Process)
	if err != nil {
		return false, err
	}
	n, err := script.Run(ctx, conn, keys, args...).Int()
	if err != nil || n == 0 {
		return false, err
	}
	if promise == DurableWaited {
		synced, err := conn.WaitAOF(ctx, 1, 0, min(syncWait, db.cfg.Timeout)).Result()
		switch {
		case redis.HasErrorPrefix(err, "ERR"): // no append-only file, and CONFIG did not tell
			promise = DurableOff
		case err != nil:
			return false, err
		case len(synced) == 0 || synced[0] < 1:
			return false, errNotSynced
		}
	}
	db.warnDurability(ctx, promise)
	return true, nil
}

// node is the client of the server that has a key.
func (db *DB) node(ctx context.Context, key string) (*redis.Client, error) {
	switch c := db.rdb.(type) {
	case *redis.Client:
		return c, nil
	case *redis.ClusterClient:
		return c.MasterForKey(ctx, key)
	default:
		return nil, errors.Join(pratique.ErrInvalid, fmt.Errorf("a client of kind %T", c))
	}
}

// warnDurability says, once for each promise, what may be lost.
func (db *DB) warnDurability(ctx context.Context, promise string) {
	if before, _ := db.warned.Swap(promise).(string); before == promise {
		return
	}
	lost := map[string]string{
		DurableEverySecond: "the last two seconds",
		DurableNever:       "what the system had not written to disk yet, mostly 30 seconds",
		DurableOff:         "everything since the last snapshot",
		DurableUnknown:     "unknown: the user may not read the server's configuration",
	}[promise]
	if lost != "" {
		db.cfg.Log.WarnContext(ctx, "an exception was stored that redis may lose when it dies; set appendonly yes and appendfsync always, or use redis 7.2 or later",
			"durability", promise, "lost", lost)
	}
}
