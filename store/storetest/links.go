package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique/store"
)

// Links checks an implementation of store.Links that is a store.Catalog too.
func Links[T interface {
	store.Catalog
	store.Links
}](t *testing.T, fresh Fresh[T]) {
	tests := map[string]func(t *testing.T, open func() T){
		"Unlinked": linksUnlinked[T],
		"Many":     linksMany[T],
		"Discard":  linksDiscard[T],
		"Race":     linksRace[T],
	}
	for name, f := range tests {
		t.Run(name, func(t *testing.T) { f(t, fresh(t)) })
	}
}

func linksUnlinked[T interface {
	store.Catalog
	store.Links
}](t *testing.T, open func() T) {
	l, ctx := open(), t.Context()
	none, err := l.Unlinked(ctx, nil)
	mustBe(t, err)
	same(t, "Unlinked of nothing", none, nil)

	a := image("a", "base", "top")
	asked := []digest.Digest{sum("stray"), a.Digest, a.Config.Digest, sum("base"), sum("other"), sum("top")}
	got, err := l.Unlinked(ctx, asked)
	mustBe(t, err)
	same(t, "Unlinked before any Link", got, asked)

	mustBe(t, l.Link(ctx, ref("r"), a, clock))
	mustBe(t, l.Link(ctx, ref("elsewhere"), a, clock))
	// An index is a manifest; its children are nothing before they are linked.
	mustBe(t, l.Link(ctx, ref("r"), index("i", "child"), clock))
	l = open()
	got, err = l.Unlinked(ctx, append(asked, sum("i"), sum("child")))
	mustBe(t, err)
	same(t, "Unlinked, in the order asked", got, []digest.Digest{sum("stray"), sum("other"), sum("child")})

	ended, cancel := context.WithCancel(ctx)
	cancel()
	if got, err := l.Unlinked(ended, asked); err == nil {
		t.Errorf("Unlinked with an ended context = %v: an error must not look like links", got)
	}
}

func linksMany[T interface {
	store.Catalog
	store.Links
}](t *testing.T, open func() T) {
	l, ctx := open(), t.Context()
	asked := make([]digest.Digest, 5000)
	for i := range asked {
		asked[i] = sum(fmt.Sprint("blob", i))
	}
	mustBe(t, l.Link(ctx, ref("r"), image("a", "blob0", "blob4999"), clock))
	got, err := l.Unlinked(ctx, asked)
	mustBe(t, err)
	same(t, "Unlinked", got, asked[1:4999])
}

func linksDiscard[T interface {
	store.Catalog
	store.Links
}](t *testing.T, open func() T) {
	l, ctx := open(), t.Context()
	a := image("a", "layer")
	mustBe(t, l.Link(ctx, ref("r"), a, clock))
	for _, d := range []digest.Digest{a.Digest, a.Config.Digest, sum("layer")} {
		mustBe(t, l.Discard(ctx, d, func() error {
			t.Errorf("remove was called for %s, which is linked", d)
			return nil
		}))
	}
	failure := errors.New("remove failed")
	calls := 0
	for _, want := range []error{nil, failure} {
		err := l.Discard(ctx, sum("stray"), func() error { calls++; return want })
		if !errors.Is(err, want) {
			t.Errorf("Discard = %v, want %v", err, want)
		}
	}
	same(t, "calls of remove", calls, 2)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := l.Discard(ended, sum("stray"), func() error { calls++; return nil }); err == nil || calls != 2 {
		t.Errorf("Discard with an ended context = %v after %d calls of remove", err, calls)
	}
}

// linksRace: a Link returns before remove begins, which then is not called, or
// after it has ended.
func linksRace[T interface {
	store.Catalog
	store.Links
}](t *testing.T, open func() T) {
	l, ctx := open(), t.Context()
	for i := range 30 {
		layer := fmt.Sprint("layer", i)
		removing := make(chan struct{})
		linked := make(chan error, 1)
		go func() {
			<-removing
			linked <- l.Link(ctx, ref("r"), image(fmt.Sprint("img", i), layer), clock)
		}()
		removed := false
		mustBe(t, l.Discard(ctx, sum(layer), func() error {
			close(removing)
			select {
			case err := <-linked:
				t.Errorf("Link returned (%v) while what it names was being removed", err)
				linked <- err
			case <-time.After(5 * time.Millisecond):
			}
			removed = true
			return nil
		}))
		mustBe(t, <-linked)
		if !removed {
			t.Fatal("remove was not called")
		}
		mustBe(t, l.Discard(ctx, sum(layer), func() error {
			t.Error("remove was called for what is linked by now")
			return nil
		}))
	}
}
