// Package lineage tells how an image stands to the tags of its repository and to
// its base: which tags name it and which did, which newer versions of them there
// are, and whether what it was built on has moved on.
//
// It answers from what is known here, at once, and never makes a pull wait: what
// is not known is absent, because rules about staleness are about moves that
// somebody saw. What it was asked about it keeps watching in the background (Run),
// and finds newer versions and bases before anybody needs them. It dials no
// registry itself and none that is not configured, whatever an image claims to be
// built on (evidence.Registry holds to that, and Config.Upstreams before it).
package lineage

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/evidence"
	"pratique/policy"
	"pratique/store"
)

// Store is what is known here. Implemented by internal/sqlite.
type Store interface {
	store.Lineage
	Tag(ctx context.Context, ref pratique.Ref) (store.TagState, error)
	SetTag(ctx context.Context, ref pratique.Ref, s store.TagState) error
	TagList(ctx context.Context, ref pratique.Ref) ([]string, time.Time, error)
	Image(ctx context.Context, d digest.Digest) (pratique.Image, error)
	Report(ctx context.Context, image digest.Digest) (pratique.Report, error)
}

// Defaults and limits.
const (
	defaultRefresh    = time.Hour
	defaultCandidates = 3
	defaultFetches    = 20
	defaultWatched    = 4096

	// ticks of a Refresh: what is known here is looked at that often.
	ticks = 12
	// maxSubjects are the tags of one image whose series are looked at.
	maxSubjects = 8
	// maxNames are the tags of one image that are watched.
	maxNames = 32
	// lookAgain is how long what was found out here is believed when the answer may
	// come at any time: an image being scanned, a base whose tag anybody may pull.
	lookAgain = time.Minute
)

// Config is what New may be told besides its collaborators.
type Config struct {
	// Compliant tells whether policy lets an image (tag and digest) through, by what
	// stands now: it neither fetches nor waits. An error wrapping
	// pratique.ErrPending says that it is not scanned yet. It must pass ctx on to
	// whatever asks this Lineage, which keeps the question from asking itself. If
	// nil, no newer version is compliant.
	Compliant func(ctx context.Context, ref pratique.Ref) (bool, error)
	// Request has an image (tag and digest) fetched and scanned, and does not wait
	// for the scan. If nil, nothing is fetched.
	Request func(ctx context.Context, ref pratique.Ref) error
	// Upstreams completes a reference that an image claims to be built on with the
	// key of a configured upstream; an error if there is none. If nil, claims are
	// not looked at.
	Upstreams func(ref pratique.Ref) (pratique.Ref, error)
	// Tags are those that rules name, which may change. If nil, there are none.
	Tags func() []string
	// Refresh is how often upstreams are asked for the tags and lists of repositories
	// in use. If zero, 1 h.
	Refresh time.Duration
	// MaxCandidates of each level (patch, minor) are fetched and judged for one tag.
	// If zero, 3.
	MaxCandidates int
	// MaxFetches is how many candidates are fetched in one Refresh: each costs a
	// pull of the upstream's quota, and a scan. If zero, 20.
	MaxFetches int
	// MaxWatched bounds the tags, and the images with their bases, that are watched;
	// those not asked about for longest are forgotten. If zero, 4096 of each.
	MaxWatched int
	// Log; if nil, slog.Default().
	Log *slog.Logger
	// Metrics; if nil, none.
	Metrics prometheus.Registerer
	// Now is the clock; if nil, time.Now.
	Now func() time.Time
}

