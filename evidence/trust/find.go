package trust

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// Media and artifact types under which signatures and attestations are kept.
const (
	typeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	typeDSSE          = "application/vnd.dsse.envelope.v1+json"
	typeBundle        = "application/vnd.dev.sigstore.bundle" // beginning
	typeCosign        = "application/vnd.dev.cosign."         // beginning
	typeNotation      = "application/vnd.cncf.notary.signature"
	typeInToto        = "application/vnd.in-toto+json"
)

// Bounds of what is remembered of one image.
const (
	maxProblems   = 32
	maxProblem    = 300 // bytes
	maxStatements = 1000
	maxSubjects   = 32
)

// search is one lookup for one image.
type search struct {
	t     *Trust
	image digest.Digest // that everything found is about
	found pratique.Attestations
	// Left to look at.
	manifests, layers int
	seen              map[digest.Digest]bool // manifests looked at
	// partial says that something is there and could not be fetched.
	partial bool
}

// subject is a manifest whose signatures count for the image.
type subject struct {
	ref   pratique.Ref
	image pratique.Image
	raw   []byte
}

// find looks wherever it is wanted, and where the kept answer was looked for. An
// error means that nothing can be said; where only a part could not be had, what
// is kept is gone on with, and partial is set.
func (t *Trust) find(ctx context.Context, ref pratique.Ref, wanted []string, kept pratique.Attestations) (a pratique.Attestations, partial bool, err error) {
	s := &search{
		t: t, image: ref.Digest,
		found:     pratique.Attestations{Image: ref.Digest, CheckedAt: t.cfg.Now().UTC(), Trust: t.version},
		manifests: t.cfg.MaxManifests,
		layers:    2 * t.cfg.MaxManifests,
	}
	for i, name := range wanted {
		at, err := pratique.ParseRef(name)
		if err != nil {
			return pratique.Attestations{}, false, err
		}
		if err := s.look(ctx, at); err != nil {
			if i == 0 || !errors.Is(err, errNoSubject) {
				return pratique.Attestations{}, false, err
			}
			s.problem(at.Digest, err)
		}
		s.found.Subjects = append(s.found.Subjects, name)
	}
	// The image was asked for elsewhere before. Its signatures there are as good.
	for _, name := range kept.Subjects {
		at, err := pratique.ParseRef(name)
		if err != nil || slices.Contains(s.found.Subjects, name) || len(s.found.Subjects) >= maxSubjects {
			continue
		}
		switch err := s.look(ctx, at); {
		case err == nil:
			s.found.Subjects = append(s.found.Subjects, name)
		case errors.Is(err, errNoSubject): // it is gone
		default:
			s.found.Subjects = append(s.found.Subjects, name)
			s.partial = true
			s.problem(at.Digest, err)
		}
	}
	if s.partial {
		s.goOn(kept)
	}
	slices.SortStableFunc(s.found.Signatures, func(a, b pratique.Signature) int {
		return cmp.Or(cmp.Compare(a.By, b.By), cmp.Compare(a.Digest, b.Digest))
	})
	s.found.Problems = tidy(s.found.Problems)
	return s.found, s.partial, nil
}

// errNoSubject: what should be the image, or list it, is not there or does not.
var errNoSubject = errors.New("no such image, or index that lists it")

// goOn takes over what was verified before: a part of what is there could not be
// fetched, which says nothing of what it holds. It is old at once.
func (s *search) goOn(kept pratique.Attestations) {
	s.found.Signatures = union(s.found.Signatures, kept.Signatures)
	s.found.Provenance = union(s.found.Provenance, kept.Provenance)
	if len(s.found.Statements) == 0 {
		s.found.Statements = kept.Statements
	}
	s.found.CheckedAt = s.found.CheckedAt.Add(-s.t.cfg.Recheck)
}

func union[T comparable](a, b []T) []T {
	for _, v := range b {
		if !slices.Contains(a, v) {
			a = append(a, v)
		}
	}
	return a
}

// same reports whether two answers differ in nothing but when they were given.
func same(a, b pratique.Attestations) bool {
	a.CheckedAt, b.CheckedAt = time.Time{}, time.Time{}
	return reflect.DeepEqual(a, b)
}

