package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/evidence"
	"pratique/proxy"
)

// reader is the registry in which evidence is looked for: the cache, without the
// gate before it, because what a verdict is made from cannot wait for one.
type reader struct {
	cache *proxy.Cache
}

var _ evidence.Registry = reader{}

// Manifest implements evidence.Registry.
func (r reader) Manifest(ctx context.Context, ref pratique.Ref) (pratique.Image, []byte, error) {
	m, err := r.cache.Manifest(ctx, proxy.Request{Ref: ref, N: -1})
	if err != nil {
		return pratique.Image{}, nil, absent(ref, err)
	}
	return m.Image, m.Raw, nil
}

// Blob implements evidence.Registry. A blob that has not the size that d says is
// an error: nothing else bounds what comes.
func (r reader) Blob(ctx context.Context, ref pratique.Ref, d pratique.Descriptor, limit int64) (io.ReadCloser, error) {
	if d.Size < 0 || d.Size > limit {
		return nil, fmt.Errorf("%w size of blob %s: %d bytes, at most %d are read", pratique.ErrInvalid, d.Digest, d.Size, limit)
	}
	body, err := r.cache.OpenBlob(ctx, ref, d)
	if err != nil {
		return nil, absent(ref.At(d.Digest), err)
	}
	return &bounded{body, d.Size}, nil
}

// Referrers implements evidence.Registry.
func (r reader) Referrers(ctx context.Context, ref pratique.Ref) ([]pratique.Descriptor, error) {
	list, err := r.cache.Referrers(ctx, proxy.Request{Ref: ref, N: -1})
	if err != nil {
		return nil, absent(ref, err)
	}
	img, err := pratique.ParseManifest(pratique.MediaTypeImageIndex, list.Index)
	if err != nil {
		return nil, fmt.Errorf("referrers of %s: %w", ref, err)
	}
	return img.Children, nil
}

// Tags implements evidence.Registry.
func (r reader) Tags(ctx context.Context, ref pratique.Ref) ([]string, error) {
	list, err := r.cache.Tags(ctx, proxy.Request{Ref: ref, N: -1})
	if err != nil {
		return nil, absent(ref, err)
	}
	return list.Tags, nil
}

// Resolve implements evidence.Registry. What the cache gives because the upstream
// does not answer is no answer.
func (r reader) Resolve(ctx context.Context, ref pratique.Ref) (digest.Digest, error) {
	ref.Digest = ""
	m, err := r.cache.Manifest(ctx, proxy.Request{Ref: ref, N: -1})
	switch {
	case err != nil:
		return "", absent(ref, err)
	case m.Stale:
		return "", fmt.Errorf("%s: the upstream does not answer", ref)
	}
	return m.Image.Digest, nil
}

// absent makes what an upstream says is not there an error wrapping
// pratique.ErrNotFound. No other error says that.
func absent(ref pratique.Ref, err error) error {
	var e *proxy.Error
	if errors.As(err, &e) && e.Status() == http.StatusNotFound {
		return fmt.Errorf("%s: %w: %w", ref, pratique.ErrNotFound, err)
	}
	return fmt.Errorf("%s: %w", ref, err)
}

// bounded fails when there is more than was announced.
type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%w blob: longer than its descriptor says", pratique.ErrInvalid)
	}
	return n, err
}
