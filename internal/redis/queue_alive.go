package redis

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Every process says each aliveBeat that it lives. What a process held that was not
// heard for aliveTime is let go by the next beat of any other, and all are told: a
// scan whose process was killed begins again elsewhere after nine seconds at most,
// if a worker is free.
//
// The seconds are those in which anybody was heard, by Redis' clock. While Redis is
// stopped, restarted or failed over nobody is, and that time does not count: so no
// living process loses its jobs because none could say that it lives. Nor do steps of
// the clock count, of a new master for one. The price: a process that dies just then
// is found dead so much later.
//
// What can happen nevertheless: a process that is cut off from Redis, or stopped, for
// longer than aliveTime while others are not, counts as dead. Its scans are done
// twice; it learns so at its next Renew or Finish, which find the job gone. If nobody
// took the job yet, Renew takes it back.
const (
	aliveBeat = time.Second
	aliveTime = 8 * time.Second
	// aliveGap is how much a silence of everybody counts at most.
	aliveGap = 2 * time.Second
)

// doubtful is for how long a Take without an answer may still be carried out, by a
// server that was stopped with the call in its buffers.
const doubtful = 5 * time.Minute

// queue is this process' part in the queue.
type queue struct {
	keys   []string
	me     string // another at every start: who has the name is alive
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	lost  map[string]time.Time // tokens of Takes that were not answered
	quiet bool                 // dies without a word
}

// maxLost bounds what is remembered of Takes that were not answered. What is
// forgotten is taken again when its lease has run out.
const maxLost = 1000

func (q *queue) doubt(token string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.lost) < maxLost {
		q.lost[token] = time.Now()
	}
}

// doubts are the tokens whose jobs are to be let go.
func (q *queue) doubts() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	maps.DeleteFunc(q.lost, func(_ string, since time.Time) bool { return time.Since(since) > doubtful })
	return slices.Collect(maps.Keys(q.lost))
}

// startQueue says that this process lives, and goes on saying so.
func (db *DB) startQueue(ctx context.Context) error {
	q := &queue{keys: db.newQueueKeys(), me: db.cfg.Replica + " " + randomName(), lost: make(map[string]time.Time), done: make(chan struct{})}
	db.queue = q
	if err := db.beat(ctx, aliveTime); err != nil {
		return err
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	q.cancel = cancel
	go func() {
		defer close(q.done)
		db.live(background)
	}()
	return nil
}

// stopQueue lets go what is held still, so that others begin with it at once.
func (db *DB) stopQueue() {
	q := db.queue
	if q == nil || q.cancel == nil {
		return
	}
	q.cancel()
	<-q.done
	q.mu.Lock()
	quiet := q.quiet
	q.mu.Unlock()
	if quiet {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(time.Second, db.cfg.Timeout))
	defer cancel()
	_ = db.beat(ctx, 0) // if it fails, the beats of others notice
}

func (db *DB) live(ctx context.Context) {
	tick := time.NewTicker(aliveBeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			// If it fails, the next is due soon; who reads or writes tells the outage.
			_ = db.beat(ctx, aliveTime)
		}
	}
}

// beat says that this process lives for at least ttl, or, with none, no longer.
func (db *DB) beat(ctx context.Context, ttl time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, db.cfg.Timeout)
	defer cancel()
	args := []any{db.queue.me, ttl.Milliseconds(), aliveGap.Milliseconds(), db.channel(jobChannel)}
	for _, token := range db.queue.doubts() {
		args = append(args, token)
	}
	got, err := scriptBeat.Run(ctx, db.rdb, db.queueKeys(), args...).Slice()
	if err != nil {
		return fmt.Errorf("beat: %w", err)
	}
	if len(got) != 2 {
		return fmt.Errorf("beat: answered with %d values", len(got))
	}
	if gone, _ := got[0].([]any); len(gone) > 0 && ttl > 0 {
		db.cfg.Log.WarnContext(ctx, "replicas are gone, their jobs may be taken", "replicas", gone, "jobs", got[1])
	}
	return nil
}
