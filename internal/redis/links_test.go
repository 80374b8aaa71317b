package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

// crash ends a process in the middle: with a context that cut made, the steps before
// one are done, that one is done or not, and none comes after it.
type crash struct {
	left atomic.Int64
	done bool // the last step is done, but nobody hears of it
}

type cutKey struct{}

var errCrash = errors.New("the process is gone")

func (c *crash) cut(ctx context.Context) context.Context { return context.WithValue(ctx, cutKey{}, c) }

func (c *crash) step(ctx context.Context, do func() error) error {
	if ctx.Value(cutKey{}) != c {
		return do()
	}
	switch left := c.left.Add(-1); {
	case left > 0:
		return do()
	case left == 0 && c.done:
		_ = do()
	}
	return errCrash
}

func (*crash) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c *crash) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := c.step(ctx, func() error { return next(ctx, cmd) })
		if errors.Is(err, errCrash) {
			cmd.SetErr(err)
		}
		return err
	}
}

func (c *crash) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := c.step(ctx, func() error { return next(ctx, cmds) })
		if errors.Is(err, errCrash) {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
		}
		return err
	}
}

// crashes runs work until it is done, each time it ends one step later, and calls
// after with what it left. work begins with things of its own, named by round.
func crashes(t *testing.T, db *DB, work func(ctx context.Context, round string) error, after func(round string)) {
	t.Helper()
	for _, done := range []bool{false, true} {
		for n := int64(1); ; n++ {
			c := &crash{done: done}
			c.left.Store(n)
			db.rdb.AddHook(c)
			round := fmt.Sprintf("%d-%v", n, done)
			err := work(c.cut(t.Context()), round)
			after(round)
			if t.Failed() {
				t.Fatalf("after a crash at step %d, done: %v", n, done)
			}
			if err == nil && c.left.Load() > 0 {
				break
			}
			if n > 100 {
				t.Fatal("it never ends")
			}
		}
	}
}

func sum(s string) digest.Digest { return digest.FromString(s) }

func testImage(name string, layers ...string) pratique.Image {
	img := pratique.Image{Digest: sum(name), Kind: pratique.KindImage, Config: pratique.Descriptor{Digest: sum("config " + name)}}
	for _, l := range layers {
		img.Layers = append(img.Layers, pratique.Descriptor{Digest: sum(l)})
	}
	return img
}

func testRepo(name string) pratique.Ref { return pratique.Ref{Registry: "docker.io", Repo: name} }

var testTime = time.Date(2026, 11, 23, 10, 0, 0, 1, time.UTC)

