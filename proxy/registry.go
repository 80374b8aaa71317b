// Package proxy is the pull side of an OCI registry in front of other
// registries: it parses requests, resolves tags, pulls through and caches,
// asks for a verdict, and answers.
//
// A registry here is the interface Registry. Cache implements it over the
// upstreams and the blob store and serves whatever exists; Gate implements it
// over a Cache and serves only what may be had; Server speaks HTTP over any
// Registry. Nothing in this package scans or judges: it asks (Scans, Policies).
package proxy

import (
	"context"
	"io"
	"net/netip"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Client is who asks. Only the address of the connection counts: no header
// names a client.
type Client struct {
	Addr netip.Addr
}

// Request is one parsed pull request. The zero Head is a GET.
type Request struct {
	Ref    pratique.Ref
	Head   bool
	Client Client
	// N and Last page a tag list (distribution-spec "Listing Tags"); N < 0 means
	// not given.
	N    int
	Last string
	// ArtifactType filters referrers.
	ArtifactType string
}

// Manifest is a manifest's bytes as the upstream sent them.
type Manifest struct {
	Image    pratique.Image
	Raw      []byte
	Hit      bool     // no upstream was asked for the bytes
	Stale    bool     // the upstream did not answer; this is what the tag named last
	Warnings []string // for Warning: 299 headers
	Verdict  string   // id of the verdict that let it through
}

// Blob is content that may still be arriving.
type Blob struct {
	Digest digest.Digest
	Size   int64
	Hit    bool // already committed
	// Verdict is the id of the verdict that let it through.
	Verdict string
	// Open returns a reader from offset to the end. For a committed blob on a
	// local file system it is an *os.File (sendfile); for one in transfer it
	// waits for bytes as they arrive and ends in an error, never in a silent EOF,
	// when the transfer fails. Closing it never ends the transfer.
	Open func(offset int64) (io.ReadCloser, error)
	// Redirect returns an address at which this client may read the very same bytes
	// for a short while, or "" when they are to be had here alone. Whoever has it
	// needs no more leave: it goes to the client and nowhere else, not into a log. If
	// nil, there is none.
	Redirect func(ctx context.Context) (string, error)
}

// TagList is one page of tags.
type TagList struct {
	Name string   // repository as the client named it is filled by Server
	Tags []string // sorted as the upstream sorted them
	More bool     // another page follows
}

// Referrers is an image index of the manifests whose subject is the digest
// asked for. Filtered says that ArtifactType was applied.
type Referrers struct {
	Index    []byte
	Filtered bool
}

// Registry is the pull side of a registry. Every method's error is an *Error
// or is answered as an internal error; a name that is not there is
// CodeManifestUnknown, CodeBlobUnknown or CodeNameUnknown.
type Registry interface {
	Manifest(ctx context.Context, r Request) (Manifest, error)
	Blob(ctx context.Context, r Request) (Blob, error)
	Tags(ctx context.Context, r Request) (TagList, error)
	Referrers(ctx context.Context, r Request) (Referrers, error)
}

// Upstream is one configured registry that Cache pulls from. Implemented by
// proxy/upstream. Errors are *Error with the code and status that a client of
// Pratique should see: an upstream's 404 is an Unknown code, its 429 is
// CodeTooManyRequests with RetryAfter, everything that is the upstream's
// failure is 502 or 504, never 404.
type Upstream interface {
	// Resolve asks with HEAD what reference (tag or digest) names.
	Resolve(ctx context.Context, repo, reference string) (pratique.Descriptor, error)
	// Manifest fetches at most pratique.MaxManifestSize bytes and the media type.
	// When reference is a digest the bytes are verified against it.
	Manifest(ctx context.Context, repo, reference string) (mediaType string, raw []byte, err error)
	// Blob opens the blob's bytes from offset; size is that of the whole blob,
	// -1 when the upstream does not say. The bytes are not verified here. A
	// server that ignores Range makes it fail when offset > 0.
	Blob(ctx context.Context, repo string, d digest.Digest, offset int64) (body io.ReadCloser, size int64, err error)
	// Tags fetches the complete list, following pages.
	Tags(ctx context.Context, repo string) ([]string, error)
	// Referrers fetches the image index of d's referrers: by the API, or when
	// the upstream has none (404) by the tag schema; none at all is an empty index.
	Referrers(ctx context.Context, repo string, d digest.Digest) ([]byte, error)
}

// Scans is what Gate asks for facts. Implemented by the scheduler.
type Scans interface {
	// Report returns the standing report; pratique.ErrNotFound when none stands.
	Report(ctx context.Context, image digest.Digest) (pratique.Report, error)
	// Await makes sure that a scan of ref (with Digest) is open, unless a report
	// stands, and returns the report, or an error wrapping pratique.ErrPending
	// when ctx ends first. The scan goes on.
	Await(ctx context.Context, ref pratique.Ref) (pratique.Report, error)
	// Request opens a scan without waiting for it.
	Request(ctx context.Context, ref pratique.Ref) error
}
