package store

import (
	"context"
	"time"

	"pratique"
)

// Push is what a registry told: that something was pushed to it, or deleted. It is
// a claim of the sender's and a reason to ask the upstream, nothing more.
type Push struct {
	// Ref has Registry and Repo, and Tag or Digest or both; with both, the tag is said
	// to name the digest.
	Ref     pratique.Ref
	Deleted bool
	// At is when it was taken here.
	At time.Time
}

// Key names what a push is about: its tag, whatever the digest, or without a tag
// its digest.
func (p Push) Key() string {
	ref := p.Ref
	if ref.Tag != "" {
		ref.Digest = ""
	}
	return ref.String()
}

// Pushes keeps what registries told until it was followed up, so that what was
// answered with "accepted" is not lost with the process.
type Pushes interface {
	// PutPushes opens pushes, all of them or none. One replaces an open one with the
	// same Key.
	PutPushes(ctx context.Context, ps []Push) error
	// OpenPushes returns the open ones, oldest first, at most limit.
	OpenPushes(ctx context.Context, limit int) ([]Push, error)
	// ClosePush closes the push with p's Key, unless another one (by At) has replaced
	// it. One that is not open is no error.
	ClosePush(ctx context.Context, p Push) error
}