// endClaims makes all claims as old as they would be after claimLife.
func endClaims(t *testing.T, db *DB) {
	t.Helper()
	for n := range partitions {
		key := db.key(partNumber(n), "named")
		all, err := db.rdb.HGetAll(t.Context(), key).Result()
		if err != nil {
			t.Fatal(err)
		}
		for blob, claims := range all {
			if claims == "1" {
				continue
			}
			var old []string
			for c := range splitLines(claims) {
				_, rest, _ := strings.Cut(c, " ")
				old = append(old, "1 "+rest)
			}
			if err := db.rdb.HSet(t.Context(), key, blob, strings.Join(old, "\n")).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A process that dies in the middle of a link leaves a repository that holds the
// manifest and all that it names, or nothing that stays; and Link does what is left.
func TestLinkCrash(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		w, ctx := newWorld(t, url), t.Context()
		dying, db := w.replica(), w.replica()
		base := testImage("base", "l1")
		if err := errors.Join(db.Link(ctx, testRepo("base"), base, testTime), db.SetTag(ctx, tagged("base", "1"), store.TagState{Digest: base.Digest, CheckedAt: testTime, ChangedAt: testTime})); err != nil {
			t.Fatal(err)
		}
		image := func(round string) pratique.Image {
			img := testImage("image "+round, "l1", "layer "+round, "top "+round)
			img.Children = []pratique.Descriptor{{Digest: sum("child " + round)}} // of both kinds, to have all steps in one
			return img
		}
		crashes(t, dying, func(ctx context.Context, round string) error {
			return dying.Link(ctx, testRepo("r"), image(round), testTime)
		}, func(round string) {
			img := image(round)
			own := []digest.Digest{img.Digest, img.Config.Digest, sum("layer " + round), sum("top " + round)}
			_, err := db.Holders(ctx, testRepo("r"), sum("layer "+round))
			linked := err == nil
			for _, d := range own {
				if hs, err := db.Holders(ctx, testRepo("r"), d); linked != (len(hs) == 1 && err == nil) {
					t.Errorf("linked %v, but %s is held by %v (%v)", linked, d, hs, err)
				}
			}
			endClaims(t, db)
			free, err := db.Unlinked(ctx, own)
			if want := own; err != nil || linked && len(free) > 0 || !linked && !cmp.Equal(free, want) {
				t.Errorf("linked %v: of %d are unlinked %d (%v)", linked, len(own), len(free), err)
			}
			removed := false
			if err := db.Discard(ctx, sum("top "+round), func() error { removed = true; return nil }); err != nil || removed == linked {
				t.Errorf("linked %v, removed %v (%v)", linked, removed, err)
			}
			if _, err := db.Known(ctx, img.Digest); errors.Is(err, pratique.ErrNotFound) == linked {
				t.Errorf("linked %v, known: %v", linked, err)
			}
			if err := db.Link(ctx, testRepo("r"), img, testTime); err != nil {
				t.Fatal(err)
			}
			checkLinked(t, db, img, own)
		})
		// Nothing is there that nothing made.
		for k, err := range db.Images(ctx) {
			if err != nil || k.Image.Digest != base.Digest && !strings.HasPrefix(k.Ref.Repo, "r") {
				t.Errorf("%v: %v", k.Ref, err)
			}
		}
	})
}

func checkLinked(t *testing.T, db *DB, img pratique.Image, own []digest.Digest) {
	t.Helper()
	ctx := t.Context()
	endClaims(t, db)
	for _, d := range own {
		if hs, err := db.Holders(ctx, testRepo("r"), d); err != nil || len(hs) != 1 {
			t.Errorf("%s is held by %v (%v)", d, hs, err)
		}
	}
	if free, err := db.Unlinked(ctx, own); err != nil || len(free) > 0 {
		t.Errorf("linked again, but unlinked are %v (%v)", free, err)
	}
	got, err := db.Image(ctx, img.Digest)
	want := img
	want.FirstSeen = testTime
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
	if ps, err := db.Parents(ctx, testRepo("r").At(img.Children[0].Digest)); err != nil || len(ps) != 1 {
		t.Errorf("parents %v (%v)", ps, err)
	}
	// A base finds what is built on it, and what is built finds its base.
	c, err := db.tagConcerns(ctx, []digest.Digest{sum("base")})
	if _, ok := c.ds[img.Digest]; err != nil || !ok {
		t.Errorf("the base does not lead to the image: %v", err)
	}
	if bs, err := db.BasesOf(ctx, img); err != nil || len(bs) != 1 || bs[0].Ref.Tag != "1" {
		t.Errorf("bases %v (%v)", bs, err)
	}
	if _, err := db.docs.Document(ctx, linkDocument(testRepo("r"), img.Digest)); err != nil {
		t.Error(err)
	}
}

func tagged(repo, tag string) pratique.Ref {
	r := testRepo(repo)
	r.Tag = tag
	return r
}

// A link that was stopped for so long that its claims ended claims anew.
func TestLinkLate(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		db, ctx := newWorld(t, url).replica(), t.Context()
		img := testImage("a", "l")
		late, err := db.putLink(ctx, testRepo("r"), img, contents(img), new(concerned), time.Now().Add(-time.Second))
		if err != nil || !late {
			t.Errorf("late: %v (%v)", late, err)
		}
		if _, err := db.Holders(ctx, testRepo("r"), sum("l")); !errors.Is(err, pratique.ErrNotFound) {
			t.Errorf("linked all the same: %v", err)
		}
	})
}

