package lineage

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Annotations and labels that say what an image was built on (OCI image-spec 1.1,
// "Pre-Defined Annotation Keys").
const (
	baseName   = "org.opencontainers.image.base.name"
	baseDigest = "org.opencontainers.image.base.digest"
)

const (
	// maxName is the longest claim that is read.
	maxName = 512
	// maxNearest references to lower layers are looked at: copies of a base under
	// other names, of which one may have moved on.
	maxNearest = 4
	// maxSpans of a base's tag are looked at, the latest ones.
	maxSpans = 64
)

// Values of pratique.Base.How.
const (
	byAnnotation = "annotation"
	byLayers     = "layers"
)

// build is an image in use with what it was built on. It is never changed once it
// is on the shelf.
type build struct {
	ref      pratique.Ref // repository and digest
	img      pratique.Image
	base     *pratique.Base
	refs     []pratique.Ref // tags of bases, to be watched
	labelled bool           // the labels of the image's config were there to be read
	at       time.Time
}

// base is what img, of ref's repository, was built on, by what is known here.
func (l *Lineage) base(ctx context.Context, ref pratique.Ref, img pratique.Image) (*pratique.Base, error) {
	if img.Kind != pratique.KindImage {
		return nil, nil
	}
	ref = tagRef(ref, "").At(img.Digest)
	l.mu.Lock()
	b, ok := l.builds.get(ref)
	l.mu.Unlock()
	if age := l.cfg.Now().Sub(timeOf(b)); ok && b.labelled && age >= 0 && age < lookAgain {
		return b.base, nil
	}
	n, err := l.find(ctx, ref, img)
	if err != nil {
		return nil, err
	}
	if judged(ctx) == nil {
		l.keep(n)
		if !ok {
			l.wake()
		}
	}
	return n.base, nil
}

func timeOf(b *build) time.Time {
	if b == nil {
		return time.Time{}
	}
	return b.at
}

// keep puts b on the shelf, and moves the stamp if something else was said before.
func (l *Lineage) keep(b *build) {
	l.mu.Lock()
	before, ok := l.builds.get(b.ref)
	l.builds.put(b.ref, b)
	l.mu.Unlock()
	if ok && !sameBase(before.base, b.base) {
		l.changed()
	}
}

func sameBase(a, b *pratique.Base) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Ref == b.Ref && a.Digest == b.Digest && a.How == b.How && a.Now == b.Now && a.MovedAt.Equal(b.MovedAt)
}

// find looks for the base by what the image claims and by its layers. Of two
// answers the one counts that has moved on, and has for longer: what an image
// claims must not hide what it is made of. Lower layers in a tag of the image's
// own repository are an earlier build of it, and no base.
func (l *Lineage) find(ctx context.Context, of pratique.Ref, img pratique.Image) (*build, error) {
	b := &build{ref: of, img: img, at: l.cfg.Now()}
	ref, d, ok := l.claim(img.Annotations)
	report, err := l.store.Report(ctx, img.Digest)
	switch {
	case err == nil:
		b.labelled = true
		if !ok {
			ref, d, ok = l.claim(report.Config.Labels)
		}
	case !errors.Is(err, pratique.ErrNotFound):
		return nil, err
	}
	var bases []*pratique.Base
	if ok {
		claimed, err := l.held(ctx, ref, d, img.FirstSeen)
		if err != nil {
			return nil, err
		}
		claimed.How = byAnnotation
		bases, b.refs = append(bases, claimed), append(b.refs, ref)
	}
	known, err := l.store.BasesOf(ctx, img)
	if err != nil {
		return nil, err
	}
	for _, k := range nearest(of, known) {
		ref := tagRef(k.Ref, k.Ref.Tag)
		lower, err := l.held(ctx, ref, k.Image.Digest, img.FirstSeen)
		if err != nil {
			return nil, err
		}
		lower.How = byLayers
		bases = append(bases, lower)
		if !slices.Contains(b.refs, ref) {
			b.refs = append(b.refs, ref)
		}
	}
	b.base = worst(bases)
	return b, nil
}

// nearest are those of known, of which the ones with most layers come first, that
// have as many layers as the first, in other repositories than that of the image.
func nearest(of pratique.Ref, known []store.Known) []store.Known {
	var out []store.Known
	for _, k := range known {
		if k.Ref.Tag == "" || k.Ref.Repository() == of.Repository() {
			continue
		}
		if len(out) == maxNearest || len(out) > 0 && len(k.Image.Layers) < len(out[0].Image.Layers) {
			break
		}
		out = append(out, k)
	}
	return out
}

