package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// OwnName is the first element of the names of what Pratique itself serves:
// HOST/pratique/trivy-db. No upstream has this key, and ?ns= does not lead there:
// a client that means another registry must not be answered by this one.
const OwnName = "pratique"

// Own is one repository of Pratique's own. Its errors: pratique.ErrNotFound for what
// is not there, one with a method Delay for what is not there yet.
type Own interface {
	// Manifest returns the manifest with this tag or digest.
	Manifest(ctx context.Context, reference string) (mediaType string, raw []byte, err error)
	// Blob returns the size of content and what opens it at an offset.
	Blob(ctx context.Context, d digest.Digest) (size int64, open func(offset int64) (io.ReadCloser, error), err error)
	// Tags returns the names that Manifest knows, in order.
	Tags(ctx context.Context) ([]string, error)
}

// NewOwn answers for repositories of Pratique's own, given by their names after
// OwnName, and passes everything else on to next. What it serves is no image and is
// not judged; each repository serves its own content alone, whatever digest it is
// asked for, and what begins with OwnName and is not there leads nowhere else.
func NewOwn(next Registry, repositories map[string]Own) Registry {
	return &own{next: next, repositories: repositories}
}

type own struct {
	next         Registry
	repositories map[string]Own
}

// find returns the repository asked for; mine is false for those of upstreams.
func (o *own) find(r Request) (repository Own, mine bool, err error) {
	if r.Ref.Registry != OwnName {
		return nil, false, nil
	}
	repository, ok := o.repositories[r.Ref.Repo]
	if !ok {
		return nil, true, Errorf(CodeNameUnknown, "%.80s/%.80s is not served here", OwnName, r.Ref.Repo)
	}
	return repository, true, nil
}

// Manifest implements Registry.
func (o *own) Manifest(ctx context.Context, r Request) (Manifest, error) {
	repository, mine, err := o.find(r)
	if !mine {
		return o.next.Manifest(ctx, r)
	}
	if err != nil {
		return Manifest{}, err
	}
	reference := r.Ref.Tag
	if r.Ref.Digest != "" {
		reference = r.Ref.Digest.String()
	}
	mediaType, raw, err := repository.Manifest(ctx, reference)
	if err != nil {
		return Manifest{}, ownError(err, CodeManifestUnknown)
	}
	img := pratique.Image{Digest: digest.FromBytes(raw), MediaType: mediaType, Size: int64(len(raw))}
	return Manifest{Image: img, Raw: raw, Hit: true}, nil
}

// Blob implements Registry.
func (o *own) Blob(ctx context.Context, r Request) (Blob, error) {
	repository, mine, err := o.find(r)
	if !mine {
		return o.next.Blob(ctx, r)
	}
	if err != nil {
		return Blob{}, err
	}
	size, open, err := repository.Blob(ctx, r.Ref.Digest)
	if err != nil {
		return Blob{}, ownError(err, CodeBlobUnknown)
	}
	return Blob{Digest: r.Ref.Digest, Size: size, Hit: true, Open: func(offset int64) (io.ReadCloser, error) {
		body, err := open(offset)
		if err != nil {
			return nil, ownError(err, CodeBlobUnknown)
		}
		return body, nil
	}}, nil
}

// Tags implements Registry.
func (o *own) Tags(ctx context.Context, r Request) (TagList, error) {
	repository, mine, err := o.find(r)
	if !mine {
		return o.next.Tags(ctx, r)
	}
	if err != nil {
		return TagList{}, err
	}
	tags, err := repository.Tags(ctx)
	if err != nil {
		return TagList{}, ownError(err, CodeNameUnknown)
	}
	return page(tags, r.N, r.Last), nil
}

// Referrers implements Registry: nothing refers to what is Pratique's own.
func (o *own) Referrers(ctx context.Context, r Request) (Referrers, error) {
	_, mine, err := o.find(r)
	if !mine {
		return o.next.Referrers(ctx, r)
	}
	if err != nil {
		return Referrers{}, err
	}
	return Referrers{Index: []byte(`{"schemaVersion":2,"mediaType":"` + pratique.MediaTypeImageIndex + `","manifests":[]}`)}, nil
}

// ownError words an error of a repository for a client.
func ownError(err error, unknown Code) error {
	var later interface {
		error
		Delay() time.Duration
	}
	switch {
	case errors.Is(err, pratique.ErrNotFound):
		return &Error{Code: unknown, Message: err.Error(), Err: err}
	case errors.As(err, &later):
		e := Unavailable(http.StatusServiceUnavailable, "%w", err)
		e.RetryAfter = later.Delay()
		return e
	}
	return err
}
