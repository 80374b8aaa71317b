package storetest

import (
	"context"
	"fmt"
	"testing"

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

func componentsMatches[T store.Components](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	x, y, z := component("x"), component("y"), component("z")
	ids := []pratique.ComponentID{x.ID(), y.ID(), z.ID(), x.ID()}
	mustBe(t, s.PutImage(ctx, sum("a"), []pratique.Component{x, y, z}, nil))
	got, err := s.Matches(ctx, sum("db1"), ids)
	mustBe(t, err)
	same(t, "nothing matched yet", got, map[pratique.ComponentID][]pratique.Vulnerability{})

	vs := []pratique.Vulnerability{{ID: "CVE-1", Fixed: "1.1", Status: "fixed", Severity: pratique.SeverityHigh, CVSS: 7.5, VendorIDs: []string{"DSA-1"}}, {ID: "CVE-2", Status: "affected", Severity: pratique.SeverityUnknown}}
	mustBe(t, s.PutMatches(ctx, sum("db1"), map[pratique.ComponentID][]pratique.Vulnerability{x.ID(): vs, y.ID(): nil}))
	s = open()
	got, err = s.Matches(ctx, sum("db1"), ids)
	mustBe(t, err)
	same(t, "after reopening", got, map[pratique.ComponentID][]pratique.Vulnerability{x.ID(): vs, y.ID(): {}})
	if _, ok := got[y.ID()]; !ok {
		t.Error("matched without findings is absent: it would be matched again for ever")
	}
	if _, ok := got[z.ID()]; ok {
		t.Error("not matched is present: it would read as clean")
	}
	got, err = s.Matches(ctx, sum("db2"), ids)
	mustBe(t, err)
	same(t, "another database has matched nothing", len(got), 0)

	mustBe(t, s.PutMatches(ctx, sum("db2"), map[pratique.ComponentID][]pratique.Vulnerability{x.ID(): vs[:1]}))
	got, err = s.Matches(ctx, sum("db2"), ids)
	mustBe(t, err)
	same(t, "the newer database", got, map[pratique.ComponentID][]pratique.Vulnerability{x.ID(): vs[:1]})
	got, err = s.Matches(ctx, sum("db1"), ids)
	mustBe(t, err)
	if found, ok := got[x.ID()]; ok { // may be dropped, must not be mixed up
		same(t, "the older database", found, vs)
	}
	if _, ok := got[y.ID()]; !ok {
		t.Error("results for ids that were not put again are dropped")
	}
	got, err = s.Matches(ctx, sum("db1"), nil)
	mustBe(t, err)
	same(t, "no ids", len(got), 0)
	if _, err := s.Matches(ctx, sum("db1"), []pratique.ComponentID{"not hex"}); err == nil && len(got) > 0 {
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
		if err := s.PutMatches(ctx, sum("db"), map[pratique.ComponentID][]pratique.Vulnerability{shared.ID(): nil, own.ID(): {{ID: fmt.Sprint("CVE-", i)}}}); err != nil {
			return err
		}
		os, cs, err := s.Occurrences(ctx, img)
		if err != nil {
			return err
		}
		if len(os) != 2 || len(cs) != 2 {
			return fmt.Errorf("image %d: %d occurrences of %d components", i, len(os), len(cs))
		}
		ms, err := s.Matches(ctx, sum("db"), []pratique.ComponentID{shared.ID(), own.ID()})
		if err != nil {
			return err
		}
		if len(ms) != 2 || len(ms[own.ID()]) != 1 {
			return fmt.Errorf("image %d: matches %v", i, ms)
		}
		return nil
	})
}
