// Package scanner brings the report of one image up to date: it has every
// layer analysed that was not analysed before, merges what was found, has the
// distinct components matched against the vulnerability database, and joins
// both into a report.
//
// It decides the report's state: what could not be read, or is not what the
// image claims, makes a failed or incomplete report, never a shorter one. It
// does not run analyzers (scanner/worker does, in processes made to die), asks
// no database itself (scanner/match), does not decide when to scan (scheduler)
// and judges nothing (policy).
package scanner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"pratique"
	"pratique/store"
)

// SourceScan is the Source of problems that are ours and may pass: a later scan
// of the same bytes may succeed.
const SourceScan = "scan"

// State is where a Scanner finds images and keeps what it learns.
type State interface {
	Image(ctx context.Context, d digest.Digest) (pratique.Image, error)
	store.Inventories
	store.Components
	store.Reports
	Begin(ctx context.Context, e pratique.Engine) error // of store.Fleet
}

// Config adjusts a Scanner.
type Config struct {
	// MaxLayers is how many layers an image may have; one with more is failed.
	// If zero, 500: runtimes end at 127 to 500.
	MaxLayers int
	// Parallel is how many layers of one image are in transfer and analysis at
	// once; how many are analysed at once in all is the Analyzer's to limit. If
	// zero, 16: the transfers of all layers of a usual image start together.
	Parallel int
	// OnAnalysis, if not nil, is called with the digest of every layer and config
	// before it is analysed, not for those whose inventory is there already.
	OnAnalysis func(digest.Digest)
	// OnChanged, if not nil, is called with components of which a scan found that the
	// database in use says something else than what stood: a scan may come to them
	// before the rescan does, which then finds nothing new and tells nobody.
	OnChanged func(ctx context.Context, components []pratique.ComponentID)
	// Now is the clock of reports. If nil, time.Now.
	Now func() time.Time
	// Log receives what a report cannot hold. If nil, slog.Default().
	Log *slog.Logger
	// Metrics receives pratique_scanner_*. If nil, none are registered.
	Metrics prometheus.Registerer
}

// Scanner scans images. Its methods are safe for concurrent use; one image is
// worked on by one call at a time, and so is one layer.
type Scanner struct {
	layers   Layers
	analyzer Analyzer
	matcher  Matcher
	state    State
	cfg      Config
	metrics  metrics

	images  keyed // by manifest digest
	content keyed // by layer or config digest

	begun atomic.Pointer[pratique.Engine] // the engine that was begun last, as far as is known
}

