package store

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
)

// redirectLifetime is how long a signed address of an object in S3 is good: for
// beginning to read, not for reading. The drivers of gcs and azure sign for 20 minutes.
const redirectLifetime = 2 * time.Minute

// RedirectURL returns an address in the object store from which whoever has it may
// read the blob, by that method (GET, HEAD) alone, for a few minutes. It is empty
// when the bytes are to come from here: the blob is in the hot cache, the storage
// has no addresses, or BlobsConfig.Redirect is off. Whoever calls has decided that
// the client may have the blob, and keeps the address out of logs.
func (b *Blobs) RedirectURL(ctx context.Context, d digest.Digest, method string) (string, error) {
	path, err := blobPath(d)
	if err != nil || !b.redirect || b.root != "" || method != http.MethodGet && method != http.MethodHead {
		return "", err
	}
	if _, ok := b.hot.size(d); ok {
		return "", nil
	}
	var address string
	if b.bucket != nil {
		address, err = b.bucket.sign(path, method, redirectLifetime)
	} else {
		var r *http.Request // all that the drivers read of it is the method
		if r, err = http.NewRequestWithContext(ctx, method, "/", http.NoBody); err == nil {
			address, err = b.driver.RedirectURL(r, path)
		}
	}
	if err != nil {
		return "", fmt.Errorf("blob %s: %w", d, err)
	}
	return address, nil
}
