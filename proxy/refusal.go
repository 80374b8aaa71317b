package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Limits of a refusal's text, in bytes. kubelet cuts an event at 1,024 of
// which the client's own words take a part; people read the first line.
const (
	vitalLength   = 300
	messageLength = 860
	worstFindings = 3
	// commandLength bounds the command in a text: half a command is none.
	commandLength = 330
	// Limits of the structured detail.
	detailFindings = 50
	detailReasons  = 20
)

// defaultHelp ends a refusal when the operator has not said what to do.
const defaultHelp = "Use a version that has the fixes, or ask the operator of this registry for an exception, quoting the verdict."

// Refusal is the structured detail of a refused request.
type Refusal struct {
	Ref     string           `json:"ref"`
	Digest  digest.Digest    `json:"digest"`
	Verdict pratique.Verdict `json:"verdict"` // reasons without their findings
	// Findings of all denying reasons, at most 50.
	Findings []pratique.Finding `json:"findings,omitempty"`
	// Advice is the newest version of the same series that may be had, if one is
	// known here.
	Advice *pratique.Newer `json:"advice,omitempty"`
	// Exception is the command that lifts the first finding, or the first rule; ""
	// where no exception can.
	Exception string `json:"exception,omitempty"`
}

// refused is the answer to a request that policy forbids.
func refused(d pratique.Decision, help string) *Error {
	return &Error{Code: CodeDenied, Message: refusalText(d, help), Detail: detail(d), Bare: true}
}

// undecided is the answer to a request that nothing is known of yet; cause
// wraps pratique.ErrPending and goes to the log.
func undecided(d pratique.Decision, retryAfter time.Duration, cause error) *Error {
	const again = "ask again in"
	text := fmt.Sprintf("scan pending: %s is being scanned before it is served for the first time; the scan goes on, %s %s", clean(d.Ref.String(), 400), again, retryAfter)
	state := pratique.StatePending
	if scanned(d) {
		state = d.Report.State
		text = fmt.Sprintf("verdict pending: %s is scanned, but what its rules need to know besides (signatures, tags, versions) is still being looked up; %s %s",
			clean(d.Ref.String(), 400), again, retryAfter)
	}
	return &Error{
		Code:    CodeTooManyRequests,
		Message: text,
		Detail: struct {
			Ref    string         `json:"ref"`
			Digest digest.Digest  `json:"digest"`
			State  pratique.State `json:"state"`
		}{d.Ref.String(), d.Image.Digest, state},
		RetryAfter: retryAfter,
		Bare:       true,
		Err:        cause,
	}
}

// scanned reports whether no scan is what a verdict waits for.
func scanned(d pratique.Decision) bool {
	for _, c := range d.Children {
		if !scanned(c) {
			return false
		}
	}
	return len(d.Children) > 0 || d.Report.State != pratique.StateUnknown && d.Report.State != pratique.StatePending
}

// refusalText is one line: rule, worst findings and verdict in the first 300
// bytes; then what to use instead, how to except it, the rule's own words, the
// other reasons, and the operator's help. It uses "->" and no arrow: not every
// terminal and log on the way speaks UTF-8.
func refusalText(d pratique.Decision, help string) string {
	if help == "" {
		help = defaultHelp
	}
	reasons := denying(d.Verdict.Reasons)
	id := clean(d.Verdict.ID, 64)
	verdict := "; verdict " + id
	if len(reasons) == 0 {
		return clean("refused: the policy gave no reason"+verdict+". "+help, messageLength)
	}
	var b strings.Builder
	first := reasons[0]
	b.WriteString("refused by rule " + ruleName(first) + ": ")
	room := vitalLength - b.Len() - len(verdict)
	if len(first.Findings) > 0 {
		b.WriteString(findingsText(first.Findings, room))
	} else {
		b.WriteString(clean(first.Message, room))
	}
	b.WriteString(verdict + "." + adviceText(d))
	if what, command := exception(d.Ref, first); command != "" && len(command) <= commandLength {
		b.WriteString(" To except " + what + ": " + command + " .")
	}
	tail := " Details: pratique check --verdict " + id + " . " + help
	more := ""
	if len(first.Findings) > 0 {
		more += " " + sentence(first.Message)
	}
	for i, r := range reasons[1:] {
		text := " Also rule " + ruleName(r) + ": " + sentence(r.Message)
		if b.Len()+len(more)+len(text)+len(tail) > messageLength {
			more += fmt.Sprintf(" And %d more reasons.", len(reasons)-1-i)
			break
		}
		more += text
	}
	b.WriteString(clean(more, max(0, messageLength-b.Len()-len(tail))))
	b.WriteString(tail)
	return clean(b.String(), messageLength)
}

