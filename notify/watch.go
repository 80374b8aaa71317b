package notify

import (
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Gate says what the verdict on an image is by what stands now. Implemented by
// proxy.Gate.
type Gate interface {
	Standing(ctx context.Context, ref pratique.Ref, img pratique.Image) (pratique.Decision, error)
}

// Catalog knows the images. Part of store.Catalog.
type Catalog interface {
	Images(ctx context.Context) iter.Seq2[store.Known, error]
	// Knowns returns those that are known, by digest.
	Knowns(ctx context.Context, images []digest.Digest) (map[digest.Digest]store.Known, error)
}

// Pulls is the history of pulls. Part of store.PullLog, store.Pulls and
// store.Pullers.
type Pulls interface {
	PulledBy(ctx context.Context, image digest.Digest, since time.Time) ([]store.Puller, error)
	Pulls(ctx context.Context, since time.Time) iter.Seq2[store.Pull, error]
	Verdict(ctx context.Context, id string) (store.Judged, error)
	Served(ctx context.Context, image digest.Digest) (first, last time.Time, err error)
}

// Exceptions lists all that there ever were. Part of store.Exceptions.
type Exceptions interface {
	Exceptions(ctx context.Context) ([]pratique.Exception, error)
}

// Tags knows what tags name. Part of store.Tags and store.TagMoves.
type Tags interface {
	Tag(ctx context.Context, ref pratique.Ref) (store.TagState, error)
	TagMoves(ctx context.Context, since time.Time) ([]store.TagMove, error)
}

// Sources are what a Watcher looks at.
type Sources struct {
	Gate       Gate
	Catalog    Catalog
	Pulls      Pulls
	Exceptions Exceptions
	Tags       Tags
	Marks      store.Marks
	// Near orders images so that reading their reports costs least. If nil, they are
	// read in order of digest.
	Near store.Near
	// Stamps tell of which images nothing moved since they were looked at. If nil, all
	// are looked at when any may have changed.
	Stamps store.Stamper
	// Busy tells that clients wait for verdicts. If nil, nobody ever does.
	Busy func() bool
	// Database is the vulnerability database in use; pratique.ErrNoDatabase when
	// there is none.
	Database func() (pratique.Engine, error)
	// Version changes with everything, besides the facts about one image, that a
	// verdict depends on: policies, exceptions, lists.
	Version func() string
}

// WatcherConfig adjusts a Watcher.
type WatcherConfig struct {
	// Every is how often is looked for what changed. If zero, 5 seconds.
	Every time.Duration
	// Full is how often all images are looked at although nothing says that they
	// changed. If zero, 1 hour.
	Full time.Duration
	// Pulled is how far back is looked for who had an image. If zero, 30 days.
	Pulled time.Duration
	// Soon is how long before its end an exception is told to be expiring, but not
	// before half of its life. If zero, 3 days.
	Soon time.Duration
	// Settle is how long an update of the database waits to be told until it is known
	// what it did (Updated). If zero, it is told at once.
	Settle time.Duration
}

// Watcher finds out what changed. What it saw last of everything is in the store,
// written together with the events about it, so that a restart tells nothing
// twice and nothing is missed while no process runs.
//
// When it is used for the first time it tells nothing of what there is: it begins.
type Watcher struct {
	n   *Notifier
	src Sources
	cfg WatcherConfig

	wake chan struct{} // holds a word when something is not to wait for the next look
	seed maphash.Seed

	mu      sync.Mutex
	changed map[digest.Digest]time.Time // images to look at, and not before when
	over    bool                        // they are too many: all are to be looked at
	stamps  map[uint64]stamped          // by the hash of an image's digest
	updates map[digest.Digest]*update   // of databases
	effects map[digest.Digest]*effects
	noticed noticed

	seenMu sync.Mutex
	seen   map[string]bool // ids appended by this process: saves asking the store

	// Of Run alone.
	version  string
	full     time.Time     // the last full look
	took     time.Duration // and how long it took
	began    bool          // there are marks of an earlier look
	nextLook time.Time
	failed   map[string]bool // kinds that failed, and that was logged
}

// NewWatcher returns one that does nothing before Run.
func NewWatcher(n *Notifier, src Sources, cfg WatcherConfig) *Watcher {
	or := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	or(&cfg.Every, 5*time.Second)
	or(&cfg.Full, time.Hour)
	or(&cfg.Pulled, 30*24*time.Hour)
	or(&cfg.Soon, 3*24*time.Hour)
	return &Watcher{
		n: n, src: src, cfg: cfg, wake: make(chan struct{}, 1), seed: maphash.MakeSeed(), changed: map[digest.Digest]time.Time{},
		stamps: map[uint64]stamped{}, updates: map[digest.Digest]*update{}, effects: map[digest.Digest]*effects{}, seen: map[string]bool{}, failed: map[string]bool{},
	}
}

// maxChanged bounds the images that wait to be looked at; beyond, all are.
const maxChanged = 200_000

// Changed says that an image has another report. It returns at once.
func (w *Watcher) Changed(image digest.Digest) { w.later(time.Time{}, image) }

// ChangedAll says it of many: they are looked at now. It returns at once.
func (w *Watcher) ChangedAll(images []digest.Digest) {
	w.later(time.Time{}, images...)
	w.wakeUp()
}

// ChangedAny says that any image may have changed: those that did are looked for, as
// far as stamps tell. It returns at once.
func (w *Watcher) ChangedAny() {
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
}

func (w *Watcher) wakeUp() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// later has images looked at, not before a time.
func (w *Watcher) later(at time.Time, images ...digest.Digest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, image := range images {
		if len(w.changed) >= maxChanged {
			w.over = true
			return
		}
		w.changed[image] = at
	}
}

// tooMany tells, once, that more images changed than were remembered.
func (w *Watcher) tooMany() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	over := w.over
	w.over = false
	return over
}

