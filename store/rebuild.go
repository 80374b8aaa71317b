package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"pratique"
)

// RebuildState is a state that can be made anew from documents that it wrote when it
// linked manifests.
type RebuildState interface { //nolint:interfacebloat // the sum of what a state has and what it notes
	Image(ctx context.Context, d digest.Digest) (pratique.Image, error)
	Images(ctx context.Context) iter.Seq2[Known, error]
	Holders(ctx context.Context, ref pratique.Ref, d digest.Digest) ([]digest.Digest, error)
	Link(ctx context.Context, ref pratique.Ref, img pratique.Image, now time.Time) error
	ReportedImages(ctx context.Context) iter.Seq2[digest.Digest, error]
	// Links yields the names of the documents of links, in no particular order.
	Links(ctx context.Context) iter.Seq2[string, error]
	// LinkOf reads one. One that does not say what its name says is ErrMismatch.
	LinkOf(ctx context.Context, name string) (Known, error)
	// Inventoried yields the digests of layers and configs of which there is an
	// inventory, some of them more than once.
	Inventoried(ctx context.Context) iter.Seq2[digest.Digest, error]
	// Rebuild returns the note of one that has begun; none is ErrNotFound.
	Rebuild(ctx context.Context) (time.Time, error)
	NoteRebuild(ctx context.Context, began time.Time) error
	// EndRebuild removes the note, and the one that the state was lost.
	EndRebuild(ctx context.Context) error
	// Holds names something that the state holds and a rebuild might have to do with;
	// "" is nothing.
	Holds(ctx context.Context) (string, error)
}

// RebuildConfig says how a state is made anew.
type RebuildConfig struct {
	// Push opens a scan of an image. Required.
	Push func(ctx context.Context, ref pratique.Ref) error
	// Merge allows a state that holds something already. What it holds stays.
	Merge bool
	// Parallel is how many links are made at once. If zero, 16.
	Parallel int
	// Progress is told what was done so far, about once for each hundred steps. If nil,
	// nobody is. It is called by one goroutine at a time.
	Progress func(r Rebuilt)
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
}

// Rebuilt is what a rebuild did so far.
type Rebuilt struct {
	Resumed bool  // it went on with one that was interrupted
	Linked  int64 // links made anew
	Present int64 // links that were there
	Scans   int64 // scans opened
	// Cold are images without a scan whose bytes are not all here: they are scanned
	// when they are pulled.
	Cold int64
	// Left are links that could not be made, sorted by Name.
	Left []RebuildFault
}

// RebuildFault is a link that could not be made anew.
type RebuildFault struct {
	Name  string // of its document
	Known Known  // what it says, as far as it can be read
	Err   error  // wraps pratique.ErrNotFound, ErrMismatch or pratique.ErrInvalid
}

// Rebuild makes a state anew that was lost while what Blobs holds was kept. Every
// manifest is read and held against its digest. It may be interrupted anywhere, and
// run again: what was made is left alone. An error ends it; a link that cannot be made
// does not.
func Rebuild(ctx context.Context, state RebuildState, blobs *Blobs, cfg RebuildConfig) (Rebuilt, error) {
	if cfg.Parallel <= 0 {
		cfg.Parallel = 16
	}
	if cfg.Progress == nil {
		cfg.Progress = func(Rebuilt) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r := &rebuild{state: state, blobs: blobs, cfg: cfg, here: make(map[digest.Digest]bool)}
	err := r.run(ctx)
	slices.SortFunc(r.done.Left, func(a, b RebuildFault) int { return strings.Compare(a.Name, b.Name) })
	return r.done, err
}

type rebuild struct {
	state RebuildState
	blobs *Blobs
	cfg   RebuildConfig

	mu    sync.Mutex
	done  Rebuilt
	steps int

	here        map[digest.Digest]bool // of one goroutine: blobs that a scan needs not fetch
	inventoried map[digest.Digest]bool // filled when it is first needed
}

func (r *rebuild) run(ctx context.Context) error {
	switch _, err := r.state.Rebuild(ctx); {
	case err == nil:
		r.done.Resumed = true
	case !errors.Is(err, pratique.ErrNotFound):
		return err
	default:
		if what, err := r.state.Holds(ctx); err != nil {
			return err
		} else if what != "" && !r.cfg.Merge {
			return fmt.Errorf("%w: it has %s", ErrNotEmpty, what)
		}
		if err := r.state.NoteRebuild(ctx, r.cfg.Now()); err != nil {
			return err
		}
	}
	if err := r.links(ctx); err != nil {
		return err
	}
	if err := r.scans(ctx); err != nil {
		return err
	}
	r.tell(func(*Rebuilt) {}, true)
	return r.state.EndRebuild(ctx)
}

// tell notes what was done, and now and then tells of it.
func (r *rebuild) tell(note func(d *Rebuilt), always bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	note(&r.done)
	if r.steps++; always || r.steps%100 == 0 {
		r.cfg.Progress(r.done)
	}
}

func (r *rebuild) links(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.cfg.Parallel)
	for name, err := range r.state.Links(ctx) {
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return r.link(gctx, name) })
	}
	return g.Wait()
}

