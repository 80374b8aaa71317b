package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/proxy"
)

const (
	// pageSize is asked of the upstream; it may give fewer or more.
	pageSize = "1000"
	// maxPage bounds one page's bytes.
	maxPage = 16 << 20
)

// Tags fetches the whole list. One longer than MaxTags, or whose pages never
// end, is an error: a list that was cut would look like one whose tags are gone.
func (c *Client) Tags(ctx context.Context, repo string) ([]string, error) {
	if err := c.check(repo, ""); err != nil {
		return nil, err
	}
	q := request{
		op:      opTags,
		method:  http.MethodGet,
		url:     c.base.JoinPath("v2", repo, "tags", "list"),
		repo:    repo,
		header:  http.Header{"Accept": {"application/json"}},
		unknown: proxy.CodeNameUnknown,
		what:    "the tags of " + c.key + "/" + repo,
	}
	q.url.RawQuery = "n=" + pageSize
	tags := []string{}
	for pages := 0; q.url != nil; pages++ {
		var page struct {
			Tags json.RawMessage `json:"tags"`
		}
		next, err := c.page(ctx, q, &page)
		if err != nil {
			return nil, err
		}
		var some []string
		if err := json.Unmarshal(page.Tags, &some); err != nil { // also when there is no such field
			return nil, c.badAnswer(q.what, "no list of tags in it")
		}
		tags = append(tags, some...)
		if len(tags) > c.cfg.MaxTags || pages > c.cfg.MaxTags {
			return nil, proxy.Unavailable(http.StatusBadGateway, "upstream %s has more than %d tags for %s/%s", c.key, c.cfg.MaxTags, c.key, repo)
		}
		if next != nil && len(some) == 0 {
			return nil, c.badAnswer(q.what, "an empty page that is not the last")
		}
		q.url = next
	}
	return tags, nil
}

// page fetches one page of JSON into v and returns where the next one is.
func (c *Client) page(ctx context.Context, q request, v any) (*url.URL, error) {
	res, err := c.do(ctx, q)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxPage+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxPage {
		return nil, c.badAnswer(q.what, "more than %d bytes on one page", maxPage)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, c.badAnswer(q.what, "%w", err)
	}
	return c.next(res, q)
}

// next reads the Link header (RFC 8288). The next page is asked for with our
// credentials, so it must be the upstream's own.
func (c *Client) next(res *http.Response, q request) (*url.URL, error) {
	for _, link := range res.Header.Values("Link") {
		target, params, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
		rel := strings.ReplaceAll(strings.ToLower(params), " ", "")
		if !ok || !strings.Contains(rel, `rel="next"`) && !strings.Contains(rel, "rel=next") {
			continue
		}
		u, err := url.Parse(target)
		if err != nil {
			return nil, c.badAnswer(q.what, "Link: %w", err)
		}
		u = q.url.ResolveReference(u)
		if u.Hostname() == c.base.Hostname() && u.Scheme != c.base.Scheme && u.Port() == "" {
			u.Scheme = c.base.Scheme // registries behind a proxy often say http
			u.Host = c.base.Host
		}
		if !c.ours(u) || u.User != nil {
			return nil, c.badAnswer(q.what, "the next page is at another host, %s", u.Host)
		}
		if u.String() == q.url.String() {
			return nil, c.badAnswer(q.what, "a page that follows itself")
		}
		return u, nil
	}
	return nil, nil
}

