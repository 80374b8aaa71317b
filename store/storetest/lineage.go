package storetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// history is what Lineage is told by and tells.
type history interface {
	store.Catalog
	store.Tags
	store.Lineage
}

// Lineage checks an implementation of store.Lineage that is a store.Catalog and
// a store.Tags too. If it is a store.Stamper, its stamps are checked.
func Lineage[T history](t *testing.T, fresh Fresh[T]) {
	tests := map[string]func(t *testing.T, open func() T){
		"Spans":      lineageSpans[T],
		"Children":   lineageChildren[T],
		"TagsSeen":   lineageTagsSeen[T],
		"Bases":      lineageBases[T],
		"BaseRefs":   lineageBaseRefs[T],
		"ManyLayers": lineageManyLayers[T],
		"Stamps":     lineageStamps[T],
		"Concurrent": lineageConcurrent[T],
	}
	for name, f := range tests {
		t.Run(name, func(t *testing.T) { f(t, fresh(t)) })
	}
}

func hour(n int) time.Time { return clock.Add(time.Duration(n) * time.Hour) }

func tagged(repo, tag string) pratique.Ref {
	return pratique.Ref{Registry: "docker.io", Repo: repo, Tag: tag}
}

// names says at an hour that the tag names what is called name; "" is nothing.
func names[T history](t *testing.T, s T, ref pratique.Ref, name string, h int) {
	t.Helper()
	state := store.TagState{MediaType: pratique.MediaTypeImageManifest, Size: 1, CheckedAt: hour(h), ChangedAt: hour(h)}
	if name != "" {
		state.Digest = sum(name)
	}
	mustBe(t, s.SetTag(t.Context(), ref, state))
}

func tagsOf[T history](t *testing.T, s T, repo, name string) []store.TagSpan {
	t.Helper()
	out, err := s.TagsOf(t.Context(), ref(repo).At(sum(name)))
	mustBe(t, err)
	return out
}

func span(tag, name string, first, last int, now string, moved int) store.TagSpan {
	s := store.TagSpan{Tag: tag, Digest: sum(name), FirstAt: hour(first), LastAt: hour(last)}
	if now != "" {
		s.Now = sum(now)
	}
	if name != now {
		s.MovedAt = hour(moved)
	}
	return s
}

func lineageSpans[T history](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	same(t, "TagsOf before any", tagsOf(t, s, "r", "a"), nil)
	none, err := s.TagHistory(ctx, tagged("r", "1"))
	mustBe(t, err)
	same(t, "TagHistory before any", none, nil)

	names(t, s, tagged("r", "1"), "a", 0)
	same(t, "named", tagsOf(t, s, "r", "a"), []store.TagSpan{span("1", "a", 0, 0, "a", 0)})
	names(t, s, tagged("r", "1"), "a", 3)
	names(t, s, tagged("r", "1.0"), "a", 4)
	names(t, s, tagged("other", "1"), "a", 4)
	same(t, "confirmed, and by another tag", tagsOf(t, s, "r", "a"), []store.TagSpan{span("1", "a", 0, 3, "a", 0), span("1.0", "a", 4, 4, "a", 0)})
	names(t, s, tagged("r", "1"), "b", 5)
	names(t, s, tagged("r", "1"), "c", 7)
	s = open()
	same(t, "moved, and moved on: it is left since the first", tagsOf(t, s, "r", "a"), []store.TagSpan{span("1", "a", 0, 3, "c", 5), span("1.0", "a", 4, 4, "a", 0)})
	got, err := s.TagHistory(ctx, tagged("r", "1"))
	mustBe(t, err)
	same(t, "TagHistory", got, []store.TagSpan{span("1", "a", 0, 3, "c", 5), span("1", "b", 5, 5, "c", 7), span("1", "c", 7, 7, "c", 0)})

	names(t, s, tagged("r", "1"), "a", 8)
	names(t, s, tagged("r", "1"), "a", 9)
	same(t, "moved back", tagsOf(t, s, "r", "a")[:1], []store.TagSpan{span("1", "a", 0, 9, "a", 0)})
	same(t, "what it left for that", tagsOf(t, s, "r", "c"), []store.TagSpan{span("1", "c", 7, 7, "a", 8)})
	names(t, s, tagged("r", "1"), "", 10)
	names(t, s, tagged("r", "1"), "", 12)
	same(t, "gone", tagsOf(t, s, "r", "a")[:1], []store.TagSpan{span("1", "a", 0, 9, "", 10)})
	same(t, "gone for what it named before", tagsOf(t, s, "r", "b"), []store.TagSpan{span("1", "b", 5, 5, "", 7)})
	names(t, s, tagged("r", "1"), "d", 13)
	same(t, "there again", tagsOf(t, s, "r", "a")[:1], []store.TagSpan{span("1", "a", 0, 9, "d", 10)})
	names(t, s, tagged("r", "never"), "", 13)
	got, err = s.TagHistory(ctx, tagged("r", "never"))
	mustBe(t, err)
	same(t, "a tag that never named anything", got, nil)
	same(t, "another repository", tagsOf(t, s, "other", "a"), []store.TagSpan{span("1", "a", 4, 4, "a", 0)})
	same(t, "a repository unheard of", tagsOf(t, s, "unknown", "a"), nil)

	ended, cancel := context.WithCancel(ctx)
	cancel()
	if got, err := s.TagsOf(ended, ref("r").At(sum("a"))); err == nil {
		t.Errorf("TagsOf with an ended context = %v: an error must not look like none", got)
	}
}

