package web

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/policy"
)

// Check is what GET /api/v1/check answers and `pratique check -o json` prints.
// Every key is always there, except those marked; unknown values are null,
// never an empty list.
type Check struct {
	Ref    string        `json:"ref"`
	Digest digest.Digest `json:"digest"` // "" until the tag is resolved
	// Platform is set in Children only.
	Platform string `json:"platform,omitempty"`
	// Verdict is null until there is one.
	Verdict *CheckVerdict `json:"verdict"`
	// Advice is a version to use instead of one that is refused; left out when none
	// is known.
	Advice *CheckAdvice `json:"advice,omitempty"`
	Report CheckReport  `json:"report"`
	// Rules tell the part of every rule; left out unless asked for. Those of an index
	// are in its children.
	Rules []policy.Evaluation `json:"rules,omitempty"`
	// Children of an index: those in the configured platforms.
	Children []Check `json:"children,omitempty"`
}

// CheckAdvice is a version that may be pulled.
type CheckAdvice struct {
	Tag    string         `json:"tag"`
	Digest digest.Digest  `json:"digest"` // "" until it was resolved
	Level  pratique.Level `json:"level"`  // patch, minor, major
}

// CheckVerdict is a verdict.
type CheckVerdict struct {
	Outcome pratique.Outcome `json:"outcome"` // deny, warn, allow
	Reasons []CheckReason    `json:"reasons"`
	// Lifted is what would have counted against the image, but for an exception, an
	// exempt rule or a VEX statement.
	Lifted []CheckLift `json:"lifted"`
	Until  *time.Time  `json:"until"` // null: time alone changes nothing
	ID     string      `json:"id"`
}

// CheckLift is a finding, or a whole rule, that does not count.
type CheckLift struct {
	Policy  string     `json:"policy"`
	Rule    string     `json:"rule"`
	Finding string     `json:"finding"` // "": the whole rule
	Package string     `json:"package"`
	By      string     `json:"by"` // exception ID, rule POLICY/RULE, vex STATUS
	Why     string     `json:"why"`
	Until   *time.Time `json:"until"` // null: for ever
}

// CheckReason is one rule's part in the verdict.
type CheckReason struct {
	Policy  string           `json:"policy"`
	Rule    string           `json:"rule"`
	Action  pratique.Outcome `json:"action"`
	Message string           `json:"message"`
	// Findings are the ids that made the rule match, worst first, each once.
	Findings []string `json:"findings"`
	// GraceEnds is when this warning becomes a refusal; null when it does not.
	GraceEnds *time.Time `json:"graceEnds"`
}

// CheckReport holds the facts. For an index it is the union of its children.
type CheckReport struct {
	State string       `json:"state"` // unknown, pending, scanned, incomplete, failed, unsupported
	OS    *pratique.OS `json:"os"`    // null when none was recognised, or children differ
	EOL   bool         `json:"eol"`
	// Findings, worst first; null when the image was not read.
	Findings  []CheckFinding `json:"findings"`
	Database  *CheckDatabase `json:"database"`
	ScannedAt *time.Time     `json:"scannedAt"`
	// Problems say why the state is not scanned; left out when there are none.
	Problems []string `json:"problems,omitempty"`
}

// CheckFinding is one finding.
type CheckFinding struct {
	ID        string            `json:"id"`
	Kind      pratique.Kind     `json:"kind"`
	Package   string            `json:"package"`
	Installed string            `json:"installed"`
	Fixed     string            `json:"fixed"`
	Severity  pratique.Severity `json:"severity"`
	Status    string            `json:"status"`
	Path      string            `json:"path"`
}

// CheckDatabase says what the image was matched with.
type CheckDatabase struct {
	Digest    digest.Digest `json:"digest"`
	UpdatedAt time.Time     `json:"updatedAt"`
}

// newCheck is the decision in the API's words.
func newCheck(d pratique.Decision) Check {
	c := Check{
		Ref:     typedRef(d.Ref),
		Digest:  cmp.Or(d.Image.Digest, d.Ref.Digest),
		Verdict: newVerdict(d.Verdict),
		Report:  newReport(d.Report),
	}
	if a := d.Advice; a != nil {
		c.Advice = &CheckAdvice{Tag: a.Tag, Digest: a.Digest, Level: a.Level}
	}
	platforms := make(map[digest.Digest]string, len(d.Image.Children))
	for _, child := range d.Image.Children {
		if p := child.Platform; p != nil && p.OS != "" {
			platforms[child.Digest] = p.String()
		}
	}
	for _, child := range d.Children {
		cc := newCheck(child)
		if undecided(child) {
			cc.Verdict = nil
		}
		cc.Platform = platforms[cc.Digest]
		c.Children = append(c.Children, cc)
	}
	if len(c.Children) > 0 {
		c.Report = unionReport(c.Children)
	}
	return c
}

// typedRef leaves out the digest where a tag says what was asked for: it has a
// field of its own.
func typedRef(r pratique.Ref) string {
	if r.Tag != "" {
		r.Digest = ""
	}
	return r.String()
}

