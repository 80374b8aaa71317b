package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// scriptCall is one call of a script.
type scriptCall struct {
	script *redis.Script
	keys   []string
	args   []any
}

// runAllPage is how many calls go out at once.
const runAllPage = 500

// runAll calls scripts together, and returns what each returned. They may run in any
// order. With an error some did not run, and any of the others may have.
func (db *DB) runAll(ctx context.Context, calls []scriptCall) ([]*redis.Cmd, error) {
	out := make([]*redis.Cmd, 0, len(calls))
	for page := range slices.Chunk(calls, runAllPage) {
		cmds, err := db.runPage(ctx, page)
		if err != nil {
			return nil, err
		}
		out = append(out, cmds...)
	}
	return out, nil
}

func (db *DB) runPage(ctx context.Context, calls []scriptCall) ([]*redis.Cmd, error) {
	cmds := make([]*redis.Cmd, len(calls))
	_, err := db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, c := range calls {
			cmds[i] = c.script.EvalSha(ctx, pipe, c.keys, c.args...)
		}
		return nil
	})
	var again []int // a server does not have them, after a restart for example
	for i, cmd := range cmds {
		if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
			again = append(again, i)
		} else if done(cmd.Err()) != nil {
			return nil, cmd.Err()
		}
	}
	if len(again) == 0 {
		return cmds, done(err)
	}
	_, err = db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, i := range again {
			cmds[i] = calls[i].script.Eval(ctx, pipe, calls[i].keys, calls[i].args...)
		}
		return nil
	})
	for _, i := range again {
		if done(cmds[i].Err()) != nil {
			return nil, cmds[i].Err()
		}
	}
	return cmds, done(err)
}

// done is nil for a script that returns nothing.
func done(err error) error {
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

// members are those of the sets of one name in some partitions.
func (db *DB) members(ctx context.Context, parts []part, name string) ([][]string, error) {
	out := make([][]string, len(parts))
	cmds := make([]*redis.StringSliceCmd, len(parts))
	_, err := db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, p := range parts {
			cmds[i] = pipe.SMembers(ctx, db.key(p, name))
		}
		return nil
	})
	for i, cmd := range cmds {
		out[i] = cmd.Val()
	}
	return out, err
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// digits is a time as text in the order of times: numbers of scripts are too short
// for one. Times before 1970 are 1970.
func digits(n int64) string { return fmt.Sprintf("%020d", max(n, 0)) }

func parseDigits(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("stored number: %w", err)
	}
	return n, nil
}
