package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"pratique"
	"pratique/internal/config"
	"pratique/scanner"
	"pratique/scanner/database"
	"pratique/scanner/match"
	"pratique/scanner/worker"
	"pratique/store"
)

// facts are what was made; they are written beside the state as fleet.json.
type facts struct {
	plan
	Fleet struct { // as stored
		Images      int `json:"images"`
		Layers      int `json:"layers"`
		Components  int `json:"components"`
		Occurrences int `json:"occurrences"`
		Findings    int `json:"findings"`
	} `json:"fleet"`
	Seconds  float64  `json:"seconds"`
	Bytes    int64    `json:"stateBytes"`
	Commands int      `json:"commands,omitempty"` // of Redis
	CPU      float64  `json:"redisCPU,omitempty"` // seconds of its process
	Reserved []string `json:"reserved"`
	// Keys are the pratique.Component.Keys of what the fleet holds.
	Keys []string `json:"keys"`
}

// fill makes DIR/state.db, or what a Redis and DIR/storage hold, and DIR/db of a model, the way that a server makes them:
// every image is linked and scanned. Only the content is not read but made up.
func fill(ctx context.Context, m *model, archive, analyzer, dir string, log io.Writer) (facts, error) {
	began := time.Now()
	f := &filler{
		m: m, log: log, configs: map[digest.Digest][]byte{}, stored: map[int]pratique.Inventory{},
		components: map[pratique.ComponentID]bool{}, keys: map[string]bool{}, layers: map[int]bool{},
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return facts{}, err
	}
	var err error
	if f.key, err = workerKey(ctx, analyzer); err != nil {
		return facts{}, err
	}
	if f.state, err = openState(ctx, dir, m.Redis); err != nil {
		return facts{}, err
	}
	quiet := slog.New(slog.DiscardHandler)
	matcher := match.New(match.Config{Log: quiet})
	err = f.run(ctx, matcher, archive, filepath.Join(dir, "db"), quiet)
	if err := errors.Join(err, matcher.Close(), f.Close()); err != nil {
		return facts{}, err
	}
	out := f.facts()
	out.Seconds = time.Since(began).Seconds()
	if info, err := os.Stat(filepath.Join(dir, "state.db")); err == nil {
		out.Bytes = info.Size()
	}
	w, err := workOf(ctx, m.Redis)
	if err != nil {
		return facts{}, err
	}
	out.Bytes += int64(w.Bytes)
	out.Commands, out.CPU = w.Commands, w.CPU
	raw, err := json.Marshal(out)
	if err != nil {
		return facts{}, err
	}
	return out, os.WriteFile(filepath.Join(dir, "fleet.json"), raw, 0o600)
}

// workerKey is what the analyzer calls itself, so that a server takes what is
// stored for its own.
func workerKey(ctx context.Context, path string) (string, error) {
	cfg, err := config.Load("", nil, nil)
	if err != nil {
		return "", err
	}
	options := worker.Options{Misconfigurations: cfg.Scanner.Misconfigurations, Licenses: cfg.Scanner.Licenses}
	p, err := worker.NewPool(ctx, worker.Config{Path: path, Spares: -1, Options: options})
	if err != nil {
		return "", err
	}
	return p.Key(), p.Close()
}

// filler is a scanner's world: the state, and content that is made up.
type filler struct {
	state
	m   *model
	key string
	log io.Writer

	mu         sync.Mutex
	configs    map[digest.Digest][]byte
	stored     map[int]pratique.Inventory // of layers, as they are in the state
	components map[pratique.ComponentID]bool
	keys       map[string]bool
	layers     map[int]bool
	counts     struct{ images, occurrences, findings int }
}

func (f *filler) run(ctx context.Context, matcher *match.Matcher, archive, dir string, log *slog.Logger) error {
	db := database.New(database.Config{Dir: dir, Log: log}, matcher)
	in, err := database.OpenPath(archive)
	if err != nil {
		return err
	}
	_, err = db.Import(ctx, in, true)
	if err := errors.Join(err, in.Close()); err != nil {
		return err
	}
	engine, err := matcher.Engine()
	if err != nil {
		return err
	}
	if err := f.Begin(ctx, engine); err != nil {
		return err
	}
	s := scanner.New(f, f, matcher, f, scanner.Config{Log: log})
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i := range f.m.Images {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return f.image(gctx, s, i) })
		if n := i + 1; n%10_000 == 0 {
			_, _ = fmt.Fprintf(f.log, "fleet: %d images\n", n)
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return f.Advance(ctx, engine, time.Now().UTC())
}

