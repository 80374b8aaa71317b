package redis

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	goredis "github.com/redis/go-redis/v9"

	"pratique"
	"pratique/scheduler"
	"pratique/store"
	"pratique/store/storetest"
)

var update = flag.Bool("update", false, "write testdata/schemaN.json.gz of the schema of this release anew")

// fixture is a state as a release left it: the keys as they are in Redis, without their
// prefix, and what that release said of it. One that was released is never written anew.
type fixture struct {
	Schema    int
	Keys      []rawKey
	Documents map[string][]byte
	Records   map[string]map[string]string // by kind and key
	Answers   map[string]json.RawMessage
}

// rawKey is a key. Values are [value] of a string, elements of a list, members of a set,
// field and value in turn of a hash, member and score of a sorted set.
type rawKey struct {
	Key, Type string
	Values    [][]byte
}

func fixturePath(schema int) string { return fmt.Sprintf("testdata/schema%d.json.gz", schema) }

// saidOf are answers as they are compared.
func saidOf(t *testing.T, db *DB) map[string]json.RawMessage {
	t.Helper()
	out := make(map[string]json.RawMessage)
	for what, v := range storetest.Answers(t, db) {
		raw, err := json.Marshal(v)
		must(t, err)
		out[what] = raw
	}
	return out
}

// writeFixture makes a state that holds something of everything, and keeps it.
func writeFixture(t *testing.T, url string) {
	w := newWorld(t, url)
	open := w.reopened()
	var db *DB
	storetest.Fill(t, func() *DB { db = open(); return db })
	ctx := t.Context()
	for i := range 6 {
		must(t, db.Push(ctx, job(fmt.Sprint("repo", i)), scheduler.Priority(i%4), noon.Add(time.Duration(i))))
	}
	for i, failure := range []error{errors.New("down"), errors.New("gone"), nil} {
		j, err := db.Take(ctx, noon, time.Minute)
		must(t, err)
		at := noon.Add(time.Minute)
		if i == 1 {
			at = time.Time{}
		}
		must(t, db.Finish(ctx, j, failure, at))
	}
	must(t, db.Pause(ctx, []scheduler.Priority{scheduler.PrioritySchedule}, noon))
	must(t, db.PutRun(ctx, scheduler.Run{Name: "nightly", Spec: "@daily", Base: noon, StartedAt: noon, Unfinished: 1, Outcome: scheduler.OutcomeFailed, Note: "disk full"}))

	f := fixture{Schema: schema, Keys: rawKeys(t, db), Documents: make(map[string][]byte), Records: storetest.Records(t, db), Answers: saidOf(t, db)}
	for name, err := range w.config.Documents.DocumentNames(ctx, "") {
		must(t, err)
		f.Documents[name], err = w.config.Documents.Document(ctx, name)
		must(t, err)
	}
	raw, err := json.Marshal(f)
	must(t, err)
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	must(t, err)
	_, err = z.Write(raw)
	must(t, errors.Join(err, z.Close()))
	must(t, os.MkdirAll("testdata", 0o755))
	must(t, os.WriteFile(fixturePath(schema), out.Bytes(), 0o644))
}

