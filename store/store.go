// Package store holds the contracts of Pratique's state and the one
// implementation of its bytes.
//
// State (which repository holds what, inventories, components and their
// findings, reports) is described by the interfaces here and implemented by
// internal/sqlite and, for replicas, internal/redis; every implementation
// passes the suites in store/storetest. Bytes (manifests, configs, layers) are
// Blobs, over any of distribution's storage drivers.
//
// Unless a method says otherwise: it is safe for concurrent use, what it wrote
// is durable when it returns nil, and an absent thing is an error wrapping
// pratique.ErrNotFound, never a zero value.
package store

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Catalog knows which repository holds which manifest, and through it which
// blobs. It is what makes a blob servable: a blob that no manifest of the
// repository names is not there.
type Catalog interface {
	// Link records that ref's repository (Registry and Repo; tag and digest are
	// ignored) holds img, with its config, layers and children. The first Link
	// of a digest in any repository sets its FirstSeen to now, for ever.
	// Idempotent. The manifest's bytes must be in the blob store before.
	Link(ctx context.Context, ref pratique.Ref, img pratique.Image, now time.Time) error
	// Image returns the manifest with this digest, known through any repository.
	Image(ctx context.Context, d digest.Digest) (pratique.Image, error)
	// Holders returns the digests of the manifests of ref's repository that name
	// d as config or layer; if d itself is a manifest of that repository, d
	// comes first. None is ErrNotFound.
	Holders(ctx context.Context, ref pratique.Ref, d digest.Digest) ([]digest.Digest, error)
	// Images yields every known manifest that is no index, with one of the
	// references it was linked through (Tag filled when a tag names it now), in
	// order of digest. It holds no lock while the caller's loop body runs. An
	// error ends the sequence.
	Images(ctx context.Context) iter.Seq2[Known, error]
}

// Links tells what nothing names any more, for whoever removes it.
type Links interface {
	// Unlinked returns those of ds, in their order, that are no manifest of any
	// repository and that no manifest of any repository names as config or layer.
	Unlinked(ctx context.Context, ds []digest.Digest) ([]digest.Digest, error)
	// Discard calls remove if d is unlinked, and returns its error. As long as
	// remove runs, no Link that names d returns: what is linked after it finds
	// that d is gone. remove must not use the store.
	Discard(ctx context.Context, d digest.Digest, remove func() error) error
}

// Known is one manifest with a reference that leads to it.
type Known struct {
	Ref   pratique.Ref
	Image pratique.Image
}

// TagState is what a tag named when the upstream was last asked.
type TagState struct {
	// Digest is empty when the upstream last said that the tag is gone.
	Digest    digest.Digest
	MediaType string
	Size      int64
	CheckedAt time.Time // last successful answer of the upstream
	ChangedAt time.Time // when Digest was first seen under this tag
}

// Tags remembers tags and tag lists of upstreams.
type Tags interface {
	// Tag returns what ref's tag named when last checked.
	Tag(ctx context.Context, ref pratique.Ref) (TagState, error)
	// SetTag stores s; ChangedAt is kept from before when the digest is the same.
	// Else the stamps of all digests move of which Lineage says something else now.
	SetTag(ctx context.Context, ref pratique.Ref, s TagState) error
	// TagList returns the last complete list of ref's repository, sorted as the
	// upstream sorted it, and when it was fetched.
	TagList(ctx context.Context, ref pratique.Ref) ([]string, time.Time, error)
	// SetTagList replaces the list.
	SetTagList(ctx context.Context, ref pratique.Ref, tags []string, at time.Time) error
}

// Inventories keeps what analysis found, by layer (or image config) digest and
// analyzer key. The digest is that of the verified bytes, never a claimed diffID.
type Inventories interface {
	Inventory(ctx context.Context, d digest.Digest, analyzer string) (pratique.Inventory, error)
	// PutInventory stores inv; an inventory already there under the key is kept:
	// the same bytes and analyzers give the same inventory.
	PutInventory(ctx context.Context, d digest.Digest, analyzer string, inv pratique.Inventory) error
}