// link makes one link, unless it is there.
func (r *rebuild) link(ctx context.Context, name string) error {
	known, err := r.state.LinkOf(ctx, name)
	if err != nil {
		return r.leave(name, known, err)
	}
	linked, err := r.linked(ctx, known)
	if err != nil {
		return err
	}
	if linked {
		r.tell(func(d *Rebuilt) { d.Present++ }, false)
		return nil
	}
	img, err := r.manifest(ctx, known.Image)
	if err != nil {
		return r.leave(name, known, err)
	}
	// The one thing that a document knows and the bytes do not. It may be no later
	// than now, whatever the clock said then.
	seen, now := known.Image.FirstSeen, r.cfg.Now()
	if seen.IsZero() || seen.After(now) {
		seen = now
	}
	if err := r.state.Link(ctx, known.Ref, img, seen); err != nil {
		return err
	}
	r.tell(func(d *Rebuilt) { d.Linked++ }, false)
	return nil
}

// linked reports whether the repository holds the manifest already, and it is known.
func (r *rebuild) linked(ctx context.Context, known Known) (bool, error) {
	_, err := r.state.Image(ctx, known.Image.Digest)
	if errors.Is(err, pratique.ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	holders, err := r.state.Holders(ctx, known.Ref, known.Image.Digest)
	if errors.Is(err, pratique.ErrNotFound) {
		return false, nil
	}
	return slices.Contains(holders, known.Image.Digest), err
}

// manifest reads an image from its bytes: what a document says of them is not
// believed.
func (r *rebuild) manifest(ctx context.Context, said pratique.Image) (pratique.Image, error) {
	raw, err := r.blobs.ReadAll(ctx, said.Digest, pratique.MaxManifestSize)
	if err != nil {
		return pratique.Image{}, err
	}
	img, err := pratique.ParseManifest(said.MediaType, raw)
	if err == nil && img.Digest != said.Digest {
		err = fmt.Errorf("manifest %s: %w", said.Digest, ErrMismatch)
	}
	return img, err
}

// leave notes a link that cannot be made; any other error is returned.
func (r *rebuild) leave(name string, known Known, err error) error {
	if !errors.Is(err, pratique.ErrNotFound) && !errors.Is(err, ErrMismatch) && !errors.Is(err, pratique.ErrInvalid) {
		return err
	}
	r.tell(func(d *Rebuilt) { d.Left = append(d.Left, RebuildFault{name, known, err}) }, false)
	return nil
}

// scans opens one for each image that has no report and needs nothing from upstreams.
func (r *rebuild) scans(ctx context.Context) error {
	reported := make(map[digest.Digest]bool)
	for d, err := range r.state.ReportedImages(ctx) {
		if err != nil {
			return err
		}
		reported[d] = true
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.cfg.Parallel)
	for known, err := range r.state.Images(ctx) {
		if err == nil && gctx.Err() != nil {
			break
		}
		cold := false
		if err == nil && !reported[known.Image.Digest] {
			cold, err = r.cold(ctx, known.Image)
		}
		switch {
		case err != nil:
			return errors.Join(err, g.Wait())
		case reported[known.Image.Digest]:
		case cold:
			r.tell(func(d *Rebuilt) { d.Cold++ }, false)
		default:
			ref := known.Ref.At(known.Image.Digest)
			g.Go(func() error {
				if err := r.cfg.Push(gctx, ref); err != nil {
					return err
				}
				r.tell(func(d *Rebuilt) { d.Scans++ }, false)
				return nil
			})
		}
	}
	return g.Wait()
}

// cold reports whether a scan would have to ask an upstream for bytes: for the config,
// or for a layer of which there is no inventory either.
func (r *rebuild) cold(ctx context.Context, img pratique.Image) (bool, error) {
	if !img.Runnable() {
		return false, nil // its scan reads nothing
	}
	if here, err := r.stored(ctx, img.Config.Digest); err != nil || !here {
		return true, err
	}
	for _, l := range img.Layers {
		here, err := r.stored(ctx, l.Digest)
		if err == nil && !here {
			here, err = r.analysed(ctx, l.Digest)
		}
		if err != nil || !here {
			return true, err
		}
	}
	return false, nil
}

func (r *rebuild) stored(ctx context.Context, d digest.Digest) (bool, error) {
	if here, known := r.here[d]; known {
		return here, nil
	}
	_, err := r.blobs.Stat(ctx, d)
	if err != nil && !errors.Is(err, pratique.ErrNotFound) {
		return false, err
	}
	r.here[d] = err == nil
	return err == nil, nil
}

func (r *rebuild) analysed(ctx context.Context, d digest.Digest) (bool, error) {
	if r.inventoried == nil {
		found := make(map[digest.Digest]bool)
		for d, err := range r.state.Inventoried(ctx) {
			if err != nil {
				return false, err
			}
			found[d] = true
		}
		r.inventoried = found
	}
	return r.inventoried[d], nil
}
