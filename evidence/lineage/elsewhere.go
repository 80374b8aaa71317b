package lineage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

const (
	// maxAsked bounds the tags that one pull by digest may have looked up.
	maxAsked = 8
	// askTimeout is how long a pull waits for that.
	askTimeout = 5 * time.Second
)

// elsewhere are those of the tags that rules name which surely do not name
// ref.Digest now: they name another image, or there is no such tag. What was
// found out before is believed for a Refresh, and on when the upstream does not
// answer; a tag of which nothing is known is asked for if the pull may wait, and is
// pratique.ErrPending if it may not: the gate then comes back and waits.
func (l *Lineage) elsewhere(ctx context.Context, ref pratique.Ref, wait bool) ([]string, error) {
	if l.cfg.Tags == nil || judged(ctx) != nil {
		return nil, nil
	}
	tags := l.cfg.Tags()
	tags = tags[:min(len(tags), maxAsked)]
	named := make([]digest.Digest, len(tags))
	known := make([]bool, len(tags))
	var open []int
	for i, tag := range tags {
		s, err := l.store.Tag(ctx, tagRef(ref, tag))
		switch {
		case err == nil:
			named[i], known[i] = s.Digest, true
			if l.cfg.Now().Sub(s.CheckedAt) > l.cfg.Refresh {
				open = append(open, i)
			}
		case errors.Is(err, pratique.ErrNotFound):
			open = append(open, i)
		default:
			return nil, err
		}
	}
	if wait && len(open) > 0 {
		l.ask(ctx, ref, tags, open, named, known)
	}
	for i, d := range named {
		if known[i] && d != "" {
			known[i] = l.opened(ctx, ref, d, wait)
		}
	}
	if !wait && slices.Contains(known, false) {
		return nil, fmt.Errorf("what tags of %s name: %w", ref.Repository(), pratique.ErrPending)
	}
	// Asking writes down what it learns: if one of the tags names the image after
	// all, or an index that holds it, the store knows that now.
	spans, err := l.store.TagsOf(ctx, ref)
	if err != nil {
		return nil, err
	}
	current, _ := split(spans)
	var out []string
	for i, tag := range tags {
		if known[i] && named[i] != ref.Digest && !slices.Contains(current, tag) {
			out = append(out, tag)
		}
	}
	return out, nil
}

// ask has the upstream tell what the open tags name.
func (l *Lineage) ask(ctx context.Context, ref pratique.Ref, tags []string, open []int, named []digest.Digest, known []bool) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, i := range open {
		wg.Go(func() {
			d, err := l.registry.Resolve(ctx, tagRef(ref, tags[i]))
			switch {
			case err == nil:
				named[i], known[i] = d, true
			case errors.Is(err, pratique.ErrNotFound):
				// The cache notes that a tag is gone; one that never was is noted here.
				err := l.store.SetTag(ctx, tagRef(ref, tags[i]), store.TagState{CheckedAt: l.cfg.Now()})
				named[i], known[i] = "", err == nil
			}
		})
	}
	wg.Wait()
}

// opened reports whether it is known which images d stands for: d is one, or an
// index of images that is here, so that the store knows whose tags its children
// have.
func (l *Lineage) opened(ctx context.Context, ref pratique.Ref, d digest.Digest, fetch bool) bool {
	img, err := l.store.Image(ctx, d)
	if errors.Is(err, pratique.ErrNotFound) && fetch {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		at := ref.At(d)
		at.Tag = ""
		img, _, err = l.registry.Manifest(ctx, at)
	}
	if err != nil {
		return false
	}
	for _, c := range img.Children {
		if c.MediaType == pratique.MediaTypeImageIndex || c.MediaType == pratique.MediaTypeDockerList {
			return false
		}
	}
	return true
}