// Components keeps distinct components, what databases say and said of them, and
// in which images they occur.
type Components interface {
	// PutImage stores the components of an image and its occurrences of them,
	// replacing the image's earlier occurrences. Components are shared: one that
	// is there already is left alone. The standing report keeps the occurrences that
	// it was put with: the new ones come into force with the next PutReport.
	PutImage(ctx context.Context, image digest.Digest, cs []pratique.Component, os []pratique.Occurrence) error
	// Occurrences returns those of an image that were put last and, by id, the
	// components they name.
	Occurrences(ctx context.Context, image digest.Digest) ([]pratique.Occurrence, map[pratique.ComponentID]pratique.Component, error)
	// Matches returns what engine e says of the components, as far as it is known:
	// of those matched with e since it was last begun and, if e is what everything is
	// current with (Fleet.Current), of all that were ever matched. Others are absent
	// from the map; one without findings is present and empty.
	Matches(ctx context.Context, e pratique.Engine, ids []pratique.ComponentID) (map[pratique.ComponentID][]pratique.Vulnerability, error)
	// PutMatches stores what engine e said at a time, and returns the components of
	// which something else stood before; for one that was never matched nothing stood.
	// If an engine was begun after e, the error wraps ErrSuperseded. An e that was never
	// begun is begun now, unless the latest engine's database is newer than e's: then
	// the error wraps ErrSuperseded as well. A component that no PutImage brought is
	// ErrInvalid.
	//
	// Many components are stored in several transactions: with an error, changed are
	// those that were stored. The stamps of images that hold them move before it
	// returns.
	PutMatches(ctx context.Context, e pratique.Engine, at time.Time, ms map[pratique.ComponentID][]pratique.Vulnerability) (changed []pratique.ComponentID, err error)
}

// Reports keeps the standing report of every image.
type Reports interface {
	// Report returns what stands: of an image that was scanned, the vulnerabilities
	// are joined now, from its occurrences and from what PutMatches said last of their
	// components, worst first with the findings of content (see Join, WorseFirst). It
	// is the report of Fleet.Current, matched when that was advanced to, or of the
	// image's own scan if that was later or with an engine begun later. Changes are
	// those since the occurrences came into force.
	Report(ctx context.Context, image digest.Digest) (pratique.Report, error)
	// PutReport replaces the standing report, unless the standing one was put with a
	// later engine, in order of Fleet.Begin: then it returns nil and keeps the standing
	// one. If either engine was never begun, that of the newer database (DatabaseAt) is
	// the later.
	//
	// A report that is scanned or incomplete brings the occurrences of the last PutImage
	// into force; a component that was not matched is ErrInvalid. Vulnerabilities that
	// name a Component are not stored with the report: they are what PutMatches said,
	// and if the image has no occurrence of that component, the error wraps ErrInvalid.
	// All other findings are stored.
	//
	// FirstSeen and Milestones of findings (same Kind, ID, Package, Path) are carried
	// from all that the image ever had, as Carry does report by report, also when the
	// standing report lacks the finding; a finding new to the image gets ScannedAt, or
	// the time of the PutMatches that brought it later. They may be earlier than Carry's
	// where a history had too many phases, where a finding hid behind another in the same
	// place, and where a database said something while the image's report had failed;
	// they are never later. FirstScanned is carried as well. The report that stands is
	// returned.
	PutReport(ctx context.Context, r pratique.Report) (pratique.Report, error)
	// Images yields the digests of all images that have a report.
	ReportedImages(ctx context.Context) iter.Seq2[digest.Digest, error]
}

// Pull is one answered manifest request.
type Pull struct {
	Ref     pratique.Ref // with Digest, that of the manifest asked for
	Client  string       // IP address
	At      time.Time
	Outcome pratique.Outcome
	Verdict string // id
	Head    bool   // asked with HEAD: a node that may hold the content already
}

// Judged is a verdict that somebody met and may ask about.
type Judged struct {
	Ref     pratique.Ref
	Client  string // IP address that met it first
	At      time.Time
	Verdict pratique.Verdict
}