func (cfg *Config) setDefaults() {
	if cfg.Refresh == 0 {
		cfg.Refresh = defaultRefresh
	}
	if cfg.MaxCandidates == 0 {
		cfg.MaxCandidates = defaultCandidates
	}
	if cfg.MaxFetches == 0 {
		cfg.MaxFetches = defaultFetches
	}
	if cfg.MaxWatched == 0 {
		cfg.MaxWatched = defaultWatched
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
}

// Lineage knows how images stand to tags and bases. Safe for concurrent use. It
// implements evidence.Lineages.
type Lineage struct {
	registry evidence.Registry
	store    Store
	cfg      Config
	metrics  metrics

	stamp atomic.Uint64
	kick  chan struct{} // something new is watched

	mu     sync.Mutex
	tags   *shelf[pratique.Ref, *subject]  // tags in use, by repository and tag
	builds *shelf[pratique.Ref, *build]    // images in use, by repository and digest, for their bases
	judged *shelf[pratique.Ref, judgement] // candidates, by tag and digest
	next   *shelf[pratique.Ref, time.Time] // when upstream is asked again: tag, or list (no tag)
	asked  *shelf[pratique.Ref, time.Time] // when a candidate was requested last
}

var _ evidence.Lineages = (*Lineage)(nil)

// New knows what is in st; Run keeps it up to date through registry.
func New(registry evidence.Registry, st Store, cfg Config) *Lineage {
	cfg.setDefaults()
	perTag := 2 * cfg.MaxCandidates
	return &Lineage{
		registry: registry, store: st, cfg: cfg, metrics: newMetrics(cfg.Metrics),
		kick:   make(chan struct{}, 1),
		tags:   newShelf[pratique.Ref, *subject](cfg.MaxWatched),
		builds: newShelf[pratique.Ref, *build](cfg.MaxWatched),
		judged: newShelf[pratique.Ref, judgement](cfg.MaxWatched * perTag),
		next:   newShelf[pratique.Ref, time.Time](cfg.MaxWatched * (perTag + 3)),
		asked:  newShelf[pratique.Ref, time.Time](cfg.MaxWatched * perTag),
	}
}

// Stamp moves when newer versions or bases change, after which Lineage says
// something else. What tags name moves the stamps of the store.
func (l *Lineage) Stamp() uint64 { return l.stamp.Load() }

// Lineage tells of img, asked for as ref, what is known here, as far as needs
// names it. It waits for one thing: what the tags name that rules name
// (Config.Tags), when an image is asked for by a digest of which no tag is known;
// without wait that is the one thing of which it says pratique.ErrPending. Every
// other error is a failure of the store.
//
// Newer is about all tags that name the image now, and the one asked for; about
// those that named it when none does. So it says the same of an image whether it
// is asked for by tag or by digest, by its index or itself.
func (l *Lineage) Lineage(ctx context.Context, ref pratique.Ref, img pratique.Image, needs policy.Needs, wait bool) (pratique.Lineage, error) {
	var out pratique.Lineage
	ref = ref.At(img.Digest)
	if needs&(policy.NeedTags|policy.NeedNames|policy.NeedNewer|policy.NeedAdvice) != 0 {
		if err := l.tagged(ctx, ref, needs, wait, &out); err != nil {
			return pratique.Lineage{}, err
		}
	}
	if needs.Has(policy.NeedBase) {
		var err error
		if out.Base, err = l.base(ctx, ref, img); err != nil {
			return pratique.Lineage{}, err
		}
	}
	return out, nil
}

// tagged fills in what tags say.
func (l *Lineage) tagged(ctx context.Context, ref pratique.Ref, needs policy.Needs, wait bool, out *pratique.Lineage) error {
	spans, err := l.store.TagsOf(ctx, ref)
	if err != nil {
		return err
	}
	current, moved := split(spans)
	names := subjects(ref.Tag, current, moved)
	if needs&(policy.NeedTags|policy.NeedNewer) != 0 { // mere advice is not worth a question to the upstream
		l.watch(ctx, ref, names, needs.Has(policy.NeedNewer))
	}
	if needs&(policy.NeedTags|policy.NeedNames) != 0 {
		out.Current, out.Moved = current, moved
	}
	if needs.Has(policy.NeedNames) && len(names) == 0 {
		if out.Elsewhere, err = l.elsewhere(ctx, ref, wait); err != nil {
			return err
		}
	}
	if needs&(policy.NeedNewer|policy.NeedAdvice) != 0 {
		out.Newer, err = l.newer(ctx, ref, names, current)
	}
	return err
}

// split tells the tags that name an image from those that did.
func split(spans []store.TagSpan) (current []string, moved []pratique.TagMove) {
	for _, s := range spans {
		if s.Now == s.Digest {
			current = append(current, s.Tag)
		} else {
			moved = append(moved, pratique.TagMove{Tag: s.Tag, To: s.Now, At: s.MovedAt})
		}
	}
	slices.SortStableFunc(moved, func(a, b pratique.TagMove) int { return a.At.Compare(b.At) })
	return current, moved
}

// subjects are the tags that an image is about.
func subjects(tag string, current []string, moved []pratique.TagMove) []string {
	names := slices.Clone(current)
	if tag != "" && !slices.Contains(names, tag) {
		names = append(names, tag)
	}
	if len(current) == 0 {
		for _, m := range moved {
			if m.Tag != tag {
				names = append(names, m.Tag)
			}
		}
	}
	slices.Sort(names)
	return names
}

// wake has Run look at what is new.
func (l *Lineage) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// changed moves the stamp. It is called after what is said was changed, so that
// no answer from before it is ever filed under the stamp from after it.
func (l *Lineage) changed() { l.stamp.Add(1) }
