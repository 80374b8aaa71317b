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

// Usage checks an implementation of store.Usage that is a catalog and keeps pulls
// and tags too.
func Usage[T interface {
	store.Catalog
	store.Tags
	store.Pulls
	store.Usage
}](t *testing.T, fresh Fresh[T]) {
	tests := map[string]func(t *testing.T, open func() T){
		"Recency": usageRecency[T],
		"Pins":    usagePins[T],
		"Many":    usageMany[T],
		"Failure": usageFailure[T],
	}
	for name, f := range tests {
		t.Run(name, func(t *testing.T) { f(t, fresh(t)) })
	}
}

func uses[T store.Usage](t *testing.T, s T, pins ...string) map[digest.Digest]store.Use {
	t.Helper()
	patterns, err := pratique.ParsePatterns(pins)
	mustBe(t, err)
	var pinned func(pratique.Ref) bool
	if len(pins) > 0 {
		pinned = patterns.Match
	}
	out := map[digest.Digest]store.Use{}
	for u, err := range s.Usage(t.Context(), pinned) {
		mustBe(t, err)
		if _, twice := out[u.Blob]; twice {
			t.Errorf("%s is told twice", u.Blob)
		}
		out[u.Blob] = u
	}
	return out
}

func use(blob, image string, at time.Time) store.Use {
	return store.Use{Blob: sum(blob), Image: sum(image), At: at.UTC()}
}

func usageRecency[T interface {
	store.Catalog
	store.Tags
	store.Pulls
	store.Usage
}](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	same(t, "uses of nothing", uses(t, s), nil)
	day := func(n int) time.Time { return clock.Add(time.Duration(n) * 24 * time.Hour) }
	mustBe(t, s.Link(ctx, ref("r"), image("old", "base", "old top"), day(0)))
	mustBe(t, s.Link(ctx, ref("r"), image("new", "base", "new top"), day(1)))
	mustBe(t, s.Link(ctx, ref("other"), image("new", "base", "new top"), day(2)))
	// A manifest that names another as its layer: that one is no layer to remove.
	mustBe(t, s.Link(ctx, ref("r"), image("odd", "old"), day(0)))
	want := func(us ...store.Use) {
		t.Helper()
		m := map[digest.Digest]store.Use{}
		for _, u := range us {
			m[u.Blob] = u
		}
		same(t, "uses", uses(t, s), m)
	}
	odd := use("config of odd", "odd", day(0))
	want(odd, use("config of old", "old", day(0)), use("old top", "old", day(0)), use("base", "new", day(1)),
		use("config of new", "new", day(1)), use("new top", "new", day(1)))

	// Served counts, also under another name; a refusal does not.
	denied := pulled("new", day(9))
	denied.Outcome = pratique.OutcomeDeny
	mustBe(t, s.Record(ctx, []store.Pull{pulled("old", day(5)), pulled("old", day(4)), denied}))
	s = open()
	want(odd, use("config of old", "old", day(5)), use("old top", "old", day(5)), use("base", "old", day(5)),
		use("config of new", "new", day(1)), use("new top", "new", day(1)))

	// A child that was served is as recent as the index: here "old", and not "new",
	// which nobody ever wanted.
	mustBe(t, s.Link(ctx, ref("r"), index("all", "old", "new", "unknown"), day(6)))
	mustBe(t, s.Record(ctx, []store.Pull{pulled("all", day(7))}))
	want(odd, use("config of old", "old", day(7)), use("old top", "old", day(7)), use("base", "old", day(7)),
		use("config of new", "new", day(1)), use("new top", "new", day(1)))
}

func usagePins[T interface {
	store.Catalog
	store.Tags
	store.Pulls
	store.Usage
}](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	mustBe(t, s.Link(ctx, ref("library/a"), image("a", "base", "a top"), clock))
	mustBe(t, s.Link(ctx, ref("team/b"), image("b", "base", "b top"), clock))
	mustBe(t, s.Link(ctx, ref("team/copy"), image("b", "base", "b top"), clock))
	mustBe(t, s.Link(ctx, ref("team/all"), index("all", "c", "elsewhere"), clock))
	mustBe(t, s.Link(ctx, ref("team/all"), index("outer", "all"), clock))
	mustBe(t, s.Link(ctx, ref("team/all"), image("c", "c top"), clock))
	tag := func(repo, tag, name string) {
		r := ref(repo)
		r.Tag = tag
		mustBe(t, s.SetTag(ctx, r, store.TagState{Digest: sum(name), CheckedAt: clock, ChangedAt: clock}))
	}
	tag("team/b", "3.1", "b")
	tag("team/b", "gone", "")
	tag("team/all", "latest", "outer")
	for _, tt := range []struct {
		pin  string
		want []string // pinned
	}{
		{"docker.io/library/*", []string{"base", "config of a", "a top"}},
		{"docker.io/team/copy", []string{"base", "config of b", "b top"}}, // another name for b
		{"docker.io/team/b:3.*", []string{"base", "config of b", "b top"}},
		{"docker.io/team/b:4.*", nil},
		{"docker.io/team/all:latest", []string{"config of c", "c top"}}, // through the indexes
		{"ghcr.io/**", nil},
		{"**", []string{"base", "config of a", "a top", "config of b", "b top", "config of c", "c top"}},
	} {
		var got, want []digest.Digest
		for _, name := range []string{"base", "config of a", "a top", "config of b", "b top", "config of c", "c top"} {
			u, ok := uses(t, s, tt.pin)[sum(name)]
			if !ok {
				t.Errorf("%s: %s is missing", tt.pin, name)
			}
			if u.Pinned {
				got = append(got, sum(name))
			}
		}
		for _, name := range tt.want {
			want = append(want, sum(name))
		}
		same(t, tt.pin, got, want)
	}
	tag("team/b", "3.1", "a") // it moved
	if uses(t, s, "docker.io/team/b:3.*")[sum("b top")].Pinned {
		t.Error("pinned by a tag that names something else now")
	}
}

// More images and blobs than any page holds.
func usageMany[T interface {
	store.Catalog
	store.Tags
	store.Pulls
	store.Usage
}](t *testing.T, open func() T) {
	s, ctx := open(), t.Context()
	const images, layers = 30, 400
	for i := range images {
		names := make([]string, layers)
		for l := range names {
			names[l] = fmt.Sprint("layer ", i, l)
		}
		names[0] = "base"
		mustBe(t, s.Link(ctx, ref(fmt.Sprint("r", i%3)), image(fmt.Sprint("image", i), names...), clock.Add(time.Duration(i)*time.Second)))
	}
	got := uses(t, s, "docker.io/r1")
	if want := images*layers + 1; len(got) != want {
		t.Errorf("%d blobs, want %d", len(got), want)
	}
	same(t, "base", got[sum("base")], store.Use{Blob: sum("base"), Image: sum("image29"), At: clock.Add(29 * time.Second).UTC(), Pinned: true})
	n := 0
	for range s.Usage(ctx, nil) {
		if n++; n == 3 {
			break
		}
	}
}

func usageFailure[T interface {
	store.Catalog
	store.Tags
	store.Pulls
	store.Usage
}](t *testing.T, open func() T) {
	s := open()
	mustBe(t, s.Link(t.Context(), ref("r"), image("a", "base"), clock))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var failed error
	for _, err := range s.Usage(ended, nil) {
		failed = err
	}
	if failed == nil {
		t.Error("an ended context: an error must not look like an empty store")
	}
}