// New returns a Scanner.
func New(layers Layers, analyzer Analyzer, matcher Matcher, state State, cfg Config) *Scanner {
	if cfg.MaxLayers <= 0 {
		cfg.MaxLayers = 500
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = 16
	}
	if cfg.OnAnalysis == nil {
		cfg.OnAnalysis = func(digest.Digest) {}
	}
	if cfg.OnChanged == nil {
		cfg.OnChanged = func(context.Context, []pratique.ComponentID) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Scanner{layers: layers, analyzer: analyzer, matcher: matcher, state: state, cfg: cfg, metrics: newMetrics(cfg.Metrics)}
}

// Scan brings the report on ref.Digest up to date and returns what stands then.
// What is wrong with the image is in the report; an error means that the scan
// could not be done and that trying again may help.
//
// It can be cut short anywhere and done again: inventories, components and
// matches are kept one by one, the report last.
func (s *Scanner) Scan(ctx context.Context, ref pratique.Ref) (pratique.Report, error) {
	r, err := s.scan(ctx, ref)
	if err != nil {
		s.metrics.scans.WithLabelValues("error").Inc()
		return pratique.Report{}, fmt.Errorf("scan of %s: %w", ref, err)
	}
	s.metrics.scans.WithLabelValues(r.State.String()).Inc()
	return r, nil
}

func (s *Scanner) scan(ctx context.Context, ref pratique.Ref) (pratique.Report, error) {
	unlock, err := s.images.lock(ctx, ref.Digest)
	if err != nil {
		return pratique.Report{}, err
	}
	defer unlock()
	img, err := s.state.Image(ctx, ref.Digest)
	if err != nil {
		return pratique.Report{}, err
	}
	if img.Kind == pratique.KindIndex {
		return pratique.Report{}, fmt.Errorf("%w image: an index has no report; its children have", pratique.ErrInvalid)
	}
	key := s.analyzer.Key()
	if !img.Runnable() {
		return s.settle(ctx, img, key, pratique.StateUnsupported, pratique.ConfigFacts{}, []pratique.Problem{{Source: "image", Message: describe(img)}})
	}
	if problems := s.refuse(img); len(problems) > 0 {
		return s.settle(ctx, img, key, pratique.StateFailed, pratique.ConfigFacts{}, problems)
	}
	inv, claims, err := s.inventory(ctx, ref, img, key)
	if err != nil {
		return pratique.Report{}, err
	}
	switch inv.State() {
	case pratique.StateScanned, pratique.StateIncomplete:
		return s.match(ctx, img, key, inv, claims)
	case pratique.StateFailed:
		return s.settle(ctx, img, key, pratique.StateFailed, claims, inv.Problems)
	default:
		return pratique.Report{}, errors.New("the layers merged to nothing known")
	}
}

// describe says what an unsupported manifest is.
func describe(img pratique.Image) string {
	kind := img.ArtifactType
	if kind == "" {
		kind = img.Config.MediaType
	}
	return fmt.Sprintf("not a runnable image: artifact of type %q", kind)
}

// refuse finds what makes an image impossible to scan whole, from its manifest
// alone, before a byte is transferred.
func (s *Scanner) refuse(img pratique.Image) []pratique.Problem {
	var out []pratique.Problem
	fatal := func(layer digest.Digest, format string, args ...any) {
		out = append(out, pratique.Problem{Layer: layer, Source: "manifest", Fatal: true, Message: fmt.Sprintf(format, args...)})
	}
	if n := len(img.Layers); n > s.cfg.MaxLayers {
		fatal("", "%d layers, at most %d are scanned", n, s.cfg.MaxLayers)
		return out
	}
	if img.Config.Size > pratique.MaxConfigSize {
		fatal("", "the config has %d bytes, at most %d are read", img.Config.Size, pratique.MaxConfigSize)
	}
	if l, ok := img.Foreign(); ok {
		fatal(l.Digest, "foreign layer: its bytes are not in the registry, so the image cannot be scanned whole")
		return out
	}
	for _, l := range img.Layers {
		if !pratique.IsLayer(l.MediaType) {
			fatal(l.Digest, "layer of media type %q: no analyzer reads it, though a client may unpack it", l.MediaType)
		}
	}
	return out
}

// settle stores a report that holds problems and no findings.
func (s *Scanner) settle(ctx context.Context, img pratique.Image, key string, state pratique.State, claims pratique.ConfigFacts, problems []pratique.Problem) (pratique.Report, error) {
	engine, err := s.matcher.Engine()
	if err != nil && !errors.Is(err, pratique.ErrNoDatabase) {
		return pratique.Report{}, err
	}
	engine.Analyzer = key
	return s.put(ctx, pratique.Report{
		Image: img.Digest, State: state, Config: claims, Problems: problems, Engine: engine,
		ScannedAt: s.cfg.Now().UTC(), FirstSeen: img.FirstSeen,
	})
}

// put stores a report. One that failed for a reason that may pass does not
// replace one that did not fail: the last report stands.
func (s *Scanner) put(ctx context.Context, r pratique.Report) (pratique.Report, error) {
	if r.State == pratique.StateFailed && Passing(r) {
		standing, err := s.state.Report(ctx, r.Image)
		switch {
		case err == nil && standing.State != pratique.StateFailed:
			s.metrics.kept.Inc()
			s.cfg.Log.WarnContext(ctx, "scan failed, the last report stands", "image", r.Image, "problems", r.Problems)
			return standing, nil
		case err != nil && !errors.Is(err, pratique.ErrNotFound):
			return pratique.Report{}, err
		}
	}
	return s.state.PutReport(ctx, r)
}

// Passing reports whether a failed report has a reason that is ours and may
// pass, so that scanning the same bytes again may help.
func Passing(r pratique.Report) bool {
	for _, p := range r.Problems {
		if p.Source == SourceScan {
			return true
		}
	}
	return false
}
