package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Manifest returns what a tag names now, or the manifest with a digest if the
// repository holds it.
func (c *Cache) Manifest(ctx context.Context, r Request) (Manifest, error) {
	up, err := c.upstream(r.Ref)
	if err != nil {
		return Manifest{}, err
	}
	var m Manifest
	if r.Ref.Digest != "" {
		m, err = c.byDigest(ctx, up, r.Ref)
	} else {
		m, err = c.byTag(ctx, up, r.Ref)
	}
	c.metrics.manifest(m, err)
	return m, err
}

// byDigest serves what is known to be in ref's repository from here, for ever;
// else it asks the repository's own upstream: that another repository holds the
// digest does not put it into this one.
func (c *Cache) byDigest(ctx context.Context, up Upstream, ref pratique.Ref) (Manifest, error) {
	m, err := c.local(ctx, ref)
	if !errors.Is(err, pratique.ErrNotFound) {
		return m, err
	}
	if c.reach.away() {
		return Manifest{}, stateAway(nil) // that the repository holds it could not be recorded
	}
	reference := ref.Digest.String()
	return once(ctx, c, "manifest "+ref.Repository()+"@"+reference, func(ctx context.Context) (Manifest, error) {
		mediaType, raw, err := up.Manifest(ctx, ref.Repo, reference)
		if err != nil {
			return Manifest{}, err
		}
		if got := ref.Digest.Algorithm().FromBytes(raw); got != ref.Digest {
			return Manifest{}, Unavailable(http.StatusBadGateway, "upstream %s sent %s for %s", ref.Registry, got, ref.Digest)
		}
		return c.keep(ctx, ref, mediaType, raw)
	})
}

// local returns a manifest that ref's repository is known to hold;
// ErrNotFound when it is not, or when its bytes are gone or spoilt, so that
// they are fetched again.
func (c *Cache) local(ctx context.Context, ref pratique.Ref) (Manifest, error) {
	key := contentKey(ref, ref.Digest)
	stamp := c.stamp(ref.Digest)
	kept, here := c.manifests.get(key)
	if here && (kept.stamp == stamp || c.reach.away()) {
		return kept.Manifest, nil
	}
	holders, err := c.catalog.Holders(ctx, ref, ref.Digest)
	if err != nil {
		return Manifest{}, c.state(err)
	}
	if len(holders) == 0 || holders[0] != ref.Digest {
		return Manifest{}, fmt.Errorf("manifest %s in %s: %w", ref.Digest, ref.Repository(), pratique.ErrNotFound)
	}
	img, err := c.catalog.Image(ctx, ref.Digest)
	if err != nil {
		return Manifest{}, c.state(err)
	}
	if here { // bytes do not change
		kept.stamp = stamp
		c.manifests.put(key, kept)
		return kept.Manifest, nil
	}
	raw, err := c.blobs.ReadAll(ctx, ref.Digest, pratique.MaxManifestSize)
	switch {
	case errors.Is(err, store.ErrMismatch):
		c.cfg.Log.Error("A stored manifest is spoilt; it is fetched again", "digest", ref.Digest)
		if err := c.blobs.Delete(ctx, ref.Digest); err != nil && !errors.Is(err, pratique.ErrNotFound) {
			return Manifest{}, c.storage(err)
		}
		return Manifest{}, fmt.Errorf("manifest %s: %w", ref.Digest, pratique.ErrNotFound)
	case err != nil:
		return Manifest{}, c.storage(err)
	}
	m := Manifest{Image: img, Raw: raw, Hit: true}
	c.manifests.put(key, keptManifest{m, stamp})
	return m, nil
}

// keptManifest is a manifest that its repository was known to hold at a stamp.
type keptManifest struct {
	Manifest

	stamp uint64
}

func (c *Cache) stamp(d digest.Digest) uint64 {
	if c.cfg.Stamps == nil {
		return 0
	}
	return c.cfg.Stamps.Stamp(d)
}