// Pulls remembers who asked for what.
type Pulls interface {
	// Record stores a batch. It may be called off the request path.
	Record(ctx context.Context, ps []Pull) error
	// Served returns when an image was first and last served; ErrNotFound when never.
	Served(ctx context.Context, image digest.Digest) (first, last time.Time, err error)
}

// PullLog is the history of pulls, for people and for trying out policies.
type PullLog interface {
	// Pulls yields those since a time, oldest first. It holds no lock while the
	// caller's loop body runs. An error ends the sequence.
	Pulls(ctx context.Context, since time.Time) iter.Seq2[Pull, error]
	// RecordVerdicts stores verdicts by their ids; one that is there is kept.
	RecordVerdicts(ctx context.Context, js []Judged) error
	// Verdict returns the verdict with this id.
	Verdict(ctx context.Context, id string) (Judged, error)
	// ForgetPulls removes pulls from before a time, and verdicts from before it that
	// no pull names any more. What Served answers stays.
	ForgetPulls(ctx context.Context, before time.Time) error
}

// Exceptions keeps every exception there ever was: the list is the history. What
// writes moves the stamp of ExceptionsKey.
type Exceptions interface {
	// CreateException stores a new one; when the id is taken the error wraps
	// ErrExists. Only Validate's rules are the caller's to check.
	CreateException(ctx context.Context, e pratique.Exception) error
	// RevokeException ends one. One that was revoked before stays as it is.
	RevokeException(ctx context.Context, id, by, why string, at time.Time) (pratique.Exception, error)
	// Exceptions are all, by Created, then by ID.
	Exceptions(ctx context.Context) ([]pratique.Exception, error)
}

// ErrSuperseded says that another database came into use meanwhile: what was said
// by the one before is not stored. Begin again with the new one.
var ErrSuperseded = errors.New("another database is in use now")

// ErrExists says that something with this name is there already.
var ErrExists = errors.New("exists already")

// TagSpan is one digest that a tag named.
type TagSpan struct {
	Tag     string
	Digest  digest.Digest
	FirstAt time.Time // first seen so
	LastAt  time.Time // last confirmed so
	// Now is what the tag names now (empty: it is gone), and MovedAt is when it was
	// first seen to name Digest no longer, whatever it named next; while it names
	// Digest, Now is Digest and MovedAt zero.
	Now     digest.Digest
	MovedAt time.Time
}

// Lineage remembers how tags, versions and bases moved. It is fed by
// Tags.SetTag, Tags.SetTagList and Catalog.Link.
type Lineage interface {
	// TagsOf returns the spans of every tag of ref's repository that ever named
	// ref.Digest, by tag. None is an empty list. A tag that names an index names the
	// index's Children as well, as far as the index is linked in any repository: the
	// span of a child is that of the indexes with it, and Now is the child as long as
	// the tag names any of them.
	TagsOf(ctx context.Context, ref pratique.Ref) ([]TagSpan, error)
	// TagHistory returns the spans of ref's tag, one for each digest that it ever
	// named, oldest first. None is an empty list.
	TagHistory(ctx context.Context, ref pratique.Ref) ([]TagSpan, error)
	// TagsSeen returns every tag that ever was in a list of ref's repository, with
	// the time when it was first seen there.
	TagsSeen(ctx context.Context, ref pratique.Ref) (map[string]time.Time, error)
	// BasesOf returns images known here whose layers are the lower layers of img,
	// but fewer, that a tag names or named; the one with most layers first, each
	// with one reference through such a tag for every repository that has one, at
	// most 100. None is an empty list.
	BasesOf(ctx context.Context, img pratique.Image) ([]Known, error)
}

// Attestations keeps what was verified about images.
type Attestations interface {
	Attestations(ctx context.Context, image digest.Digest) (pratique.Attestations, error)
	// PutAttestations replaces what is kept for a.Image, and moves its stamp.
	PutAttestations(ctx context.Context, a pratique.Attestations) error
}
