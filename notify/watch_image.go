package notify

import (
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"pratique"
	"pratique/store"
)

const (
	// chunk is how many images one goroutine looks at together: their marks are read
	// at once, and what is new of them is written at once.
	chunk = 250
	// again is when an image is looked at that could not be decided.
	again = time.Minute
)

// lookImages looks at what changed: single images, or all.
func (w *Watcher) lookImages(ctx context.Context, now time.Time) error {
	version := w.src.Version()
	moved := version != w.version && now.After(w.nextLook)
	over := w.tooMany()
	if moved || over || now.Sub(w.full) >= w.cfg.Full {
		hint := ""
		if moved && w.version != "" {
			hint = causeFacts
		}
		begin := time.Now()
		if err := w.allImages(ctx, now, hint, over); err != nil {
			if over {
				w.later(now, "")
			}
			return err
		}
		w.full, w.version, w.took = now, version, time.Since(begin)
		// Lists and tags may move often, and looking is not to be all that is done.
		w.nextLook = now.Add(2 * w.took)
	}
	updates := w.unlooked()
	ds := w.take(now)
	due, err := w.src.Marks.DueMarks(ctx, now, 20*chunk)
	for _, m := range due {
		if name, ok := strings.CutPrefix(m.Key, markImages); ok && !w.waits(digest.Digest(name)) {
			ds = append(ds, digest.Digest(name))
		}
	}
	if err == nil {
		err = w.lookAt(ctx, ds, now)
	}
	if err != nil {
		w.later(now.Add(w.cfg.Every), ds...) // whatever was written of them
		return err
	}
	w.looked(updates)
	return nil
}

// lookAt looks at some images, with all processors: somebody waits for it.
func (w *Watcher) lookAt(ctx context.Context, ds []digest.Digest, now time.Time) error {
	slices.Sort(ds)
	ds = slices.Compact(ds)
	if w.src.Near != nil && len(ds) > chunk {
		near, err := w.src.Near.Near(ctx, ds)
		if err != nil {
			return err
		}
		ds = near
	}
	g, all := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for part := range slices.Chunk(ds, chunk) {
		g.Go(func() error { return w.lookPart(all, part, now) })
	}
	return g.Wait()
}

// lookPart looks at some of the images that somebody waits for.
func (w *Watcher) lookPart(ctx context.Context, ds []digest.Digest, now time.Time) error {
	known, err := w.src.Catalog.Knowns(ctx, ds)
	if err != nil {
		return err
	}
	l, err := w.looking(ctx, ds, now, "")
	if err != nil {
		return err
	}
	pace := w.hurry()
	for _, d := range ds {
		if k, there := known[d]; there {
			l.look(ctx, k)
		} else {
			l.gone(d)
		}
		if err := pace.step(ctx); err != nil {
			return err
		}
	}
	return l.flush(ctx)
}

// allImages looks at every image, or at all of which something may have changed
// since; nobody waits for that.
func (w *Watcher) allImages(ctx context.Context, now time.Time, hint string, every bool) error {
	pace := w.stroll()
	version := w.src.Version()
	var part []store.Known
	look := func() error {
		ds := make([]digest.Digest, len(part))
		for i, k := range part {
			ds[i] = k.Image.Digest
		}
		l, err := w.looking(ctx, ds, now, hint)
		if err != nil {
			return err
		}
		for _, k := range part {
			l.look(ctx, k)
			if err := pace.step(ctx); err != nil {
				return err
			}
		}
		part = part[:0]
		return l.flush(ctx)
	}
	for known, err := range w.src.Catalog.Images(ctx) {
		if err != nil {
			return err
		}
		if !every && w.unmoved(known.Image.Digest, version) {
			if err := pace.step(ctx); err != nil { // the list is work as well
				return err
			}
			continue
		}
		if part = append(part, known); len(part) == chunk {
			if err := look(); err != nil {
				return err
			}
		}
	}
	if err := look(); err != nil {
		return err
	}
	return ctx.Err()
}

// looks are images looked at together by one goroutine.
type looks struct {
	w     *Watcher
	now   time.Time
	hint  string
	known map[string]store.Mark // what was noted of them

	events  []store.Event
	marks   []store.Mark
	effects map[digest.Digest]*effects // by database
	seen    map[digest.Digest]stamped
}

