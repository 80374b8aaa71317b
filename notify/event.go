package notify

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"pratique"
	"pratique/store"
)

// typePrefix begins every type; filters may leave it out.
const typePrefix = "dev.pratique."

// Types of events.
const (
	TypeScanned        = typePrefix + "image.scanned"
	TypeScans          = typePrefix + "image.summary" // many image.scanned in one message
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
		TypeScanned, TypeRefused, TypeAdmitted, TypeChanged, TypeGraceStarted, TypeGraceEnding, TypeGraceEnded, TypeExceptionMade,
		TypeExceptionSoon, TypeExceptionEnded, TypeExceptionTaken, TypeTagMoved, TypeDatabase, TypeScanFailed,
	}
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

// maxText bounds what images and people wrote, in a message.
const maxText = 600

// subject is REPOSITORY@DIGEST: the tag is in the data.
func subject(ref pratique.Ref) string {
	ref.Tag = ""
	return ref.String()
}

// line makes one bounded line of what images and people wrote.
func line(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == ' ' }), " ")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}