func newVerdict(v pratique.Verdict) *CheckVerdict {
	out := &CheckVerdict{
		Outcome: v.Outcome, Reasons: make([]CheckReason, 0, len(v.Reasons)), Lifted: make([]CheckLift, 0, len(v.Lifted)),
		ID: v.ID, Until: instant(v.Until),
	}
	for _, r := range v.Reasons {
		cr := CheckReason{Policy: r.Policy, Rule: r.Rule, Action: r.Action, Message: r.Message, Findings: []string{}, GraceEnds: instant(r.GraceEnds)}
		for _, f := range worstFirst(r.Findings) {
			if !slices.Contains(cr.Findings, f.ID) {
				cr.Findings = append(cr.Findings, f.ID)
			}
		}
		out.Reasons = append(out.Reasons, cr)
	}
	for _, l := range v.Lifted {
		out.Lifted = append(out.Lifted, CheckLift{
			Policy: l.Policy, Rule: l.Rule, Finding: l.Finding, Package: l.Package, By: l.By, Why: l.Why, Until: instant(l.Until),
		})
	}
	return out
}

func newReport(r pratique.Report) CheckReport {
	out := CheckReport{State: r.State.String(), EOL: r.EOL, ScannedAt: instant(r.ScannedAt)}
	if r.OS.Detected() {
		out.OS = &r.OS
	}
	if r.Engine.Database != "" {
		out.Database = &CheckDatabase{Digest: r.Engine.Database, UpdatedAt: r.Engine.DatabaseAt}
	}
	for _, p := range r.Problems {
		text := p.Message
		if p.Source != "" {
			text = p.Source + ": " + text
		}
		if p.Path != "" {
			text += " (" + p.Path + ")"
		}
		out.Problems = append(out.Problems, text)
	}
	if r.State == pratique.StateScanned || r.State == pratique.StateIncomplete {
		out.Findings = []CheckFinding{}
	}
	for _, f := range worstFirst(r.Findings) {
		out.Findings = append(out.Findings, newFinding(f))
	}
	return out
}

func newFinding(f pratique.Finding) CheckFinding {
	return CheckFinding{
		ID: f.ID, Kind: f.Kind, Package: f.Package, Installed: f.Installed, Fixed: f.Fixed,
		Severity: cmp.Or(f.Severity, pratique.SeverityUnknown), Status: f.Status, Path: cmp.Or(f.Path, f.Target),
	}
}

// stateRank orders states by how little is known: an index is known as well as
// its least known child.
var stateRank = []string{
	string(pratique.StateUnsupported), string(pratique.StateScanned), string(pratique.StateIncomplete),
	string(pratique.StateFailed), string(pratique.StatePending), pratique.StateUnknown.String(),
}

// unionReport joins the reports of an index's children. It holds no findings
// unless every child's are known.
func unionReport(children []Check) CheckReport {
	out := children[0].Report
	out.Findings = []CheckFinding{}
	out.Problems = nil
	seen := make(map[CheckFinding]bool)
	for i, c := range children {
		r := c.Report
		if slices.Index(stateRank, r.State) > slices.Index(stateRank, out.State) {
			out.State = r.State
		}
		out.EOL = out.EOL || r.EOL
		if i > 0 && (r.OS == nil || out.OS == nil || *r.OS != *out.OS) {
			out.OS = nil
		}
		if r.Findings == nil && r.State != string(pratique.StateUnsupported) {
			out.Findings = nil
		}
		for _, f := range r.Findings {
			if out.Findings != nil && !seen[f] {
				seen[f] = true
				out.Findings = append(out.Findings, f)
			}
		}
		for _, p := range r.Problems {
			out.Problems = append(out.Problems, strings.TrimSpace(c.Platform+" "+p))
		}
		out.Database = older(out.Database, r.Database)
		if r.ScannedAt == nil || out.ScannedAt == nil {
			out.ScannedAt = nil
		} else if r.ScannedAt.Before(*out.ScannedAt) {
			out.ScannedAt = r.ScannedAt
		}
	}
	if out.State == string(pratique.StateUnsupported) {
		out.Findings = nil // nobody read anything
	}
	slices.SortStableFunc(out.Findings, func(a, b CheckFinding) int {
		return cmp.Or(licensesLast(a.Kind, b.Kind), cmp.Compare(b.Severity.Rank(), a.Severity.Rank()))
	})
	return out
}

// older is the database that bounds what is known; none is older than any.
func older(a, b *CheckDatabase) *CheckDatabase {
	if a == nil || b == nil {
		return nil
	}
	if b.UpdatedAt.Before(a.UpdatedAt) {
		return b
	}
	return a
}

// licensesLast orders kinds: licenses are facts that a rule may ask for, not
// weaknesses, and every distribution's packages have hundreds.
func licensesLast(a, b pratique.Kind) int {
	rank := func(k pratique.Kind) int {
		if k == pratique.KindLicense {
			return 1
		}
		return 0
	}
	return cmp.Compare(rank(a), rank(b))
}

// worstFirst orders findings by severity, then those with a fix, then by name.
func worstFirst(fs []pratique.Finding) []pratique.Finding {
	fixable := func(f pratique.Finding) int {
		if f.Fixed != "" {
			return 0
		}
		return 1
	}
	fs = slices.Clone(fs)
	slices.SortStableFunc(fs, func(a, b pratique.Finding) int {
		return cmp.Or(
			licensesLast(a.Kind, b.Kind),
			cmp.Compare(b.Severity.Rank(), a.Severity.Rank()),
			cmp.Compare(fixable(a), fixable(b)),
			cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Package, b.Package),
			cmp.Compare(a.ID, b.ID),
			cmp.Compare(a.Path, b.Path),
		)
	})
	return fs
}

// instant is t in UTC, or nil for the zero time.
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
