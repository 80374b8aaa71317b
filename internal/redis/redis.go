// Package redis keeps Pratique's state and its queue in Redis, where several
// processes share it: a single server, one watched by Sentinel, or a Cluster.
//
// It owns all keys (keys.go) and scripts (scripts.go). A *DB implements every
// contract of package store except blobs, and scheduler.Queue. What is large and
// derived (inventories) is in store.Documents. Durability is the server's: what a
// method wrote when it returns nil is in Redis, and on disk as its append-only
// file says (docs/operate.md). Nothing here judges, scans or interprets what it
// stores.
//
// Every error that says nothing but that Redis did not answer wraps
// store.ErrUnreachable.
package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/internal/packed"
	"pratique/store"
)

// Config says which Redis, and who asks.
type Config struct {
	// URL of the server: redis://HOST:PORT/DATABASE, or rediss:// with TLS. Several
	// hosts, separated by commas, with +sentinel (redis+sentinel://…/MASTER) or
	// +cluster after the scheme.
	URL string
	// Username and Password of an ACL user. With Sentinel, SentinelPassword is that of
	// the sentinels.
	Username, Password, SentinelPassword string
	// TLS for the rediss schemes. If nil, the system's certificates.
	TLS *tls.Config
	// Prefix begins every key. If empty, "pratique".
	Prefix string
	// Replica names this process among those that share the state. If empty, a random
	// name.
	Replica string
	// Documents keeps what is large and derived. Required.
	Documents store.Documents
	// Skew is how far the clocks of replicas may be apart: leases of jobs are taken
	// over so much later. Negative is none. If zero, 2 seconds.
	Skew time.Duration
	// Timeout bounds one command. If zero, 3 seconds.
	Timeout time.Duration
	// Poll is how often versions are compared with what messages told. If zero, half
	// a second: so long, at most, something stays unnoticed whose message was lost.
	Poll time.Duration
	// OnChanged is told of what was written, by this process or another: digests and
	// tag keys as with Stamper, or nil for everything. It must not block. If nil,
	// nothing is told.
	OnChanged func(ds []digest.Digest)
	// OnAnnounced is told of images that some process announced (Announce), this one
	// included. It must not block. If nil, nothing is told.
	OnAnnounced func(images []digest.Digest)
	// OnJob is told that a job may be waiting. It must not block. If nil, nothing is.
	OnJob func()
	// later are the steps of a release to come, for tests.
	later []step

	// Moving opens the state although another one is being moved to it: for who does
	// that (store.MoveState).
	Moving bool
	// Log receives lost and regained connections. If nil, slog.Default().
	Log *slog.Logger
	// Metrics receives pratique_redis_*. If nil, none are registered.
	Metrics prometheus.Registerer
}

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = "pratique"
	}
	if c.Replica == "" {
		c.Replica = randomName()
	}
	if c.Skew == 0 {
		c.Skew = 2 * time.Second
	}
	c.Skew = max(c.Skew, 0)
	if c.Timeout <= 0 {
		c.Timeout = 3 * time.Second
	}
	if c.Poll <= 0 {
		c.Poll = 500 * time.Millisecond
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// DB is the state in one Redis. It is safe for concurrent use.
type DB struct {
	cfg    Config
	rdb    redis.UniversalClient
	prefix string // PREFIX:LAYOUT:
	schema int    // schema and steps; tests have others
	steps  []step
	packed.Codec
	docs    store.Documents
	stamps  *store.Stamps
	changes *changes
	leases  leases
	ties    atomic.Uint32 // of pulls, see packTime
	warned  atomic.Value  // of durability, see warnDurability
	queue   *queue

	joins       joins     // fleet_memory.go
	inventories documents // inventories.go
}

// Open connects, and brings an older schema up to date (schema.go). It fails when
// Redis does not answer, or when a newer release says that this one may not write.
func Open(ctx context.Context, cfg Config) (_ *DB, err error) {
	cfg = cfg.withDefaults()
	if cfg.Documents == nil {
		return nil, errors.New("redis: no store of documents")
	}
	options, err := options(cfg)
	if err != nil {
		return nil, err
	}
	db := &DB{cfg: cfg, rdb: redis.NewUniversalClient(options), docs: cfg.Documents, stamps: store.NewStamps()}
	db.prefix = cfg.Prefix + ":" + strconv.Itoa(layout) + ":"
	db.schema, db.steps = schema, steps()
	if cfg.later != nil {
		db.schema, db.steps = cfg.later[len(cfg.later)-1].to, cfg.later
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.rdb.Close())
		}
	}()
	if db.Codec, err = packed.NewCodec(); err != nil {
		return nil, err
	}
	db.rdb.AddHook(unreachable{func() bool { return db.changes != nil && db.changes.outdated.Load() }})
	if err := db.open(ctx); err != nil {
		return nil, fmt.Errorf("redis %s: %w", safeURL(cfg.URL), advised(cfg, err))
	}
	return db, nil
}

func (db *DB) open(ctx context.Context) error {
	if err := db.ensureSchema(ctx); err != nil {
		return err
	}
	if err := db.ensureWhole(ctx); err != nil {
		return err
	}
	if err := db.startChanges(ctx); err != nil {
		return err
	}
	// Who moves a state here notes it, and then looks who listens.
	if err := db.ensureWhole(ctx); err != nil {
		db.changes.stop()
		return err
	}
	if err := db.startQueue(ctx); err != nil {
		db.changes.stop()
		return err
	}
	return nil
}

// Close ends what listens and closes the connections. Leases that are held run out.
func (db *DB) Close() error {
	db.stopQueue()
	db.changes.stop()
	db.leases.stop()
	return db.rdb.Close()
}

// Ping fails when Redis does not answer.
func (db *DB) Ping(ctx context.Context) error { return db.rdb.Ping(ctx).Err() }

// missing turns go-redis' word for "not there" into ours.
func missing(err error) error {
	if errors.Is(err, redis.Nil) {
		return pratique.ErrNotFound
	}
	return err
}

// nanos and at map times to stored integers and back; the zero time is 0.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func at(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
