package redis

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

var (
	_ store.Pulls   = (*DB)(nil)
	_ store.PullLog = (*DB)(nil)
	_ store.Pullers = (*DB)(nil)
)

// The log of pulls is made of lists, one for each hour and partition of images,
// whose elements are pulls; what repeats, all but time and client, is in a hash for
// each day and partition and has a number there (pulls_packed.go). So who pulled an
// image is in one partition, an hour goes by removing one key in each, and a pull
// takes 14 bytes, and what it asked some 250 bytes a day in all (history_bench_test.go).

// Record implements store.Pulls. Every partition of the batch is written on its own,
// all at once: when some fail and the batch is recorded again, pulls of the others
// are in the log twice. What Served answers is right nevertheless.
//
// The stamps move of what was not served before, or was served earlier than was
// known: from then on it may have a grace.
func (db *DB) Record(ctx context.Context, ps []store.Pull) error {
	if len(ps) == 0 {
		return nil
	}
	var calls []scriptCall
	served := servedBy(ps)
	all := make([]digest.Digest, 0, len(served))
	for p, spans := range served {
		args := []any{db.channel(changesChannel), string(p)}
		for d, s := range spans {
			all = append(all, d)
			args = append(args, string(d), digits(s.first), digits(s.last))
		}
		calls = append(calls, scriptCall{scriptServed, []string{db.key(p, "version"), db.key(p, "served")}, args})
	}
	writes, err := db.pullWrites(ps)
	if err != nil {
		return annotate(err, "pulls")
	}
	out, err := db.runAll(ctx, append(calls, writes...))
	if err != nil {
		db.changes.wrote(err, all)
		return annotate(err, "pulls")
	}
	var first []digest.Digest
	for _, cmd := range out[:len(calls)] {
		moved, err := cmd.StringSlice()
		if err != nil {
			db.changes.wrote(err, all)
			return annotate(err, "pulls")
		}
		for _, d := range moved {
			first = append(first, digest.Digest(d))
		}
	}
	db.changes.tell(first)
	return nil
}

type servedSpan struct{ first, last int64 }

// servedBy is when a batch served what.
func servedBy(ps []store.Pull) map[part]map[digest.Digest]servedSpan {
	out := make(map[part]map[digest.Digest]servedSpan)
	for i := range ps {
		d := ps[i].Ref.Digest
		if ps[i].Outcome == pratique.OutcomeDeny || d == "" {
			continue
		}
		p, at := partOfDigest(d), nanos(ps[i].At)
		if out[p] == nil {
			out[p] = make(map[digest.Digest]servedSpan)
		}
		s, ok := out[p][d]
		if !ok {
			s = servedSpan{at, at}
		}
		out[p][d] = servedSpan{min(s.first, at), max(s.last, at)}
	}
	return out
}

// pullWrites are the calls that append pulls to the log.
func (db *DB) pullWrites(ps []store.Pull) ([]scriptCall, error) {
	type place struct {
		part part
		hour int64
	}
	var places []place
	args := make(map[place][]any)
	tie := db.ties.Add(uint32(len(ps))) - uint32(len(ps)) //nolint:gosec // wraps
	for i := range ps {
		at := place{partOfPull(&ps[i]), hourOf(nanos(ps[i].At))}
		if args[at] == nil {
			places = append(places, at)
			args[at] = []any{at.hour}
		}
		asked, err := askedText(&ps[i])
		if err != nil {
			return nil, err
		}
		kind, client := packClient(ps[i].Client)
		args[at] = append(args[at], asked, kind, packTime(nanos(ps[i].At), tie+uint32(i)), client) //nolint:gosec // wraps
	}
	calls := make([]scriptCall, len(places))
	for i, at := range places {
		calls[i] = scriptCall{scriptPulls, db.pullKeys(at.part, at.hour), args[at]}
	}
	return calls, nil
}

// pullKeys are the keys of an hour in a partition: its hours, what was asked on that
// day, and the pulls.
func (db *DB) pullKeys(p part, hour int64) []string {
	return []string{db.key(p, "pulls.hours"), db.askedKey(p, hour), db.pullsKey(p, hour)}
}

func (db *DB) askedKey(p part, hour int64) string {
	return db.key(p, fmt.Sprint("asked.", dayOf(hour)))
}
func (db *DB) pullsKey(p part, hour int64) string { return db.key(p, fmt.Sprint("pulls.", hour)) }

// Served implements store.Pulls.
func (db *DB) Served(ctx context.Context, image digest.Digest) (first, last time.Time, err error) {
	text, err := db.rdb.HGet(ctx, db.key(partOfDigest(image), "served"), image.String()).Result()
	var s servedSpan
	if err == nil {
		s, err = parseServed(text)
	}
	if err != nil {
		return time.Time{}, time.Time{}, annotate(missing(err), "pulls of %s", image)
	}
	return at(s.first), at(s.last), nil
}

