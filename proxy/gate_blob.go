package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"pratique"
)

// emptyJSON is the digest of "{}", the config that artifacts of every kind
// share (OCI image-spec 1.1, "Guidance for an Empty Descriptor").
const emptyJSON digest.Digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

// Blob serves a blob that a manifest of the same repository names, if that
// manifest may be had now. Blobs of no known manifest are unknown here: what
// names them has not been judged.
func (g *Gate) Blob(ctx context.Context, r Request) (Blob, error) {
	if err := g.admit(); err != nil {
		return Blob{}, err
	}
	if d, ok := g.memory.vouched(r.Ref, r.Client.Addr); ok {
		g.metrics.decided(d.Verdict.Outcome)
		return g.release(ctx, r, d)
	}
	b, err := g.blob(ctx, r)
	if g.reach.note(err) {
		// It turned out just now that the state is away.
		if d, ok := g.memory.vouched(r.Ref, r.Client.Addr); ok {
			g.metrics.decided(d.Verdict.Outcome)
			return g.release(ctx, r, d)
		}
	}
	return b, g.failed(err)
}

// blob serves what no earlier decision lets through.
func (g *Gate) blob(ctx context.Context, r Request) (Blob, error) {
	stamp := g.memory.content(r.Ref.Digest)
	q := g.inquire(r)
	defer q.close()
	hctx, cancel := context.WithTimeout(ctx, g.cfg.Hold)
	defer cancel()

	holders, err := g.holders(ctx, r)
	if err != nil {
		return Blob{}, err
	}
	// As a blob a manifest is no other content, through whatever repository it
	// is known.
	manifest := false
	switch img, err := g.catalog.Image(ctx, r.Ref.Digest); {
	case err == nil:
		manifest = true
		d, err := g.decide(hctx, r.Ref, img, q, 1)
		if err := g.answer(ctx, d, err); err != nil {
			return Blob{}, err
		}
		if holders[0].Digest == r.Ref.Digest {
			return g.serveManifest(ctx, r, d)
		}
	case !errors.Is(err, pratique.ErrNotFound):
		return Blob{}, err
	}
	d, err := g.voucher(hctx, r.Ref, holders, q)
	if err := g.answer(ctx, d, err); err != nil {
		return Blob{}, err
	}
	if !manifest {
		g.memory.vouch(r.Ref, d.Image, stamp)
	}
	return g.release(ctx, r, d)
}

// release hands out a blob that a decision lets through.
func (g *Gate) release(ctx context.Context, r Request, d pratique.Decision) (Blob, error) {
	b, err := g.next.Blob(ctx, r)
	if err != nil {
		return Blob{}, err
	}
	if b.Digest != r.Ref.Digest {
		return Blob{}, fmt.Errorf("asked for %s, got %s", r.Ref.Digest, b.Digest)
	}
	b.Verdict = d.Verdict.ID
	if d.Image.ImageConfig() && !d.Image.Runnable() && !r.Head {
		return b, plain(b)
	}
	return b, nil
}

// serveManifest hands a manifest out as the blob it was asked for.
func (g *Gate) serveManifest(ctx context.Context, r Request, d pratique.Decision) (Blob, error) {
	get := r
	get.Head = false // the bytes are needed for their length
	m, err := g.next.Manifest(ctx, get)
	if err != nil {
		return Blob{}, err
	}
	if m.Image.Digest != r.Ref.Digest {
		return Blob{}, fmt.Errorf("asked for %s, got %s", r.Ref.Digest, m.Image.Digest)
	}
	return Blob{
		Digest:  m.Image.Digest,
		Size:    int64(len(m.Raw)),
		Hit:     m.Hit,
		Verdict: d.Verdict.ID,
		Open: func(offset int64) (io.ReadCloser, error) {
			if offset < 0 || offset > int64(len(m.Raw)) {
				return nil, fmt.Errorf("offset %d of a manifest of %d bytes", offset, len(m.Raw))
			}
			return io.NopCloser(bytes.NewReader(m.Raw[offset:])), nil
		},
	}, nil
}