// worst is the base that moved on first, else the first whose tag is known, else
// the first.
func worst(bases []*pratique.Base) *pratique.Base {
	var out *pratique.Base
	for _, b := range bases {
		switch {
		case out == nil,
			out.MovedAt.IsZero() && !b.MovedAt.IsZero(),
			!b.MovedAt.IsZero() && b.MovedAt.Before(out.MovedAt),
			out.MovedAt.IsZero() && out.Now == "" && b.Now != "":
			out = b
		}
	}
	return out
}

// claim reads what an image says that it was built on. Only a tag of a configured
// upstream with the digest that it named then says anything.
func (l *Lineage) claim(says map[string]string) (pratique.Ref, digest.Digest, bool) {
	name := says[baseName]
	if l.cfg.Upstreams == nil || name == "" || len(name) > maxName {
		return pratique.Ref{}, "", false
	}
	ref, err := pratique.ParseRef(familiar(name))
	if err != nil || ref.Tag == "" {
		return pratique.Ref{}, "", false
	}
	d := ref.Digest
	if s := says[baseDigest]; s != "" {
		if d, err = pratique.ParseDigest(s); err != nil {
			return pratique.Ref{}, "", false
		}
	}
	if d == "" {
		return pratique.Ref{}, "", false
	}
	if ref, err = l.cfg.Upstreams(tagRef(ref, ref.Tag)); err != nil {
		return pratique.Ref{}, "", false
	}
	return tagRef(ref, ref.Tag), d, true
}

// familiar completes a name as people write it: without a registry, which is a
// first element with a dot or a colon, it is one of Docker Hub.
func familiar(name string) string {
	first, _, ok := strings.Cut(name, "/")
	if !ok || first != "localhost" && !strings.ContainsAny(first, ".:") {
		return "docker.io/" + name
	}
	return name
}

// held holds a base's digest against what its tag names. since is when the image
// that was built on it was first seen: what its tag named before says nothing
// about whether it has moved on.
func (l *Lineage) held(ctx context.Context, ref pratique.Ref, d digest.Digest, since time.Time) (*pratique.Base, error) {
	b := &pratique.Base{Ref: ref, Digest: d}
	spans, err := l.store.TagHistory(ctx, ref)
	if err != nil || len(spans) == 0 {
		return b, err
	}
	spans = spans[max(0, len(spans)-maxSpans):]
	var moved time.Time // from d, where a span says so
	named := false
	for _, s := range spans {
		if ok, err := l.names(ctx, s.Digest, d, pratique.MaxIndexDepth); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		if s.Now == s.Digest {
			b.Now = d
			return b, nil
		}
		if named = true; s.MovedAt.After(moved) {
			moved = s.MovedAt
		}
	}
	b.Now = spans[0].Now
	if named {
		b.MovedAt = moved
		return b, nil
	}
	for _, s := range spans {
		if s.LastAt.After(since) {
			b.MovedAt = later(s.FirstAt, since)
			return b, nil
		}
	}
	if b.Now == "" {
		state, err := l.store.Tag(ctx, ref)
		if err != nil && !errors.Is(err, pratique.ErrNotFound) {
			return nil, err
		}
		if !state.ChangedAt.IsZero() {
			b.MovedAt = later(state.ChangedAt, since)
		}
	}
	return b, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// names reports whether a manifest is d or an index with d in it, as far as it is
// here.
func (l *Lineage) names(ctx context.Context, manifest, d digest.Digest, depth int) (bool, error) {
	if manifest == d {
		return true, nil
	}
	if depth == 0 {
		return false, nil
	}
	img, err := l.store.Image(ctx, manifest)
	if errors.Is(err, pratique.ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	for _, c := range img.Children {
		if c.Digest == d {
			return true, nil
		}
	}
	for _, c := range img.Children {
		if !isIndex(c.MediaType) {
			continue
		}
		if ok, err := l.names(ctx, c.Digest, d, depth-1); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

func isIndex(mediaType string) bool {
	return mediaType == pratique.MediaTypeImageIndex || mediaType == pratique.MediaTypeDockerList
}
