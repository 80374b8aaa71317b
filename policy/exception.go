package policy

import "pratique"

// Exceptions are exceptions made ready to be asked. They never change; nil holds
// none. Safe for concurrent use.
type Exceptions struct {
	all []pratique.Exception
}

// NewExceptions compiles es. The error joins every glob that is none, and wraps
// pratique.ErrInvalid; what is good is in the result all the same.
func NewExceptions(es []pratique.Exception) (*Exceptions, error) {
	return &Exceptions{all: es}, nil
}

func (x *Exceptions) empty() bool { return x == nil || len(x.all) == 0 }

func (x *Exceptions) lifts(*evaluation, *pratique.Finding) (pratique.Lift, bool) {
	return pratique.Lift{}, false
}

func (x *Exceptions) exempt(*evaluation) {}