// waits tells that an image is to be looked at later.
func (w *Watcher) waits(image digest.Digest) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, there := w.changed[image]
	return there
}

// take returns the images whose time has come.
func (w *Watcher) take(now time.Time) []digest.Digest {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []digest.Digest
	for d, at := range w.changed {
		if !at.After(now) {
			out = append(out, d)
			delete(w.changed, d)
		}
	}
	slices.Sort(out)
	return out
}

// Run looks until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	t := time.NewTicker(w.cfg.Every)
	defer t.Stop()
	for {
		w.Look(ctx)
		select {
		case <-t.C:
		case <-w.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Look finds out what changed since the last look, once. What fails is logged and
// looked at again the next time.
func (w *Watcher) Look(ctx context.Context) {
	if !w.began {
		if err := w.begin(ctx); err != nil {
			w.tell(ctx, "begin", err)
			return
		}
	}
	now := w.n.cfg.Now().UTC()
	// Each kind on its own: one that fails does not hide the others. The database
	// goes first, so that the change of verdicts follows what caused it, unless it
	// waits to tell what it did.
	for _, kind := range []struct {
		name string
		look func(context.Context, time.Time) error
	}{
		{"database", w.lookDatabase},
		{"tags", w.lookTags},
		{"exceptions", w.lookExceptions},
		{"images", w.lookImages},
		{"what the database did", w.lookDatabase},
		{"pulls", w.lookPulls},
	} {
		w.tell(ctx, kind.name, kind.look(ctx, now))
	}
}

// tell logs a failure once.
func (w *Watcher) tell(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	if err != nil && !w.failed[what] {
		w.n.cfg.Log.ErrorContext(ctx, "what changed cannot be told, and is looked for again", "what", what, "error", err)
	}
	w.failed[what] = err != nil
}

// Keys of marks.
const (
	markBegan      = "began"
	markDatabase   = "database"
	markTags       = "tags"
	markPulls      = "pulls"
	markImages     = "image/"
	markExceptions = "exception/"
)

// overlap is how much of what was seen is read again: what is written down a
// little later than it happened. Ids keep it from being told twice.
const overlap = 2 * time.Minute

// cursor is the mark of something that is read as it comes.
type cursor struct {
	At time.Time `json:"at"`
}

// mark reads what was noted under a key; false when nothing was.
func (w *Watcher) mark(ctx context.Context, key string, doc any) (bool, error) {
	m, err := w.src.Marks.Mark(ctx, key)
	if errors.Is(err, pratique.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, json.Unmarshal(m.Doc, doc)
}

func note(key string, due time.Time, doc any) (store.Mark, error) {
	raw, err := json.Marshal(doc)
	return store.Mark{Key: key, Due: due, Doc: raw}, err
}

// begin notes, on first use, what there is, without telling it: in the end that it
// has begun, so that a crash in the middle begins again.
func (w *Watcher) begin(ctx context.Context) error {
	now := w.n.cfg.Now().UTC()
	var c cursor
	known, err := w.mark(ctx, markBegan, &c)
	if err != nil {
		return err
	}
	if !known {
		all := func(ctx context.Context, now time.Time) error { return w.allImages(ctx, now, "", true) }
		steps := []func(context.Context, time.Time) error{w.lookDatabase, w.lookExceptions, all}
		for _, step := range steps {
			if err := step(ctx, now); err != nil {
				return err
			}
		}
		var ms []store.Mark
		for _, key := range []string{markTags, markPulls, markBegan} {
			m, err := note(key, time.Time{}, cursor{now})
			if err != nil {
				return err
			}
			ms = append(ms, m)
		}
		if err := w.n.append(ctx, nil, ms); err != nil {
			return err
		}
		w.full, w.version = now, w.src.Version()
	}
	w.began, w.nextLook = true, time.Time{}
	return nil
}

// put appends events that were not appended before, and marks.
func (w *Watcher) put(ctx context.Context, es []store.Event, ms []store.Mark) error {
	if !w.began {
		es = nil // beginning: what there is is no news
	}
	fresh := map[string]bool{}
	w.seenMu.Lock()
	es = slices.DeleteFunc(es, func(e store.Event) bool {
		known := w.seen[e.ID] || fresh[e.ID]
		fresh[e.ID] = true
		return known
	})
	w.seenMu.Unlock()
	if err := w.n.append(ctx, es, ms); err != nil {
		return err
	}
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	if len(w.seen) > 50_000 {
		w.seen = map[string]bool{}
	}
	for _, e := range es {
		w.seen[e.ID] = true
	}
	return nil
}
