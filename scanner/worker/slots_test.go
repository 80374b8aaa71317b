package worker

import (
	"context"
	"errors"
	"testing"

	"pratique"
)

// TestSlots: the background leaves one slot to pulls.
func TestSlots(t *testing.T) {
	closed := make(chan struct{})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	pull, background := t.Context(), pratique.Unhurried(t.Context())
	for _, tc := range []struct{ slots, background int }{{1, 1}, {2, 1}, {4, 3}} {
		s := newSlots(tc.slots)
		var leave []func()
		for i := range tc.background {
			l, err := s.enter(background, closed)
			if err != nil {
				t.Fatalf("%d slots: %d: %v", tc.slots, i, err)
			}
			leave = append(leave, l)
		}
		if _, err := s.enter(pratique.Unhurried(gone), closed); !errors.Is(err, context.Canceled) {
			t.Errorf("%d slots: one more in the background: %v, want it to wait", tc.slots, err)
		}
		if tc.slots > 1 {
			l, err := s.enter(pull, closed)
			if err != nil {
				t.Fatalf("%d slots: a pull: %v", tc.slots, err)
			}
			leave = append(leave, l)
		}
		if _, err := s.enter(gone, closed); !errors.Is(err, context.Canceled) {
			t.Errorf("%d slots: one more: %v, want it to wait", tc.slots, err)
		}
		for _, l := range leave {
			l()
		}
		if len(s.all) != 0 || len(s.background) != 0 {
			t.Errorf("%d slots: not all given back", tc.slots)
		}
	}
	s := newSlots(1)
	leave, err := s.enter(background, closed)
	if err != nil {
		t.Fatal(err)
	}
	close(closed)
	if _, err := s.enter(pull, closed); !errors.Is(err, errClosed) {
		t.Errorf("of a closed pool: %v", err)
	}
	leave()
}