// keep stores verified bytes and then says so: bytes, link, and (by the caller)
// tag. A crash in between leaves bytes that nothing names, or a manifest that
// no tag names: both are right, and asking again completes them.
func (c *Cache) keep(ctx context.Context, ref pratique.Ref, mediaType string, raw []byte) (Manifest, error) {
	img, err := pratique.ParseManifest(mediaType, raw)
	if err != nil {
		return Manifest{}, Errorf(CodeManifestInvalid, "%s: %w", ref, err)
	}
	if err := c.blobs.Put(ctx, img.Digest, raw); err != nil {
		return Manifest{}, c.storage(err)
	}
	if err := c.catalog.Link(ctx, ref, img, c.cfg.Now()); err != nil {
		return Manifest{}, c.state(err)
	}
	stamp := c.stamp(img.Digest)
	// Read back for FirstSeen, which only the catalog knows.
	if img, err = c.catalog.Image(ctx, img.Digest); err != nil {
		return Manifest{}, c.state(err)
	}
	m := Manifest{Image: img, Raw: raw}
	hit := m
	hit.Hit = true
	c.manifests.put(contentKey(ref, img.Digest), keptManifest{hit, stamp})
	return m, nil
}

// byTag believes what it knows for TagTTL, then asks, and falls back to what it
// knew when the upstream does not answer.
func (c *Cache) byTag(ctx context.Context, up Upstream, ref pratique.Ref) (Manifest, error) {
	state, err := c.tagState(ctx, ref)
	if err != nil {
		if m, e := c.unheard(ctx, up, ref, err); e == nil {
			return m, nil
		}
		return Manifest{}, err
	}
	now := c.cfg.Now()
	if state.Digest == "" {
		return c.revalidate(ctx, up, ref, state, nil)
	}
	if age := now.Sub(state.CheckedAt); age >= 0 && age < c.cfg.TagTTL {
		m, err := c.byDigest(ctx, up, ref.At(state.Digest))
		if !isUnknown(err) {
			return m, err
		}
		// Its bytes are gone here and there: the tag has moved.
	}
	if now.Sub(state.CheckedAt) > c.cfg.StaleIfError.window(ref.Tag) {
		return c.revalidate(ctx, up, ref, state, nil)
	}
	wait, cancel := context.WithTimeoutCause(ctx, c.cfg.RevalidateTimeout,
		Unavailable(http.StatusGatewayTimeout, "upstream %s does not answer", ref.Registry))
	defer cancel()
	m, err := c.revalidate(wait, up, ref, state, nil)
	if err == nil || !Down(err) {
		return m, err
	}
	stale, localErr := c.local(ctx, ref.At(state.Digest))
	if errors.Is(localErr, pratique.ErrNotFound) {
		return Manifest{}, err
	} else if localErr != nil {
		return Manifest{}, localErr
	}
	// Debug: the request's own line says stale, and the upstream's client said
	// why when it found out.
	c.cfg.Log.Debug("Upstream does not answer; the tag is served as last known",
		"ref", ref.String(), "digest", state.Digest, "age", now.Sub(state.CheckedAt), "err", err)
	stale.Stale = true
	return stale, nil
}

// revalidate asks the upstream what the tag names and records the answer. own,
// unless nil, becomes true when that is done for this call, and not when the
// call joins another that asks already.
func (c *Cache) revalidate(ctx context.Context, up Upstream, ref pratique.Ref, state store.TagState, own *atomic.Bool) (Manifest, error) {
	return once(ctx, c, "tag "+ref.Repository()+":"+ref.Tag, func(ctx context.Context) (Manifest, error) {
		if own != nil {
			own.Store(true)
		}
		asked := c.cfg.Now()
		m, err := c.ask(ctx, up, ref, state)
		if isUnknown(err) && state.Digest != "" {
			// Deleted upstream: it must not come back as stale.
			c.setTag(ctx, ref, store.TagState{CheckedAt: asked, ChangedAt: asked})
		}
		if err != nil {
			return Manifest{}, err
		}
		img := m.Image
		c.setTag(ctx, ref, store.TagState{
			Digest: img.Digest, MediaType: img.MediaType, Size: img.Size, CheckedAt: asked, ChangedAt: asked,
		})
		return m, nil
	})
}

