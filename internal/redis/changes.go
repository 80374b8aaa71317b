package redis

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

// changes learns what any process wrote: messages tell the digests, and versions,
// one for each partition, tell whether a message was lost.
type changes struct {
	db     *DB
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex
	known [partitions]int64 // versions up to which everything was told

	doubts  map[digest.Digest]struct{} // of writes that Redis did not answer
	doubted bool                       // one of them may have been about anything

	confirmed atomic.Int64 // Unix nanoseconds
	outdated  atomic.Bool  // a newer release ended what this one may do
}

var (
	_ store.Stamper = (*DB)(nil)
	_ store.Reach   = (*DB)(nil)
)

// Stamp implements store.Stamper. What this process writes moves stamps before the
// write returns; what others write, as soon as their message is here, and at most
// Config.Poll later when it is lost.
func (db *DB) Stamp(d digest.Digest) uint64 { return db.stamps.Stamp(d) }

// Confirmed implements store.Reach.
func (db *DB) Confirmed() time.Time { return time.Unix(0, db.changes.confirmed.Load()) }

const changesChannel = "changed"

// startChanges begins to listen. What was written before is of no interest: nothing
// is in memory yet.
func (db *DB) startChanges(ctx context.Context) error {
	c := &changes{db: db}
	db.changes = c
	now := time.Now()
	versions, err := c.versions(ctx)
	if err != nil {
		return err
	}
	c.known = versions
	c.confirmed.Store(now.UnixNano())
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	messages := db.rdb.Subscribe(background, db.channel(changesChannel), db.channel(leaseChannel), db.channel(jobChannel), db.channel(announceChannel))
	c.done.Go(func() { c.listen(background, messages) })
	c.done.Go(func() { c.poll(background) })
	return nil
}

func (c *changes) stop() {
	if c == nil || c.cancel == nil {
		return
	}
	c.cancel()
	c.done.Wait()
}

// announceChannel carries digests of images, for whoever follows them.
const announceChannel = "announced"

// maxAnnounced bounds the digests of one message.
const maxAnnounced = 1000

// Announce has every process' Config.OnAnnounced told of images. It is a hint: a
// message may be lost.
func (db *DB) Announce(ctx context.Context, images ...digest.Digest) error {
	for chunk := range slices.Chunk(images, maxAnnounced) {
		names := make([]string, len(chunk))
		for i, d := range chunk {
			names[i] = string(d)
		}
		if err := db.rdb.Publish(ctx, db.channel(announceChannel), strings.Join(names, "\n")).Err(); err != nil {
			return err
		}
	}
	return nil
}

func (c *changes) announced(payload string) {
	if c.db.cfg.OnAnnounced == nil {
		return
	}
	var ds []digest.Digest
	for name := range strings.SplitSeq(payload, "\n") {
		if d, err := pratique.ParseDigest(name); err == nil {
			ds = append(ds, d)
		}
	}
	c.db.cfg.OnAnnounced(ds)
}

// jobChannel carries a word whenever a job may be waiting.
const jobChannel = "job"

func (c *changes) listen(ctx context.Context, messages *redis.PubSub) {
	defer messages.Close()
	in := messages.Channel(redis.WithChannelSize(10_000))
	for {
		select {
		case <-ctx.Done():
			return
		case m, ok := <-in:
			if !ok {
				return
			}
			switch m.Channel {
			case c.db.channel(changesChannel):
				c.message(m.Payload)
			case c.db.channel(leaseChannel):
				c.db.leases.told(m.Payload)
			case c.db.channel(announceChannel):
				c.announced(m.Payload)
			case c.db.channel(jobChannel):
				if c.db.cfg.OnJob != nil {
					c.db.cfg.OnJob()
				}
			}
		}
	}
}

// message takes one in.
func (c *changes) message(payload string) {
	fields := strings.Split(payload, "\n")
	if len(fields) < 2 {
		return
	}
	p, err1 := strconv.Atoi(fields[0])
	version, err2 := strconv.ParseInt(fields[1], 10, 64)
	if err1 != nil || err2 != nil || p < 0 || p >= partitions {
		return
	}
	c.mu.Lock()
	if version == c.known[p]+1 {
		c.known[p] = version // where one is missing, the poll finds out
	}
	c.mu.Unlock()
	if len(fields) == 2 {
		c.all()
		return
	}
	ds := make([]digest.Digest, len(fields)-2)
	for i, f := range fields[2:] {
		ds[i] = digest.Digest(f)
	}
	c.tell(ds)
}

// late is how long a message may be on its way before it counts as lost.
const late = 100 * time.Millisecond

func (c *changes) poll(ctx context.Context) {
	tick := time.NewTicker(c.db.cfg.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.confirm(ctx)
		}
	}
}

