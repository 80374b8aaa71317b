package policy

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"pratique"
)

// kind is the condition a rule is about; the words are those of the file.
type kind string

const (
	kindVulnerability kind = "vulnerability"
	kindSecret        kind = "secret"
	kindEndOfLife     kind = "endOfLife"
	kindUnscanned     kind = "unscanned"
	kindIncomplete    kind = "incomplete"
	kindScanFailed    kind = "scanFailed"
	kindUnsupported   kind = "unsupported"
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
// the very kind is the only thing that lifts this.
func (k kind) guarded() bool {
	return k == kindUnscanned || k == kindIncomplete || k == kindScanFailed
}

// rule is one compiled rule.
type rule struct {
	name    string
	action  pratique.Outcome
	message string
	kind    kind
	match   *selector
	except  *selector

	// Of vulnerability and secret.
	minRank int
	fixable bool
	words   [2]string // see wordings
}

// lenient rules let through what would otherwise be refused: they need to be
// sure that they are meant, where the others need to be sure that they are not.
func (r *rule) lenient() bool {
	return r.action == pratique.OutcomeAllow || r.action == pratique.OutcomeWarn && r.kind.guarded()
}

// selects reports whether the rule is about this reference at all. What the
// client did not say (its tag) never helps it: a lenient rule that wants a tag
// does not apply then, a strict one does.
func (r *rule) selects(ref *pratique.Ref) bool {
	doubt := !r.lenient()
	if r.match != nil && !r.match.selects(ref, doubt) {
		return false
	}
	return r.except == nil || !r.except.selects(ref, !doubt)
}

// holds reports whether the rule's condition is met.
func (r *rule) holds(f *Facts, state pratique.State, t *tally) bool {
	switch r.kind {
	case kindVulnerability:
		return t.count(vulnerabilities, r.minRank, r.fixable) > 0
	case kindSecret:
		return t.count(secrets, r.minRank, false) > 0
	case kindEndOfLife:
		return f.Report.EOL
	default:
		return kindOf(state) == r.kind
	}
}

// reason is the rule's part in a verdict, its condition being met.
func (r *rule) reason(policy string, f *Facts, state pratique.State, t *tally) pratique.Reason {
	out := pratique.Reason{Policy: policy, Rule: r.name, Action: r.action, Message: r.message}
	switch r.kind {
	case kindVulnerability:
		out.Findings = t.worst(vulnerabilities, r.minRank, r.fixable)
	case kindSecret:
		out.Findings = t.worst(secrets, r.minRank, false)
	case kindEndOfLife:
	default:
		out.State = state
	}
	if out.Message != "" {
		return out
	}
	switch r.kind {
	case kindVulnerability, kindSecret:
		out.Message = r.describe(len(out.Findings))
	case kindEndOfLife:
		out.Message = endOfLifeText(f.Report.OS)
	default:
		out.Message = stateText(state, f.Report.Problems)
	}
	return out
}

// describe words a rule about findings, n of which met it.
func (r *rule) describe(n int) string {
	word := r.words[1]
	if n == 1 {
		word = r.words[0]
	}
	return strconv.Itoa(n) + word
}

// wordings are what describe writes after the number: for one finding and for
// several.
func (r *rule) wordings() [2]string {
	out := [2]string{"vulnerability", "vulnerabilities"}
	if r.kind == kindSecret {
		out = [2]string{"secret", "secrets"}
	}
	for i := range out {
		if r.fixable {
			out[i] = "fixable " + out[i]
		}
		switch r.minRank {
		case 0:
		case pratique.SeverityCritical.Rank():
			out[i] += " of severity CRITICAL"
		default:
			out[i] += " of severity " + string(severities[r.minRank]) + " or above"
		}
		out[i] = " " + out[i]
	}
	return out
}

func endOfLifeText(os pratique.OS) string {
	if !os.Detected() {
		return "the operating system release is past its end of life"
	}
	return oneLine(os.Family+" "+os.Name) + " is past its end of life: new vulnerabilities are not fixed, and often not listed"
}

// maxQuoted bounds what a reason quotes from an image, in bytes.
const maxQuoted = 200

// oneLine makes text that an image may have written fit for a line of a
// refusal: no control characters, no invalid UTF-8, not long.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxQuoted {
		s = strings.ToValidUTF8(s[:maxQuoted], "") + "…"
	}
	return s
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