// image links, tags, scans and pulls one.
func (f *filler) image(ctx context.Context, s *scanner.Scanner, i int) error {
	ref, img, config := f.m.image(i)
	f.mu.Lock()
	f.configs[img.Config.Digest] = config
	for _, l := range f.m.layersOf(i) {
		f.layers[l] = true
	}
	f.mu.Unlock()
	now := time.Now().UTC()
	if err := f.Link(ctx, ref, img, now); err != nil {
		return err
	}
	if err := f.SetTag(ctx, ref, store.TagState{Digest: img.Digest, MediaType: img.MediaType, Size: img.Size, CheckedAt: now}); err != nil {
		return err
	}
	r, err := s.Scan(ctx, ref)
	if err != nil {
		return err
	}
	if r.State != pratique.StateScanned && i >= len(f.m.samples) {
		return fmt.Errorf("image %d is %s: %+v", i, r.State, r.Problems)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.configs, img.Config.Digest)
	f.counts.images++
	f.counts.findings += len(r.Findings)
	if i%5 != 0 { // one image in five was pulled lately
		return nil
	}
	client := fmt.Sprintf("10.1.%d.%d", i/250%250, i%250)
	return f.Record(ctx, []store.Pull{{Ref: ref, Client: client, At: now, Outcome: pratique.OutcomeAllow}})
}

// OpenBlob implements scanner.Layers: configs are what they say they are, of
// layers there is only what the analyzer says of them.
func (f *filler) OpenBlob(_ context.Context, _ pratique.Ref, d pratique.Descriptor) (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return io.NopCloser(bytes.NewReader(f.configs[d.Digest])), nil
}

// Key implements scanner.Analyzer.
func (f *filler) Key() string { return f.key }

// Layer implements scanner.Analyzer.
func (f *filler) Layer(_ context.Context, d pratique.Descriptor, _ io.Reader) (pratique.Inventory, error) {
	i, ok := f.m.byDigest[d.Digest]
	if !ok {
		return pratique.Inventory{}, fmt.Errorf("no layer %s", d.Digest)
	}
	return f.inventory(i), nil
}

func (f *filler) inventory(i int) pratique.Inventory {
	inv := f.m.inventory(i)
	inv.Analyzer = f.key
	return inv
}

// Config implements scanner.Analyzer.
func (f *filler) Config(context.Context, []byte, pratique.OS) (pratique.Inventory, error) {
	return pratique.Inventory{Analyzer: f.key}, nil
}

// Inventory implements store.Inventories: what is stored is taken from memory, which
// is the same and faster, and no config is there before its image.
func (f *filler) Inventory(_ context.Context, d digest.Digest, _ string) (pratique.Inventory, error) {
	i, ok := f.m.byDigest[d]
	f.mu.Lock()
	defer f.mu.Unlock()
	inv, stored := f.stored[i]
	if !ok || !stored {
		return pratique.Inventory{}, pratique.ErrNotFound
	}
	return inv, nil
}

// PutInventory implements store.Inventories. Those of configs are left out: there is
// nothing in them, and no database makes anybody read them.
func (f *filler) PutInventory(ctx context.Context, d digest.Digest, analyzer string, inv pratique.Inventory) error {
	i, ok := f.m.byDigest[d]
	if !ok {
		return nil
	}
	if err := f.state.PutInventory(ctx, d, analyzer, inv); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stored[i] = inv
	return nil
}

// PutImage implements store.Components, and counts.
func (f *filler) PutImage(ctx context.Context, image digest.Digest, cs []pratique.Component, os []pratique.Occurrence) error {
	if err := f.state.PutImage(ctx, image, cs, os); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts.occurrences += len(os)
	for _, o := range os {
		f.components[o.Component] = true
	}
	for _, c := range cs {
		for _, k := range c.Keys() {
			f.keys[k] = true
		}
	}
	return nil
}

// facts are what was counted.
func (f *filler) facts() facts {
	out := facts{plan: f.m.plan, Reserved: f.m.reserved, Keys: slices.Sorted(maps.Keys(f.keys))}
	out.Fleet.Images, out.Fleet.Layers, out.Fleet.Components = f.counts.images, len(f.layers), len(f.components)
	out.Fleet.Occurrences, out.Fleet.Findings = f.counts.occurrences, f.counts.findings
	return out
}
