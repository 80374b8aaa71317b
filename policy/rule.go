package policy

import (
	"fmt"

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
	}
	return kindUnscanned
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
		return t.count(pratique.KindVulnerability, r.minRank, r.fixable) > 0
	case kindSecret:
		return t.count(pratique.KindSecret, r.minRank, false) > 0
	case kindEndOfLife:
		return f.Report.EOL
	}
	return kindOf(state) == r.kind
}

// reason is the rule's part in a verdict, its condition being met.
func (r *rule) reason(policy string, f *Facts, state pratique.State, t *tally) pratique.Reason {
	out := pratique.Reason{Policy: policy, Rule: r.name, Action: r.action, Message: r.message}
	var text string
	switch r.kind {
	case kindVulnerability:
		out.Findings = t.worst(pratique.KindVulnerability, r.minRank, r.fixable)
		text = r.describe(len(out.Findings))
	case kindSecret:
		out.Findings = t.worst(pratique.KindSecret, r.minRank, false)
		text = r.describe(len(out.Findings))
	case kindEndOfLife:
		text = endOfLifeText(f.Report.OS)
	default:
		out.State = state
		text = stateText(state, f.Report.Problems)
	}
	if out.Message == "" {
		out.Message = text
	}
	return out
}

// describe words a rule about findings, n of which met it.
func (r *rule) describe(n int) string {
	word := "vulnerabilities"
	switch {
	case r.kind == kindSecret && n == 1:
		word = "secret"
	case r.kind == kindSecret:
		word = "secrets"
	case n == 1:
		word = "vulnerability"
	}
	text := fmt.Sprintf("%d %s", n, word)
	if r.fixable {
		text = fmt.Sprintf("%d fixable %s", n, word)
	}
	switch r.minRank {
	case 0:
		return text
	case pratique.SeverityCritical.Rank():
		return text + " of severity CRITICAL"
	}
	return text + " of severity " + string(severities[r.minRank]) + " or above"
}

func endOfLifeText(os pratique.OS) string {
	if !os.Detected() {
		return "the operating system release is past its end of life"
	}
	return fmt.Sprintf("%s %s is past its end of life: new vulnerabilities are not fixed, and often not listed", os.Family, os.Name)
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
	text += ": "
	if p.Source != "" {
		text += p.Source + ": "
	}
	text += p.Message
	if more := len(problems) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}