// looking begins to look at images.
func (w *Watcher) looking(ctx context.Context, ds []digest.Digest, now time.Time, hint string) (*looks, error) {
	keys := make([]string, len(ds))
	for i, d := range ds {
		keys[i] = markImages + d.String()
	}
	known, err := w.src.Marks.Marks(ctx, keys)
	return &looks{w: w, now: now, hint: hint, known: known, effects: map[digest.Digest]*effects{}, seen: map[digest.Digest]stamped{}}, err
}

// look looks at one image. One that cannot be decided does not hide the others: it is
// looked at again a little later.
func (l *looks) look(ctx context.Context, known store.Known) {
	image := known.Image.Digest
	s := l.w.stampOf(image) // before anything is read
	err := l.compare(ctx, known)
	if err == nil {
		l.seen[image] = s
		return
	}
	if ctx.Err() == nil && !errors.Is(err, pratique.ErrPending) {
		l.w.n.cfg.Log.WarnContext(ctx, "image cannot be decided, and is looked at again", "image", image, "error", err)
	}
	l.w.later(l.now.Add(again), image)
}

// compare compares one image with what was seen of it. One that has no verdict yet is
// left alone: it will have a report, and then it is looked at.
func (l *looks) compare(ctx context.Context, known store.Known) error {
	d, err := l.w.src.Gate.Standing(ctx, known.Ref, known.Image)
	if err != nil {
		return err
	}
	if d.Report.State == pratique.StateUnknown || d.Report.State == pratique.StatePending {
		return nil
	}
	key := markImages + known.Image.Digest.String()
	c := comparison{d: &d, hint: l.hint, now: l.now, scans: l.w.n.wanted(TypeScanned)}
	if m, seen := l.known[key]; seen {
		c.prev = new(imageMark)
		if err := json.Unmarshal(m.Doc, c.prev); err != nil {
			return err
		}
	}
	if l.w.began {
		c.pulled = func() (*Pulled, error) { return l.w.whoPulled(ctx, known.Image.Digest, l.now) }
	}
	if err := c.compare(); err != nil {
		return err
	}
	if c.prev != nil && len(c.events) == 0 && same(*c.prev, c.next) {
		return nil
	}
	m, err := note(key, c.next.Due, c.next)
	if err != nil {
		return err
	}
	l.events, l.marks = append(l.events, c.events...), append(l.marks, m)
	l.count(&c)
	return nil
}

// gone notes that nothing is due any more for an image that is not known.
func (l *looks) gone(d digest.Digest) {
	m, there := l.known[markImages+d.String()]
	if there && !m.Due.IsZero() {
		m.Due = time.Time{}
		l.marks = append(l.marks, m)
	}
}

// flush writes what was found.
func (l *looks) flush(ctx context.Context) error {
	if err := l.w.put(ctx, l.events, l.marks); err != nil {
		return err
	}
	l.w.keep(l)
	return nil
}

// same tells that nothing need be noted again.
func same(a, b imageMark) bool {
	return a.Outcome == b.Outcome && a.Verdict == b.Verdict && a.Policy == b.Policy && a.Database == b.Database && a.Found == b.Found &&
		a.Seen.Equal(b.Seen) && a.SeenN == b.SeenN &&
		a.Scanned.Equal(b.Scanned) && a.Failed == b.Failed && a.Until.Equal(b.Until) && a.Due.Equal(b.Due) && len(a.Graces) == len(b.Graces)
}

// stamped is what an image's verdict came from when it was looked at last.
type stamped struct {
	stamp   uint64
	version uint64
}

// stampOf is the present one; nothing without Sources.Stamps.
func (w *Watcher) stampOf(image digest.Digest) stamped {
	if w.src.Stamps == nil {
		return stamped{}
	}
	return stamped{w.src.Stamps.Stamp(image) + 1, maphash.String(w.seed, w.src.Version())}
}

// unmoved tells that looking at an image again would find the same, but for time,
// which the marks that fall due are there for.
func (w *Watcher) unmoved(image digest.Digest, version string) bool {
	if w.src.Stamps == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s, seen := w.stamps[maphash.String(w.seed, string(image))]
	return seen && s.stamp == w.src.Stamps.Stamp(image)+1 && s.version == maphash.String(w.seed, version)
}

// keep remembers what was looked at, and what databases did to it.
func (w *Watcher) keep(l *looks) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.src.Stamps != nil {
		for d, s := range l.seen {
			w.stamps[maphash.String(w.seed, string(d))] = s
		}
	}
	for database, e := range l.effects {
		if w.effects[database] == nil {
			w.effects[database] = &effects{findings: map[pratique.ChangeKind]int{}}
		}
		w.effects[database].add(e)
	}
}