// lineageChildren: what a tag says of an index it says of the index's children.
func lineageChildren[T history](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	names(t, s, tagged("r", "1"), "i1", 0)
	same(t, "before the index is known", tagsOf(t, s, "r", "amd"), nil)
	mustBe(t, s.Link(ctx, ref("r"), index("i1", "amd", "arm"), clock))
	mustBe(t, s.Link(ctx, ref("r"), index("i2", "amd", "arm2"), clock))
	mustBe(t, s.Link(ctx, ref("r"), index("i3", "amd3"), clock))
	mustBe(t, s.Link(ctx, ref("r"), index("nested", "i1"), clock))
	same(t, "child", tagsOf(t, s, "r", "arm"), []store.TagSpan{span("1", "arm", 0, 0, "arm", 0)})
	names(t, s, tagged("r", "1"), "i2", 2) // only arm was built again
	s = open()
	same(t, "child of both", tagsOf(t, s, "r", "amd"), []store.TagSpan{span("1", "amd", 0, 2, "amd", 0)})
	same(t, "child that was replaced", tagsOf(t, s, "r", "arm"), []store.TagSpan{span("1", "arm", 0, 0, "i2", 2)})
	names(t, s, tagged("r", "1"), "i3", 5)
	same(t, "child of neither now", tagsOf(t, s, "r", "amd"), []store.TagSpan{span("1", "amd", 0, 2, "i3", 5)})
	same(t, "child that was replaced before", tagsOf(t, s, "r", "arm"), []store.TagSpan{span("1", "arm", 0, 0, "i3", 2)})
	names(t, s, tagged("r", "deep"), "nested", 6)
	same(t, "child of a child", tagsOf(t, s, "r", "arm")[1:], []store.TagSpan{span("deep", "arm", 6, 6, "arm", 0)})
	same(t, "another repository", tagsOf(t, s, "other", "arm"), nil)
}

func lineageTagsSeen[T history](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	seen := func(repo string) map[string]time.Time {
		t.Helper()
		got, err := s.TagsSeen(ctx, ref(repo))
		mustBe(t, err)
		return got
	}
	same(t, "TagsSeen before any", seen("r"), nil)
	mustBe(t, s.SetTagList(ctx, ref("r"), []string{"1", "2"}, hour(0)))
	mustBe(t, s.SetTagList(ctx, ref("r"), []string{"2", "3", "3"}, hour(1)))
	mustBe(t, s.SetTagList(ctx, ref("r"), nil, hour(2)))
	s = open()
	mustBe(t, s.SetTagList(ctx, ref("r"), []string{"1", "3", "4"}, hour(3)))
	mustBe(t, s.SetTagList(ctx, ref("other"), []string{"1"}, hour(9)))
	names(t, s, tagged("r", "named"), "a", 0) // in no list
	same(t, "TagsSeen", seen("r"), map[string]time.Time{"1": hour(0), "2": hour(0), "3": hour(1), "4": hour(3)})
	same(t, "another repository's", seen("other"), map[string]time.Time{"1": hour(9)})

	many := make([]string, 5_000)
	want := make(map[string]time.Time, len(many))
	for i := range many {
		many[i] = fmt.Sprint("v", i)
		want[many[i]] = hour(4)
	}
	mustBe(t, s.SetTagList(ctx, ref("many"), many, hour(4)))
	same(t, "many", len(seen("many")), len(want))
	same(t, "many", seen("many"), want)
}

