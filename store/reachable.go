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

// Reach tells how far what is kept in memory can be trusted when the state is
// shared with other processes.
type Reach interface {
	// Confirmed is the latest time at which this process knew of every change that
	// others had made (see Stamper). A state that nobody shares is confirmed now.
	Confirmed() time.Time
}
