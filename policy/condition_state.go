package policy

import (
	"fmt"

	"pratique"
)

// Kinds that the engine itself knows.
const (
	kindAlways      kind = "always"
	kindUnscanned   kind = "unscanned"
	kindIncomplete  kind = "incomplete"
	kindScanFailed  kind = "scanFailed"
	kindUnsupported kind = "unsupported"
)

// kindOf names the condition that a state of a report meets; a scanned image
// meets none.
func kindOf(s pratique.State) kind {
	switch s {
	case pratique.StateScanned:
		return ""
	case pratique.StateIncomplete:
		return kindIncomplete
	case pratique.StateFailed:
		return kindScanFailed
	case pratique.StateUnsupported:
		return kindUnsupported
	default:
		return kindUnscanned
	}
}

// guarded kinds are refused even when no rule mentions them (law 2); a rule of
// the very kind is the only thing that lifts this, or an exempt rule that names
// the kind.
func (k kind) guarded() bool {
	return k == kindUnscanned || k == kindIncomplete || k == kindScanFailed
}

type (
	alwaysDocument      struct{}
	unscannedDocument   struct{}
	incompleteDocument  struct{}
	scanFailedDocument  struct{}
	unsupportedDocument struct{}
)

func (*alwaysDocument) compile(*compiler, place) condition      { return always{} }
func (*unscannedDocument) compile(*compiler, place) condition   { return ofState(kindUnscanned) }
func (*incompleteDocument) compile(*compiler, place) condition  { return ofState(kindIncomplete) }
func (*scanFailedDocument) compile(*compiler, place) condition  { return ofState(kindScanFailed) }
func (*unsupportedDocument) compile(*compiler, place) condition { return ofState(kindUnsupported) }

// always is met by every image: such a rule is about the reference alone.
type always struct{}

func (always) meets(*evaluation) match { return match{met: yes} }
func (always) text(e *evaluation, _ *match) string {
	return "the rule is about " + oneLine(e.facts.Ref.Repository())
}
func (always) facts(*evaluation) string { return "" }
func (always) needs() Needs             { return 0 }

// ofState is met by reports in the state that the kind names.
type ofState kind

func (s ofState) meets(e *evaluation) match { return match{met: truthOf(kindOf(e.state) == kind(s))} }
func (ofState) needs() Needs                { return 0 }
func (ofState) facts(e *evaluation) string  { return "the state of the scan is " + e.state.String() }

func (ofState) text(e *evaluation, _ *match) string {
	return stateText(e.state, e.facts.Report.Problems)
}

// stateText says what is known of a scan that is not whole.
func stateText(s pratique.State, problems []pratique.Problem) string {
	var text string
	switch s {
	case pratique.StatePending:
		return "the scan has not finished yet"
	case pratique.StateIncomplete:
		text = "the scan is incomplete"
	case pratique.StateFailed:
		text = "the scan failed"
	case pratique.StateUnsupported:
		text = "nothing in it that the scanner reads"
	default:
		return "not scanned"
	}
	if len(problems) == 0 {
		return text
	}
	p := problems[0]
	for _, q := range problems {
		if q.Fatal {
			p = q
			break
		}
	}
	quoted := p.Message
	if p.Source != "" {
		quoted = p.Source + ": " + quoted
	}
	text += ": " + oneLine(quoted)
	if more := len(problems) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}