// bases are the references BasesOf gives, best first.
func bases[T history](t *testing.T, s T, img pratique.Image) []string {
	t.Helper()
	ks, err := s.BasesOf(t.Context(), img)
	mustBe(t, err)
	var out []string
	for _, k := range ks {
		if k.Ref.Digest != k.Image.Digest || k.Image.FirstSeen.IsZero() {
			t.Errorf("known through %s, first seen %s, manifest %s", k.Ref, k.Image.FirstSeen, k.Image.Digest)
		}
		out = append(out, k.Ref.Repo+":"+k.Ref.Tag)
	}
	return out
}

func lineageBases[T history](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	for _, img := range []pratique.Image{
		image("one", "l1"), image("two", "l1", "l2"), image("three", "l1", "l2", "l3"), // bases of each other
		image("same", "l1", "l2", "l3", "l4"),
		image("swapped", "l2", "l1"), image("upper", "l2", "l3"), image("longer", "l1", "l2", "l3", "l4", "l5", "l6"), // none
		image("untagged", "l1", "l2", "l3", "l4", "l5"),
		image("empty"),
	} {
		mustBe(t, s.Link(ctx, ref("known"), img, clock))
	}
	artifact := image("artifact", "l1", "l2")
	artifact.Kind = pratique.KindArtifact
	mustBe(t, s.Link(ctx, ref("known"), artifact, clock))
	app := image("app", "l1", "l2", "l3", "l4", "l5")
	same(t, "nothing that a tag named", bases(t, s, app), nil)
	for _, n := range []string{"one", "two", "three", "same", "swapped", "upper", "longer", "empty", "artifact"} {
		names(t, s, tagged("r", n), n, 0)
	}
	s = open()
	same(t, "BasesOf an image that is not known itself", bases(t, s, app), []string{"r:same", "r:three", "r:two", "r:one"})
	same(t, "fewer layers only", bases(t, s, image("x", "l1", "l2")), []string{"r:one"})
	same(t, "one layer", bases(t, s, image("x", "l1")), nil)
	same(t, "no layers", bases(t, s, pratique.Image{}), nil)
	same(t, "other layers", bases(t, s, image("x", "l9", "l2", "l3")), nil)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if got, err := s.BasesOf(ended, app); err == nil {
		t.Errorf("BasesOf with an ended context = %v: an error must not look like none", got)
	}
}

// lineageBaseRefs: bases are mostly children of an index, and each comes with one
// of its tags, rather one that moved on.
func lineageBaseRefs[T history](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	app := image("app", "l1", "l2")
	mustBe(t, s.Link(ctx, ref("debian"), image("base", "l1"), clock))
	names(t, s, tagged("debian", "12.1"), "i1", 0)
	same(t, "an index that is not known", bases(t, s, app), nil)
	mustBe(t, s.Link(ctx, ref("debian"), index("i1", "base", "arm"), clock))
	same(t, "child of a tagged index", bases(t, s, app), []string{"debian:12.1"})
	names(t, s, tagged("debian", "gone"), "i1", 0)
	names(t, s, tagged("debian", "gone"), "", 9)
	same(t, "rather named than gone", bases(t, s, app), []string{"debian:12.1"})
	names(t, s, tagged("debian", "12"), "i1", 1)
	names(t, s, tagged("debian", "12"), "i2", 4)
	s = open()
	same(t, "rather moved on than named", bases(t, s, app), []string{"debian:12"})
	names(t, s, tagged("debian", "nightly"), "base", 3)
	names(t, s, tagged("debian", "nightly"), "i9", 5)
	same(t, "the last that moved on", bases(t, s, app), []string{"debian:nightly"})
	names(t, s, tagged("own", "base"), "base", 6)
	same(t, "one for each repository", bases(t, s, app), []string{"debian:nightly", "own:base"})
}

