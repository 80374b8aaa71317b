package proxy

import (
	"context"
	"strings"
)

// CanaryName is the element of a repository's name that is refused under every
// upstream, by everybody, for ever: docker.io/pratique-canary/refused,
// registry.example/team/pratique-canary.
const CanaryName = "pratique-canary"

// NewCanary refuses the canary and passes everything else on to next.
//
// A node is closed when an image that Pratique refuses cannot be had. To find
// out, `pratique nodes doctor` needs an image that is refused whatever the
// policy says, and that an upstream may well have. See docs/adr/0006.
//
// The refusal is not bare (see Error.Bare): a bare HEAD keeps containerd from
// falling back even where its configuration lets it, and it is the
// configuration that the canary is about. An outage of Pratique has no bare HEAD.
func NewCanary(next Registry) Registry { return &canary{next: next} }

type canary struct{ next Registry }

// Manifest implements Registry.
func (c *canary) Manifest(ctx context.Context, r Request) (Manifest, error) {
	if isCanary(r.Ref.Repo) {
		return Manifest{}, canaryRefused(r)
	}
	return c.next.Manifest(ctx, r)
}

// Blob implements Registry.
func (c *canary) Blob(ctx context.Context, r Request) (Blob, error) {
	if isCanary(r.Ref.Repo) {
		return Blob{}, canaryRefused(r)
	}
	return c.next.Blob(ctx, r)
}

// Tags implements Registry.
func (c *canary) Tags(ctx context.Context, r Request) (TagList, error) {
	if isCanary(r.Ref.Repo) {
		return TagList{}, canaryRefused(r)
	}
	return c.next.Tags(ctx, r)
}

// Referrers implements Registry.
func (c *canary) Referrers(ctx context.Context, r Request) (Referrers, error) {
	if isCanary(r.Ref.Repo) {
		return Referrers{}, canaryRefused(r)
	}
	return c.next.Referrers(ctx, r)
}

// isCanary reports whether an element of repo is CanaryName.
func isCanary(repo string) bool {
	i := strings.Index(repo, CanaryName)
	if i < 0 {
		return false // every other request ends here
	}
	for element := range strings.SplitSeq(repo[i:], "/") {
		if element == CanaryName && (i == 0 || repo[i-1] == '/') {
			return true
		}
		i += len(element) + 1
	}
	return false
}

// canaryRefused is the same text whatever was asked for, so that it can be
// recognised in a client's output.
func canaryRefused(r Request) *Error {
	return &Error{
		Code: CodeDenied,
		Message: "refused by rule gate/canary: " + clean(r.Ref.String(), 200) +
			" is always refused, so that `pratique nodes doctor` can tell whether this node has a way around Pratique",
		Detail: struct {
			Ref  string `json:"ref"`
			Rule string `json:"rule"`
		}{r.Ref.String(), "gate/canary"},
	}
}
