package pratique

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/opencontainers/go-digest"
)

// Exception lifts one finding, or one rule, for some images until it expires.
// It never changes but for being revoked: who wants another one revokes it and
// makes a new one, so that the list of all exceptions is their whole history.
type Exception struct {
	// ID is short, unique and made by whoever creates the exception ("ex-4f1c09ab").
	ID string `json:"id"`

	// Finding is what is lifted: the exact id of a vulnerability, secret rule,
	// misconfiguration or license. Rule is the other possibility: the rule
	// POLICY/RULE. Exactly one of both is set.
	Finding string `json:"finding,omitempty"`
	Rule    string `json:"rule,omitempty"`
	// Package narrows Finding to packages of that exact name, or to a purl without
	// qualifiers, with or without version ("pkg:npm/lodash@4.17.20"). Empty = all.
	Package string `json:"package,omitempty"`

	// Repository is a glob on UPSTREAM/REPOSITORY; Digest is the manifest of one
	// image. At least one of both is set; both narrow.
	Repository string        `json:"repository,omitempty"`
	Digest     digest.Digest `json:"digest,omitempty"`
	// Platform narrows to images of that platform. If nil, all.
	Platform *Platform `json:"platform,omitempty"`

	Reason  string    `json:"reason"`
	Author  string    `json:"author"`
	Ticket  string    `json:"ticket,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	// Source is where it came from: "api", or "file:NAME" of a GitOps file.
	Source string `json:"source"`

	// Revoked is when somebody ended it before it expired; zero = not.
	Revoked   time.Time `json:"revoked,omitzero"`
	RevokedBy string    `json:"revokedBy,omitempty"`
	// RevokedWhy is the reason for that.
	RevokedWhy string `json:"revokedWhy,omitempty"`
}

// Active reports whether the exception lifts anything at the time.
func (e *Exception) Active(now time.Time) bool {
	return e.Revoked.IsZero() && !now.Before(e.Created) && now.Before(e.Expires)
}

// maxExceptionText bounds what people write into an exception, in bytes.
const maxExceptionText = 1000

// Validate refuses an exception that is not whole; most is the longest that one
// may last, 0 for no limit. The error wraps ErrInvalid, and joins every mistake.
func (e *Exception) Validate(most time.Duration) error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w exception: "+format, append([]any{ErrInvalid}, args...)...))
	}
	if e.ID == "" {
		fail("it has no id")
	}
	switch {
	case e.Finding == "" && e.Rule == "":
		fail("say what it lifts: a finding (CVE-2024-1234) or a rule (POLICY/RULE)")
	case e.Finding != "" && e.Rule != "":
		fail("it lifts a finding or a rule, not both: make two")
	case e.Rule != "" && strings.Count(e.Rule, "/") != 1:
		fail("rule %q: want POLICY/RULE", e.Rule)
	case e.Rule != "" && e.Package != "":
		fail("package narrows a finding; a rule has none")
	}
	if e.Repository == "" && e.Digest == "" {
		fail("say where it holds: a repository (docker.io/library/nginx, docker.io/library/**) or a digest")
	}
	if e.Digest != "" {
		if _, err := ParseDigest(e.Digest.String()); err != nil {
			fail("%w", err)
		}
	}
	if strings.TrimSpace(e.Reason) == "" {
		fail("say why: reason is empty")
	}
	if strings.TrimSpace(e.Author) == "" {
		fail("say who: author is empty")
	}
	for _, text := range []string{e.ID, e.Finding, e.Rule, e.Package, e.Repository, e.Reason, e.Author, e.Ticket} {
		if len(text) > maxExceptionText || strings.ContainsFunc(text, unicode.IsControl) {
			fail("%.40q…: want one line of at most %d bytes", text, maxExceptionText)
		}
	}
	switch {
	case e.Expires.IsZero():
		fail("say when it ends: expires is required")
	case !e.Expires.After(e.Created):
		fail("it expires at %s, before it begins", e.Expires.UTC().Format(time.RFC3339))
	case most > 0 && e.Expires.Sub(e.Created) > most:
		fail("it would last until %s; at most %s is allowed here, until %s", e.Expires.UTC().Format(time.RFC3339), most, e.Created.Add(most).UTC().Format(time.RFC3339))
	}
	return errors.Join(errs...)
}