func parseServed(text string) (s servedSpan, err error) {
	first, last, _ := strings.Cut(text, " ")
	if s.first, err = parseDigits(first); err == nil {
		s.last, err = parseDigits(last)
	}
	return s, err
}

// Pulls implements store.PullLog: hour by hour, those of all partitions together.
func (db *DB) Pulls(ctx context.Context, since time.Time) iter.Seq2[store.Pull, error] {
	return func(yield func(store.Pull, error) bool) {
		for rows, err := range db.pullRows(ctx, nanos(since)) {
			if err != nil {
				yield(store.Pull{}, annotate(err, "pulls"))
				return
			}
			for _, r := range rows {
				if !yield(r.pull(), nil) {
					return
				}
			}
		}
	}
}

// pullRows yields the pulls since a time by hour, those of each in order.
func (db *DB) pullRows(ctx context.Context, since int64) iter.Seq2[[]pullRow, error] {
	return func(yield func([]pullRow, error) bool) {
		byHour, err := db.pullHours(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		for _, hour := range sortedKeys(byHour) {
			if hour < hourOf(since) {
				continue
			}
			var calls []scriptCall
			for _, p := range byHour[hour] {
				calls = append(calls, scriptCall{scriptPullsRead, []string{db.askedKey(p, hour), db.pullsKey(p, hour)}, nil})
			}
			var rows []pullRow
			out, err := db.runAll(ctx, calls)
			for _, cmd := range out {
				if err == nil {
					rows, err = readPulls(rows, cmd, []int64{hour}, nil)
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
			rows = slices.DeleteFunc(rows, func(r pullRow) bool { return r.at < since })
			slices.SortStableFunc(rows, byTime)
			if !yield(rows, nil) {
				return
			}
		}
	}
}

// pullHours are the hours that have pulls, each with the partitions that do.
func (db *DB) pullHours(ctx context.Context) (map[int64][]part, error) {
	parts := make([]part, partitions)
	for n := range parts {
		parts[n] = partNumber(n)
	}
	return db.pullHoursOf(ctx, parts...)
}

func (db *DB) pullHoursOf(ctx context.Context, parts ...part) (map[int64][]part, error) {
	texts, err := db.members(ctx, parts, "pulls.hours")
	if err != nil {
		return nil, err
	}
	out := make(map[int64][]part)
	for i, hours := range texts {
		for _, text := range hours {
			hour, err := parseDigits(text)
			if err != nil {
				return nil, err
			}
			out[hour] = append(out[hour], parts[i])
		}
	}
	return out, nil
}

// PulledBy implements store.Pullers: all that was pulled of the image's partition is
// read, a script for each day.
func (db *DB) PulledBy(ctx context.Context, image digest.Digest, since time.Time) ([]store.Puller, error) {
	p, from := partOfDigest(image), nanos(since)
	byHour, err := db.pullHoursOf(ctx, p)
	if err != nil {
		return nil, annotate(err, "pulls of %s", image)
	}
	var calls []scriptCall
	var hoursOf [][]int64
	for _, hour := range sortedKeys(byHour) {
		if hour < hourOf(from) {
			continue
		}
		if n := len(calls); n == 0 || dayOf(hoursOf[n-1][0]) != dayOf(hour) {
			calls, hoursOf = append(calls, scriptCall{scriptPullsRead, []string{db.askedKey(p, hour)}, nil}), append(hoursOf, nil)
		}
		n := len(calls) - 1
		calls[n].keys, hoursOf[n] = append(calls[n].keys, db.pullsKey(p, hour)), append(hoursOf[n], hour)
	}
	out, err := db.runAll(ctx, calls)
	if err != nil {
		return nil, annotate(err, "pulls of %s", image)
	}
	pullers := make(map[string]*store.Puller)
	for i, cmd := range out {
		rows, err := readPulls(nil, cmd, hoursOf[i], func(p *store.Pull) bool {
			return p.Ref.Digest == image && p.Outcome != pratique.OutcomeDeny
		})
		if err != nil {
			return nil, annotate(err, "pulls of %s", image)
		}
		for _, r := range rows {
			if r.at < from {
				continue
			}
			client := r.client()
			if pullers[client] == nil {
				pullers[client] = &store.Puller{Client: client}
			}
			pullers[client].Pulls++
			if t := at(r.at); t.After(pullers[client].Last) {
				pullers[client].Last = t
			}
		}
	}
	return latestFirst(pullers), nil
}

func latestFirst(pullers map[string]*store.Puller) []store.Puller {
	var out []store.Puller
	for _, p := range pullers {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b store.Puller) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Client, b.Client))
	})
	return out
}