// adviceText names the version to use instead, if one is known.
func adviceText(d pratique.Decision) string {
	switch a := d.Advice; {
	case a == nil:
		return ""
	case pratique.ValidTag(a.Tag):
		return " Newest version that may be pulled: " + clean(d.Ref.Repository(), 200) + ":" + clean(a.Tag, 128) + " ."
	case a.Digest != "":
		return " Newest version that may be pulled: " + clean(d.Ref.Repository(), 120) + "@" + clean(a.Digest.String(), 160) + " ."
	}
	return ""
}

// exception is the command that lifts the worst finding of a reason, or the
// rule, in the repository asked for, and in words what that is. Both are empty
// where an exception lifts nothing: what was not scanned whole, and what the gate
// itself refuses. People paste the command: what an image may have named goes
// into it only in characters that no shell reads.
func exception(ref pratique.Ref, r pratique.Reason) (what, command string) {
	var flag string
	switch {
	case r.Policy == "" || ownRule(r) || unscannable(r):
		return "", ""
	case len(r.Findings) > 0:
		what, flag = r.Findings[0].ID, "--finding"
	default:
		what, flag = r.Policy+"/"+r.Rule, "--rule"
	}
	if !plainWord(what) || !plainWord(ref.Repository()) {
		return "", ""
	}
	return what, fmt.Sprintf(`pratique exception create %s %s --repository %s --expires 14d --reason "..."`, flag, what, ref.Repository())
}

// ownRule reports whether a reason is the gate's. People may call a policy "gate"
// too.
func ownRule(r pratique.Reason) bool {
	if r.Policy != gatePolicy {
		return false
	}
	switch r.Rule {
	case "foreign-layer", "index-depth", "index-size", "platform", "child":
		return true
	}
	return false
}

// unscannable reports whether a reason is about the scan itself.
func unscannable(r pratique.Reason) bool {
	switch r.Rule {
	case "unscanned", "incomplete", "scanFailed":
		return true
	}
	return r.State == pratique.StatePending || r.State == pratique.StateIncomplete || r.State == pratique.StateFailed
}

// plainWord reports whether s is one word to every shell.
func plainWord(s string) bool {
	return s != "" && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._:/@+-", r)
	})
}

// findingsText lists the worst findings that fit into room, at least one.
func findingsText(fs []pratique.Finding, room int) string {
	text := ""
	for i, f := range fs {
		more := ""
		if rest := len(fs) - i - 1; rest > 0 {
			more = " and " + strconv.Itoa(rest) + " more"
		}
		next := findingText(f)
		if i > 0 {
			next = ", " + next
		}
		if i > 0 && (i >= worstFindings || len(text)+len(next)+len(more) > room) {
			return text + " and " + strconv.Itoa(len(fs)-i) + " more"
		}
		text += next
	}
	return text
}

// findingText is "CVE-2024-0001 openssl 3.0.1 -> 3.0.2".
func findingText(f pratique.Finding) string {
	text := clean(f.ID, 40)
	if f.Kind == pratique.KindSecret || f.Package == "" {
		if f.Path != "" {
			text += " in " + clean(f.Path, 60)
		}
		return text
	}
	text += " " + clean(f.Package, 40)
	if f.Installed != "" {
		text += " " + clean(f.Installed, 30)
	}
	if f.Fixed != "" {
		return text + " -> " + fixes(f.Fixed, 30)
	}
	return text + " (no fix)"
}

