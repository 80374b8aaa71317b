package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"pratique"
	"pratique/policy"
	"pratique/web"
)

// shownFindings is how many findings a table shows without --all.
const shownFindings = 40

// printCheck writes a check for a person: what was decided, why, and the facts,
// worst first.
func printCheck(w io.Writer, c web.Check, width int, all bool) error {
	facts := [][2]string{{"image", c.Ref}}
	if c.Digest != "" {
		facts = append(facts, [2]string{"digest", c.Digest.String()})
	}
	facts = append(facts, [2]string{"verdict", verdictLine(c.Verdict)})
	facts = append(facts, verdictFacts(c.Verdict)...)
	if a := c.Advice; a != nil {
		facts = append(facts, [2]string{"use", adviceLine(*a)})
	}
	facts = append(facts, [2]string{"scan", scanLine(c.Report)})
	for _, p := range c.Report.Problems {
		facts = append(facts, [2]string{"  problem", p})
	}
	if d := c.Report.Database; d != nil {
		facts = append(facts, [2]string{"database", fmt.Sprintf("of %s (%s)", d.UpdatedAt.UTC().Format("2006-01-02 15:04"), short(d.Digest.String()))})
	}
	facts = append(facts, [2]string{"findings", countLine(c.Report)})
	if err := printFacts(w, width, facts); err != nil {
		return err
	}
	if len(c.Children) > 0 {
		if err := printChildren(w, width, c.Children); err != nil {
			return err
		}
	}
	if err := printRules(w, width, c); err != nil {
		return err
	}
	return printFindings(w, width, c.Report.Findings, all)
}

// printRules writes the part of every rule, if it was asked for.
func printRules(w io.Writer, width int, c web.Check) error {
	if len(c.Rules) > 0 {
		title := "rules"
		if c.Platform != "" {
			title += " " + c.Platform
		}
		if _, err := fmt.Fprintf(w, "\n%s\n", title); err != nil {
			return err
		}
	}
	for _, r := range c.Rules {
		facts := [][2]string{{"  " + dash(r.Effect), ruleLine(r)}}
		if r.Facts != "" {
			facts = append(facts, [2]string{"", "read: " + r.Facts})
		}
		if err := printFacts(w, width, facts); err != nil {
			return err
		}
	}
	for _, child := range c.Children {
		if err := printRules(w, width, child); err != nil {
			return err
		}
	}
	return nil
}

// ruleLine is "default/critical (vulnerability, deny): met; 3 fixable …".
func ruleLine(r policy.Evaluation) string {
	kind := r.Action
	if r.Condition != "" {
		kind = r.Condition + ", " + r.Action
	}
	text := ruleOf(r.Policy, r.Rule) + " (" + kind + ")"
	switch {
	case r.Selected == "no":
	case r.Selected == "unknown":
		text += ": not known whether it is about this"
	case r.Met == "yes":
		text += ": met"
	case r.Met == "no":
		text += ": not met"
	default:
		text += ": not known whether it is met"
	}
	if r.Message == "" {
		return text
	}
	if r.Selected == "no" {
		return text + ": " + r.Message
	}
	return text + "; " + r.Message
}

// printFacts writes "name  text" pairs, texts wrapped and indented.
func printFacts(w io.Writer, width int, facts [][2]string) error {
	const indent = 11
	for _, f := range facts {
		for i, line := range wrap(f[1], width-indent) {
			name := f[0]
			if i > 0 {
				name = ""
			}
			if _, err := fmt.Fprintf(w, "%-*s%s\n", indent, name, line); err != nil {
				return err
			}
		}
	}
	return nil
}

func verdictLine(v *web.CheckVerdict) string {
	if v == nil {
		return "not decided yet"
	}
	var text string
	switch v.Outcome {
	case pratique.OutcomeAllow:
		text = "ALLOWED"
	case pratique.OutcomeWarn:
		text = "ALLOWED with a warning"
	default:
		text = "REFUSED"
	}
	text += " (verdict " + v.ID
	if v.Until != nil {
		text += ", may change at " + v.Until.UTC().Format(time.RFC3339)
	}
	return text + ")"
}

// shownLifts is how much of what was lifted a table shows.
const shownLifts = 10

// verdictFacts are the reasons of a verdict and what was lifted from it.
func verdictFacts(v *web.CheckVerdict) [][2]string {
	if v == nil {
		return nil
	}
	var facts [][2]string
	for _, r := range v.Reasons {
		text := ruleOf(r.Policy, r.Rule) + ": " + r.Message
		if r.GraceEnds != nil {
			text += " (refused from " + r.GraceEnds.UTC().Format(time.RFC3339) + " on)"
		}
		facts = append(facts, [2]string{"  " + r.Action.String(), text})
	}
	for i, l := range v.Lifted {
		if i == shownLifts {
			facts = append(facts, [2]string{"  lifted", fmt.Sprintf("and %d more: -o json shows them", len(v.Lifted)-i)})
			break
		}
		facts = append(facts, [2]string{"  lifted", liftLine(l)})
	}
	return facts
}

