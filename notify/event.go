package notify

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// typePrefix begins every type; filters may leave it out.
const typePrefix = "dev.pratique."

// Types of events.
const (
	TypeRefused        = typePrefix + "image.refused"
	TypeAdmitted       = typePrefix + "image.admitted"
	TypeChanged        = typePrefix + "verdict.changed"
	TypeSummary        = typePrefix + "verdict.summary" // many verdict.changed in one message
	TypeGraceStarted   = typePrefix + "grace.started"
	TypeGraceEnding    = typePrefix + "grace.ending"
	TypeGraceEnded     = typePrefix + "grace.ended"
	TypeExceptionMade  = typePrefix + "exception.created"
	TypeExceptionSoon  = typePrefix + "exception.expiring"
	TypeExceptionEnded = typePrefix + "exception.expired"
	TypeExceptionTaken = typePrefix + "exception.revoked"
	TypeTagMoved       = typePrefix + "tag.moved"
	TypeDatabase       = typePrefix + "database.updated"
	TypeScanFailed     = typePrefix + "scan.failed"
)

// Types lists all that a sink may ask for.
func Types() []string {
	return []string{
		TypeRefused, TypeAdmitted, TypeChanged, TypeGraceStarted, TypeGraceEnding, TypeGraceEnded, TypeExceptionMade,
		TypeExceptionSoon, TypeExceptionEnded, TypeExceptionTaken, TypeTagMoved, TypeDatabase, TypeScanFailed,
	}
}

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

// Changed is the data of verdict.changed.
type Changed struct {
	Image
	Previous pratique.Outcome `json:"previous"`
	Cause    string           `json:"cause"` // policy, database, scan, time, facts
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
}

// Database is the data of database.updated.
type Database struct {
	Text       string        `json:"text"`
	Digest     digest.Digest `json:"digest"`
	DatabaseAt time.Time     `json:"databaseTime"`
	Previous   digest.Digest `json:"previous,omitempty"`
}

// Summary is the data of verdict.summary, which only sinks for people get.
type Summary struct {
	Text     string   `json:"text"`
	Refused  int      `json:"refused"`  // served until now
	Admitted int      `json:"admitted"` // refused until now
	Examples []string `json:"examples"` // texts, those that most pulled first
	Events   []string `json:"events"`   // ids
}

// id is one for a fact: what it is said to be made of.
func id(parts ...any) string {
	h := sha256.New()
	for _, p := range parts {
		if t, ok := p.(time.Time); ok {
			p = t.UnixNano()
		}
		_, _ = fmt.Fprintf(h, "%v\x00", p) // a hash does not fail
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// event makes one with its data.
func event(kind, id, subject, order, repository string, at time.Time, data any) (store.Event, error) {
	raw, err := json.Marshal(data)
	if err != nil {
		return store.Event{}, fmt.Errorf("event %s: %w", kind, err)
	}
	return store.Event{ID: id, Type: kind, At: at.UTC(), Subject: subject, Order: order, Repository: repository, Data: raw}, nil
}

// subject is REPOSITORY@DIGEST: the tag is in the data.
func subject(ref pratique.Ref) string {
	ref.Tag = ""
	return ref.String()
}

const (
	maxReasons  = 10
	maxFindings = 5
	maxText     = 600
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

// line makes one bounded line of what images and people wrote.
func line(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == ' ' }), " ")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}