// unheard serves a tag of which the state does not say what it names: the upstream
// does, and its manifest may be here.
func (c *Cache) unheard(ctx context.Context, up Upstream, ref pratique.Ref, err error) (Manifest, error) {
	if !errors.Is(err, errStateAway) {
		return Manifest{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RevalidateTimeout)
	defer cancel()
	return once(ctx, c, "unheard "+ref.Repository()+":"+ref.Tag, func(ctx context.Context) (Manifest, error) {
		asked := c.cfg.Now()
		d, err := up.Resolve(ctx, ref.Repo, ref.Tag)
		if err != nil {
			return Manifest{}, err
		}
		m, err := c.local(ctx, ref.At(d.Digest))
		if err == nil {
			c.unrecorded.put(tagKey(ref), store.TagState{
				Digest: d.Digest, MediaType: m.Image.MediaType, Size: m.Image.Size, CheckedAt: asked, ChangedAt: asked,
			})
		}
		return m, err
	})
}

// ask fetches a tag never seen, and resolves a known one with HEAD, which costs
// no quota on Docker Hub and no bytes anywhere.
func (c *Cache) ask(ctx context.Context, up Upstream, ref pratique.Ref, state store.TagState) (Manifest, error) {
	if state.Digest == "" {
		if c.reach.away() {
			return Manifest{}, stateAway(nil)
		}
		mediaType, raw, err := up.Manifest(ctx, ref.Repo, ref.Tag)
		if err != nil {
			return Manifest{}, err
		}
		return c.keep(ctx, ref, mediaType, raw)
	}
	d, err := up.Resolve(ctx, ref.Repo, ref.Tag)
	if err != nil {
		return Manifest{}, err
	}
	return c.byDigest(ctx, up, ref.At(d.Digest))
}

// tagState is what is known of a tag; its Digest is empty when nothing is.
func (c *Cache) tagState(ctx context.Context, ref pratique.Ref) (store.TagState, error) {
	s, err := c.tags.Tag(ctx, ref)
	// What could not be recorded is known to this process alone.
	if u, ok := c.unrecorded.get(tagKey(ref)); ok && (errors.Is(err, pratique.ErrNotFound) || errors.Is(err, store.ErrUnreachable) || err == nil && u.CheckedAt.After(s.CheckedAt)) {
		return u, nil
	}
	switch {
	case errors.Is(err, pratique.ErrNotFound):
		return store.TagState{}, nil
	case err != nil:
		return store.TagState{}, c.state(err)
	}
	return s, nil
}

// setTag records an answer of the upstream. When that cannot be done (a full disk, a
// state that is away) the answer is right all the same: it is given, and asked for
// again later.
func (c *Cache) setTag(ctx context.Context, ref pratique.Ref, s store.TagState) {
	if c.reach.away() {
		c.unrecorded.put(tagKey(ref), s)
		return
	}
	if err := c.tags.SetTag(ctx, ref, s); err != nil {
		c.unrecorded.put(tagKey(ref), s)
		c.reach.note(err)
		c.cfg.Log.Error("A tag could not be recorded", "ref", ref.String(), "err", err)
	}
}

// isUnknown reports whether the upstream said that there is no such thing.
func isUnknown(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status() == http.StatusNotFound
}

// sizeOf is the size that a manifest of ref's repository gives for d; -1 when
// none names it.
func (c *Cache) sizeOf(ctx context.Context, ref pratique.Ref, d digest.Digest) (int64, error) {
	holders, err := c.catalog.Holders(ctx, ref, d)
	if errors.Is(err, pratique.ErrNotFound) {
		return -1, nil
	} else if err != nil {
		return 0, c.state(err)
	}
	for _, h := range holders {
		img, err := c.catalog.Image(ctx, h)
		if err != nil {
			return 0, c.state(err)
		}
		if h == d {
			return img.Size, nil
		}
		for _, desc := range append([]pratique.Descriptor{img.Config}, img.Layers...) {
			if desc.Digest == d {
				return desc.Size, nil
			}
		}
	}
	return -1, nil
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