// ruleOf is POLICY/RULE.
func ruleOf(policy, rule string) string {
	if policy == "" {
		return rule
	}
	return policy + "/" + rule
}

// liftLine is "CVE-2024-1 openssl from default/critical, by exception ex-1 until …: why".
func liftLine(l web.CheckLift) string {
	text := strings.TrimSpace(l.Finding + " " + l.Package)
	switch rule := ruleOf(l.Policy, l.Rule); {
	case text == "":
		text = "rule " + rule
	case rule != "":
		text += " from " + rule
	}
	text += ", by " + l.By
	if l.Until != nil {
		text += " until " + l.Until.UTC().Format(time.RFC3339)
	}
	if l.Why != "" {
		text += ": " + l.Why
	}
	return text
}

func adviceLine(a web.CheckAdvice) string {
	text := a.Tag
	if text == "" {
		text = a.Digest.String()
	}
	return text + ", the newest " + string(a.Level) + " version known that may be pulled"
}

func scanLine(r web.CheckReport) string {
	text := r.State
	if r.OS != nil {
		text += ", " + strings.TrimSpace(r.OS.Family+" "+r.OS.Name)
	}
	if r.EOL {
		text += " (end of life)"
	}
	if r.ScannedAt != nil {
		text += ", " + r.ScannedAt.UTC().Format("2006-01-02 15:04 UTC")
	}
	return text
}

func countLine(r web.CheckReport) string {
	if r.Findings == nil {
		return "not known"
	}
	if len(r.Findings) == 0 {
		return "none"
	}
	n, fixable := counts(r), 0
	for _, f := range r.Findings {
		if f.Fixed != "" {
			fixable++
		}
	}
	return fmt.Sprintf("%d critical, %d high, %d medium, %d low, %d unknown; %d with a fix", n.Critical, n.High, n.Medium, n.Low, n.Unknown, fixable)
}

// counts is nil when the findings are not known.
func counts(r web.CheckReport) *web.Counts {
	if r.Findings == nil {
		return nil
	}
	n := new(web.Counts)
	for _, f := range r.Findings {
		n.Add(f)
	}
	return n
}

// countCell is counts in a table, under the title C/H/M/L/U.
func countCell(n *web.Counts) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprintf("%d/%d/%d/%d/%d", n.Critical, n.High, n.Medium, n.Low, n.Unknown)
}

func printChildren(w io.Writer, width int, children []web.Check) error {
	rows := make([][]string, 0, len(children))
	for _, c := range children {
		outcome := "pending"
		if c.Verdict != nil {
			outcome = c.Verdict.Outcome.String()
		}
		platform := c.Platform
		if platform == "" {
			platform = "-"
		}
		rows = append(rows, []string{platform, short(c.Digest.String()), outcome, c.Report.State, countCell(counts(c.Report))})
	}
	_, _ = fmt.Fprintln(w)
	return printTable(w, width, []column{{"PLATFORM", 0}, {"DIGEST", 0}, {"OUTCOME", 0}, {"STATE", 0}, {"C/H/M/L/U", 0}}, rows)
}

// printFindings writes the findings, those that look the same once: a package
// may be in an image in several places, which -o json tells apart.
func printFindings(w io.Writer, width int, fs []web.CheckFinding, all bool) error {
	var rows [][]string
	seen := make(map[string]bool)
	for _, f := range fs {
		name := f.Package
		if name == "" {
			name = f.Path // a secret or a misconfiguration is in a file, not in a package
		}
		status := f.Status
		if f.Kind != pratique.KindVulnerability {
			status = string(f.Kind)
		}
		row := []string{string(f.Severity), f.ID, name, dash(f.Installed), dash(f.Fixed), dash(status)}
		if key := strings.Join(row, "\x00"); !seen[key] {
			seen[key] = true
			rows = append(rows, row)
		}
	}
	more := 0
	if !all && len(rows) > shownFindings {
		more = len(rows) - shownFindings
		rows = rows[:shownFindings]
	}
	if len(rows) == 0 {
		return nil
	}
	_, _ = fmt.Fprintln(w)
	err := printTable(w, width, []column{{"SEVERITY", 0}, {"ID", 12}, {"PACKAGE", 10}, {"INSTALLED", 9}, {"FIXED", 9}, {"STATUS", 8}}, rows)
	if err == nil && more > 0 {
		_, err = fmt.Fprintf(w, "… and %d more: --all or -o json shows them\n", more)
	}
	return err
}

// short is a digest as people compare it.
func short(digest string) string {
	algorithm, hex, ok := strings.Cut(digest, ":")
	if !ok || len(hex) < 12 {
		return dash(digest)
	}
	return algorithm + ":" + hex[:12]
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
