package worker

import (
	"context"

	"pratique"
)

// slots bound how many layers are under analysis. Where there are two or more, work
// that nobody waits for leaves one free: the layer of a pull never stands behind a
// line of scans in the background.
type slots struct {
	all, background chan struct{}
}

func newSlots(n int) slots {
	return slots{all: make(chan struct{}, n), background: make(chan struct{}, max(1, n-1))}
}

// enter waits for a slot and returns what gives it back.
func (s slots) enter(ctx context.Context, closed <-chan struct{}) (leave func(), err error) {
	lines := []chan struct{}{s.all}
	if pratique.IsUnhurried(ctx) {
		lines = []chan struct{}{s.background, s.all}
	}
	for i, line := range lines {
		select {
		case line <- struct{}{}:
			continue
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-closed:
			err = errClosed
		}
		for _, taken := range lines[:i] {
			<-taken
		}
		return nil, err
	}
	return func() {
		for _, taken := range lines {
			<-taken
		}
	}, nil
}
