package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/redis/go-redis/v9"

	"pratique"
	"pratique/store"
)

// A process that dies in the middle of moving a tag leaves the tag with the spans
// that belong to it, and the next one moves it.
func TestSetTagCrash(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		w, ctx := newWorld(t, url), t.Context()
		dying, db := w.replica(), w.replica()
		state := func(name string, hour int) store.TagState {
			at := testTime.Add(time.Duration(hour) * time.Hour)
			return store.TagState{Digest: sum(name), MediaType: "m", Size: 1, CheckedAt: at, ChangedAt: at}
		}
		crashes(t, dying, func(ctx context.Context, round string) error {
			if err := db.SetTag(context.WithoutCancel(t.Context()), tagged("r", round), state("a", 0)); err != nil {
				return err
			}
			return dying.SetTag(ctx, tagged("r", round), state("b", 1))
		}, func(round string) {
			ref := tagged("r", round)
			for range 2 {
				tag, err1 := db.Tag(ctx, ref)
				spans, err2 := db.TagHistory(ctx, ref)
				moves, err3 := db.TagMoves(ctx, time.Time{})
				moves = slices.DeleteFunc(moves, func(m store.TagMove) bool { return m.Ref.Tag != round })
				if err1 != nil || err2 != nil || err3 != nil {
					t.Fatal(err1, err2, err3)
				}
				moved := tag.Digest == sum("b")
				current := slices.IndexFunc(spans, func(s store.TagSpan) bool { return s.MovedAt.IsZero() })
				if moved != (len(spans) == 2) || moved != (len(moves) == 1) || current < 0 || spans[current].Digest != tag.Digest {
					t.Errorf("it names %v, spans %v, moves %v", tag, spans, moves)
				}
				named, err := db.TagsOf(ctx, testRepo("r").At(tag.Digest))
				if err != nil || !slices.ContainsFunc(named, func(s store.TagSpan) bool { return s.Tag == round && s.MovedAt.IsZero() }) {
					t.Errorf("%s does not tell of its tag: %v (%v)", tag.Digest, named, err)
				}
				if err := db.SetTag(ctx, ref, state("b", 1)); err != nil {
					t.Fatal(err)
				}
			}
		})
	})
}

// What one replica writes, another hears of: everybody whom it concerns.
func TestCatalogStampsElsewhere(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		w, ctx := newWorld(t, url), t.Context()
		db, other := w.replica(), w.replica()
		moves := func(what string, write func() error, ds ...digest.Digest) {
			t.Helper()
			before := make([]uint64, len(ds))
			for i, d := range ds {
				before[i] = other.Stamp(d)
			}
			if err := write(); err != nil {
				t.Fatal(err)
			}
			for i, d := range ds {
				for deadline := time.Now().Add(20 * time.Second); other.Stamp(d) == before[i]; time.Sleep(5 * time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("%s: %s did not move", what, d)
					}
				}
			}
		}
		state := func(name string) store.TagState {
			return store.TagState{Digest: sum(name), CheckedAt: testTime, ChangedAt: testTime}
		}
		base, app := testImage("base", "l1"), testImage("app", "l1", "l2")
		moves("link", func() error { return db.Link(ctx, testRepo("r"), app, testTime) }, app.Digest, sum("l2"), app.Config.Digest)
		moves("base", func() error { return db.Link(ctx, testRepo("r"), base, testTime) }, base.Digest)
		moves("tag", func() error { return db.SetTag(ctx, tagged("r", "1"), state("base")) }, base.Digest, app.Digest, store.TagKey(tagged("r", "1")))
		moves("moved", func() error { return db.SetTag(ctx, tagged("r", "1"), state("x")) }, sum("x"), base.Digest, app.Digest)
		moves("checked", func() error { return db.SetTag(ctx, tagged("r", "1"), state("x")) }, store.TagKey(tagged("r", "1")))
		moves("list", func() error { return db.SetTagList(ctx, testRepo("r"), []string{"1"}, testTime) }, store.TagKey(testRepo("r")))
	})
}

// pauses runs another's work before a step of a context's commands.
type pauses struct {
	redis.Hook
	left int
	work func()
}

func (p *pauses) step(ctx context.Context) {
	if ctx.Value(cutKey{}) == p {
		if p.left--; p.left == 0 {
			p.work()
		}
	}
}

func (*pauses) DialHook(next redis.DialHook) redis.DialHook { return next }
func (p *pauses) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { p.step(ctx); return next(ctx, cmd) }
}

func (p *pauses) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { p.step(ctx); return next(ctx, cmds) }
}

