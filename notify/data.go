package notify

import (
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Image is the data of events about an image: refused, admitted and scan.failed,
// and a part of the data of others.
type Image struct {
	// Text tells the event to a person, in one line.
	Text       string           `json:"text"`
	Reference  string           `json:"reference"` // UPSTREAM/REPOSITORY[:TAG]@DIGEST
	Repository string           `json:"repository"`
	Tag        string           `json:"tag,omitempty"`
	Digest     digest.Digest    `json:"digest"`
	Outcome    pratique.Outcome `json:"outcome"` // deny, warn, allow
	Verdict    string           `json:"verdict,omitempty"`
	Reasons    []Reason         `json:"reasons,omitempty"` // at most 10
	Client     string           `json:"client,omitempty"`  // who pulled, where one did
	MediaType  string           `json:"mediaType,omitempty"`
	Size       int64            `json:"size,omitempty"`
}

// Reason is one rule's part in a verdict.
type Reason struct {
	Policy    string           `json:"policy"`
	Rule      string           `json:"rule"`
	Action    pratique.Outcome `json:"action"`
	Message   string           `json:"message"`
	Findings  []Finding        `json:"findings,omitempty"` // the worst, at most 5
	GraceEnds time.Time        `json:"graceEnds,omitzero"`
}

// Finding is one fact against an image.
type Finding struct {
	ID        string            `json:"id"`
	Severity  pratique.Severity `json:"severity"`
	Package   string            `json:"package,omitempty"`
	Installed string            `json:"installed,omitempty"`
	Fixed     string            `json:"fixed,omitempty"`
}

// Scanned is the data of image.scanned.
type Scanned struct {
	Image
	State     pratique.State  `json:"state"` // scanned, incomplete
	OS        string          `json:"os,omitempty"`
	Findings  Counts          `json:"findings"`
	Engine    pratique.Engine `json:"engine"`
	ScannedAt time.Time       `json:"scannedAt"`
	Cause     string          `json:"cause"` // scan, database
	Changes   *Changes        `json:"changes,omitempty"`
}

// Counts of findings: vulnerabilities by severity, and the other kinds.
type Counts struct {
	Critical          int `json:"critical"`
	High              int `json:"high"`
	Medium            int `json:"medium"`
	Low               int `json:"low"`
	Unknown           int `json:"unknown"`
	Fixable           int `json:"fixable"` // of all these
	Secrets           int `json:"secrets"`
	Misconfigurations int `json:"misconfigurations"`
	Licenses          int `json:"licenses"`
}

// Changes are how vulnerabilities of an image moved since it was looked at before.
type Changes struct {
	Total int                         `json:"total"` // pratique.MaxChanges: or more
	Kinds map[pratique.ChangeKind]int `json:"kinds"`
	List  []pratique.FindingChange    `json:"list"` // at most 20: the worst that appeared first
}

// Changed is the data of verdict.changed.
type Changed struct {
	Image
	Previous pratique.Outcome `json:"previous"`
	Cause    string           `json:"cause"` // policy, database, scan, time, facts
	Changes  *Changes         `json:"changes,omitempty"`
	// Pulled is who had the image lately; there when it is refused now.
	Pulled *Pulled `json:"pulled,omitempty"`
}

// Pulled is who had an image.
type Pulled struct {
	Since   time.Time `json:"since"`
	Last    time.Time `json:"last,omitzero"`
	Pulls   int       `json:"pulls"`
	Clients []string  `json:"clients"` // addresses, the latest first, at most 20
	More    int       `json:"more"`    // clients besides those
}

// Grace is the data of grace.started, grace.ending and grace.ended.
type Grace struct {
	Image
	Policy string    `json:"policy"`
	Rule   string    `json:"rule"`
	Starts time.Time `json:"starts"`
	Ends   time.Time `json:"ends"`
}

// Exception is the data of exception.*.
type Exception struct {
	Text      string             `json:"text"`
	Exception pratique.Exception `json:"exception"`
}

// TagMoved is the data of tag.moved.
type TagMoved struct {
	Text       string        `json:"text"`
	Repository string        `json:"repository"`
	Tag        string        `json:"tag"`
	From       digest.Digest `json:"from"`
	To         digest.Digest `json:"to"` // "": the tag is gone
	MediaType  string        `json:"mediaType,omitempty"`
	Size       int64         `json:"size,omitempty"`
}

// Database is the data of database.updated.
type Database struct {
	Text       string        `json:"text"`
	Digest     digest.Digest `json:"digest"`
	DatabaseAt time.Time     `json:"databaseTime"`
	Previous   digest.Digest `json:"previous,omitempty"`
	// Effect is there when it is known: not when the process was restarted meanwhile.
	Effect *Effect `json:"effect,omitempty"`
}

// Effect is what a database did to the images that are known.
type Effect struct {
	All        bool                        `json:"all,omitempty"`     // everything was matched again
	Components int                         `json:"components"`        // that were matched again
	Changed    int                         `json:"changedComponents"` // of which it says something else
	Images     int                         `json:"images"`            // that hold one of those
	Findings   map[pratique.ChangeKind]int `json:"findings"`          // how they changed, counted in every image
	Refused    int                         `json:"refused"`           // images that were served until then
	Admitted   int                         `json:"admitted"`          // images that were refused until then
	Seconds    float64                     `json:"seconds"`
}

// Summary is the data of verdict.summary, which only sinks for people get.
type Summary struct {
	Text     string   `json:"text"`
	Refused  int      `json:"refused"`  // served until now
	Admitted int      `json:"admitted"` // refused until now
	Examples []string `json:"examples"` // texts, those that most pulled first
	Events   []string `json:"events"`   // ids
}

// Scans is the data of image.summary, which only sinks for people get.
type Scans struct {
	Text     string                      `json:"text"`
	Images   int                         `json:"images"`
	Findings map[pratique.ChangeKind]int `json:"findings"` // how they changed
	Examples []string                    `json:"examples"`
	Events   []string                    `json:"events"` // ids
}

const (
	maxReasons  = 10
	maxFindings = 5
)

// image is the data about a verdict on one.
func image(ref pratique.Ref, v pratique.Verdict) Image {
	out := Image{Reference: ref.String(), Repository: ref.Repository(), Tag: ref.Tag, Digest: ref.Digest, Outcome: v.Outcome, Verdict: v.ID}
	for _, r := range v.Reasons[:min(len(v.Reasons), maxReasons)] {
		reason := Reason{Policy: r.Policy, Rule: r.Rule, Action: r.Action, Message: line(r.Message), GraceEnds: r.GraceEnds}
		for _, f := range r.Findings[:min(len(r.Findings), maxFindings)] {
			reason.Findings = append(reason.Findings, Finding{ID: f.ID, Severity: f.Severity, Package: f.Package, Installed: f.Installed, Fixed: f.Fixed})
		}
		out.Reasons = append(out.Reasons, reason)
	}
	return out
}

// why is the first reason for an outcome, for the text.
func (i *Image) why() string {
	for _, r := range i.Reasons {
		if r.Action == i.Outcome {
			return ": " + r.Rule + ": " + r.Message
		}
	}
	return ""
}
