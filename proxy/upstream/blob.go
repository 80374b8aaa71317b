package upstream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/proxy"
)

// Blob opens a blob's bytes from offset. Reading fails when no byte comes for
// StallTimeout, and when the upstream ends before the length it announced.
func (c *Client) Blob(ctx context.Context, repo string, d digest.Digest, offset int64) (io.ReadCloser, int64, error) {
	if err := c.check(repo, ""); err != nil {
		return nil, 0, err
	}
	if _, err := pratique.ParseDigest(d.String()); err != nil {
		return nil, 0, proxy.Errorf(proxy.CodeDigestInvalid, "%w", err)
	}
	q := request{
		op:      opBlob,
		method:  http.MethodGet,
		url:     c.base.JoinPath("v2", repo, "blobs", d.String()),
		repo:    repo,
		unknown: proxy.CodeBlobUnknown,
		what:    c.key + "/" + repo + "@" + d.String(),
	}
	if offset > 0 {
		q.header = http.Header{"Range": {"bytes=" + strconv.FormatInt(offset, 10) + "-"}}
	}
	res, err := c.do(ctx, q)
	if err != nil {
		return nil, 0, err
	}
	size, err := blobSize(res, offset)
	if err != nil {
		res.Body.Close()
		return nil, 0, c.badAnswer(q.what, "%w", err)
	}
	return res.Body, size, nil
}

// blobSize returns the size of the whole blob, or what is wrong with the answer.
func blobSize(res *http.Response, offset int64) (int64, error) {
	if e := res.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return 0, fmt.Errorf("Content-Encoding %q", e)
	}
	switch res.StatusCode {
	case http.StatusOK:
		if offset > 0 {
			return 0, fmt.Errorf("it ignores Range, so the blob cannot be resumed at %d", offset)
		}
		return res.ContentLength, nil
	case http.StatusPartialContent:
		var first, last, size int64
		header := res.Header.Get("Content-Range")
		if _, err := fmt.Sscanf(header, "bytes %d-%d/%d", &first, &last, &size); err != nil || offset == 0 ||
			first != offset || last != size-1 || first > last {
			return 0, fmt.Errorf("Content-Range %q for bytes from %d", header, offset)
		}
		return size, nil
	}
	return 0, fmt.Errorf("status %d", res.StatusCode)
}
