package storetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"pratique/store"
)

// Movable is a state that another can be moved to.
type Movable interface {
	Dumpable
	store.MoveSource
	store.MoveTarget
}

// Move checks store.MoveState between two backends: where there is nothing, where it
// was interrupted, and where it may not.
func Move[T, U Movable](t *testing.T, from Fresh[T], to Fresh[U]) {
	filled := func(t *testing.T) (Dumpable, *happenings, func() Dumpable) {
		open := from(t)
		h := fill(t, func() Dumpable { return open() })
		return h.s, h, func() Dumpable { return open() }
	}
	t.Run("Interrupted", func(t *testing.T) {
		source, h, _ := filled(t)
		there := to(t)
		errCut := errors.New("cut off")
		resumed, cuts := 0, 0
		for loads := 1; ; loads += 3 {
			target := &cutting{Movable: there(), left: loads, cut: errCut}
			err := store.MoveState(t.Context(), source.(store.MoveSource), target, store.MoveConfig{Batch: 4, Progress: func(p store.MoveProgress) {
				if p.Resumed {
					resumed++
				}
			}})
			if err == nil {
				break
			}
			if !errors.Is(err, errCut) {
				t.Fatal(err)
			}
			if _, err := target.Move(t.Context()); err != nil {
				t.Errorf("a move that was cut off left no note: %v", err)
			}
			cuts++
		}
		if cuts < 5 || resumed != cuts {
			t.Errorf("%d attempts went on, of %d that were cut off", resumed, cuts)
		}
		target := there()
		_, err := target.Move(t.Context())
		wantNotFound(t, "note of a move that is done", err)
		same(t, "answers", h.answers(target), h.answers(source))
		err = store.MoveState(t.Context(), source.(store.MoveSource), target, store.MoveConfig{})
		if !errors.Is(err, store.ErrNotEmpty) {
			t.Errorf("a second time: %v, want one wrapping ErrNotEmpty", err)
		}
	})
	t.Run("Changed", func(t *testing.T) {
		source, h, reopen := filled(t)
		there := to(t)
		if err := store.MoveState(t.Context(), source.(store.MoveSource), &cutting{Movable: there(), left: 20, cut: errors.New("cut off")}, store.MoveConfig{Batch: 4}); err == nil {
			t.Fatal("was not cut off")
		}
		h.s = reopen()
		h.step() // somebody used it meanwhile
		err := store.MoveState(t.Context(), h.s.(store.MoveSource), there(), store.MoveConfig{})
		if !errors.Is(err, store.ErrNotEmpty) {
			t.Errorf("from a state that was used meanwhile: %v, want one wrapping ErrNotEmpty", err)
		}
	})
	t.Run("Differs", func(t *testing.T) {
		source, _, _ := filled(t)
		target := &forgetting{Movable: to(t)(), kind: store.KindExceptions}
		err := store.MoveState(t.Context(), source.(store.MoveSource), target, store.MoveConfig{})
		if d, ok := errors.AsType[*store.DifferenceError](err); !ok || len(d.Differences) == 0 {
			t.Fatalf("a record that was lost: %v, want a DifferenceError", err)
		}
		target.kind = ""
		mustBe(t, store.MoveState(t.Context(), source.(store.MoveSource), target, store.MoveConfig{}))
	})
}

// Fill stores something of every kind but those of the queue. It calls open several
// times, each time as another process, and leaves open what it was given last.
func Fill[T Dumpable](t *testing.T, open func() T) {
	fill(t, func() Dumpable { return open() })
}

func fill(t *testing.T, open func() Dumpable) *happenings {
	l := newLife(t, 1, open)
	h := &happenings{t: t, random: rand.New(rand.NewPCG(1, 7)), s: l.s}
	for range 12 {
		l.step()
		h.s = l.s
		h.step()
	}
	return h
}

// cutting fails after some loads, before or after it did what it was asked for.
type cutting struct {
	Movable
	left int
	cut  error
}

func (c *cutting) Load(ctx context.Context, kind store.Kind, rs []store.Record) error {
	if c.left--; c.left < 0 {
		return c.cut
	}
	if err := c.Movable.Load(ctx, kind, rs); err != nil {
		return err
	}
	if c.left == 0 {
		return c.cut
	}
	return nil
}

// forgetting loses the last record of each load of a kind.
type forgetting struct {
	Movable
	kind store.Kind
}

func (f *forgetting) Load(ctx context.Context, kind store.Kind, rs []store.Record) error {
	if kind == f.kind {
		rs = rs[:len(rs)-1]
	}
	return f.Movable.Load(ctx, kind, rs)
}
