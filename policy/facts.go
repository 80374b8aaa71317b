// Package policy judges: rules and facts and time go in, a verdict with its
// reasons comes out.
//
// It owns the grammar of policy files and the laws that no file can forget:
// what was not fully scanned is refused unless a rule says otherwise by that
// name, deny beats warn beats allow, and a set of no policies refuses
// everything. It is pure: it reads bytes that it is given, no file, no clock
// and no network, so that a decision can be replayed. It keeps nothing between
// decisions; a Set is immutable and safe for concurrent use.
package policy

import (
	"net/netip"
	"time"

	"pratique"
)

// Facts are all that a verdict may depend on. The zero value is an image never
// scanned, which is refused.
type Facts struct {
	// Ref is what was asked for. Its tag is empty when the client asked by digest.
	Ref pratique.Ref
	// Image is the manifest asked for: an image or an artifact. An index is
	// judged through its children.
	Image pratique.Image
	// Report is the standing report of Image; the zero Report when there is none.
	Report pratique.Report
	// Client is the address of the connection.
	Client netip.Addr
	// Served tells that Pratique has served this digest before.
	Served bool
	// Now is the time of the decision.
	Now time.Time
}

// state is the state that the report may claim for this image. A report about
// another digest, or one in a state that nobody defined, says nothing.
func (f *Facts) state() pratique.State {
	s := f.Report.State
	if s.Validate() != nil {
		return pratique.StateUnknown
	}
	if s != pratique.StateUnknown && s != pratique.StatePending && f.Report.Image != f.Image.Digest {
		return pratique.StateUnknown
	}
	return s
}

// findings are those of the report, if it is about this image.
func (f *Facts) findings() []pratique.Finding {
	if f.Report.Image != f.Image.Digest {
		return nil
	}
	return f.Report.Findings
}
