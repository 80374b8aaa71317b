package redis

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/internal/packed"
	"pratique/store"
)

var _ store.Fleet = (*DB)(nil)

// Engines are in the part {fleet}; what is said of components is in 64 others. That
// nothing an older engine says is stored after Begin of a newer one returned anywhere
// follows from fences: the number of the latest engine is in every partition too.
// Begin raises all fences before it returns, and the script that stores matches
// refuses those of an engine below the fence, and raises it to its own. A Begin that
// dies between has begun the engine, and whoever stores or begins next goes on: the
// fence of a partition is up before the engine's first word is stored there.

// engineName is an engine as it stands in the hash of engines; Analyzer is no part.
func engineName(e pratique.Engine) string {
	return e.Version + "\n" + e.Database.String() + "\n" + strconv.FormatInt(nanos(e.DatabaseAt), 10)
}

func parseEngine(name string) (pratique.Engine, error) {
	f := strings.Split(name, "\n")
	if len(f) < 3 {
		return pratique.Engine{}, fmt.Errorf("stored engine %q", name)
	}
	n, err := strconv.ParseInt(f[len(f)-1], 10, 64)
	if err != nil {
		return pratique.Engine{}, fmt.Errorf("stored engine: %w", err)
	}
	return pratique.Engine{Version: strings.Join(f[:len(f)-2], "\n"), Database: digest.Digest(f[len(f)-2]), DatabaseAt: at(n)}, nil
}

// fleetNow is the hash of engines, read at one moment.
type fleetNow struct {
	packed.Engines
	of int64 // number of the engine that was asked for, its last one; 0: never begun
	// memory is the moment of all histories: what was read of them after it was seen
	// first is still true. "" while somebody writes histories.
	memory string
}

// begunAs asks for the number of an engine.
func (db *DB) begunAs(ctx context.Context, pipe redis.Pipeliner, e *pratique.Engine) (engines *redis.MapStringStringCmd, number *redis.StringCmd) {
	engines = pipe.HGetAll(ctx, db.key(fleetPart, "engines"))
	if e != nil {
		number = pipe.HGet(ctx, db.key(fleetPart, "engines.begun"), engineName(*e))
	}
	return engines, number
}

func readFleet(engines *redis.MapStringStringCmd, number *redis.StringCmd) (f fleetNow, err error) {
	fields, err := engines.Result()
	if err != nil {
		return f, err
	}
	for _, b := range []struct {
		to      *packed.Begun
		of, seq string
	}{{&f.Latest, "latest", "seq"}, {&f.Current, "current", "current.seq"}} {
		if fields[b.of] == "" {
			continue
		}
		if b.to.Engine, err = parseEngine(fields[b.of]); err == nil {
			b.to.Seq, err = strconv.ParseInt(fields[b.seq], 10, 64)
		}
		if err != nil {
			return f, err
		}
	}
	if f.Current.Seq != 0 {
		n, err := strconv.ParseInt(fields["at"], 10, 64)
		if err != nil {
			return f, err
		}
		f.At = at(n)
	}
	f.memory = "-" + fields["moment"]
	for name := range fields {
		if strings.HasPrefix(name, writerField) {
			f.memory = ""
		}
	}
	if number == nil {
		return f, nil
	}
	switch f.of, err = number.Int64(); {
	case isMissing(missing(err)):
		return f, nil
	default:
		return f, err
	}
}

// engines reads what was begun and advanced to, and the number of e.
func (db *DB) engines(ctx context.Context, e *pratique.Engine) (fleetNow, error) {
	var engines *redis.MapStringStringCmd
	var number *redis.StringCmd
	_, err := db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		engines, number = db.begunAs(ctx, pipe, e)
		return nil
	})
	if err != nil && !isMissing(missing(err)) {
		return fleetNow{}, err
	}
	return readFleet(engines, number)
}

// Begin implements store.Fleet.
func (db *DB) Begin(ctx context.Context, e pratique.Engine) error {
	if e.Database == "" {
		return fmt.Errorf("begin: %w: the database has no digest", pratique.ErrNoDatabase)
	}
	_, err := db.begin(ctx, e, false)
	return annotate(err, "begin")
}