// holders are the manifests that may vouch for a blob. Where one of them can
// be run, artifacts do not count: naming a refused image's layer in an artifact
// beside it must not set the layer free.
func (g *Gate) holders(ctx context.Context, r Request) ([]pratique.Image, error) {
	digests, err := g.catalog.Holders(ctx, r.Ref, r.Ref.Digest)
	if err != nil && !errors.Is(err, pratique.ErrNotFound) {
		return nil, err
	}
	var all, runnable []pratique.Image
	for _, d := range digests {
		img, err := g.catalog.Image(ctx, d)
		if errors.Is(err, pratique.ErrNotFound) {
			continue // removed since
		}
		if err != nil {
			return nil, err
		}
		all = append(all, img)
		if img.Runnable() {
			runnable = append(runnable, img)
		}
	}
	if len(all) == 0 && g.reach.away() {
		return nil, stateAway(nil) // another replica may know one
	}
	if len(all) == 0 {
		return nil, Errorf(CodeBlobUnknown, "no manifest pulled from %s names this blob; pull the manifest first", clean(r.Ref.Repository(), 300))
	}
	if len(runnable) > 0 && r.Ref.Digest != emptyJSON && all[0].Digest != r.Ref.Digest {
		return runnable, nil
	}
	return all, nil
}

// voucher finds a manifest that may be had among those that name a blob, or
// returns the first refusal, or what is still open.
func (g *Gate) voucher(ctx context.Context, ref pratique.Ref, holders []pratique.Image, q *inquiry) (pratique.Decision, error) {
	ds, errs := make([]pratique.Decision, len(holders)), make([]error, len(holders))
	var open []int
	for i, img := range holders {
		if ds[i], errs[i] = g.decide(ctx, ref.At(img.Digest), img, q.glance(), 1); errs[i] == nil && serves(ds[i].Verdict) {
			return ds[i], nil
		}
		if errors.Is(errs[i], pratique.ErrPending) {
			open = append(open, i)
		}
	}
	if q.wait && len(open) > 0 {
		open = open[:min(len(open), g.cfg.MaxChildren)]
		race(ctx, open, func(ctx context.Context, i int) (pratique.Decision, error) {
			return g.decide(ctx, ref.At(holders[i].Digest), holders[i], q, 1)
		}, func(i int, d pratique.Decision, err error) bool {
			ds[i], errs[i] = d, err
			return err == nil && serves(d.Verdict)
		})
	}
	return first(ds, errs)
}

// first picks what answers for all: what may be served; else what is not known
// yet, then what went wrong, then the first refusal.
func first(ds []pratique.Decision, errs []error) (pratique.Decision, error) {
	rank := func(i int) int {
		switch {
		case errs[i] == nil && serves(ds[i].Verdict):
			return 0
		case errors.Is(errs[i], pratique.ErrPending):
			return 1
		case errs[i] != nil:
			return 2
		}
		return 3
	}
	best := 0
	for i := range ds {
		if rank(i) < rank(best) {
			best = i
		}
	}
	return ds[best], errs[best]
}

// plain refuses a blob that is no JSON. It guards the blobs of manifests whose
// config is an image's and whose layers all claim to be JSON (signatures,
// attestations): they are not scanned, but podman and docker would unpack a
// file system that lies about its type. JSON has no control characters and
// begins with { or [; a tar has zeros within its first block, and compressed
// data has a magic number.
func plain(b Blob) error {
	body, err := b.Open(0)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // read only
	head := make([]byte, 512)
	n, err := io.ReadFull(body, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	head = bytes.TrimLeft(head[:n], " \t\r\n")
	ok := len(head) > 0 && (head[0] == '{' || head[0] == '[') || n == 0
	for _, c := range head {
		ok = ok && (c >= ' ' || c == '\t' || c == '\r' || c == '\n')
	}
	if !ok {
		return &Error{Code: CodeDenied, Message: "refused by rule gate/media-type: " + short(b.Digest) + " is named as JSON, but is none, and nothing scanned it", Bare: true}
	}
	return nil
}
