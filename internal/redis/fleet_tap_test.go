package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

// tap sees what a context that is tapped sends, a pipeline as one, and may fail it.
type tap struct {
	mu     sync.Mutex
	sent   int
	before func(n int, cmds []redis.Cmder) error // it is not sent
	after  func(n int, cmds []redis.Cmder) error // it was
}

type tapped struct{}

func (*tap) DialHook(next redis.DialHook) redis.DialHook { return next }

func (p *tap) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return p.process(ctx, []redis.Cmder{cmd}, func() error { return next(ctx, cmd) })
	}
}

func (p *tap) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return p.process(ctx, cmds, func() error { return next(ctx, cmds) })
	}
}

func (p *tap) process(ctx context.Context, cmds []redis.Cmder, send func() error) error {
	if ctx.Value(tapped{}) != p {
		return send()
	}
	p.mu.Lock()
	p.sent++
	n, before, after := p.sent, p.before, p.after
	p.mu.Unlock()
	fail := func(err error) error {
		for _, cmd := range cmds {
			cmd.SetErr(err)
		}
		return err
	}
	if before != nil {
		if err := before(n, cmds); err != nil {
			return fail(err)
		}
	}
	err := send()
	if after != nil {
		if e := after(n, cmds); e != nil {
			return fail(e)
		}
	}
	return err
}

// on returns a context whose commands db sends through the tap.
func (p *tap) on(ctx context.Context, db *DB) context.Context {
	db.rdb.AddHook(p)
	return context.WithValue(ctx, tapped{}, p)
}

// calling reports whether a script is among commands.
func calling(cmds []redis.Cmder, script *redis.Script) bool {
	for _, cmd := range cmds {
		if len(cmd.Args()) > 1 && cmd.Args()[1] == script.Hash() {
			return true
		}
	}
	return false
}

var errCut = &net.OpError{Op: "read", Err: errors.New("the connection is cut")}

// faulty is a replica whose connection is cut at a command of every write, before or
// after it was carried out; who called it calls again.
type faulty struct {
	*DB
	tap  *tap
	at   int // the command of a write that fails, and then the next
	cuts int
}

// again calls until nothing failed.
func (f *faulty) again(ctx context.Context, write func(ctx context.Context) error) error {
	ctx = context.WithValue(ctx, tapped{}, f.tap)
	for n := 0; ; n++ {
		cut := f.at + n
		hit := func(after bool) func(int, []redis.Cmder) error {
			return func(sent int, _ []redis.Cmder) error {
				if sent == cut && after == (cut%2 == 0) {
					f.cuts++
					return fmt.Errorf("%w: %w", store.ErrUnreachable, errCut)
				}
				return nil
			}
		}
		f.tap.mu.Lock()
		f.tap.sent, f.tap.before, f.tap.after = 0, hit(false), hit(true)
		f.tap.mu.Unlock()
		err := write(ctx)
		if err == nil || !errors.Is(err, store.ErrUnreachable) {
			return err
		}
	}
}

func (f *faulty) PutImage(ctx context.Context, image digest.Digest, cs []pratique.Component, os []pratique.Occurrence) error {
	return f.again(ctx, func(ctx context.Context) error { return f.DB.PutImage(ctx, image, cs, os) })
}

func (f *faulty) Begin(ctx context.Context, e pratique.Engine) error {
	return f.again(ctx, func(ctx context.Context) error { return f.DB.Begin(ctx, e) })
}

func (f *faulty) Advance(ctx context.Context, e pratique.Engine, at time.Time) error {
	return f.again(ctx, func(ctx context.Context) error { return f.DB.Advance(ctx, e, at) })
}

func (f *faulty) PutMatches(ctx context.Context, e pratique.Engine, at time.Time, ms map[pratique.ComponentID][]pratique.Vulnerability) (changed []pratique.ComponentID, err error) {
	return changed, f.again(ctx, func(ctx context.Context) error {
		changed, err = f.DB.PutMatches(ctx, e, at, ms)
		return err
	})
}

func (f *faulty) PutReport(ctx context.Context, r pratique.Report) (out pratique.Report, err error) {
	return out, f.again(ctx, func(ctx context.Context) error {
		out, err = f.DB.PutReport(ctx, r)
		return err
	})
}
