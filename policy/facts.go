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
// scanned, of which nothing else is known: it is refused, and a rule that needs
// what is not known never helps it.
type Facts struct {
	// Ref is what was asked for. Its tag is empty when the client asked by digest.
	Ref pratique.Ref
	// Image is the manifest asked for: an image or an artifact. An index is
	// judged through its children.
	Image pratique.Image
	// Report is the standing report of Image; the zero Report when there is none.
	Report pratique.Report
	// former: Ref.Tag is no longer the image's, and was not asked for (see names).
	former bool
	// Client is the address of the connection.
	Client netip.Addr
	// Now is the time of the decision.
	Now time.Time

	// The rest is filled in as far as Set.Needs asks for it.

	// FirstServed and LastServed are when Pratique served the digest; zero = never.
	FirstServed, LastServed time.Time
	// Lineage is how the image stands to its tags and base.
	Lineage pratique.Lineage
	// Attestations are what was verified; with a zero CheckedAt nothing is known.
	Attestations pratique.Attestations
	// Exploits are nil when there is no such list.
	Exploits *pratique.Exploits
	// Exceptions are those that exist, expired and revoked ones too. Nil is none.
	Exceptions *Exceptions
	// Statements are those of VEX files; those of Attestations count besides. Nil
	// is none.
	Statements *Statements
}

// Needs are the facts, besides reference, image, report and time, that the rules
// of a Set read: a bit set.
type Needs uint

// Facts that are gathered only where a rule reads them. Exceptions and
// Statements are read always.
const (
	NeedClient       Needs = 1 << iota // Facts.Client
	NeedServed                         // Facts.FirstServed, LastServed
	NeedTags                           // Facts.Lineage.Current, Moved
	NeedNewer                          // Facts.Lineage.Newer
	NeedBase                           // Facts.Lineage.Base
	NeedAttestations                   // Facts.Attestations
	NeedExploits                       // Facts.Exploits
	NeedNames                          // Facts.Lineage.Current, Moved and Elsewhere of a pull by digest
	NeedAdvice                         // Facts.Lineage.Newer as far as it is known; no rule reads it
)

// Has reports whether all of what are needed.
func (n Needs) Has(what Needs) bool { return n&what == what }

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
