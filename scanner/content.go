package scanner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"pratique"
)

// SourceWorker is the Source of the Fatal problems by which an Analyzer says
// that its worker died or ran into a limit. The same bytes may fare better next
// time.
const SourceWorker = "worker"

// Inventories are kept by digest and by how the bytes were read. A layer is read
// as its descriptor says, and a manifest can lie: with another's layer under a
// wrong size or compression it must neither pass by the honest analysis nor
// spoil it. A config has a key of its own, because any bytes can be both.
func layerKey(analyzer string, d pratique.Descriptor) string {
	form := "tar"
	for _, f := range []string{"gzip", "zstd"} {
		if strings.HasSuffix(d.MediaType, f) {
			form = f
		}
	}
	return fmt.Sprintf("%s/%s/%d", analyzer, form, d.Size)
}

func configKey(analyzer string) string { return analyzer + "/config" }

// imageConfig is the part of an image's config that decides how it is scanned.
// Source: OCI image-spec, "config.md".
type imageConfig struct {
	OS     string `json:"os"`
	RootFS struct {
		DiffIDs []digest.Digest `json:"diff_ids"`
	} `json:"rootfs"`
}

// inventory analyses the image's content, as far as that was not done before,
// and merges it; its config's claims come with it. Problems of the image are in
// the result.
func (s *Scanner) inventory(ctx context.Context, ref pratique.Ref, img pratique.Image, key string) (pratique.Inventory, pratique.ConfigFacts, error) {
	var raw []byte
	layers := make([]pratique.Inventory, len(img.Layers))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.cfg.Parallel + 1)
	g.Go(func() (err error) {
		raw, err = s.readConfig(gctx, ref, img.Config)
		return err
	})
	for _, at := range positions(img.Layers) {
		g.Go(func() error {
			inv, err := s.layer(gctx, ref, img.Layers[at[0]], key)
			for _, i := range at {
				layers[i] = inv
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return pratique.Inventory{}, pratique.ConfigFacts{}, err
	}
	claims := configFacts(raw)
	problems := verify(img, layers, raw)
	if fatal(problems) {
		return pratique.Inventory{Analyzer: key, Problems: problems}, claims, nil
	}
	base := pratique.Merge(layers, nil).OS
	config, err := s.config(ctx, img.Config.Digest, raw, base, key)
	if err != nil {
		return pratique.Inventory{}, pratique.ConfigFacts{}, err
	}
	merged := pratique.Merge(layers, &config)
	if len(layers) == 0 {
		// Nothing can run in it and nothing is in it but its config.
		merged = config
		merged.Layer = ""
	}
	merged.Problems = passing(append(merged.Problems, problems...))
	return merged, claims, nil
}

// positions groups equal layers: a layer may occur more than once in an image.
// The same digest under another size or media type is another claim.
func positions(layers []pratique.Descriptor) [][]int {
	type claim struct {
		d         digest.Digest
		size      int64
		mediaType string
	}
	var out [][]int
	group := make(map[claim]int, len(layers))
	for i, l := range layers {
		c := claim{l.Digest, l.Size, l.MediaType}
		g, ok := group[c]
		if !ok {
			g = len(out)
			group[c] = g
			out = append(out, nil)
		}
		out[g] = append(out[g], i)
	}
	return out
}

// verify compares what was read with what the image claims. A runtime unpacks
// by the claims: an image that lies is not the one that was analysed.
func verify(img pratique.Image, layers []pratique.Inventory, raw []byte) []pratique.Problem {
	problem := func(isFatal bool, source, format string, args ...any) pratique.Problem {
		return pratique.Problem{Source: source, Fatal: isFatal, Message: fmt.Sprintf(format, args...)}
	}
	var out []pratique.Problem
	for _, l := range layers {
		for _, p := range l.Problems {
			if p.Fatal {
				p.Layer = l.Layer
				out = append(out, p)
			}
		}
	}
	if len(out) > 0 {
		return passing(out)
	}
	var config imageConfig
	if err := json.Unmarshal(raw, &config); err != nil {
		return []pratique.Problem{problem(true, "config", "the image config %s is not readable: %v", img.Config.Digest, err)}
	}
	out = pratique.DiffIDProblems(layers, config.RootFS.DiffIDs)
	if os := strings.ToLower(strings.TrimSpace(config.OS)); os != "linux" && os != "" {
		out = append(out, problem(false, "config", "an image for %q: only Linux images are scanned whole", config.OS))
	}
	return out
}

// passing adds, when a worker failed, the problem that says a later scan may
// fare better.
func passing(problems []pratique.Problem) []pratique.Problem {
	if slices.ContainsFunc(problems, workerFailed) {
		problems = append(problems, pratique.Problem{Source: SourceScan, Fatal: true, Message: "the analysis did not finish; a later pull tries again"})
	}
	return problems
}

func workerFailed(p pratique.Problem) bool { return p.Fatal && p.Source == SourceWorker }

func fatal(problems []pratique.Problem) bool {
	return slices.ContainsFunc(problems, func(p pratique.Problem) bool { return p.Fatal })
}

// layer returns the inventory of a layer: the stored one, or that of an
// analysis now. One layer is analysed by one caller at a time, so that images
// that share it, scanned together, analyse it once.
func (s *Scanner) layer(ctx context.Context, ref pratique.Ref, d pratique.Descriptor, key string) (pratique.Inventory, error) {
	return s.once(ctx, d.Digest, key, layerKey(key, d), func() (pratique.Inventory, error) {
		r, err := s.layers.OpenBlob(ctx, ref, d)
		if err != nil {
			return pratique.Inventory{}, err
		}
		defer r.Close()
		inv, err := s.analyzer.Layer(ctx, d, r)
		if err != nil {
			return pratique.Inventory{}, err
		}
		if fatal(inv.Problems) {
			return inv, nil
		}
		// The transfer verifies the digest at its end: reach it, whatever the
		// analyzer left unread.
		if _, err := io.Copy(io.Discard, r); err != nil {
			return pratique.Inventory{}, err
		}
		if inv.Layer != d.Digest || inv.DiffID == "" {
			return pratique.Inventory{}, fmt.Errorf("analyzer answered for layer %q with diffID %q", inv.Layer, inv.DiffID)
		}
		return inv, nil
	})
}

// config returns the inventory of an image config.
func (s *Scanner) config(ctx context.Context, d digest.Digest, raw []byte, os pratique.OS, key string) (pratique.Inventory, error) {
	return s.once(ctx, d, key, configKey(key), func() (pratique.Inventory, error) {
		return s.analyzer.Config(ctx, raw, os)
	})
}

// once returns the inventory stored under d and stored, or makes and stores it.
// One with a Fatal problem is returned but never stored: it may be the fault of
// this image's claims, or of a worker, and not d's for ever. The inventory must
// be of the analyzer key.
func (s *Scanner) once(ctx context.Context, d digest.Digest, key, stored string, analyse func() (pratique.Inventory, error)) (pratique.Inventory, error) {
	unlock, err := s.content.lock(ctx, d)
	if err != nil {
		return pratique.Inventory{}, err
	}
	defer unlock()
	inv, err := s.state.Inventory(ctx, d, stored)
	if err == nil {
		s.metrics.reused.Inc()
		return inv, nil
	}
	if !errors.Is(err, pratique.ErrNotFound) {
		return pratique.Inventory{}, err
	}
	s.cfg.OnAnalysis(d)
	s.metrics.analyses.Inc()
	if inv, err = analyse(); err != nil {
		return pratique.Inventory{}, fmt.Errorf("analysis of %s: %w", d, err)
	}
	if fatal(inv.Problems) {
		s.cfg.Log.WarnContext(ctx, "analysis failed", "content", d, "problems", inv.Problems)
		inv.Layer, inv.Analyzer = d, key
		return inv, nil
	}
	if inv.Analyzer != key {
		return pratique.Inventory{}, fmt.Errorf("analysis of %s: made by %q, asked of %q", d, inv.Analyzer, key)
	}
	if err := s.state.PutInventory(ctx, d, stored, inv); err != nil {
		return pratique.Inventory{}, err
	}
	return inv, nil
}

// readConfig reads and verifies an image config.
func (s *Scanner) readConfig(ctx context.Context, ref pratique.Ref, d pratique.Descriptor) ([]byte, error) {
	r, err := s.layers.OpenBlob(ctx, ref, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, pratique.MaxConfigSize+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) != d.Size {
		return nil, fmt.Errorf("config %s has %d bytes or more, the manifest says %d", d.Digest, len(raw), d.Size)
	}
	if got := d.Digest.Algorithm().FromBytes(raw); got != d.Digest {
		return nil, fmt.Errorf("config %s has digest %s", d.Digest, got)
	}
	return raw, nil
}