// warningTexts are the warnings of a verdict that serves with a warning.
func warningTexts(v pratique.Verdict) []string {
	if v.Outcome != pratique.OutcomeWarn {
		return nil
	}
	var out []string
	for _, r := range v.Reasons {
		if r.Action != pratique.OutcomeWarn || len(out) == detailReasons {
			continue
		}
		text := "rule " + ruleName(r) + ": "
		if !r.GraceEnds.IsZero() {
			text += "refused from " + r.GraceEnds.UTC().Format("2006-01-02 15:04 UTC") + " on: "
		}
		text += clean(r.Message, 120)
		if len(r.Findings) > 0 {
			text += ": " + findingsText(r.Findings, 160)
		}
		out = append(out, text)
	}
	return out
}

// detail is the same for a program, bounded.
func detail(d pratique.Decision) *Refusal {
	r := &Refusal{Ref: d.Ref.String(), Digest: d.Image.Digest, Verdict: d.Verdict, Advice: d.Advice}
	r.Verdict.Reasons = nil
	for i, reason := range denying(d.Verdict.Reasons) {
		if i == 0 {
			_, r.Exception = exception(d.Ref, reason)
		}
		for _, f := range reason.Findings {
			if len(r.Findings) < detailFindings {
				r.Findings = append(r.Findings, f)
			}
		}
		if len(r.Verdict.Reasons) < detailReasons {
			reason.Findings = nil
			r.Verdict.Reasons = append(r.Verdict.Reasons, reason)
		}
	}
	return r
}

// denying are the reasons that forbid: neither warn nor allow.
func denying(rs []pratique.Reason) []pratique.Reason {
	var out []pratique.Reason
	for _, r := range rs {
		if r.Action != pratique.OutcomeWarn && r.Action != pratique.OutcomeAllow {
			out = append(out, r)
		}
	}
	return out
}

// ruleName is POLICY/RULE, short enough that a finding and the verdict's id
// have room in the vital part.
func ruleName(r pratique.Reason) string {
	const most = 48
	if r.Policy == "" {
		return clean(r.Rule, most)
	}
	return clean(r.Policy, most) + "/" + clean(r.Rule, most)
}

// sentence ends text with a full stop.
func sentence(text string) string {
	text = strings.TrimRight(clean(text, 300), " ")
	if text == "" || strings.HasSuffix(text, ".") {
		return text
	}
	return text + "."
}

// clean makes one printable line of at most limit bytes: what an image, a tag
// or a package calls itself must not move a terminal's cursor.
func clean(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "?"))
	if len(s) <= limit {
		return s
	}
	const cut = "..."
	if limit <= len(cut) {
		return ""
	}
	return strings.ToValidUTF8(s[:limit-len(cut)], "") + cut
}

// fixes shortens a list of versions between two of them: half a version is one
// that nobody can install.
func fixes(s string, limit int) string {
	const more = ", ..."
	if s = clean(s, 1000); len(s) <= limit {
		return s
	}
	if i := strings.LastIndex(s[:limit-len(more)+1], ","); i > 0 {
		return s[:i] + more
	}
	return clean(s, limit)
}

// gatePolicy stands for the gate where verdicts name a policy.
const gatePolicy = "gate"

// denied is a verdict that the gate itself reaches, before any policy: about
// content that no policy could judge.
func denied(d pratique.Decision, rule, message string) pratique.Decision {
	sum := sha256.Sum256([]byte(gatePolicy + "\x00" + rule + "\x00" + d.Image.Digest.String() + "\x00" + message))
	d.Verdict = pratique.Verdict{
		ID:      hex.EncodeToString(sum[:6]),
		Outcome: pratique.OutcomeDeny,
		Reasons: []pratique.Reason{{Policy: gatePolicy, Rule: rule, Message: message}},
		Policy:  gatePolicy,
	}
	return d
}
