package store

import (
	"errors"
	"time"
)

// ErrUnreachable is wrapped by errors of a state that is somewhere else and does
// not answer now: trying again later may help, and nothing is wrong with what was
// asked.
var ErrUnreachable = errors.New("the state store does not answer")

// ErrObjects is wrapped by errors of an object store that does not answer, beside
// ErrUnreachable: they say nothing of the state.
var ErrObjects = errors.New("the object store does not answer")

// Silence is an error of a question to the state that was not answered. It wraps
// ErrUnreachable and Err.
type Silence struct {
	// Asked is when: a state that confirmed something that it was asked for later is
	// there, however long this answer was waited for.
	Asked time.Time
	Err   error
}

// Error implements error.
func (s *Silence) Error() string { return ErrUnreachable.Error() + ": " + s.Err.Error() }

// Unwrap makes it ErrUnreachable, and its cause.
func (s *Silence) Unwrap() []error { return []error{ErrUnreachable, s.Err} }

// Reach tells how far what is kept in memory can be trusted when the state is
// shared with other processes.
type Reach interface {
	// Confirmed is the latest time at which this process knew of every change that
	// others had made (see Stamper). A state that nobody shares is confirmed now.
	Confirmed() time.Time
}
