package proxy

import (
	"regexp"
	"time"
)

// StaleIfError are windows by class of tag: how much a tag is expected to move
// says how long the last answer may stand in for the next. A negative window is
// never.
type StaleIfError struct {
	// Semver is for tags that look like a version: digits and at least one dot,
	// perhaps a v before and a variant behind (1.27, v1.27.3, 3.20.1-alpine). If
	// zero, 7 days.
	Semver time.Duration
	// Latest is for the tag latest. If zero, 1 h.
	Latest time.Duration
	// Other is for every other tag (8, stable, bookworm-slim). If zero, 24 h.
	Other time.Duration
}

var semverLike = regexp.MustCompile(`^[vV]?[0-9]+(\.[0-9]+)+([-_.+].*)?$`)

// window is how long a tag may be served without having been checked.
func (s StaleIfError) window(tag string) time.Duration {
	switch {
	case tag == "latest":
		return s.Latest
	case semverLike.MatchString(tag):
		return s.Semver
	}
	return s.Other
}