// An index is linked while a tag begins to name it, at every step of either: who
// read in between what an image is built on learns that it is something else now.
func TestLinkWhileTagged(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		link := func(db *DB, ctx context.Context, round string) error {
			index := pratique.Image{Digest: sum("index " + round), Kind: pratique.KindIndex, Children: []pratique.Descriptor{{Digest: sum("base " + round)}}}
			return db.Link(ctx, testRepo("r"), index, testTime)
		}
		tag := func(db *DB, ctx context.Context, round string) error {
			return db.SetTag(ctx, tagged("r", round), store.TagState{Digest: sum("index " + round), CheckedAt: testTime, ChangedAt: testTime})
		}
		db := newWorld(t, url).replica()
		for name, works := range map[string][2]func(*DB, context.Context, string) error{"tag in link": {link, tag}, "link in tag": {tag, link}} {
			for n := 1; ; n++ {
				ctx, round := t.Context(), fmt.Sprint(name, n)
				round = strings.ReplaceAll(round, " ", "-")
				app := testImage("app "+round, "l1 "+round, "l2 "+round)
				if err := errors.Join(db.Link(ctx, testRepo("r"), testImage("base "+round, "l1 "+round), testTime), db.Link(ctx, testRepo("r"), app, testTime)); err != nil {
					t.Fatal(err)
				}
				var stamp uint64
				read := -1
				p := &pauses{left: n}
				p.work = func() {
					if err := works[1](db, ctx, round); err != nil {
						t.Error(err)
					}
					stamp = db.Stamp(app.Digest)
					bases, err := db.BasesOf(ctx, app)
					if err != nil {
						t.Error(err)
					}
					read = len(bases)
				}
				db.rdb.AddHook(p)
				if err := works[0](db, context.WithValue(ctx, cutKey{}, p), round); err != nil {
					t.Fatal(err)
				}
				if p.left > 0 {
					break
				}
				bases, err := db.BasesOf(ctx, app)
				if err != nil || len(bases) != 1 {
					t.Errorf("%s at step %d: bases %v (%v)", name, n, bases, err)
				}
				if read != len(bases) && db.Stamp(app.Digest) == stamp {
					t.Errorf("%s at step %d: %d bases were read, it has %d and the stamp did not move", name, n, read, len(bases))
				}
			}
		}
	})
}

// A server that was started anew has no scripts, and lists are longer than a field.
func TestCatalogLong(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		db, ctx := newWorld(t, url).replica(), t.Context()
		const n = 300 // 4 bytes each in holders, 8 in nexts, 33 in ends and parents
		var want []digest.Digest
		for i := range n {
			img := testImage(fmt.Sprint("image", i), "base", fmt.Sprint("layer", i%150))
			if err := db.Link(ctx, testRepo("r"), img, testTime); err != nil {
				t.Fatal(err)
			}
			want = append([]digest.Digest{img.Digest}, want...)
		}
		if err := db.rdb.ScriptFlush(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		got, err := db.Holders(ctx, testRepo("r"), sum("base"))
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("holders of the base, latest first: %v %s", err, d)
		}
		c := new(concerned)
		if err := db.built(ctx, []pratique.Image{testImage("x", "base")}, c); err != nil || len(c.ds) != n {
			t.Errorf("%d are built on the base (%v)", len(c.ds), err)
		}
	})
}

// What was dumped and loaded is the same; again, too.
func TestCatalogDump(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, url string) {
		ctx := t.Context()
		from, to := newWorld(t, url).replica(), newWorld(t, url).replica()
		fillCatalog(t, from)
		kinds := []store.Kind{store.KindImages, store.KindTags, store.KindRepositories}
		records := func(db *DB, kind store.Kind, after string) (out []store.Record) {
			for r, err := range db.Dump(ctx, kind, after) {
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, r)
			}
			return out
		}
		for range 2 {
			for _, kind := range kinds {
				if err := to.Load(ctx, kind, records(from, kind, "")); err != nil {
					t.Fatal(err)
				}
			}
			for _, kind := range kinds {
				want := records(from, kind, "")
				if d := cmp.Diff(want, records(to, kind, "")); d != "" || len(want) < 2 {
					t.Errorf("%s (%d): %s", kind, len(want), d)
				}
				if d := cmp.Diff(want[1:], records(to, kind, want[0].Key)); d != "" {
					t.Errorf("%s after the first: %s", kind, d)
				}
			}
		}
		answers := func(db *DB) (out []any) {
			moves, err1 := db.TagMoves(ctx, time.Time{})
			tags, err2 := db.TagsOf(ctx, testRepo("r").At(sum("base")))
			bases, err3 := db.BasesOf(ctx, testImage("x", "l1", "l2", "l3"))
			free, err4 := db.Unlinked(ctx, []digest.Digest{sum("l1"), sum("l2"), sum("stray"), sum("app")})
			holders, err5 := db.Holders(ctx, testRepo("r"), sum("l2"))
			known, err6 := db.Known(ctx, sum("base"))
			_, err7 := db.docs.Document(ctx, linkDocument(testRepo("r"), sum("base")))
			for _, err := range []error{err1, err2, err3, err4, err5, err6, err7} {
				if err != nil {
					t.Error(err)
				}
			}
			return []any{moves, tags, bases, free, holders, known}
		}
		if d := cmp.Diff(answers(from), answers(to)); d != "" {
			t.Errorf("answers (-before +after):\n%s", d)
		}
	})
}

func fillCatalog(t *testing.T, db *DB) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(db.Link(ctx, testRepo("r"), testImage("base", "l1"), testTime))
	must(db.Link(ctx, testRepo("other"), testImage("base", "l1"), testTime))
	must(db.Link(ctx, testRepo("r"), testImage("app", "l1", "l2"), testTime))
	for i, name := range []string{"base", "app", "", "base", "gone"} {
		at := testTime.Add(time.Duration(i) * time.Hour)
		s := store.TagState{MediaType: "m", CheckedAt: at, ChangedAt: at}
		if name != "" {
			s.Digest = sum(name)
		}
		must(db.SetTag(ctx, tagged("r", "1"), s))
		must(db.SetTag(ctx, tagged("other", fmt.Sprint(i)), s))
	}
	must(db.SetTagList(ctx, testRepo("r"), []string{"1", "2"}, testTime))
	must(db.SetTagList(ctx, testRepo("r"), []string{"2", "3"}, testTime.Add(time.Hour)))
	must(db.SetTagList(ctx, testRepo("empty"), []string{}, testTime))
}
