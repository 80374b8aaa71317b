package redis

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// A word says that stamps have to move for something that is stored: when it was
// written, and who by.

func (db *DB) word() string {
	return strconv.FormatInt(time.Now().UnixMilli(), 10) + " " + newToken()
}

// wordAge is how old a word is, by this process' clock; what is no word is old.
func wordAge(word string) time.Duration {
	text, _, _ := strings.Cut(word, " ")
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Hour
	}
	return time.Since(time.UnixMilli(ms))
}

// Histories are remembered by every process (fleet_memory.go) together with the moment of
// all histories, which is a random word. It moves after histories were written, and
// while somebody writes some, who says so before, nothing is remembered: a process
// that sees a moment again, and no writer, knows that what it read since it saw the
// moment first still stands. A writer that died keeps memories from being used until
// Mend takes its name away.
const writerField = "w:"

// announce says that histories are written now, if any is changed. The first word on
// a component is no matter: an image is not remembered before all were said.
func (w *matchWriter) announce(ctx context.Context, sayings []saying) error {
	if w.writer != "" || !slices.ContainsFunc(sayings, func(s saying) bool { return s.kind == sayChanged }) {
		return nil
	}
	w.writer = writerField + newToken()
	return w.db.rdb.HSet(ctx, w.db.key(fleetPart, "engines"), w.writer, time.Now().UnixMilli()).Err()
}

// many is how many images are told of one by one; of more, that everything changed.
const many = 20_000

// tell ends the writing: the moment moves, and the stamps of images that hold what
// was stored. Whatever fails, those of this process do.
func (w *matchWriter) tell(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	var err error
	if w.writer != "" {
		err = scriptWritten.Run(ctx, w.db.rdb, []string{w.db.key(fleetPart, "engines")}, w.writer, newToken()).Err()
	}
	if w.unsure != nil {
		w.db.changes.wroteAny(w.unsure)
	}
	return errors.Join(err, w.db.tellOf(ctx, w.told))
}

// tellOf moves the stamps of images that hold components, and takes the words away
// that say that they have to.
func (db *DB) tellOf(ctx context.Context, words map[string]string) error {
	if len(words) == 0 {
		return nil
	}
	hashes := make([]string, 0, len(words))
	for h := range words {
		hashes = append(hashes, h)
	}
	slices.Sort(hashes)
	images, more, err := db.imagesWith(ctx, hashes, many)
	switch {
	case err != nil:
		db.changes.wroteAny(err)
		return err
	case more:
		err = db.everythingChanged(ctx)
	default:
		err = db.changed(ctx, images...)
	}
	if err != nil {
		return err
	}
	var calls []call
	grouped(placesOfHashes(hashes), func(p part, indexes []int) {
		c := call{keys: []string{db.key(p, "untold")}}
		for _, i := range indexes {
			c.args = append(c.args, hashes[i], words[hashes[i]])
		}
		calls = append(calls, c)
	})
	_, err = db.calls(ctx, scriptTold, calls)
	return err
}

// Mend ends what processes that died had begun: stamps that were to be moved and were
// not, writers that will not end, fences that a Redis that lost writes has forgotten.
// One replica calls it every few seconds; more do no harm.
func (db *DB) Mend(ctx context.Context) error {
	var engines *redis.MapStringStringCmd
	var words [partitions]*redis.MapStringStringCmd
	_, err := db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		engines, _ = db.begunAs(ctx, pipe, nil)
		for n := range words {
			words[n] = pipe.HGetAll(ctx, db.key(partNumber(n), "untold"))
		}
		return nil
	})
	if err != nil {
		return annotate(err, "mend")
	}
	untold := make(map[string]string)
	for _, cmd := range words {
		for h, word := range cmd.Val() {
			if wordAge(word) > mendAfter {
				untold[h] = word
			}
		}
	}
	fields := engines.Val()
	if word := fields["untold"]; word != "" && wordAge(word) > mendAfter {
		err = db.advanced(ctx, word)
	}
	if len(untold) > 0 {
		moment := scriptWritten.Run(ctx, db.rdb, []string{db.key(fleetPart, "engines")}, "", newToken()).Err()
		err = errors.Join(err, moment, db.tellOf(ctx, untold))
	}
	for name, since := range fields {
		if strings.HasPrefix(name, writerField) && wordAge(since) > writerDead {
			err = errors.Join(err, scriptWritten.Run(ctx, db.rdb, []string{db.key(fleetPart, "engines")}, name, newToken()).Err())
		}
	}
	if seq, e := strconv.ParseInt(fields["seq"], 10, 64); e == nil {
		err = errors.Join(err, db.fence(ctx, seq))
	}
	return annotate(err, "mend")
}

// mendAfter is when a word counts as left by a process that died, and writerDead when
// a writer of histories does.
const (
	mendAfter  = 10 * time.Second
	writerDead = 10 * time.Minute
)
