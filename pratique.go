// Package pratique holds the nouns of Pratique, a pull-through OCI registry
// that scans what it caches and refuses what breaks policy.
//
// It owns the types that the other packages hand to each other (Ref, Image,
// Inventory, Component, Finding, Report, Verdict, Decision) and the laws of
// those types: parsing, validation, merging. It does no I/O, reads no clock
// and imports no other package of this module. The zero value of every type
// is its safe value: an empty State is StateUnknown, an empty Outcome is
// OutcomeDeny.
package pratique

import (
	// go-digest calls digests of algorithms that are not linked in unsupported.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Errors that cross package borders. Wrap them with context; test them with
// errors.Is.
var (
	// ErrNotFound: the thing asked for is known not to exist here.
	ErrNotFound = errors.New("not found")
	// ErrPending: no verdict yet; the scan goes on and a later request finds it.
	ErrPending = errors.New("scan not finished")
	// ErrInvalid: the input breaks the grammar or a limit and never will be accepted.
	ErrInvalid = errors.New("invalid")
	// ErrNoDatabase: no vulnerability database has been adopted yet, so nothing
	// can be matched and nothing unscanned can be served.
	ErrNoDatabase = errors.New("no vulnerability database")
)

// Ref names what was asked for: a manifest by tag, by digest, or by both, in a
// repository of a configured upstream. Source: OCI distribution-spec 1.1.
type Ref struct {
	// Registry is the key of the upstream in the configuration ("docker.io").
	Registry string `json:"registry"`
	// Repo is the repository's name on that upstream ("library/nginx").
	Repo string `json:"repository"`
	// Tag is empty when the reference is by digest alone.
	Tag string `json:"tag,omitempty"`
	// Digest is empty until the tag is resolved.
	Digest digest.Digest `json:"digest,omitempty"`
}

// String writes the reference as people type it:
// docker.io/library/nginx:1.27@sha256:….
func (r Ref) String() string {
	var b strings.Builder
	b.WriteString(r.Registry)
	b.WriteByte('/')
	b.WriteString(r.Repo)
	if r.Tag != "" {
		b.WriteByte(':')
		b.WriteString(r.Tag)
	}
	if r.Digest != "" {
		b.WriteByte('@')
		b.WriteString(r.Digest.String())
	}
	return b.String()
}

// Repository is the reference without tag and digest.
func (r Ref) Repository() string { return r.Registry + "/" + r.Repo }

// At is the same repository at another digest; the tag is kept, because it is
// what the person asked for.
func (r Ref) At(d digest.Digest) Ref { r.Digest = d; return r }

var (
	// Grammar of OCI distribution-spec 1.1, "Pulling manifests".
	repoPattern = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	// An upstream's key, or host[:port] of one, IPv6 in brackets.
	registryPattern = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?|\[[0-9a-fA-F:.]{2,45}\])(:[0-9]{1,5})?$`)
)

// maxRepoLength bounds a repository's name; clients limit host and name
// together to 255 (OCI distribution-spec 1.1).
const maxRepoLength = 255

// ValidRepo reports whether name fits the grammar of a repository's name.
func ValidRepo(name string) bool { return len(name) <= maxRepoLength && repoPattern.MatchString(name) }

// ValidTag reports whether tag fits the grammar of a tag.
func ValidTag(tag string) bool { return tagPattern.MatchString(tag) }

// ParseDigest accepts sha256 and sha512 digests in their canonical form only.
// The error wraps ErrInvalid.
func ParseDigest(s string) (digest.Digest, error) {
	d, err := digest.Parse(s)
	if err != nil {
		return "", fmt.Errorf("%w digest %q: %w", ErrInvalid, s, err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return "", fmt.Errorf("%w digest %q: only sha256 and sha512 are supported", ErrInvalid, s)
	}
	return d, nil
}

// ParseRef parses REGISTRY/REPOSITORY[:TAG][@DIGEST]; the first element is the
// upstream's key, and a reference without tag and digest gets the tag "latest".
// The error wraps ErrInvalid.
func ParseRef(s string) (Ref, error) {
	rest := s
	var r Ref
	if name, d, ok := strings.Cut(rest, "@"); ok {
		var err error
		if r.Digest, err = ParseDigest(d); err != nil {
			return Ref{}, err
		}
		rest = name
	}
	registry, rest, ok := strings.Cut(rest, "/")
	if !ok || !registryPattern.MatchString(registry) {
		return Ref{}, fmt.Errorf("%w reference %q: want UPSTREAM/REPOSITORY[:TAG][@DIGEST]", ErrInvalid, s)
	}
	r.Registry = registry
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		r.Tag, rest = rest[i+1:], rest[:i]
		if !ValidTag(r.Tag) {
			return Ref{}, fmt.Errorf("%w tag %q in %q", ErrInvalid, r.Tag, s)
		}
	}
	if !ValidRepo(rest) {
		return Ref{}, fmt.Errorf("%w repository %q in %q", ErrInvalid, rest, s)
	}
	r.Repo = rest
	if r.Tag == "" && r.Digest == "" {
		r.Tag = "latest"
	}
	return r, nil
}
