package storetest

import (
	"context"
	"sync/atomic"
	"testing"

	"pratique"
	"pratique/store"
)

// Shelf checks an implementation of store.Shelf.
func Shelf[T store.Shelf](t *testing.T, fresh Fresh[T]) {
	const kind = store.VulnerabilityDatabase
	wanted := func(version int64, doc string) store.WantedDatabase {
		return store.WantedDatabase{Database: sum("db " + doc), Version: version, Doc: []byte(doc)}
	}
	t.Run("Put", func(t *testing.T) {
		open := fresh(t)
		s, ctx := open(), t.Context()
		is := func(what string, want store.WantedDatabase) {
			t.Helper()
			got, err := s.WantedDatabase(ctx, kind)
			mustBe(t, err)
			same(t, what, got, want)
		}
		_, err := s.WantedDatabase(ctx, kind)
		wantNotFound(t, "before anything is wanted", err)
		wantSuperseded(t, "after one that never was", s.PutWantedDatabase(ctx, kind, 1, wanted(2, "a")))
		_, err = s.WantedDatabase(ctx, kind)
		wantNotFound(t, "after a refusal", err)

		mustBe(t, s.PutWantedDatabase(ctx, kind, 0, wanted(1, "a")))
		is("the first", wanted(1, "a"))
		wantSuperseded(t, "another first", s.PutWantedDatabase(ctx, kind, 0, wanted(1, "b")))
		is("after a conflict", wanted(1, "a"))
		mustBe(t, s.PutWantedDatabase(ctx, kind, 1, wanted(7, "b"))) // versions may be left out
		wantSuperseded(t, "after the same one again", s.PutWantedDatabase(ctx, kind, 1, wanted(2, "c")))
		_, err = s.WantedDatabase(ctx, "java")
		wantNotFound(t, "another kind", err)
		mustBe(t, s.PutWantedDatabase(ctx, "java", 0, wanted(1, "j")))
		s = open()
		is("after it was opened again", wanted(7, "b"))
		for _, w := range []store.WantedDatabase{wanted(7, "c"), wanted(6, "c"), {Version: 8}} {
			if err := s.PutWantedDatabase(ctx, kind, 7, w); err == nil {
				t.Errorf("stored %+v", w)
			}
		}
		is("after what is not valid", wanted(7, "b"))
	})
	t.Run("Concurrent", func(t *testing.T) {
		s := fresh(t)()
		var won atomic.Int32
		concurrently(t, 8, func(ctx context.Context, i int) error {
			for range 5 {
				before, err := s.WantedDatabase(ctx, kind)
				if err != nil && before.Version != 0 {
					return err
				}
				if s.PutWantedDatabase(ctx, kind, before.Version, wanted(before.Version+1, string(rune('a'+i)))) == nil {
					won.Add(1)
				}
			}
			return nil
		})
		got, err := s.WantedDatabase(t.Context(), kind)
		mustBe(t, err)
		same(t, "version, which counts those that won", got.Version, int64(won.Load()))
	})
}

// fenced is what a shelf is a fence for.
type fenced interface {
	store.Shelf
	Joined
}

// Fence checks what store.Shelf promises of engines.
func Fence[T fenced](t *testing.T, fresh Fresh[T]) {
	open := fresh(t)
	s, ctx := open(), t.Context()
	c := component("a")
	said := matches{c.ID(): nil}
	mustBe(t, s.PutImage(ctx, sum("image"), []pratique.Component{c}, []pratique.Occurrence{occurrence(c, "")}))
	want := func(before int64, e pratique.Engine) {
		t.Helper()
		mustBe(t, s.PutWantedDatabase(ctx, store.VulnerabilityDatabase, before, store.WantedDatabase{Database: e.Database, Version: before + 1}))
	}
	matched := func(e pratique.Engine) error {
		_, err := s.PutMatches(ctx, e, clock, said)
		return err
	}
	mustBe(t, s.Begin(ctx, engine(1)))
	want(0, engine(2))
	// Until somebody begins what is wanted, what stands goes on.
	mustBe(t, s.Begin(ctx, engine(1)))
	mustBe(t, matched(engine(1)))
	wantSuperseded(t, "Begin of a third", s.Begin(ctx, engine(3)))
	wantSuperseded(t, "PutMatches of a third", matched(engine(3)))

	mustBe(t, s.Begin(ctx, engine(2)))
	for range 2 {
		wantSuperseded(t, "Begin of the former", s.Begin(ctx, engine(1)))
		wantSuperseded(t, "PutMatches of the former", matched(engine(1)))
		mustBe(t, s.Begin(ctx, engine(2)))
		mustBe(t, matched(engine(2)))
		s = open()
	}
	// Back, as an operator wants it.
	want(1, engine(1))
	mustBe(t, s.Begin(ctx, engine(1)))
	mustBe(t, matched(engine(1)))
	wantSuperseded(t, "Begin of what was rolled back from", s.Begin(ctx, engine(2)))
	// Another kind is no fence, and another release with the same database is not kept out.
	mustBe(t, s.PutWantedDatabase(ctx, "java", 0, store.WantedDatabase{Database: sum("java"), Version: 1}))
	next := engine(1)
	next.Version += "-next"
	mustBe(t, s.Begin(ctx, next))
}