// look looks for what is about one manifest. The error is that nothing can be
// said of it.
func (s *search) look(ctx context.Context, ref pratique.Ref) error {
	img, raw, err := s.t.registry.Manifest(ctx, ref)
	switch {
	case errors.Is(err, pratique.ErrNotFound):
		return fmt.Errorf("manifest %s: %w: %w", ref.Digest, errNoSubject, err)
	case err != nil:
		return fmt.Errorf("manifest %s: %w", ref.Digest, err)
	case ref.Digest.Algorithm().FromBytes(raw) != ref.Digest:
		return fmt.Errorf("manifest %s: other bytes", ref.Digest)
	case ref.Digest != s.image:
		if listed, err := s.lists(ctx, ref, img, pratique.MaxIndexDepth); err != nil {
			return err
		} else if !listed {
			return fmt.Errorf("manifest %s: %w", ref.Digest, errNoSubject)
		}
	}
	sub := subject{ref, img, raw}
	refs, err := s.t.registry.Referrers(ctx, ref)
	if err != nil && !errors.Is(err, pratique.ErrNotFound) {
		return fmt.Errorf("referrers of %s: %w", ref.Digest, err)
	}
	for _, d := range refs {
		if !relevant(d.ArtifactType) {
			continue
		}
		at := ref.At(d.Digest)
		if err := s.manifest(ctx, sub, at); err != nil {
			return err
		}
	}
	for _, suffix := range []string{".sig", ".att"} {
		at := pratique.Ref{Registry: ref.Registry, Repo: ref.Repo, Tag: ref.Digest.Algorithm().String() + "-" + ref.Digest.Encoded() + suffix}
		if !pratique.ValidTag(at.Tag) {
			continue // a SHA-512 is too long for a tag
		}
		if err := s.manifest(ctx, sub, at); err != nil {
			return err
		}
	}
	return nil
}

// lists reports whether the index, by its own bytes, lists the image, itself or
// through an index that it lists.
func (s *search) lists(ctx context.Context, ref pratique.Ref, img pratique.Image, depth int) (bool, error) {
	if img.Kind != pratique.KindIndex {
		return false, nil
	}
	if slices.ContainsFunc(img.Children, func(c pratique.Descriptor) bool { return c.Digest == s.image }) {
		return true, nil
	}
	for _, c := range img.Children {
		if depth == 1 || s.manifests == 0 || c.MediaType != pratique.MediaTypeImageIndex && c.MediaType != pratique.MediaTypeDockerList {
			continue
		}
		s.manifests--
		child, raw, err := s.t.registry.Manifest(ctx, ref.At(c.Digest))
		switch {
		case errors.Is(err, pratique.ErrNotFound):
			continue
		case err != nil:
			return false, fmt.Errorf("manifest %s: %w", c.Digest, err)
		case c.Digest.Algorithm().FromBytes(raw) != c.Digest:
			return false, fmt.Errorf("manifest %s: other bytes", c.Digest)
		}
		if listed, err := s.lists(ctx, ref, child, depth-1); err != nil || listed {
			return listed, err
		}
	}
	return false, nil
}

// relevant reports whether an artifact of the type may hold a signature or an
// attestation. Registries that do not say the type leave it to the manifest.
func relevant(artifactType string) bool {
	switch artifactType {
	case "", typeNotation, typeDSSE, typeInToto, pratique.MediaTypeEmptyJSON, pratique.MediaTypeImageConfig:
		return true
	}
	return strings.HasPrefix(artifactType, typeBundle) || strings.HasPrefix(artifactType, typeCosign)
}