// confirm compares versions with what was told.
func (c *changes) confirm(ctx context.Context) {
	began := time.Now()
	before := c.told()
	versions, err := c.versions(ctx)
	if err != nil {
		return // Confirmed tells
	}
	for p, v := range versions {
		if v < before[p] { // Redis lost writes: a failover, or a restart from an older file
			c.reset(versions)
			break
		}
	}
	if c.behind(versions) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(late):
		}
		if c.behind(versions) {
			c.reset(versions)
		}
	}
	c.settle()
	c.confirmed.Store(began.UnixNano())
}

// told returns the versions up to which everything was told.
func (c *changes) told() [partitions]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known
}

// reset begins anew from versions: anything may have been written.
func (c *changes) reset(versions [partitions]int64) {
	c.mu.Lock()
	c.known = versions
	c.mu.Unlock()
	c.db.joins.forget()
	c.all()
}

// behind reports whether any version is another than was told.
func (c *changes) behind(versions [partitions]int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, v := range versions {
		if v > c.known[p] {
			return true
		}
	}
	return false
}

func (c *changes) versions(ctx context.Context) (versions [partitions]int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.db.cfg.Timeout)
	defer cancel()
	var got [partitions]*redis.StringCmd
	var oldest *redis.StringCmd
	_, err = c.db.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		oldest = p.HGet(ctx, c.db.schemaKey(), "oldest")
		for n := range got {
			got[n] = p.Get(ctx, c.db.key(partNumber(n), "version"))
		}
		return nil
	})
	for n, cmd := range got {
		v, e := cmd.Int64()
		if e = missing(e); e != nil && !isMissing(e) {
			return versions, e
		}
		versions[n] = v
	}
	if err != nil && !isMissing(missing(err)) {
		return versions, err
	}
	if n, err := oldest.Int(); err == nil && n > c.db.schema && c.outdated.CompareAndSwap(false, true) {
		c.db.cfg.Log.ErrorContext(ctx, "a newer release changed the state: this replica does not use it any more", "error", errOutdated)
	}
	if c.outdated.Load() {
		return versions, errOutdated
	}
	return versions, nil
}

// changed tells all processes, this one before it returns, that something was
// written about these digests and tag keys.
func (db *DB) changed(ctx context.Context, ds ...digest.Digest) (err error) {
	defer func() { db.changes.wrote(err, ds) }()
	byPart := make(map[part][]any)
	for _, d := range ds {
		byPart[partOfDigest(d)] = append(byPart[partOfDigest(d)], string(d))
	}
	for p, names := range byPart {
		for chunk := range slices.Chunk(names, 500) {
			if err := scriptChange.Run(ctx, db.rdb, []string{db.key(p, "version")}, append([]any{db.channel(changesChannel), string(p)}, chunk...)...).Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// everythingChanged tells that anything may have been written.
func (db *DB) everythingChanged(ctx context.Context) (err error) {
	defer func() { db.changes.wroteAny(err) }()
	return scriptChange.Run(ctx, db.rdb, []string{db.key(partNumber(0), "version")}, db.channel(changesChannel), string(partNumber(0))).Err()
}

// maxDoubts bounds what is remembered of writes that were not answered.
const maxDoubts = 100_000

// wrote tells this process what a write was about, also when it failed: it may have
// taken effect. Of one that Redis did not answer that is put off until it answers
// again: whatever it did is told by Redis itself, and until then what is in memory is
// all there is (store.Reach).
func (c *changes) wrote(err error, ds []digest.Digest) {
	if !unanswered(err) {
		c.tell(ds)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.doubts == nil {
		c.doubts = make(map[digest.Digest]struct{})
	}
	for _, d := range ds {
		c.doubts[d] = struct{}{}
	}
	if len(c.doubts) > maxDoubts {
		c.doubts, c.doubted = nil, true
	}
}

// unanswered reports whether nobody can say what became of a write: Redis did not
// answer, or not before its caller's deadline.
func unanswered(err error) bool {
	var network net.Error
	return errors.Is(err, store.ErrUnreachable) || errors.As(err, &network)
}

// wroteAny is wrote for a write that may have been about anything.
func (c *changes) wroteAny(err error) {
	if !unanswered(err) {
		c.all()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doubted = true
}

// settle tells what wrote put off.
func (c *changes) settle() {
	c.mu.Lock()
	doubts, all := c.doubts, c.doubted
	c.doubts, c.doubted = nil, false
	c.mu.Unlock()
	if all {
		c.all()
		return
	}
	c.tell(slices.Collect(maps.Keys(doubts)))
}

func (c *changes) tell(ds []digest.Digest) {
	if len(ds) == 0 {
		return
	}
	c.db.stamps.Changed(ds...)
	if c.db.cfg.OnChanged != nil {
		c.db.cfg.OnChanged(ds)
	}
}

func (c *changes) all() {
	c.db.stamps.All()
	if c.db.cfg.OnChanged != nil {
		c.db.cfg.OnChanged(nil)
	}
}
