package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pratique"
	"pratique/store"
)

// Inventories checks an implementation of store.Inventories.
func Inventories[T store.Inventories](t *testing.T, fresh Fresh[T]) {
	inv := pratique.Inventory{
		Layer: sum("layer"), DiffID: sum("tar"), Size: 123456, Analyzer: "trivy-1",
		OS:          pratique.OS{Family: "debian", Name: "12.5"},
		OpaqueDirs:  []string{"var/cache"},
		PackageSets: []pratique.PackageSet{{Path: "var/lib/dpkg/status", Packages: []pratique.Package{{Name: "libc6", Version: "2.36", BuildInfo: &pratique.BuildInfo{NVR: "x"}}}}},
		Problems:    []pratique.Problem{{Source: "dpkg", Message: "malformed"}},
	}
	t.Run("Put", func(t *testing.T) {
		open := fresh(t)
		s, ctx := open(), t.Context()
		_, err := s.Inventory(ctx, inv.Layer, "trivy-1")
		wantNotFound(t, "Inventory before PutInventory", err)
		mustBe(t, s.PutInventory(ctx, inv.Layer, "trivy-1", inv))
		s = open()
		got, err := s.Inventory(ctx, inv.Layer, "trivy-1")
		mustBe(t, err)
		same(t, "Inventory after reopening", got, inv)
		_, err = s.Inventory(ctx, inv.Layer, "trivy-2")
		wantNotFound(t, "another analyzer's", err)
		_, err = s.Inventory(ctx, inv.DiffID, "trivy-1")
		wantNotFound(t, "by the diffID", err)
	})
	t.Run("FirstStands", func(t *testing.T) {
		s, ctx := fresh(t)(), t.Context()
		mustBe(t, s.PutInventory(ctx, inv.Layer, "trivy-1", inv))
		mustBe(t, s.PutInventory(ctx, inv.Layer, "trivy-1", pratique.Inventory{Layer: inv.Layer, Analyzer: "trivy-1"}))
		got, err := s.Inventory(ctx, inv.Layer, "trivy-1")
		mustBe(t, err)
		same(t, "the first one stands", got, inv)
	})
}

func component(name string) pratique.Component {
	return pratique.Component{
		Context: pratique.Context{Class: pratique.ClassOS, Type: "debian", Name: "12", Repository: &pratique.Repository{Family: "debian", Release: "12"}},
		Name:    name, Version: "1.0", Epoch: 1, Arch: "amd64", SrcName: name + "-src",
	}
}

func occurrence(c pratique.Component, path string) pratique.Occurrence {
	return pratique.Occurrence{Component: c.ID(), Installed: "1:1.0", Path: path, Layer: sum("layer"), PURL: "pkg:deb/debian/" + c.Name}
}

// Components checks an implementation of store.Components.
func Components[T store.Components](t *testing.T, fresh Fresh[T]) {
	t.Run("Image", func(t *testing.T) { componentsImage(t, fresh(t)) })
	t.Run("Matches", func(t *testing.T) { componentsMatches(t, fresh(t)) })
	t.Run("Concurrent", func(t *testing.T) { componentsConcurrent(t, fresh(t)()) })
}

func componentsImage[T store.Components](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	_, _, err := s.Occurrences(ctx, sum("a"))
	wantNotFound(t, "Occurrences before PutImage", err)

	x, y, z := component("x"), component("y"), component("z")
	check := func(what string, img string, want []pratique.Occurrence, cs ...pratique.Component) {
		t.Helper()
		os, byID, err := s.Occurrences(ctx, sum(img))
		mustBe(t, err)
		same(t, what+": occurrences", os, want)
		wantByID := make(map[pratique.ComponentID]pratique.Component)
		for _, c := range cs {
			wantByID[c.ID()] = c
		}
		same(t, what+": components", byID, wantByID)
	}
	a := []pratique.Occurrence{occurrence(x, "p1"), occurrence(y, "p2"), occurrence(x, "p3")}
	b := []pratique.Occurrence{occurrence(y, "q")}
	mustBe(t, s.PutImage(ctx, sum("a"), []pratique.Component{x, y}, a))
	mustBe(t, s.PutImage(ctx, sum("b"), []pratique.Component{y}, b))
	check("two images", "a", a, x, y)
	s = open()
	check("after reopening", "a", a, x, y)
	a2 := []pratique.Occurrence{occurrence(z, "p1"), occurrence(y, "p9")}
	mustBe(t, s.PutImage(ctx, sum("a"), []pratique.Component{y, z}, a2))
	check("replaced", "a", a2, y, z)
	check("another image is left alone", "b", b, y)
	mustBe(t, s.PutImage(ctx, sum("a"), nil, nil))
	check("an image of no components is known", "a", nil)
	mustBe(t, s.PutImage(ctx, sum("a"), []pratique.Component{x, y}, a))
	check("and back", "a", a, x, y)

	if err := s.PutImage(ctx, sum("c"), []pratique.Component{x}, []pratique.Occurrence{occurrence(z, "p")}); err == nil {
		t.Error("an occurrence of a component that was not given is stored: it would have no findings for ever")
	}
}

