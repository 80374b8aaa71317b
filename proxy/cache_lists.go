package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"pratique"
)

// Tags pages the upstream's complete list, which is fetched at most once per
// TagTTL. When the upstream does not answer, the last list stands.
func (c *Cache) Tags(ctx context.Context, r Request) (TagList, error) {
	up, err := c.upstream(r.Ref)
	if err != nil {
		return TagList{}, err
	}
	tags, err := c.tagList(ctx, up, r.Ref)
	if err != nil {
		return TagList{}, err
	}
	return page(tags, r.N, r.Last), nil
}

func (c *Cache) tagList(ctx context.Context, up Upstream, ref pratique.Ref) ([]string, error) {
	known, at, knownErr := c.tags.TagList(ctx, ref)
	// Without the state the upstream is asked: names are no content.
	if knownErr != nil && !errors.Is(knownErr, pratique.ErrNotFound) && !c.reach.note(knownErr) {
		return nil, c.storage(knownErr)
	}
	if age := c.cfg.Now().Sub(at); knownErr == nil && age >= 0 && age < c.cfg.TagTTL {
		c.metrics.request(cacheTags, resultHit)
		return known, nil
	}
	tags, err := once(ctx, c, "tags "+ref.Repository(), func(ctx context.Context) ([]string, error) {
		asked := c.cfg.Now()
		tags, err := up.Tags(ctx, ref.Repo)
		if err != nil {
			return nil, err
		}
		if c.reach.away() {
			return tags, nil
		}
		if err := c.tags.SetTagList(ctx, ref, tags, asked); err != nil {
			c.reach.note(err)
			// The list is right all the same.
			c.cfg.Log.Error("A list of tags could not be recorded", "repository", ref.Repository(), "err", err)
		}
		return tags, nil
	})
	switch {
	case err == nil:
		c.metrics.request(cacheTags, resultMiss)
		return tags, nil
	case knownErr == nil && Down(err):
		c.cfg.Log.Debug("Upstream does not answer; its tags are listed as last known", "repository", ref.Repository(), "err", err)
		c.metrics.request(cacheTags, resultStale)
		return known, nil
	}
	c.metrics.request(cacheTags, resultError)
	return nil, err
}

// page cuts a list (distribution-spec 1.1, "Listing Tags"): at most n tags after
// last. If last is gone meanwhile, the page starts where it would stand.
func page(tags []string, n int, last string) TagList {
	if last != "" {
		start := slices.Index(tags, last) + 1
		if start == 0 {
			after := func(tag string) bool { return tag > last }
			if !slices.IsSorted(tags) { // the spec's order ignores case
				folded := strings.ToLower(last)
				after = func(tag string) bool { return strings.ToLower(tag) > folded }
			}
			if start = slices.IndexFunc(tags, after); start < 0 {
				start = len(tags)
			}
		}
		tags = tags[start:]
	}
	if n < 0 || n >= len(tags) {
		return TagList{Tags: slices.Clone(tags)}
	}
	// n = 0 asks for nothing, and a next page of nothing would never end.
	return TagList{Tags: slices.Clone(tags[:n]), More: n > 0}
}

// Referrers passes the upstream's index through. It is not cached: signatures
// are added at any time.
func (c *Cache) Referrers(ctx context.Context, r Request) (Referrers, error) {
	up, err := c.upstream(r.Ref)
	if err != nil {
		return Referrers{}, err
	}
	key := "referrers " + r.Ref.Repository() + "@" + r.Ref.Digest.String()
	raw, err := once(ctx, c, key, func(ctx context.Context) ([]byte, error) {
		return up.Referrers(ctx, r.Ref.Repo, r.Ref.Digest)
	})
	if err != nil {
		return Referrers{}, err
	}
	img, err := pratique.ParseManifest(pratique.MediaTypeImageIndex, raw)
	if err == nil && img.Kind != pratique.KindIndex {
		err = pratique.ErrInvalid
	}
	if err != nil {
		return Referrers{}, Unavailable(http.StatusBadGateway, "upstream %s sent referrers that are no image index: %w", r.Ref.Registry, err)
	}
	if r.ArtifactType == "" {
		return Referrers{Index: raw}, nil
	}
	if raw, err = filterIndex(raw, img.Children, r.ArtifactType); err != nil {
		return Referrers{}, err
	}
	return Referrers{Index: raw, Filtered: true}, nil
}

// filterIndex keeps the manifests of one artifact type, byte for byte.
func filterIndex(raw []byte, children []pratique.Descriptor, artifactType string) ([]byte, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	var all []json.RawMessage
	if err := json.Unmarshal(doc["manifests"], &all); err != nil {
		return nil, err
	}
	kept := []json.RawMessage{}
	for i, child := range children {
		if child.ArtifactType == artifactType {
			kept = append(kept, all[i])
		}
	}
	manifests, err := encode(kept) // json.Marshal would rewrite <, > and &
	if err != nil {
		return nil, err
	}
	doc["manifests"] = manifests
	return encode(doc)
}
