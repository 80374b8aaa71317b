package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Near runs the suite of store.Near.
func Near[T interface {
	Joined
	store.Near
}](t *testing.T, fresh Fresh[T]) {
	open := fresh(t)
	s, ctx := open(), t.Context()
	bases := []pratique.Component{component("base0"), component("base1"), component("base2")}
	var all []digest.Digest
	base := map[digest.Digest]int{}
	for i := range 30 {
		img, own := sum(fmt.Sprint("image", i)), component(fmt.Sprint("own", i))
		lower, upper := occurrence(bases[i%3], ""), occurrence(own, "")
		lower.Layer, upper.Layer = sum(fmt.Sprint("base", i%3)), sum(fmt.Sprint("app", i))
		mustBe(t, s.PutImage(ctx, img, []pratique.Component{bases[i%3], own}, []pratique.Occurrence{lower, upper}))
		all = append(all, img)
		base[img] = i % 3
	}
	ms := matches{}
	for i := range 30 {
		ms[component(fmt.Sprint("own", i)).ID()] = nil
	}
	for _, b := range bases {
		ms[b.ID()] = nil
	}
	put(t, s, engine(1), clock.Add(time.Hour), ms)
	unknown := sum("unknown")
	asked := append(slices.Clone(all), unknown, all[0])
	got, err := s.Near(ctx, asked)
	mustBe(t, err)
	if len(got) != len(all)+1 || got[len(got)-1] != unknown {
		t.Fatalf("%d digests, the last %s; want each once and the unknown one at the end", len(got), got[len(got)-1])
	}
	moves := 0
	for i, d := range got[1:len(all)] {
		if base[d] != base[got[i]] {
			moves++
		}
	}
	if moves != len(bases)-1 {
		t.Errorf("the base changes %d times along %d images of %d bases", moves, len(all), len(bases))
	}
	slices.Sort(all)
	got = slices.DeleteFunc(got, func(d digest.Digest) bool { return d == unknown })
	slices.Sort(got)
	same(t, "the same images", got, all)
	none, err := s.Near(ctx, nil)
	mustBe(t, err)
	same(t, "none", len(none), 0)
}