// engine is the n-th database.
func engine(n int) pratique.Engine {
	return pratique.Engine{Version: "v0.74.0", Database: sum(fmt.Sprint("db", n)), DatabaseAt: clock.Add(time.Duration(n) * time.Hour)}
}

type matches = map[pratique.ComponentID][]pratique.Vulnerability

func componentsMatches[T store.Components](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	x, y, z := component("x"), component("y"), component("z")
	ids := []pratique.ComponentID{x.ID(), y.ID(), z.ID(), x.ID()}
	put := func(what string, e pratique.Engine, ms matches, want ...pratique.ComponentID) {
		t.Helper()
		changed, err := s.PutMatches(ctx, e, clock, ms)
		mustBe(t, err)
		same(t, what+": changed", changed, want)
	}
	is := func(what string, e pratique.Engine, want matches) {
		t.Helper()
		got, err := s.Matches(ctx, e, ids)
		mustBe(t, err)
		same(t, what, got, want)
	}
	mustBe(t, s.PutImage(ctx, sum("a"), []pratique.Component{x, y, z}, nil))
	is("nothing matched yet", engine(1), matches{})

	vs := []pratique.Vulnerability{{ID: "CVE-1", Fixed: "1.1", Status: "fixed", Severity: pratique.SeverityHigh, CVSS: 7.5, Title: "t", URL: "u", Source: "s", VendorIDs: []string{"DSA-1"}}, {ID: "CVE-2", Status: "affected", Severity: pratique.SeverityUnknown}}
	put("the first time", engine(1), matches{x.ID(): vs, y.ID(): nil})
	s = open()
	is("after reopening: one without findings is there, one that was not matched is not", engine(1), matches{x.ID(): vs, y.ID(): {}})
	is("another database has matched nothing", engine(2), matches{})

	put("the same", engine(1), matches{x.ID(): vs, y.ID(): {}})
	put("another database", engine(2), matches{x.ID(): vs[:1], y.ID(): {}}, x.ID())
	is("the newer database", engine(2), matches{x.ID(): vs[:1], y.ID(): {}})
	is("of the older one nothing is known any more", engine(1), matches{})
	_, err := s.PutMatches(ctx, engine(1), clock, matches{x.ID(): vs})
	if !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("an engine that was overtaken: %v", err)
	}
	_, err = s.PutMatches(ctx, engine(0), clock, matches{x.ID(): vs})
	if !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("an older engine that was never begun: %v", err)
	}
	is("neither was stored", engine(2), matches{x.ID(): vs[:1], y.ID(): {}})
	_, err = s.PutMatches(ctx, engine(2), clock, matches{component("nowhere").ID(): vs})
	if !errors.Is(err, pratique.ErrInvalid) {
		t.Errorf("a component of no image: %v", err)
	}
	put("back, and one more", engine(2), matches{x.ID(): {vs[1], vs[0]}, z.ID(): vs}, x.ID())
	is("back, and one more", engine(2), matches{x.ID(): {vs[1], vs[0]}, y.ID(): {}, z.ID(): vs})
	title := slices.Clone(vs)
	title[0].Title = "another"
	put("another title", engine(2), matches{z.ID(): title}, z.ID())
	put("nothing", engine(2), matches{z.ID(): nil}, z.ID())
	is("nothing", engine(2), matches{x.ID(): {vs[1], vs[0]}, y.ID(): {}, z.ID(): {}})
	got, err := s.Matches(ctx, engine(2), nil)
	mustBe(t, err)
	same(t, "no ids", len(got), 0)
	if _, err := s.Matches(ctx, engine(2), []pratique.ComponentID{"not hex"}); err == nil && len(got) > 0 {
		t.Error("a broken id matches")
	}
}

func componentsConcurrent[T store.Components](t *testing.T, s T) {
	const n = 12
	concurrently(t, n, func(ctx context.Context, i int) error {
		shared, own := component("shared"), component(fmt.Sprint("own", i))
		img := sum(fmt.Sprint("image", i))
		want := []pratique.Occurrence{occurrence(shared, "s"), occurrence(own, "o")}
		if err := s.PutImage(ctx, img, []pratique.Component{shared, own}, want); err != nil {
			return err
		}
		if _, err := s.PutMatches(ctx, engine(1), clock, matches{shared.ID(): nil, own.ID(): {{ID: fmt.Sprint("CVE-", i)}}}); err != nil {
			return err
		}
		os, cs, err := s.Occurrences(ctx, img)
		if err != nil {
			return err
		}
		if len(os) != 2 || len(cs) != 2 {
			return fmt.Errorf("image %d: %d occurrences of %d components", i, len(os), len(cs))
		}
		ms, err := s.Matches(ctx, engine(1), []pratique.ComponentID{shared.ID(), own.ID()})
		if err != nil {
			return err
		}
		if len(ms) != 2 || len(ms[own.ID()]) != 1 {
			return fmt.Errorf("image %d: matches %v", i, ms)
		}
		return nil
	})
}
