package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"pratique/store"
)

// FailureMode is what requests meet while the state is away.
type FailureMode string

// Failure modes.
const (
	// FailureServeLast gives decisions again that were made before, as long as the
	// report behind them is younger than GateConfig.FailureAge. All else is 503.
	FailureServeLast FailureMode = "serve-last"
	// FailureRefuse answers every request for content with 503.
	FailureRefuse FailureMode = "refuse"
)

const (
	// confirmedFor is how long after Reach.Confirmed the state counts as there.
	confirmedFor = 2 * time.Second
	// outageRetry is when to ask again for what needs a store that is away.
	outageRetry = 5 * time.Second
)

// reach tells whether a state that others share can be asked now. While it is away
// nobody asks it: each question would take as long as a time-out, and a write that
// fails makes this process forget what it was about.
type reach struct {
	state store.Reach // nil: a state that nobody shares
	// lost is when a question to the state was asked that was not answered, Unix
	// nanoseconds: until something is confirmed after it, the state is away.
	lost atomic.Int64
}

// away reports whether the state does not answer. The clock is the one by which
// Confirmed speaks: what it says of the future was said before the clock was set
// back, and confirms nothing.
func (r *reach) away() bool {
	if r == nil || r.state == nil {
		return false
	}
	confirmed := r.state.Confirmed()
	age := time.Since(confirmed)
	return age > confirmedFor || age < -confirmedFor || r.lost.Load() >= confirmed.UnixNano()
}

// Away reports whether a state counts as away, as gates and caches count it.
func Away(state store.Reach) bool { return (&reach{state: state}).away() }

// age is how long ago the state was confirmed, in seconds.
func (r *reach) age() float64 {
	if r == nil || r.state == nil {
		return 0
	}
	return time.Since(r.state.Confirmed()).Seconds()
}

// note takes in what came of a question to the state, and reports whether it was
// not answered. A state that keeps documents in the object store may fail for that
// store's sake: then the state did answer.
func (r *reach) note(err error) bool {
	if !unanswered(err) || errors.Is(err, store.ErrObjects) {
		return false
	}
	asked := time.Now()
	if s := new(store.Silence); errors.As(err, &s) {
		asked = s.Asked
	}
	for {
		was := r.lost.Load()
		if was >= asked.UnixNano() || r.lost.CompareAndSwap(was, asked.UnixNano()) {
			return true
		}
	}
}

// unanswered reports whether err says that a store does not answer. What is
// worded for a client already is not about the state, or has been noted.
func unanswered(err error) bool {
	if !errors.Is(err, store.ErrUnreachable) {
		return false
	}
	var e *Error
	return !errors.As(err, &e)
}

// errStateAway tells the state from the storage of bytes.
var errStateAway = errors.New("no answer from the state")

// stateAway is the answer to what cannot be had while the state is away: never a
// 404, which sends clients elsewhere.
func stateAway(err error) *Error {
	if err == nil {
		err = store.ErrUnreachable
	}
	return &Error{
		Code: CodeTooManyRequests, HTTPStatus: http.StatusServiceUnavailable, RetryAfter: outageRetry, Bare: true, Err: fmt.Errorf("%w: %w", errStateAway, err),
		Message: "the state store of Pratique does not answer: until it does, this replica serves only what it decided on before, and this is not among it (state.failure: serve-last); ask again",
	}
}

// stateRefuses is that answer to everything, where the mode says so.
func stateRefuses() *Error {
	e := stateAway(nil)
	e.Message = "the state store of Pratique does not answer: until it does, nothing is served (state.failure: refuse); ask again"
	return e
}

// bytesAway is the answer when the bytes are in a store that does not answer.
func bytesAway(err error) *Error {
	return &Error{
		Code: CodeTooManyRequests, HTTPStatus: http.StatusServiceUnavailable, RetryAfter: outageRetry, Err: err,
		Message: "the storage of Pratique (storage.driver) does not answer: what is not cached by this replica cannot be served until it does; ask again",
	}
}

// admit turns a request away when the state is and the mode says so.
func (g *Gate) admit() error {
	if g.cfg.Failure == FailureServeLast || !g.reach.away() {
		return nil
	}
	return stateRefuses()
}

// failed words an error that says that a store does not answer; others stay.
func (g *Gate) failed(err error) error {
	switch {
	case g.reach.note(err):
		err = stateAway(err)
	case unanswered(err):
		err = bytesAway(err)
	}
	var e *Error
	if g.cfg.Failure != FailureServeLast && errors.As(err, &e) && errors.Is(e, errStateAway) {
		return stateRefuses()
	}
	return err
}
