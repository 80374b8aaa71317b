package pratique

import (
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// State says how much is known about an image. The zero value is unknown.
type State string

// States of a report. Only StateScanned may ever count as clean.
const (
	StateUnknown     State = ""            // never scanned
	StatePending     State = "pending"     // a scan is open, no report stands
	StateScanned     State = "scanned"     // every layer analysed and matched
	StateIncomplete  State = "incomplete"  // an analyzer failed or a package database is missing
	StateFailed      State = "failed"      // the scan could not be done
	StateUnsupported State = "unsupported" // nothing in it that a scanner reads: chart, signature, SBOM
)

// Validate refuses a state that is none of the constants.
func (s State) Validate() error {
	switch s {
	case StateUnknown, StatePending, StateScanned, StateIncomplete, StateFailed, StateUnsupported:
		return nil
	}
	return fmt.Errorf("%w state %q", ErrInvalid, string(s))
}

// String is the state's name; the zero value reads "unknown".
func (s State) String() string {
	if s == StateUnknown {
		return "unknown"
	}
	return string(s)
}

// Severity as the vulnerability database words it. The zero value is unknown.
type Severity string

// Severities, ascending; see Rank.
const (
	SeverityUnknown  Severity = "UNKNOWN"
	SeverityLow      Severity = "LOW"
	SeverityMedium   Severity = "MEDIUM"
	SeverityHigh     Severity = "HIGH"
	SeverityCritical Severity = "CRITICAL"
)

// Rank orders severities: UNKNOWN 0, LOW 1, MEDIUM 2, HIGH 3, CRITICAL 4; any
// other word is 0.
func (s Severity) Rank() int {
	switch s {
	case SeverityLow:
		return 1
	case SeverityMedium:
		return 2
	case SeverityHigh:
		return 3
	case SeverityCritical:
		return 4
	default:
		return 0
	}
}

// Kind of a finding.
type Kind string

// Kinds of findings.
const (
	KindVulnerability    Kind = "vulnerability"
	KindSecret           Kind = "secret"
	KindMisconfiguration Kind = "misconfiguration"
	KindLicense          Kind = "license"
)

// Vulnerability is what the database says of one component: a finding without
// its place in an image. Field words are Trivy's.
type Vulnerability struct {
	ID        string   `json:"id"` // CVE-…, GHSA-…, DSA-…
	Fixed     string   `json:"fixed,omitempty"`
	Status    string   `json:"status"` // fixed, affected, will_not_fix, fix_deferred, end_of_life, …
	Severity  Severity `json:"severity"`
	Source    string   `json:"source,omitempty"` // data source id, e.g. "debian"
	Title     string   `json:"title,omitempty"`
	URL       string   `json:"url,omitempty"`
	CVSS      float64  `json:"cvss,omitempty"` // highest V3 base score known, 0 = none
	VendorIDs []string `json:"vendorIds,omitempty"`
}

// Finding is one fact against an image.
type Finding struct {
	ID        string      `json:"id"`
	Kind      Kind        `json:"kind"`
	Component ComponentID `json:"component,omitempty"`
	Package   string      `json:"package,omitempty"`
	Ecosystem string      `json:"ecosystem,omitempty"` // OS family or language type, e.g. "debian", "python-pkg"
	Installed string      `json:"installed,omitempty"`
	Fixed     string      `json:"fixed,omitempty"`
	Status    string      `json:"status,omitempty"`
	Severity  Severity    `json:"severity"`
	// Path is the package's own file or the file the secret is in; Target is the
	// lock file or directory it was found through, when that differs.
	Path      string        `json:"path,omitempty"`
	Target    string        `json:"target,omitempty"`
	Layer     digest.Digest `json:"layer,omitempty"`
	Title     string        `json:"title,omitempty"`
	URL       string        `json:"url,omitempty"`
	CVSS      float64       `json:"cvss,omitempty"`
	Source    string        `json:"source,omitempty"`
	VendorIDs []string      `json:"vendorIds,omitempty"`
	PURL      string        `json:"purl,omitempty"` // of the package, with version
	// Category of a license: forbidden, restricted, reciprocal, notice,
	// permissive, unencumbered, unknown.
	Category string `json:"category,omitempty"`
	// FirstSeen is when Pratique first reported this finding for this image, ever:
	// neither a report without it in between nor another database resets it.
	FirstSeen time.Time `json:"firstSeen,omitzero"`
	// Milestones are how the finding got worse, oldest first, the first of them at
	// FirstSeen; nil while it never did. Like FirstSeen they are kept for ever.
	Milestones []Milestone `json:"milestones,omitempty"`
}

// Milestone is the worst that a finding had been by a time: severity and
// fixability rise from one to the next and never fall.
type Milestone struct {
	At       time.Time `json:"at"`
	Severity Severity  `json:"severity"`
	Fixable  bool      `json:"fixable,omitempty"`
}

// Since is when the finding first had at least this rank (see Severity.Rank) and,
// if asked for, a fix: when a rule about such findings first met it. When the
// history does not say, it is FirstSeen.
func (f *Finding) Since(rank int, fixable bool) time.Time {
	for _, m := range f.Milestones {
		if m.Severity.Rank() >= rank && (m.Fixable || !fixable) {
			return m.At
		}
	}
	return f.FirstSeen
}

// Engine says with what a report was made.
type Engine struct {
	Version    string        `json:"version"`               // trivy's module version
	Analyzer   string        `json:"analyzer,omitempty"`    // key of the analyzers (see Inventory.Analyzer)
	Database   digest.Digest `json:"database,omitempty"`    // digest of the vulnerability database in use
	DatabaseAt time.Time     `json:"databaseTime,omitzero"` // its UpdatedAt
}

// Report holds facts about one image manifest, never a judgement. A report
// stands until a newer one replaces it.
type Report struct {
	Image digest.Digest `json:"image"`
	State State         `json:"state"`
	OS    OS            `json:"os,omitzero"`
	EOL   bool          `json:"eol,omitempty"` // the OS release was past its end of life when scanned
	// EOLAt is the end of life of the OS release; zero when it is not known.
	EOLAt time.Time `json:"eolAt,omitzero"`
	// Config is what the image's config claims.
	Config   ConfigFacts `json:"config,omitzero"`
	Findings []Finding   `json:"findings,omitempty"`
	// Changes are how vulnerabilities moved since the image was first matched, by
	// later databases: the newest first, at most MaxChanges.
	Changes   []FindingChange `json:"changes,omitempty"`
	Problems  []Problem       `json:"problems,omitempty"` // why incomplete, failed or unsupported
	Engine    Engine          `json:"engine"`
	ScannedAt time.Time       `json:"scannedAt"` // when content was matched, not when it was analysed
	FirstSeen time.Time       `json:"firstSeen"` // when Pratique first saw the digest
	// FirstScanned is when the content was first matched, in whichever report; kept
	// for ever. What was found then was there all the time, also while the image was
	// served unscanned. Zero: never matched, or not known.
	FirstScanned time.Time `json:"firstScanned,omitzero"`
}

// ConfigFacts are claims of an image's config. Nobody checked them.
type ConfigFacts struct {
	Created  time.Time         `json:"created,omitzero"`
	Platform Platform          `json:"platform,omitzero"`
	User     string            `json:"user,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"` // at most 64 of at most 1 KiB
}

// Problem is a failure that analysis or matching survived, kept as data because
// an error must never read as "nothing found".
type Problem struct {
	Layer   digest.Digest `json:"layer,omitempty"`
	Path    string        `json:"path,omitempty"`
	Source  string        `json:"source,omitempty"` // analyzer or step, e.g. "dpkg", "worker", "diffid"
	Message string        `json:"message"`
	// Fatal problems make the report failed; the others make it incomplete.
	Fatal bool `json:"fatal,omitempty"`
}

// Outcome of a decision. The zero value denies.
type Outcome string

// Outcomes, from strict to lenient.
const (
	OutcomeDeny  Outcome = ""
	OutcomeWarn  Outcome = "warn"
	OutcomeAllow Outcome = "allow"
)

// String is "deny", "warn" or "allow".
func (o Outcome) String() string {
	switch o {
	case OutcomeWarn, OutcomeAllow:
		return string(o)
	default:
		return "deny"
	}
}

// MarshalText writes deny as "deny", not as the empty string.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads the three words; any other is an error wrapping ErrInvalid.
func (o *Outcome) UnmarshalText(b []byte) error {
	switch string(b) {
	case "deny":
		*o = OutcomeDeny
	case "warn", "allow":
		*o = Outcome(b)
	default:
		return fmt.Errorf("%w outcome %q: want deny, warn or allow", ErrInvalid, b)
	}
	return nil
}

// Reason is one rule's part in a verdict.
type Reason struct {
	Policy  string  `json:"policy"`
	Rule    string  `json:"rule"`
	Action  Outcome `json:"action"`
	Message string  `json:"message"`
	// Findings that made the rule match, worst first.
	Findings []Finding `json:"findings,omitempty"`
	// State of the report when the rule is about the scan itself.
	State State `json:"state,omitempty"`
	// GraceEnds is when a warning becomes a refusal; zero when the rule's grace
	// has no part in it.
	GraceEnds time.Time `json:"graceEnds,omitzero"`
}

// Lift is a finding, or a whole rule, that would have counted against an image
// but for an exception, an exempt rule or a VEX statement.
type Lift struct {
	Policy string `json:"policy,omitempty"` // of the rule that it was lifted from
	Rule   string `json:"rule,omitempty"`
	// Finding is the id of what was lifted from the rule; empty when the whole rule
	// was.
	Finding string `json:"finding,omitempty"`
	Package string `json:"package,omitempty"`
	// By is what lifted: "exception ex-4f1c09ab", "rule default/pause-image",
	// "vex not_affected".
	By string `json:"by"`
	// Why is the reason given there: the exception's with its author and ticket,
	// the rule's message, the statement's justification.
	Why string `json:"why,omitempty"`
	// Until is when it ends; zero = never.
	Until time.Time `json:"until,omitzero"`
}

// Verdict is report × policy × clock × client. It is computed when asked for
// and never stored as truth.
type Verdict struct {
	ID      string   `json:"id"` // short, stable for the same facts and policy
	Outcome Outcome  `json:"outcome"`
	Reasons []Reason `json:"reasons"`
	// Lifted is what would have counted, each once, at most 100.
	Lifted []Lift `json:"lifted,omitempty"`
	// Until is the next moment at which time alone could change the outcome;
	// zero = never.
	Until  time.Time `json:"until,omitzero"`
	Policy string    `json:"policy"` // version of the policy set that decided
}

// Decision is a verdict with what it was made from. For an index, Children
// holds the decisions of the wanted children and Verdict is theirs combined.
type Decision struct {
	Ref      Ref        `json:"ref"`
	Image    Image      `json:"image"`
	Report   Report     `json:"report"`
	Verdict  Verdict    `json:"verdict"`
	Children []Decision `json:"children,omitempty"`
	// Advice is a version to use instead, if one is known.
	Advice *Newer `json:"advice,omitempty"`
}

// Change tells that the verdict on an image moved.
type Change struct {
	Image digest.Digest `json:"image"`
	Refs  []Ref         `json:"refs"`
	Prev  Verdict       `json:"prev"`
	Next  Verdict       `json:"next"`
	Cause string        `json:"cause"` // scan, database, policy, time, exception
}
