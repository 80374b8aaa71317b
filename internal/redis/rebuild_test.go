package redis

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/scheduler"
	"pratique/store"
	"pratique/store/s3test"
)

// rebuilt is a state in Redis whose documents and blobs are in an S3 server.
type rebuilt struct {
	*world
	blobs *store.Blobs
	seen  time.Time
	refs  []pratique.Ref // linked, with digests
	cold  digest.Digest  // an image of which a layer is gone
}

func newRebuilt(t *testing.T, url string) *rebuilt {
	t.Helper()
	server := s3test.Start(t)
	blobs, err := store.OpenBlobs(t.Context(), store.BlobsConfig{
		Driver: "s3", Parameters: server.Parameters(server.Bucket()), Spool: t.TempDir(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	w := &rebuilt{world: newWorld(t, url), blobs: blobs, seen: time.Now().Add(-72 * time.Hour).Truncate(time.Second).UTC()}
	w.config.Documents = blobs
	return w
}

func (w *rebuilt) put(raw string) digest.Digest {
	w.t.Helper()
	d := digest.FromString(raw)
	if err := w.blobs.Put(w.t.Context(), d, []byte(raw)); err != nil {
		w.t.Fatal(err)
	}
	return d
}

// fill links images and an index in several repositories, one of which is at a literal
// address, and stores inventories.
func (w *rebuilt) fill(db *DB, images int) {
	w.t.Helper()
	ctx := w.t.Context()
	one := func(repo pratique.Ref, mediaType, raw string, n int) digest.Digest {
		d := w.put(raw)
		img, err := pratique.ParseManifest(mediaType, []byte(raw))
		if err != nil {
			w.t.Fatal(err)
		}
		if err := db.Link(ctx, repo, img, w.seen.Add(time.Duration(n)*time.Second)); err != nil {
			w.t.Fatal(err)
		}
		w.refs = append(w.refs, repo.At(d))
		return d
	}
	descriptor := func(mediaType string, d digest.Digest, size int) string {
		return fmt.Sprintf(`{"mediaType": %q, "digest": %q, "size": %d}`, mediaType, d, size)
	}
	base := w.put("base layer")
	var children []string
	for n := range images {
		config, layer := fmt.Sprintf(`{"os": "linux", "n": %d}`, n), fmt.Sprintf("layer %d", n)
		raw := fmt.Sprintf(`{"schemaVersion": 2, "mediaType": %q, "config": %s, "layers": [%s, %s]}`, pratique.MediaTypeImageManifest,
			descriptor(pratique.MediaTypeImageConfig, w.put(config), len(config)),
			descriptor("application/vnd.oci.image.layer.v1.tar+gzip", base, len("base layer")),
			descriptor("application/vnd.oci.image.layer.v1.tar+gzip", w.put(layer), len(layer)))
		repo := pratique.Ref{Registry: []string{"docker.io", "[::1]:5000"}[n%2], Repo: fmt.Sprintf("team/app%d", n%3)}
		d := one(repo, pratique.MediaTypeImageManifest, raw, n)
		if n == 0 { // in a second one too
			one(pratique.Ref{Registry: "docker.io", Repo: "copy"}, pratique.MediaTypeImageManifest, raw, n)
		}
		children = append(children, descriptor(pratique.MediaTypeImageManifest, d, len(raw)))
		// What was evicted and analysed before needs no bytes; the last one's was not.
		switch n {
		case 1:
			inv := pratique.Inventory{Layer: digest.FromString(layer), Analyzer: "a/tar/7"}
			if err := db.PutInventory(ctx, digest.FromString(layer), "a/tar/7", inv); err != nil {
				w.t.Fatal(err)
			}
			fallthrough
		case images - 1:
			if err := w.blobs.Delete(ctx, digest.FromString(layer)); err != nil {
				w.t.Fatal(err)
			}
			w.cold = d
		}
	}
	index := fmt.Sprintf(`{"schemaVersion": 2, "mediaType": %q, "manifests": [%s]}`, pratique.MediaTypeImageIndex, strings.Join(children, ", "))
	one(pratique.Ref{Registry: "docker.io", Repo: "team/app0"}, pratique.MediaTypeImageIndex, index, images)
}

// known is what a rebuild is to bring back.
type known struct {
	Images  map[digest.Digest]pratique.Image
	Holders map[string][]digest.Digest
	Parents map[string][]digest.Digest
	Listed  []digest.Digest
	Loose   []digest.Digest // blobs that nothing names
	Names   []string        // of documents
}

func (w *rebuilt) known(db *DB) known {
	w.t.Helper()
	ctx := w.t.Context()
	k := known{make(map[digest.Digest]pratique.Image), make(map[string][]digest.Digest), make(map[string][]digest.Digest), nil, nil, nil}
	fail := func(err error) {
		if err != nil {
			w.t.Helper()
			w.t.Fatal(err)
		}
	}
	for _, ref := range w.refs {
		img, err := db.Image(ctx, ref.Digest)
		fail(err)
		k.Images[ref.Digest] = img
		for _, d := range append(contents(img), ref.Digest) {
			hs, err := db.Holders(ctx, ref, d)
			fail(err)
			slices.Sort(hs) // their order is that of links
			k.Holders[ref.Repository()+" "+d.String()] = hs
		}
		ps, err := db.Parents(ctx, ref)
		fail(err)
		k.Parents[ref.String()] = ps
	}
	for i, err := range db.Images(ctx) {
		fail(err)
		k.Listed = append(k.Listed, i.Image.Digest)
	}
	var all []digest.Digest
	fail(w.blobs.Walk(ctx, func(d digest.Digest, _ int64, _ time.Time) error { all = append(all, d); return nil }))
	loose, err := db.Unlinked(ctx, all)
	fail(err)
	k.Loose = loose
	for name, err := range w.blobs.DocumentNames(ctx, "") {
		fail(err)
		k.Names = append(k.Names, name)
	}
	slices.Sort(k.Names)
	return k
}

func (w *rebuilt) rebuild(ctx context.Context, db *DB, merge bool) (store.Rebuilt, error) {
	return store.Rebuild(ctx, db, w.blobs, store.RebuildConfig{
		Merge: merge, Parallel: 4,
		Push: func(ctx context.Context, ref pratique.Ref) error {
			return db.Push(ctx, ref, scheduler.PrioritySchedule, time.Now())
		},
	})
}

// lose removes every key of this test.
func (w *rebuilt) lose(db *DB) {
	w.t.Helper()
	ctx := w.t.Context()
	empty := func(ctx context.Context, node *redis.Client) error {
		keys := node.Scan(ctx, 0, w.config.Prefix+":*", 1000).Iterator()
		for keys.Next(ctx) {
			if err := node.Del(ctx, keys.Val()).Err(); err != nil {
				return err
			}
		}
		return keys.Err()
	}
	var err error
	switch c := db.rdb.(type) {
	case *redis.ClusterClient:
		err = c.ForEachMaster(ctx, empty)
	case *redis.Client:
		err = empty(ctx, c)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestRebuild loses everything in Redis and makes it anew.
func TestRebuild(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		w, ctx := newRebuilt(t, url), t.Context()
		db := w.replica()
		w.fill(db, 7)
		want := w.known(db)
		w.lose(db)

		db = w.replica()
		if _, err := db.Unlinked(ctx, []digest.Digest{w.refs[0].Digest}); !errors.Is(err, errLost) {
			t.Errorf("unlinked blobs of a lost state: %v", err)
		}
		began := time.Now()
		done, err := w.rebuild(ctx, db, false)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(store.Rebuilt{Linked: int64(len(w.refs)), Scans: 6, Cold: 1}, done); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(want, w.known(db), cmpopts.EquateEmpty()); diff != "" {
			t.Error("another state: ", diff)
		}
		// Nothing counts as unused for longer than it is known to be.
		uses := 0
		for use, err := range db.Usage(ctx, nil) {
			if uses++; err != nil || use.At.Before(began) {
				t.Fatalf("%+v, %v; want no use before %s", use, err, began)
			}
		}
		if uses == 0 {
			t.Error("nothing is in use")
		}
		// Each image but the one whose bytes are gone is scanned again.
		jobs := w.jobs(db)
		if len(jobs) != 6 || slices.Contains(jobs, w.cold) {
			t.Errorf("jobs: %v", jobs)
		}
		// Again: it is no longer empty, and there is nothing to do.
		if _, err := w.rebuild(ctx, db, false); !errors.Is(err, store.ErrNotEmpty) {
			t.Errorf("a state that holds something: %v", err)
		}
		if done, err = w.rebuild(ctx, db, true); err != nil || done.Present != int64(len(w.refs)) || done.Linked != 0 {
			t.Errorf("again: %+v, %v", done, err)
		}
		if diff := cmp.Diff(jobs, w.jobs(db)); diff != "" {
			t.Error("other jobs: ", diff)
		}
	})
}

func (w *rebuilt) jobs(db *DB) []digest.Digest {
	w.t.Helper()
	jobs, err := db.rdb.HKeys(w.t.Context(), db.key(queuePart, "jobs")).Result()
	if err != nil {
		w.t.Fatal(err)
	}
	out := make([]digest.Digest, len(jobs))
	for i, j := range jobs {
		out[i] = digest.Digest(j)
		if !strings.Contains(j, ":") {
			out[i] = long(j)
		}
	}
	slices.Sort(out)
	return out
}

// TestRebuildIsInterrupted ends it after each number of links, and goes on.
func TestRebuildIsInterrupted(t *testing.T) {
	w := newRebuilt(t, single())
	db := w.replica()
	w.fill(db, 5)
	want := w.known(db)
	for n := range int64(8) {
		w.lose(db)
		db = w.replica()
		ctx, cancel := context.WithCancel(t.Context())
		_, err := store.Rebuild(ctx, &dying{DB: db, left: n, cancel: cancel}, w.blobs, store.RebuildConfig{
			Parallel: 2, Push: func(context.Context, pratique.Ref) error { cancel(); return ctx.Err() },
		})
		cancel()
		if err == nil {
			t.Fatal("it was not interrupted")
		}
		if _, err := db.Unlinked(t.Context(), []digest.Digest{digest.FromString("loose")}); !errors.Is(err, errLost) {
			t.Errorf("half made: %v", err)
		}
		db = w.replica()
		done, err := w.rebuild(t.Context(), db, false)
		if err != nil || !done.Resumed || done.Linked+done.Present != int64(len(w.refs)) {
			t.Fatalf("resumed after %d: %+v, %v", n, done, err)
		}
		if diff := cmp.Diff(want, w.known(db), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("after %d: %s", n, diff)
		}
	}
}

// dying is a process that ends at one of its links.
type dying struct {
	*DB
	left   int64
	cancel func()
}

func (d *dying) Link(ctx context.Context, ref pratique.Ref, img pratique.Image, now time.Time) error {
	if atomic.AddInt64(&d.left, -1) < 0 {
		d.cancel()
	}
	return d.DB.Link(ctx, ref, img, now)
}

// TestRebuildLeavesOutWhatIsDamaged lists it and makes the rest.
func TestRebuildLeavesOutWhatIsDamaged(t *testing.T) {
	w, ctx := newRebuilt(t, single()), t.Context()
	db := w.replica()
	w.fill(db, 6)
	w.lose(db)
	documents := make(map[digest.Digest]string)
	for name, err := range w.blobs.DocumentNames(ctx, linkFolder) {
		if err != nil {
			t.Fatal(err)
		}
		k, err := db.LinkOf(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if k.Ref.Repo != "copy" {
			documents[k.Ref.Digest] = name
		}
	}
	order := slices.Sorted(maps.Keys(documents))
	want := map[string]error{documents[order[0]]: pratique.ErrNotFound, documents[order[1]]: store.ErrMismatch, documents[order[2]]: store.ErrMismatch, "links/docker.io/else/where": store.ErrMismatch}
	if err := w.blobs.Delete(ctx, order[0]); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{ // a document that is none, and one that is another repository's
		"garbage": w.blobs.PutDocument(ctx, documents[order[1]], []byte("{")),
		"moved": func() error {
			doc, err := w.blobs.Document(ctx, documents[order[3]])
			return errors.Join(err, w.blobs.PutDocument(ctx, "links/docker.io/else/where", doc))
		}(),
		"other": func() error {
			doc, err := w.blobs.Document(ctx, documents[order[3]])
			return errors.Join(err, w.blobs.PutDocument(ctx, documents[order[2]], doc))
		}(),
	} {
		if err != nil {
			t.Fatal(name, err)
		}
	}
	db = w.replica()
	done, err := w.rebuild(ctx, db, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range done.Left {
		if wanted, ok := want[f.Name]; !ok || !errors.Is(f.Err, wanted) {
			t.Errorf("left out %s: %v, want %v", f.Name, f.Err, wanted)
		}
		delete(want, f.Name)
	}
	if len(want) > 0 {
		t.Errorf("not left out: %v", want)
	}
	if _, err := db.Holders(ctx, pratique.Ref{Registry: "docker.io", Repo: "else"}, order[3]); !errors.Is(err, pratique.ErrNotFound) {
		t.Errorf("a document under another name linked something: %v", err)
	}
	// The rest is there, and the state counts as whole.
	if _, err := db.Holders(ctx, pratique.Ref{Registry: "docker.io", Repo: "copy"}, w.refs[0].Digest); err != nil && order[0] != w.refs[0].Digest {
		t.Error(err)
	}
	if _, err := db.Unlinked(ctx, []digest.Digest{digest.FromString("loose")}); err != nil {
		t.Error(err)
	}
}

// An object store that stops answering ends it: nothing is left out for that, and the
// state goes on being one that was lost.
func TestRebuildStopsWithTheObjectStore(t *testing.T) {
	w, ctx := newRebuilt(t, single()), t.Context()
	db := w.replica()
	w.fill(db, 3)
	w.lose(db)
	for what, docs := range map[string]store.Documents{"documents": unread{w.blobs}, "names": cutNames{w.blobs}} {
		db := w.replica(func(c *Config) { c.Moving, c.Documents = true, docs }) // opened before it stopped
		if done, err := w.rebuild(ctx, db, true); !errors.Is(err, store.ErrUnreachable) || len(done.Left) > 0 {
			t.Errorf("%s: %+v, %v", what, done, err)
		}
		if _, err := db.Unlinked(ctx, []digest.Digest{w.refs[0].Digest, digest.FromString("loose")}); !errors.Is(err, errLost) && !errors.Is(err, store.ErrUnreachable) {
			t.Errorf("%s: half made: %v", what, err)
		}
	}
	db = w.replica()
	if done, err := w.rebuild(ctx, db, false); err != nil || !done.Resumed {
		t.Errorf("when it answers: %+v, %v", done, err)
	}
}

type unread struct{ store.Documents }

func (unread) Document(context.Context, string) ([]byte, error) {
	return nil, fmt.Errorf("document: %w", store.ErrUnreachable)
}

// cutNames fails after the first name.
type cutNames struct{ store.Documents }

func (c cutNames) DocumentNames(ctx context.Context, folder string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for name := range c.Documents.DocumentNames(ctx, folder) {
			if yield(name, nil) {
				yield("", store.ErrUnreachable)
			}
			return
		}
	}
}

// TestLostWhileItRuns: a Redis that was emptied under a replica has no blob removed.
func TestLostWhileItRuns(t *testing.T) {
	w, ctx := newRebuilt(t, single()), t.Context()
	db := w.replica()
	w.fill(db, 3)
	w.lose(db)
	orphans := store.NewOrphans(w.blobs, db, store.OrphansConfig{Grace: time.Nanosecond, Log: slog.New(slog.DiscardHandler)})
	if n, _, err := orphans.Collect(ctx); n > 0 || !errors.Is(err, errLost) {
		t.Errorf("removed %d, %v", n, err)
	}
	if err := db.Discard(ctx, w.refs[0].Digest, func() error { t.Error("removed"); return nil }); !errors.Is(err, errLost) {
		t.Error(err)
	}
}

// An object store that does not answer is not one that is empty.
func TestLostCannotBeTold(t *testing.T) {
	w := newWorld(t, single())
	w.config.Documents = silent{w.config.Documents}
	if _, err := Open(t.Context(), w.config); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("opened: %v", err)
	}
}

type silent struct{ store.Documents }

func (silent) DocumentNames(context.Context, string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) { yield("", store.ErrUnreachable) }
}