// manifest looks at one manifest that may hold signatures over the subject. What
// is wrong with it is a problem; the error is that it may be there and cannot be
// had, and nothing was seen before.
func (s *search) manifest(ctx context.Context, sub subject, at pratique.Ref) error {
	if s.manifests == 0 {
		s.problem("", fmt.Errorf("more than %d manifests with signatures: the rest was not looked at", s.t.cfg.MaxManifests))
		return nil
	}
	img, raw, err := s.t.registry.Manifest(ctx, at)
	switch {
	case errors.Is(err, pratique.ErrNotFound) && at.Tag != "":
		return nil
	case errors.Is(err, pratique.ErrNotFound), errors.Is(err, pratique.ErrInvalid):
		s.manifests--
		s.problem(at.Digest, err)
		return nil
	case err != nil:
		return s.unread(ctx, at.Digest, fmt.Errorf("manifest %s: %w", cmp.Or(at.Tag, at.Digest.String()), err))
	}
	d := digest.FromBytes(raw)
	if at.Digest != "" && at.Digest.Algorithm().FromBytes(raw) != at.Digest {
		return s.unread(ctx, at.Digest, errors.New("other bytes"))
	}
	if s.seen == nil {
		s.seen = make(map[digest.Digest]bool)
	}
	if s.seen[d] {
		return nil
	}
	s.seen[d] = true
	s.manifests--
	for _, l := range img.Layers {
		read, limit := s.reading(img, l)
		if read == nil {
			continue
		}
		if s.layers == 0 {
			s.problem("", fmt.Errorf("more than %d signatures: the rest was not looked at", 2*s.t.cfg.MaxManifests))
			return nil
		}
		s.layers--
		if l.Size > limit || l.Size < 0 {
			s.problem(d, fmt.Errorf("a layer of %d bytes; at most %d are read", l.Size, limit))
			continue
		}
		blob, err := s.blob(ctx, at, l, limit)
		switch {
		case errors.Is(err, pratique.ErrNotFound):
			s.problem(d, err)
			continue
		case err != nil:
			if err := s.unread(ctx, d, err); err != nil {
				return err
			}
			continue
		}
		s.try(d, func() error { return read(sub, d, l, blob) })
	}
	return nil
}

// unread notes that something is there that cannot be had now.
func (s *search) unread(ctx context.Context, d digest.Digest, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	s.partial = true
	s.problem(d, err)
	return nil
}

// reading checks what one layer of the manifest at holder says of a subject.
type reading func(sub subject, holder digest.Digest, l pratique.Descriptor, blob []byte) error

// reading is how layer l of a manifest is read, and how large it may be; nil if
// it is no signature or attestation.
func (s *search) reading(img pratique.Image, l pratique.Descriptor) (reading, int64) {
	switch {
	case img.ArtifactType == typeNotation || img.Config.MediaType == typeNotation:
		return s.notation, s.t.cfg.MaxBlob
	case l.MediaType == typeSimpleSigning:
		return s.simpleSigning, s.t.cfg.MaxBlob
	case l.MediaType == typeDSSE:
		return s.envelope, s.t.cfg.MaxBundle
	case strings.HasPrefix(l.MediaType, typeBundle):
		return s.bundle, s.t.cfg.MaxBundle
	}
	return nil, 0
}

// try runs a verification. The libraries behind it read what anybody may have
// pushed: one that panics has verified nothing.
func (s *search) try(holder digest.Digest, verify func() error) {
	before := s.found
	defer func() {
		if r := recover(); r != nil {
			s.found = before
			s.problem(holder, fmt.Errorf("it cannot be read: %v", r))
		}
	}()
	if err := verify(); err != nil {
		s.problem(holder, err)
	}
}

// blob reads a layer and verifies that it is what its descriptor says.
func (s *search) blob(ctx context.Context, ref pratique.Ref, l pratique.Descriptor, limit int64) ([]byte, error) {
	if _, err := pratique.ParseDigest(l.Digest.String()); err != nil {
		return nil, fmt.Errorf("%w: %w", pratique.ErrNotFound, err)
	}
	r, err := s.t.registry.Blob(ctx, ref, l, limit)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", l.Digest, err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("layer %s: %w", l.Digest, err)
	case int64(len(b)) != l.Size || l.Digest.Algorithm().FromBytes(b) != l.Digest:
		return nil, fmt.Errorf("layer %s: other bytes", l.Digest)
	}
	return b, nil
}

// problem notes in one line what did not verify.
func (s *search) problem(holder digest.Digest, err error) {
	text := err.Error()
	if holder != "" {
		text = holder.String() + ": " + text
	}
	s.found.Problems = append(s.found.Problems, text)
}

// tidy bounds problems: what is in them was written by whoever may push.
func tidy(problems []string) []string {
	for i, p := range problems {
		p = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' || r >= 0x80 && r < 0xa0 {
				return ' '
			}
			return r
		}, strings.ToValidUTF8(p, "?"))
		if len(p) > maxProblem {
			p = strings.ToValidUTF8(p[:maxProblem], "") + "…"
		}
		problems[i] = p
	}
	slices.Sort(problems)
	problems = slices.Compact(problems)
	if len(problems) > maxProblems {
		more := len(problems) - maxProblems + 1
		problems = append(problems[:maxProblems-1:maxProblems-1], fmt.Sprintf("and %d more", more))
	}
	return problems
}