// index is what of an image index is needed to join pages.
type index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []json.RawMessage `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// emptyIndex is the answer when nothing refers to a digest.
const emptyIndex = `{"schemaVersion":2,"mediaType":"` + pratique.MediaTypeImageIndex + `","manifests":[]}`

// Referrers fetches the index of d's referrers by the API, and by the tag
// schema from upstreams that have no such API (OCI distribution-spec 1.1,
// "Listing Referrers" and "Referrers Tag Schema").
func (c *Client) Referrers(ctx context.Context, repo string, d digest.Digest) ([]byte, error) {
	if err := c.check(repo, d.String()); err != nil {
		return nil, err
	}
	q := request{
		op:      opReferrers,
		method:  http.MethodGet,
		url:     c.base.JoinPath("v2", repo, "referrers", d.String()),
		repo:    repo,
		header:  http.Header{"Accept": {pratique.MediaTypeImageIndex}},
		accept:  []int{http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable},
		unknown: proxy.CodeManifestUnknown,
		what:    "the referrers of " + c.key + "/" + repo + "@" + d.String(),
	}
	raw, next, ok, err := c.referrersPage(ctx, q)
	if err != nil {
		return nil, err
	}
	if !ok {
		return c.referrersTag(ctx, q, repo, d)
	}
	if next == nil {
		return raw, c.checkIndex(q.what, raw)
	}
	return c.moreReferrers(ctx, q, raw, next)
}

// referrersPage fetches a page; ok is false when the upstream has no such API.
func (c *Client) referrersPage(ctx context.Context, q request) (raw []byte, next *url.URL, ok bool, err error) {
	res, err := c.do(ctx, q)
	if err != nil {
		return nil, nil, false, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK || mediaType(res) != pratique.MediaTypeImageIndex {
		return nil, nil, false, nil
	}
	if raw, err = c.readAll(res, q.what); err != nil {
		return nil, nil, false, err
	}
	next, err = c.next(res, q)
	return raw, next, true, err
}

// moreReferrers joins the pages that follow the first.
func (c *Client) moreReferrers(ctx context.Context, q request, raw []byte, next *url.URL) ([]byte, error) {
	var all index
	for size := 0; ; {
		if err := c.checkIndex(q.what, raw); err != nil {
			return nil, err
		}
		var page index
		if err := json.Unmarshal(raw, &page); err != nil {
			return nil, c.badAnswer(q.what, "%w", err)
		}
		if next != nil && len(page.Manifests) == 0 {
			return nil, c.badAnswer(q.what, "an empty page that is not the last")
		}
		if size += len(raw); size > pratique.MaxManifestSize {
			return nil, tooLarge(q.what, "more")
		}
		if all.SchemaVersion == 0 {
			all = page
		} else {
			all.Manifests = append(all.Manifests, page.Manifests...)
		}
		if next == nil {
			return json.Marshal(all)
		}
		q.url = next
		var ok bool
		var err error
		if raw, next, ok, err = c.referrersPage(ctx, q); err != nil {
			return nil, err
		} else if !ok {
			return nil, c.badAnswer(q.what, "a page that is no image index")
		}
	}
}

func (c *Client) checkIndex(what string, raw []byte) error {
	img, err := pratique.ParseManifest(pratique.MediaTypeImageIndex, raw)
	if err == nil && img.Kind != pratique.KindIndex {
		err = pratique.ErrInvalid
	}
	if err != nil {
		return c.badAnswer(what, "%w", err)
	}
	return nil
}

// referrersTag asks for the index that clients maintain under a tag made of the
// digest. A tag of that form that names something else is not ours to read.
func (c *Client) referrersTag(ctx context.Context, q request, repo string, d digest.Digest) ([]byte, error) {
	tag := cut(d.Algorithm().String(), 32) + "-" + cut(d.Encoded(), 64)
	m := c.manifestRequest(opReferrers, http.MethodGet, repo, tag)
	kind, raw, err := c.fetchManifest(ctx, m, tag)
	var e *proxy.Error
	if errors.As(err, &e) && e.Code == proxy.CodeManifestUnknown {
		return []byte(emptyIndex), nil
	} else if err != nil {
		return nil, err
	}
	img, err := pratique.ParseManifest(kind, raw)
	if err != nil {
		return nil, c.badAnswer(q.what, "%w", err)
	}
	if img.MediaType != pratique.MediaTypeImageIndex {
		return []byte(emptyIndex), nil
	}
	return raw, nil
}

func cut(s string, n int) string { return s[:min(len(s), n)] }