// rawKeys reads all keys of a state but those that its processes had.
func rawKeys(t *testing.T, db *DB) []rawKey {
	t.Helper()
	ctx, rdb := t.Context(), db.rdb
	var out []rawKey
	scan := rdb.Scan(ctx, 0, db.cfg.Prefix+":*", 1000).Iterator()
	for scan.Next(ctx) {
		key := strings.TrimPrefix(scan.Val(), db.cfg.Prefix)
		if strings.Contains(key, "{lease}") || strings.HasSuffix(key, "{queue}:alive") || strings.HasSuffix(key, "{queue}:heard") {
			continue
		}
		kind, err := rdb.Type(ctx, scan.Val()).Result()
		must(t, err)
		k := rawKey{Key: key, Type: kind}
		var values []string
		switch kind {
		case "string":
			values = []string{rdb.Get(ctx, scan.Val()).Val()}
		case "list":
			values = rdb.LRange(ctx, scan.Val(), 0, -1).Val()
		case "set":
			values = rdb.SMembers(ctx, scan.Val()).Val()
			slices.Sort(values)
		case "hash":
			fields := rdb.HGetAll(ctx, scan.Val()).Val()
			for _, field := range sortedKeys(fields) {
				values = append(values, field, fields[field])
			}
		case "zset":
			for _, z := range rdb.ZRangeWithScores(ctx, scan.Val(), 0, -1).Val() {
				values = append(values, z.Member.(string), strconv.FormatFloat(z.Score, 'g', -1, 64))
			}
		}
		if len(values) == 0 {
			t.Fatalf("%s of type %s is empty", key, kind)
		}
		for _, v := range values {
			k.Values = append(k.Values, []byte(v))
		}
		out = append(out, k)
	}
	must(t, scan.Err())
	slices.SortFunc(out, func(a, b rawKey) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// readFixture reads one.
func readFixture(t *testing.T, path string) (f fixture) {
	t.Helper()
	raw, err := os.ReadFile(path)
	must(t, err)
	z, err := gzip.NewReader(bytes.NewReader(raw))
	must(t, err)
	must(t, json.NewDecoder(z).Decode(&f))
	return f
}

// load writes it, as if the release that left it had been here.
func (f fixture) load(t *testing.T, w *world, rdb goredis.UniversalClient) {
	t.Helper()
	ctx := t.Context()
	_, err := rdb.Pipelined(ctx, func(pipe goredis.Pipeliner) error {
		for _, k := range f.Keys {
			key, values := w.config.Prefix+k.Key, make([]any, len(k.Values))
			for i, v := range k.Values {
				values[i] = v
			}
			switch k.Type {
			case "string":
				pipe.Set(ctx, key, values[0], 0)
			case "list":
				pipe.RPush(ctx, key, values...)
			case "set":
				pipe.SAdd(ctx, key, values...)
			case "hash":
				pipe.HSet(ctx, key, values...)
			case "zset":
				for i := 0; i < len(values); i += 2 {
					score, err := strconv.ParseFloat(string(k.Values[i+1]), 64)
					must(t, err)
					pipe.ZAdd(ctx, key, goredis.Z{Score: score, Member: values[i]})
				}
			default:
				t.Fatalf("%s is of type %q", k.Key, k.Type)
			}
		}
		return nil
	})
	must(t, err)
	for name, doc := range f.Documents {
		must(t, w.config.Documents.PutDocument(ctx, name, doc))
	}
}

// check holds what db says against what the release said that left the state.
func (f fixture) check(t *testing.T, db *DB) {
	t.Helper()
	if d := gocmp.Diff(f.Records, storetest.Records(t, db)); d != "" {
		t.Errorf("records (-then +now):\n%.3000s", d)
	}
	said := saidOf(t, db)
	for what, then := range f.Answers {
		if !bytes.Equal(then, said[what]) {
			t.Errorf("%s: then %s\nnow %s", what, then, said[what])
		}
	}
}

// TestStateOfFormerReleases: what former releases left is read whole, and the release
// after this one brings it forward while this one goes on reading and writing.
func TestStateOfFormerReleases(t *testing.T) {
	if *update {
		writeFixture(t, single())
	}
	paths, err := filepath.Glob("testdata/schema*.json.gz")
	must(t, err)
	if !slices.Contains(paths, fixturePath(schema)) {
		t.Errorf("there is no state of schema %d: go test -run StateOfFormerReleases -update", schema)
	}
	modes(t, func(t *testing.T, url string) {
		for _, path := range paths {
			f := readFixture(t, path)
			for _, kind := range store.Kinds() {
				if len(f.Records[string(kind)]) == 0 {
					t.Errorf("%s has no %s", path, kind)
				}
			}
			t.Run(fmt.Sprint("schema", f.Schema), func(t *testing.T) { upgraded(t, url, f) })
		}
	})
}

func upgraded(t *testing.T, url string, f fixture) {
	w := newWorld(t, url)
	by := newWorld(t, url).replica() // of another state: its connections are all that is wanted
	f.load(t, w, by.rdb)
	db := w.replica()
	f.check(t, db)

	// The next release starts beside it, and takes its time.
	running, goOn := make(chan struct{}), make(chan struct{})
	cfg := w.config
	cfg.later = []step{{to: schema + 1, run: func(ctx context.Context, next *DB) error {
		close(running)
		<-goOn
		return next.rdb.Set(ctx, next.key("schema", "added"), "x", 0).Err()
	}}}
	var newer *DB
	var starting sync.WaitGroup
	starting.Go(func() {
		var err error
		if newer, err = Open(t.Context(), cfg); err != nil {
			t.Error(err)
		}
	})
	<-running
	f.check(t, db)
	e := pratique.Exception{ID: "ex-meanwhile", Finding: "CVE-1", Repository: "lab/*", Reason: "r", Author: "a", Created: noon, Expires: noon.Add(time.Hour)}
	must(t, db.CreateException(t.Context(), e))
	must(t, db.Push(t.Context(), job("meanwhile"), scheduler.PriorityPull, noon))
	close(goOn)
	if starting.Wait(); newer == nil {
		return
	}
	t.Cleanup(func() { _ = newer.Close() })
	for _, each := range []*DB{db, newer} {
		got := storetest.Records(t, each)
		for kind, key := range map[store.Kind]string{store.KindExceptions: e.ID, store.KindJobs: job("meanwhile").Digest.String()} {
			if got[string(kind)][key] == "" {
				t.Errorf("%s %s, written meanwhile, is not there", kind, key)
			}
			delete(got[string(kind)], key)
		}
		delete(got, string(store.KindQueue)) // the turns have moved
		then := make(map[string]map[string]string)
		for kind, rs := range f.Records {
			if kind != string(store.KindQueue) {
				then[kind] = rs
			}
		}
		if d := gocmp.Diff(then, got); d != "" {
			t.Errorf("records (-then +now):\n%.3000s", d)
		}
	}
	// What was to be done is done by the next release: first what was asked for last.
	wantTaken(t, newer, noon.Add(time.Hour), time.Minute, "meanwhile")
	sound(t, newer)
}
