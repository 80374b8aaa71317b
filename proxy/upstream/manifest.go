package upstream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/proxy"
)

// acceptManifests names every kind that Pratique knows, and the rest so that
// the upstream does not answer 404 for what we refuse with a reason.
var acceptManifests = strings.Join([]string{
	pratique.MediaTypeImageIndex,
	pratique.MediaTypeDockerList,
	pratique.MediaTypeImageManifest,
	pratique.MediaTypeDockerManifest,
	"*/*;q=0.1",
}, ", ")

func (c *Client) manifestRequest(op, method, repo, reference string) request {
	sep := ":"
	if strings.Contains(reference, ":") {
		sep = "@"
	}
	return request{
		op:      op,
		method:  method,
		url:     c.base.JoinPath("v2", repo, "manifests", reference),
		repo:    repo,
		header:  http.Header{"Accept": {acceptManifests}},
		unknown: proxy.CodeManifestUnknown,
		what:    c.key + "/" + repo + sep + reference,
	}
}

// check holds names to the grammar before they become part of a URL.
func (c *Client) check(repo, reference string) error {
	if !pratique.ValidRepo(repo) {
		return proxy.Errorf(proxy.CodeNameInvalid, "%w repository %q", pratique.ErrInvalid, repo)
	}
	if reference == "" || pratique.ValidTag(reference) {
		return nil
	}
	if _, err := pratique.ParseDigest(reference); err != nil {
		return proxy.Errorf(proxy.CodeManifestInvalid, "reference %q: %w", reference, err)
	}
	return nil
}

// Resolve asks with HEAD what reference names. An upstream that does not
// support it or does not tell the digest is asked with GET.
func (c *Client) Resolve(ctx context.Context, repo, reference string) (pratique.Descriptor, error) {
	if err := c.check(repo, reference); err != nil {
		return pratique.Descriptor{}, err
	}
	q := c.manifestRequest(opResolve, http.MethodHead, repo, reference)
	q.accept = []int{http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusBadRequest}
	res, err := c.do(ctx, q)
	if err != nil {
		return pratique.Descriptor{}, err
	}
	res.Body.Close()
	if header := res.Header.Get("Docker-Content-Digest"); res.StatusCode == http.StatusOK && header != "" {
		d, err := pratique.ParseDigest(header)
		if err != nil {
			return pratique.Descriptor{}, c.badAnswer(q.what, "Docker-Content-Digest: %w", err)
		}
		if strings.Contains(reference, ":") && d.String() != reference {
			return pratique.Descriptor{}, c.badAnswer(q.what, "its digest is %s", d)
		}
		return pratique.Descriptor{MediaType: mediaType(res), Digest: d, Size: max(res.ContentLength, 0)}, nil
	}
	kind, raw, err := c.Manifest(ctx, repo, reference)
	if err != nil {
		return pratique.Descriptor{}, err
	}
	d := digest.FromBytes(raw)
	if strings.Contains(reference, ":") {
		d = digest.Digest(reference) // Manifest verified it
	}
	return pratique.Descriptor{MediaType: kind, Digest: d, Size: int64(len(raw))}, nil
}

// Manifest fetches a manifest's bytes. They are verified against reference if
// it is a digest, and against the digest that the upstream claims.
func (c *Client) Manifest(ctx context.Context, repo, reference string) (string, []byte, error) {
	if err := c.check(repo, reference); err != nil {
		return "", nil, err
	}
	q := c.manifestRequest(opManifest, http.MethodGet, repo, reference)
	return c.fetchManifest(ctx, q, reference)
}

func (c *Client) fetchManifest(ctx context.Context, q request, reference string) (string, []byte, error) {
	res, err := c.do(ctx, q)
	if err != nil {
		return "", nil, err
	}
	defer res.Body.Close()
	raw, err := c.readAll(res, q.what)
	if err != nil {
		return "", nil, err
	}
	claims := []string{res.Header.Get("Docker-Content-Digest")}
	if strings.Contains(reference, ":") {
		claims = append(claims, reference)
	}
	for _, claim := range claims {
		if claim == "" {
			continue
		}
		want, err := pratique.ParseDigest(claim)
		if err != nil {
			return "", nil, c.badAnswer(q.what, "Docker-Content-Digest: %w", err)
		}
		if got := want.Algorithm().FromBytes(raw); got != want {
			return "", nil, c.badAnswer(q.what, "%d bytes with the digest %s instead of %s", len(raw), got, want)
		}
	}
	return mediaType(res), raw, nil
}

// readAll reads a manifest or what is bounded like one.
func (c *Client) readAll(res *http.Response, what string) ([]byte, error) {
	if res.ContentLength > pratique.MaxManifestSize {
		return nil, tooLarge(what, fmt.Sprint(res.ContentLength))
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, pratique.MaxManifestSize+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > pratique.MaxManifestSize {
		return nil, tooLarge(what, "more")
	}
	return raw, nil
}

func tooLarge(what, size string) error {
	return proxy.Errorf(proxy.CodeManifestInvalid, "%w manifest %s: %s bytes, at most %d are accepted", pratique.ErrInvalid, what, size, pratique.MaxManifestSize)
}

func mediaType(res *http.Response) string {
	t, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
	return strings.TrimSpace(t)
}
