package redis

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
)

// How digests, times and lists stand in fields, and how many of them are read at
// once.

// short is a digest as it stands in keys, fields and lists: a sha256 is its bytes.
func short(d digest.Digest) string {
	if text, ok := strings.CutPrefix(string(d), "sha256:"); ok && len(text) == 64 {
		if b, err := hex.DecodeString(text); err == nil {
			return string(b)
		}
	}
	return string(d)
}

// long undoes short.
func long(s string) digest.Digest {
	if len(s) == 32 {
		return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString([]byte(s)))
	}
	return digest.Digest(s)
}

// timeText is a time as text that is in order of time.
func timeText(t time.Time) string { return digits(nanos(t)) }

// textTime undoes timeText.
func textTime(s string) (time.Time, error) {
	n, err := parseDigits(s)
	return at(n), err
}

// packItem is an item of a list whose items are not all of one length.
func packItem(d digest.Digest) string { s := short(d); return string([]byte{byte(len(s))}) + s }

// unpackItems undoes packItem.
func unpackItems(list string) ([]digest.Digest, error) {
	var out []digest.Digest
	for len(list) > 0 {
		n := int(list[0])
		if len(list) < 1+n {
			return nil, errors.New("stored list of digests is damaged")
		}
		out = append(out, long(list[1:1+n]))
		list = list[1+n:]
	}
	return out, nil
}

// place is a field of the hash that has some name in a partition.
type place struct {
	part  part
	field string
}

func placeOf(d digest.Digest) place { return place{partOfDigest(d), short(d)} }

func placesOf(ds []digest.Digest) []place {
	out := make([]place, len(ds))
	for i, d := range ds {
		out[i] = placeOf(d)
	}
	return out
}

// fieldsBatch is how many fields one command asks for.
const fieldsBatch = 512

// grouped calls each with the places of one partition, at most fieldsBatch, by their
// index in places.
func grouped(places []place, each func(p part, indexes []int)) {
	byPart := make(map[part][]int)
	var order []part
	for i, pl := range places {
		if byPart[pl.part] == nil {
			order = append(order, pl.part)
		}
		byPart[pl.part] = append(byPart[pl.part], i)
		if len(byPart[pl.part]) == fieldsBatch {
			each(pl.part, byPart[pl.part])
			byPart[pl.part] = byPart[pl.part][:0:0]
		}
	}
	for _, p := range order {
		if len(byPart[p]) > 0 {
			each(p, byPart[p])
		}
	}
}

// fields reads fields of the hashes with a name, in one round trip. found tells
// which are there.
func (db *DB) fields(ctx context.Context, name string, places []place) (values []string, found []bool, err error) {
	values, found = make([]string, len(places)), make([]bool, len(places))
	if len(places) == 0 {
		return values, found, ctx.Err()
	}
	type asked struct {
		cmd     *redis.SliceCmd
		indexes []int
	}
	var cmds []asked
	_, err = db.rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		grouped(places, func(p part, indexes []int) {
			names := make([]string, len(indexes))
			for i, n := range indexes {
				names[i] = places[n].field
			}
			cmds = append(cmds, asked{pipe.HMGet(ctx, db.key(p, name), names...), indexes})
		})
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	for _, a := range cmds {
		got, err := a.cmd.Result()
		if err != nil {
			return nil, nil, err
		}
		for i, v := range got {
			values[a.indexes[i]], found[a.indexes[i]] = v.(string)
		}
	}
	return values, found, nil
}

// lists reads lists (see luaLists) of the hashes with a name, in one round trip; one
// that is not there is empty.
func (db *DB) lists(ctx context.Context, name string, places []place) ([]string, error) {
	out := make([]string, len(places))
	var calls []call
	var indexes [][]int
	grouped(places, func(p part, is []int) {
		c := call{keys: []string{db.key(p, name)}}
		for _, n := range is {
			c.args = append(c.args, places[n].field)
		}
		calls, indexes = append(calls, c), append(indexes, is)
	})
	replies, err := db.calls(ctx, scriptLists, calls)
	if err != nil {
		return nil, err
	}
	for i, cmd := range replies {
		got, err := cmd.Slice()
		if err != nil {
			return nil, err
		}
		for j, v := range got {
			out[indexes[i][j]], _ = v.(string)
		}
	}
	return out, nil
}

// listItems are the digest whose list is in a field, and the items there; see
// luaLists.
func listItems(field, value string) (d, items string) {
	for _, length := range []int{32, len("sha512:") + 128} {
		if len(field) == length+4 {
			return field[:length], value
		}
	}
	return field, value[min(4, len(value)):]
}

// call is one of several calls of a script, all keys of which are in one partition.
type call struct {
	keys []string
	args []any
}

// calls calls a script several times, in one round trip.
func (db *DB) calls(ctx context.Context, script *redis.Script, calls []call) ([]*redis.Cmd, error) {
	if len(calls) == 0 {
		return nil, ctx.Err()
	}
	all := make([]scriptCall, len(calls))
	for i, c := range calls {
		all[i] = scriptCall{script, c.keys, c.args}
	}
	return db.runAll(ctx, all)
}

// scanned calls each for every field of a hash, in pages; a field may come twice.
func (db *DB) scanned(ctx context.Context, key string, each func(field, value string) error) error {
	var cursor uint64
	for {
		page, next, err := db.rdb.HScan(ctx, key, cursor, "", scanCount).Result()
		if err != nil {
			return err
		}
		for i := 0; i+1 < len(page); i += 2 {
			if err := each(page[i], page[i+1]); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// scanCount is about how many fields a page of a scan has.
const scanCount = 2000

// repoKey is a key that is one repository's.
func (db *DB) repoKey(ref pratique.Ref, name string) string {
	return db.key(partOfRepo(ref), name+":"+ref.Repository())
}

// inRepo is the reference to a repository as Repository writes it.
func inRepo(repository string) pratique.Ref {
	registry, repo, _ := strings.Cut(repository, "/")
	return pratique.Ref{Registry: registry, Repo: repo}
}

// repositories are all that hold something or have a tag, one partition after the
// other.
func (db *DB) repositories(ctx context.Context) ([]string, error) {
	parts := make([]part, partitions)
	for n := range parts {
		parts[n] = partNumber(n)
	}
	names, err := db.members(ctx, parts, "repositories")
	return slices.Concat(names...), err
}

// numbers are the items of a list of numbers.
func numbers(list string) []uint32 {
	out := make([]uint32, 0, len(list)/4)
	for ; len(list) >= 4; list = list[4:] {
		out = append(out, binary.BigEndian.Uint32([]byte(list)))
	}
	return out
}

// annotate says what err is about; nil stays nil.
func annotate(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