// Links and removals of the same blobs, at two replicas: no link returns while what
// it names is being removed, and nothing is removed that is linked.
func TestLinkDiscardRace(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		w, ctx := newWorld(t, url), t.Context()
		dbs := []*DB{w.replica(), w.replica()}
		const blobs = 12
		var linked, removing [blobs]atomic.Bool
		var wg sync.WaitGroup
		for n, db := range dbs {
			for b := range blobs {
				wg.Go(func() {
					if err := db.Link(ctx, testRepo(fmt.Sprint("r", n)), testImage(fmt.Sprint("image", n, b), fmt.Sprint("layer", b)), testTime); err != nil {
						t.Error(err)
					}
					if removing[b].Load() {
						t.Errorf("layer %d was being removed when its link returned", b)
					}
					linked[b].Store(true)
				})
				wg.Go(func() {
					before := linked[b].Load()
					if err := db.Discard(ctx, sum(fmt.Sprint("layer", b)), func() error {
						if before || removing[b].Swap(true) {
							t.Errorf("layer %d: removed although linked (%v), or twice at once", b, before)
						}
						time.Sleep(5 * time.Millisecond)
						removing[b].Store(false)
						return nil
					}); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
	})
}

// The lock of a replica that died ends by itself, and a link waits for that.
func TestDiscardDied(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		db, ctx := newWorld(t, url).replica(), t.Context()
		d := sum("layer")
		got, err := scriptDiscard.Run(ctx, db.rdb, []string{db.key(partOfDigest(d), "named"), db.discardKey(d)}, short(d), "", "of the dead", 300).Int()
		if err != nil || got != 1 {
			t.Fatal(got, err)
		}
		if err := db.Link(ctx, testRepo("r"), testImage("a", "layer"), testTime); err != nil {
			t.Fatal(err)
		}
		if n, err := db.rdb.Exists(ctx, db.discardKey(d)).Result(); err != nil || n != 0 {
			t.Errorf("linked under a lock (%v)", err)
		}
		ended, cancel := context.WithCancel(ctx)
		if err := db.rdb.Set(ctx, db.discardKey(sum("other")), "x", time.Minute).Err(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(50*time.Millisecond, cancel)
		if err := db.Link(ended, testRepo("r"), testImage("b", "other"), testTime); !errors.Is(err, context.Canceled) {
			t.Errorf("a link that was given up: %v", err)
		}
	})
}

// A failover that lost the last writes of some partitions: what is linked is not
// removed, and the next Link makes the rest again.
func TestLinkLostWrites(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		db, ctx := newWorld(t, url).replica(), t.Context()
		img := testImage("a", "layer", "top")
		own := append(contents(img), img.Digest)
		for range 2 {
			if err := db.Link(ctx, testRepo("r"), img, testTime); err != nil {
				t.Fatal(err)
			}
			if free, err := db.Unlinked(ctx, own); err != nil || len(free) > 0 {
				t.Errorf("unlinked %v (%v)", free, err)
			}
			k, err := db.Known(ctx, img.Digest)
			if err != nil || k.Ref.Repo != "r" {
				t.Errorf("known through %v (%v)", k.Ref, err)
			}
			for n := range partitions {
				for _, name := range []string{"named", "images", "firsts", "places", "nexts", "ends", "parents"} {
					if err := db.rdb.Del(ctx, db.key(partNumber(n), name)).Err(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if free, err := db.Unlinked(ctx, append(own, sum("stray"))); err != nil || len(free) != 1 || free[0] != sum("stray") {
				t.Errorf("unlinked %v (%v)", free, err)
			}
			for _, d := range own {
				if err := db.Discard(ctx, d, func() error { t.Errorf("removed %s", d); return nil }); err != nil {
					t.Error(err)
				}
			}
		}
	})
}
