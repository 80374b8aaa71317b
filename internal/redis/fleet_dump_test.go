package redis

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/internal/sqlite"
	"pratique/store"
)

// fleetState is what is told here of a state.
type fleetState interface {
	store.Inventories
	store.Components
	store.Reports
	store.Fleet
	store.Dumper
}

// fleetStory stores something of everything: images that share layers, one of which was
// analysed anew, engines that came, were rolled back and never became current.
func fleetStory(t *testing.T, s fleetState) (images []digest.Digest) {
	t.Helper()
	ctx, when := t.Context(), time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	engine := func(n int) pratique.Engine {
		return pratique.Engine{Version: "v1", Database: digest.FromString(fmt.Sprint("db", n)), DatabaseAt: when.Add(time.Duration(n) * time.Hour)}
	}
	var cs []pratique.Component
	for i := range 12 {
		cs = append(cs, pratique.Component{Context: pratique.Context{Class: pratique.ClassOS, Type: "debian"}, Name: fmt.Sprint("package", i), Version: "1"})
	}
	put := func(name string, n, shift int) {
		image := digest.FromString(name)
		var os []pratique.Occurrence
		for i := range n {
			c := cs[(i+shift)%len(cs)]
			os = append(os, pratique.Occurrence{Component: c.ID(), Installed: "1", Path: fmt.Sprint(i % 3), Layer: digest.FromString(fmt.Sprint("layer", i%4))})
		}
		must(s.PutImage(ctx, image, cs, os))
		images = append(images, image)
	}
	say := func(n, at int) {
		ms := make(map[pratique.ComponentID][]pratique.Vulnerability)
		for i, c := range cs {
			ms[c.ID()] = nil
			if (i+n)%3 != 0 {
				ms[c.ID()] = []pratique.Vulnerability{{ID: fmt.Sprint("CVE-", i%5), Severity: []pratique.Severity{"LOW", "HIGH"}[(i+n)%2], Status: "affected"}}
			}
		}
		must(s.Begin(ctx, engine(n)))
		_, err := s.PutMatches(ctx, engine(n), when.Add(time.Duration(at)*time.Minute), ms)
		must(err)
	}
	report := func(name string, n, at int, state pratique.State) {
		_, err := s.PutReport(ctx, pratique.Report{Image: digest.FromString(name), State: state, Engine: engine(n), ScannedAt: when.Add(time.Duration(at) * time.Minute),
			Findings: []pratique.Finding{{ID: "key", Kind: pratique.KindSecret, Path: "p", Severity: "HIGH"}}})
		must(err)
	}
	put("a", 9, 0)
	put("b", 5, 3)
	put("c", 0, 0)
	say(1, 1)
	report("a", 1, 2, pratique.StateScanned)
	report("b", 1, 3, pratique.StateScanned)
	report("c", 1, 3, pratique.StateFailed)
	must(s.Advance(ctx, engine(1), when.Add(4*time.Minute)))
	say(2, 5)
	put("a", 6, 5)
	report("a", 2, 6, pratique.StateScanned)
	must(s.Advance(ctx, engine(2), when.Add(7*time.Minute)))
	say(1, 8)
	put("b", 7, 1)
	must(s.PutInventory(ctx, digest.FromString("layer"), "trivy v0.74.0/a=1 …", pratique.Inventory{Layer: digest.FromString("layer"), Size: 5}))
	must(s.PutInventory(ctx, digest.FromString("layer"), "", pratique.Inventory{Size: 6}))
	return images
}

func copyFleet(ctx context.Context, from, to store.Dumper) error {
	for _, kind := range []store.Kind{store.KindInventories, store.KindComponents, store.KindChunks, store.KindFleet, store.KindMatches, store.KindScanned, store.KindReports} {
		var rs []store.Record
		for r, err := range from.Dump(ctx, kind, "") {
			if err != nil {
				return err
			}
			rs = append(rs, r)
		}
		for len(rs) > 0 {
			n := min(3, len(rs))
			if err := to.Load(ctx, kind, rs[:n]); err != nil {
				return err
			}
			rs = rs[n:]
		}
	}
	return nil
}

// fleetTells is what a state answers.
func fleetTells(t *testing.T, s fleetState, images []digest.Digest) map[string]any {
	t.Helper()
	ctx, out := t.Context(), make(map[string]any)
	for _, d := range images {
		r, err := s.Report(ctx, d)
		out["report "+d.String()], out["no report "+d.String()] = r, err != nil
		os, _, err := s.Occurrences(ctx, d)
		out["occurrences "+d.String()], out["no occurrences "+d.String()] = os, err != nil
	}
	current, since, err := s.Current(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out["current"], out["since"] = current, since
	var ids []pratique.ComponentID
	names := make(map[pratique.ComponentID]bool)
	for c, err := range s.AllComponents(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ID())
		names[c.ID()] = true
		with, err := s.ImagesWith(ctx, ids[len(ids)-1:])
		if err != nil {
			t.Fatal(err)
		}
		out["images with "+string(c.ID())] = with
	}
	out["components"] = names
	for what, e := range map[string]pratique.Engine{"current": current, "other": {Version: "v1"}} {
		if out["matches of "+what], err = s.Matches(ctx, e, ids); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		with := make(map[pratique.ComponentID]bool)
		for c, err := range s.ComponentsByVulnerability(ctx, []string{fmt.Sprint("CVE-", i)}) {
			if err != nil {
				t.Fatal(err)
			}
			with[c.ID()] = true
		}
		out[fmt.Sprint("with CVE-", i)] = with
		named := 0
		for _, err := range s.ComponentsByKey(ctx, []string{fmt.Sprint("package", i)}) {
			if err != nil {
				t.Fatal(err)
			}
			named++
		}
		out[fmt.Sprint("named package", i)] = named
	}
	for _, analyzer := range []string{"trivy v0.74.0/a=1 …", "", "x"} {
		inv, err := s.Inventory(ctx, digest.FromString("layer"), analyzer)
		out["inventory by "+analyzer], out["no inventory by "+analyzer] = inv, err != nil
	}
	return out
}

// TestFleetMoves: a state that is dumped and loaded elsewhere tells the same there, and
// loading it twice changes nothing.
func TestFleetMoves(t *testing.T) {
	modes(t, func(t *testing.T, url string) {
		file, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		images := fleetStory(t, file)
		want := fleetTells(t, file, images)
		own := newWorld(t, url).replica()
		fleetStory(t, own)
		check := func(what string, s fleetState) {
			t.Helper()
			if d := cmp.Diff(want, fleetTells(t, s, images), cmpopts.EquateEmpty()); d != "" {
				t.Errorf("%s (-want +got):\n%s", what, d)
			}
		}
		check("its own story", own)
		loaded := newWorld(t, url).replica()
		back, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = back.Close() })
		for range 2 {
			if err := copyFleet(t.Context(), file, loaded); err != nil {
				t.Fatal(err)
			}
			check("from a file", loaded)
			if err := copyFleet(t.Context(), own, back); err != nil {
				t.Fatal(err)
			}
			check("into a file", back)
		}
	})
}