// begin makes e the latest engine, unless it is, and returns its number. unlessNewer
// has it refused where the latest engine's database is newer or e was begun before.
func (db *DB) begin(ctx context.Context, e pratique.Engine, unlessNewer bool) (int64, error) {
	keys := []string{db.key(fleetPart, "engines"), db.key(fleetPart, "engines.begun"), db.wantedKey(store.VulnerabilityDatabase), db.key(fleetPart, "engines.order")}
	seq, err := scriptBegin.Run(ctx, db.rdb, keys, engineName(e), e.Database.String(), timeText(e.DatabaseAt), unlessNewer).Int64()
	if err != nil {
		return 0, err
	}
	if seq <= 0 {
		return 0, store.ErrSuperseded
	}
	return seq, db.fence(ctx, seq)
}

// fence keeps engines before seq from being stored.
func (db *DB) fence(ctx context.Context, seq int64) error {
	calls := make([]call, partitions)
	for n := range calls {
		calls[n] = call{[]string{db.key(partNumber(n), "fence")}, []any{seq}}
	}
	_, err := db.calls(ctx, scriptFence, calls)
	return err
}

// Current implements store.Fleet.
func (db *DB) Current(ctx context.Context) (pratique.Engine, time.Time, error) {
	f, err := db.engines(ctx, nil)
	if err == nil && f.Current.Seq == 0 {
		err = pratique.ErrNotFound
	}
	if err != nil {
		return pratique.Engine{}, time.Time{}, annotate(err, "engine that everything is current with")
	}
	return f.Current.Engine, f.At, nil
}

// Advance implements store.Fleet. The word that stamps have to move is stored with
// it: if this process dies before they do, Mend moves them.
func (db *DB) Advance(ctx context.Context, e pratique.Engine, at time.Time) (err error) {
	defer func() { db.changes.wroteAny(err) }()
	word := db.word()
	seq, err := scriptAdvance.Run(ctx, db.rdb, []string{db.key(fleetPart, "engines")}, engineName(e), nanos(at), word).Int64()
	if err == nil && seq == 0 {
		err = store.ErrSuperseded
	}
	if err == nil {
		err = db.advanced(ctx, word)
	}
	if err != nil {
		return annotate(err, "advance to %s", e.Database)
	}
	return annotate(db.sweepStrays(ctx, seq), "advance to %s", e.Database)
}

// advanced moves all stamps, and takes the word away that they have to.
func (db *DB) advanced(ctx context.Context, word string) error {
	if err := db.everythingChanged(ctx); err != nil {
		return err
	}
	return scriptTold.Run(ctx, db.rdb, []string{db.key(fleetPart, "engines")}, "untold", word).Err()
}

// Strays are remembered where they are made, by the number of the engine that was not
// current: a component of which such an engine said something is in the set of its
// number until another is matched, which is looked at when it is read. Once a later
// engine is current, nobody asks for them.

func (db *DB) straysKey(p part, seq int64) string {
	return db.key(p, "strays."+strconv.FormatInt(seq, 10))
}

// sweptBack is how many engines before the current one are swept again: a replica
// that was slow may have left something.
const sweptBack = 8

func (db *DB) sweepStrays(ctx context.Context, current int64) error {
	swept, err := db.rdb.HGet(ctx, db.key(fleetPart, "engines"), "swept").Int64()
	if err != nil && !isMissing(missing(err)) {
		return err
	}
	_, err = db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for seq := max(1, min(swept, current)-sweptBack); seq <= current; seq++ {
			for n := range partitions {
				pipe.Unlink(ctx, db.straysKey(partNumber(n), seq))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return db.rdb.HSet(ctx, db.key(fleetPart, "engines"), "swept", current).Err()
}

// straysOf are the components that engines between two numbers were the last to
// match.
func (db *DB) straysOf(ctx context.Context, after, before int64) ([]string, error) {
	var cmds []*redis.StringSliceCmd
	_, err := db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for seq := after + 1; seq < before; seq++ {
			for n := range partitions {
				cmds = append(cmds, pipe.SMembers(ctx, db.straysKey(partNumber(n), seq)))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, cmd := range cmds {
		ids, err := cmd.Result()
		if err != nil {
			return nil, err
		}
		out = append(out, ids...)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	found, err := db.saidOf(ctx, out)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(out, func(id string) bool {
		s, ok := found[id]
		return !ok || s.seq <= after || s.seq >= before
	}), nil
}