func lineageManyLayers[T history](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	var layers, want []string
	for i := range 127 {
		layers = append(layers, fmt.Sprint("layer", i))
		name := fmt.Sprint("img", i)
		mustBe(t, s.Link(ctx, ref("r"), image(name, layers...), clock))
		names(t, s, tagged("r", name), name, 0)
		if i < 100 { // those with most layers of the 126 below
			want = append(want, fmt.Sprint("r:img", 125-i))
		}
	}
	s = open()
	same(t, "BasesOf", bases(t, s, image("img126", layers...)), want)
}

// lineageStamps: whoever keeps what Lineage said must learn of what changes it.
func lineageStamps[T history](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	stamper, ok := any(s).(store.Stamper)
	if !ok {
		return
	}
	moves := func(what string, write func(), ds ...string) {
		t.Helper()
		before := make(map[string]uint64)
		for _, d := range ds {
			before[d] = stamper.Stamp(sum(d))
		}
		write()
		for _, d := range ds {
			if stamper.Stamp(sum(d)) == before[d] {
				t.Errorf("%s: the stamp of %s did not move", what, d)
			}
		}
	}
	mustBe(t, s.Link(ctx, ref("r"), image("app", "l1", "l2", "l3"), clock))
	moves("first", func() { names(t, s, tagged("r", "1"), "i1", 0) }, "i1")
	moves("an index becomes known", func() { mustBe(t, s.Link(ctx, ref("r"), index("i1", "base", "arm"), clock)) }, "i1", "base", "arm")
	moves("a base becomes known", func() { mustBe(t, s.Link(ctx, ref("r"), image("base", "l1", "l2"), clock)) }, "base", "app")
	moves("moved", func() { names(t, s, tagged("r", "1"), "i2", 1) }, "i1", "i2", "base", "arm", "app")
	moves("moved on: what it named before is not what it names, either", func() { names(t, s, tagged("r", "1"), "i3", 2) }, "i1", "i2", "i3", "base", "app")
	moves("gone", func() { names(t, s, tagged("r", "1"), "", 3) }, "i1", "i2", "i3", "app")
	moves("the index of a base that is known becomes known", func() {
		names(t, s, tagged("r", "2"), "i4", 4)
		mustBe(t, s.Link(ctx, ref("r"), index("i4", "base"), clock))
	}, "base", "app")

	before := stamper.Stamp(sum("i4"))
	names(t, s, tagged("r", "2"), "i4", 9)
	if stamper.Stamp(sum("i4")) != before {
		t.Error("a tag that was confirmed moved a stamp: memories would be emptied for nothing")
	}
}

func lineageConcurrent[T history](t *testing.T, open func() T) {
	// A tag moves while others look: there is always one thing that it names, and
	// its spans say so.
	s, ctx := open(), t.Context()
	tag := tagged("r", "1")
	names(t, s, tag, "d0", 0)
	concurrently(t, 8, func(ctx context.Context, i int) error {
		for j := range 20 {
			if i%2 == 0 {
				state := store.TagState{Digest: sum(fmt.Sprint("d", (i+j)%5)), CheckedAt: hour(j), ChangedAt: hour(j)}
				if err := s.SetTag(ctx, tag, state); err != nil {
					return err
				}
				continue
			}
			spans, err := s.TagHistory(ctx, tag)
			if err != nil {
				return err
			}
			current := 0
			for _, sp := range spans {
				if sp.Now == sp.Digest && sp.MovedAt.IsZero() {
					current++
				}
			}
			if current != 1 {
				return fmt.Errorf("the tag names %d of %+v", current, spans)
			}
		}
		return nil
	})
	spans, err := s.TagHistory(ctx, tag)
	mustBe(t, err)
	seen := make(map[digest.Digest]bool)
	for _, sp := range spans {
		if seen[sp.Digest] {
			t.Errorf("two spans of %s", sp.Digest)
		}
		seen[sp.Digest] = true
	}
}
