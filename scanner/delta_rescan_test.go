package scanner_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/scanner"
	"pratique/scanner/database"
	"pratique/scanner/match"
	"pratique/scheduler"
)

// dirs are databases by digest; it is a scheduler.Differ.
type dirs map[digest.Digest]string

func (d dirs) Diff(ctx context.Context, from, to digest.Digest) (scheduler.Delta, error) {
	if d[from] == "" {
		return scheduler.Delta{All: true}, nil
	}
	x, err := database.DiffFiles(ctx, d[from], d[to])
	return scheduler.Delta{All: x.All, Keys: x.Keys, Vulnerabilities: x.Vulnerabilities}, err
}

// chain is a fleet in a store, and databases that follow each other.
type chain struct {
	*testing.T
	u       *universe
	m       *match.Matcher
	state   *sqlite.DB
	scan    *scanner.Scanner
	rescans *scheduler.Rescanner
	dirs    dirs
	used    []digest.Digest
	told    map[digest.Digest]bool
	images  map[digest.Digest][]pratique.ComponentID
	byID    map[pratique.ComponentID]pratique.Component
}

// TestDeltaRescans does what a server does: random fleets in a store, databases that
// come into use one after the other, sometimes one of the former, sometimes the next
// before everything is matched. After each, a full pass finds nothing that the rescan
// missed, and the images of which something changed, and no others, were told.
func TestDeltaRescans(t *testing.T) {
	pairs, first := deltaPairs(t)
	if os.Getenv("PAIRS") == "" {
		pairs /= 2 // a store costs more than a comparison
	}
	u := newUniverse(t)
	const length = 8 // pairs of each chain
	for seed := first; seed < first+uint64((pairs+length-1)/length); seed++ {
		u.Rand = rand.New(rand.NewPCG(seed, 2027))
		c := newChain(t, u)
		content := u.database()
		for step := range length {
			c.step(fmt.Sprintf("seed %d step %d", seed, step), content)
			content = content.clone()
			u.mutate(content)
		}
		c.close()
		if t.Failed() {
			return
		}
	}
}

func newChain(t *testing.T, u *universe) *chain {
	t.Helper()
	state, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	c := &chain{
		T: t, u: u, state: state, m: match.New(match.Config{Now: func() time.Time { return deltaNow }, Log: quiet}), dirs: make(dirs),
		told: make(map[digest.Digest]bool), images: make(map[digest.Digest][]pratique.ComponentID), byID: make(map[pratique.ComponentID]pratique.Component),
	}
	c.scan = scanner.New(nil, nil, c.m, state, scanner.Config{Log: quiet})
	c.rescans = scheduler.NewRescanner(c.scan, state, c.dirs, scheduler.RescanConfig{
		Changed: func(_ context.Context, images []digest.Digest) {
			for _, d := range images {
				c.told[d] = true
			}
		},
		Batch: 50, Log: quiet,
	})
	return c
}

func (c *chain) close() {
	c.Helper()
	if err := c.m.Close(); err != nil {
		c.Error(err)
	}
	if err := c.state.Close(); err != nil {
		c.Error(err)
	}
}

// image puts one into the store, as a scan does before it matches.
func (c *chain) image(cs []pratique.Component) {
	c.Helper()
	d := digest.FromString(fmt.Sprint("image ", len(c.images)))
	var os []pratique.Occurrence
	for _, x := range cs {
		id := x.ID()
		c.byID[id] = x
		c.images[d] = append(c.images[d], id)
		os = append(os, pratique.Occurrence{Component: id, Installed: x.Version, Layer: digest.FromString("layer")})
	}
	if err := c.state.PutImage(c.Context(), d, cs, os); err != nil {
		c.Fatal(err)
	}
}

// use adopts a database.
func (c *chain) use(content boltContent) digest.Digest {
	c.Helper()
	dir := writeDatabase(c, content)
	d := digest.FromString(dir)
	c.dirs[d] = dir
	c.used = append(c.used, d)
	c.adopt(d)
	return d
}

func (c *chain) adopt(d digest.Digest) {
	c.Helper()
	if err := c.m.Adopt(c.Context(), c.dirs[d], d); err != nil {
		c.Fatal(err)
	}
}

// standing is what the store says of every component.
func (c *chain) standing() map[pratique.ComponentID][]pratique.Vulnerability {
	c.Helper()
	e, _, err := c.state.Current(c.Context())
	if err != nil {
		return nil
	}
	found, err := c.state.Matches(c.Context(), e, slices.Collect(maps.Keys(c.byID)))
	if err != nil {
		c.Fatal(err)
	}
	return found
}

func (c *chain) step(name string, content boltContent) {
	c.Helper()
	ctx := c.Context()
	before := c.standing()
	clear(c.told)
	switch {
	case len(c.used) > 1 && c.u.chance(20): // back to a former one
		c.adopt(pick(c.u, c.used))
	case len(c.used) > 1 && c.u.chance(30): // one that is superseded in the middle
		between := content.clone()
		c.u.mutate(between)
		c.use(between)
		some := c.u.fleet()[:40]
		c.image(some)
		// As a scan would, which tells of it (scanner.Config.OnChanged). What cannot be
		// matched fails.
		changed, _, _ := c.scan.Match(ctx, some)
		told, err := c.state.ImagesWith(ctx, changed)
		if err != nil {
			c.Fatal(err)
		}
		for _, d := range told {
			c.told[d] = true
		}
		c.use(content)
	default:
		c.use(content)
	}
	c.image(c.u.fleet()[:80])
	if err := c.rescans.Rescan(ctx); err != nil {
		c.Fatalf("%s: %v", name, err)
	}
	after := c.standing()
	for d, ids := range c.images {
		changed := slices.ContainsFunc(ids, func(id pratique.ComponentID) bool {
			was, stood := before[id]
			return stood && !same(was, after[id])
		})
		if changed && !c.told[d] {
			c.Errorf("%s: an image changed and was not told", name)
		}
	}
	p, err := c.rescans.FullPass(ctx)
	if err != nil || p.Differences != 0 || p.Images != 0 || p.Components+p.Failed != len(c.byID) {
		c.Errorf("%s: full pass of %d components: %+v, %v", name, len(c.byID), p, err)
	}
}

// same compares what is known, not when it was said.
func same(a, b []pratique.Vulnerability) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}
