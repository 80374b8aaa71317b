package storetest

import (
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Pushes checks an implementation of store.Pushes.
func Pushes[T store.Pushes](t *testing.T, fresh Fresh[T]) {
	open := fresh(t)
	s, ctx := open(), t.Context()
	list := func(what string, limit int, want ...store.Push) {
		t.Helper()
		got, err := s.OpenPushes(ctx, limit)
		mustBe(t, err)
		if len(got) == 0 {
			got = nil
		}
		same(t, what, got, want)
	}
	d := digest.FromString("1")
	ref := func(tag string, d digest.Digest) pratique.Ref {
		return pratique.Ref{Registry: "lab", Repo: "demo/a", Tag: tag, Digest: d}
	}
	first := store.Push{Ref: ref("1.0", d), At: clock}
	gone := store.Push{Ref: ref("", d), Deleted: true, At: clock.Add(time.Second)}
	list("nothing was told", 10)
	mustBe(t, s.PutPushes(ctx, []store.Push{gone, first}))
	s = open()
	list("oldest first, after it was opened again", 10, first, gone)
	list("a limit", 1, first)

	moved := store.Push{Ref: ref("1.0", digest.FromString("2")), At: clock.Add(time.Minute)}
	mustBe(t, s.PutPushes(ctx, []store.Push{moved}))
	list("the same tag again", 10, gone, moved)
	mustBe(t, s.ClosePush(ctx, first))
	list("what was replaced does not close its successor", 10, gone, moved)
	mustBe(t, s.ClosePush(ctx, moved))
	mustBe(t, s.ClosePush(ctx, moved))
	s = open()
	list("closed", 10, gone)
	mustBe(t, s.PutPushes(ctx, nil))
}
