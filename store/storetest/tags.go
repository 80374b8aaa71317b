package storetest

import (
	"testing"
	"time"

	"pratique"
	"pratique/store"
)

// Tags checks an implementation of store.Tags.
func Tags[T store.Tags](t *testing.T, fresh Fresh[T]) {
	t.Run("Tag", func(t *testing.T) {
		open := fresh(t)
		s, ctx := open(), t.Context()
		r := pratique.Ref{Registry: "docker.io", Repo: "library/nginx", Tag: "1.27"}
		_, err := s.Tag(ctx, r)
		wantNotFound(t, "Tag before SetTag", err)

		first := store.TagState{Digest: sum("a"), MediaType: pratique.MediaTypeImageIndex, Size: 10, CheckedAt: clock, ChangedAt: clock}
		mustBe(t, s.SetTag(ctx, r, first))
		again := first
		again.CheckedAt, again.ChangedAt = clock.Add(time.Hour), clock.Add(time.Hour)
		mustBe(t, s.SetTag(ctx, r, again))
		got, err := s.Tag(ctx, r)
		mustBe(t, err)
		again.ChangedAt = first.ChangedAt
		same(t, "same digest: ChangedAt is kept", got, again)

		moved := store.TagState{Digest: sum("b"), MediaType: pratique.MediaTypeImageManifest, Size: 11, CheckedAt: clock.Add(2 * time.Hour), ChangedAt: clock.Add(2 * time.Hour)}
		mustBe(t, s.SetTag(ctx, r, moved))
		s = open()
		got, err = s.Tag(ctx, r)
		mustBe(t, err)
		same(t, "moved tag, after reopening", got, moved)

		for _, other := range []pratique.Ref{
			{Registry: "docker.io", Repo: "library/nginx", Tag: "1.28"},
			{Registry: "docker.io", Repo: "library/redis", Tag: "1.27"},
			{Registry: "ghcr.io", Repo: "library/nginx", Tag: "1.27"},
		} {
			_, err := s.Tag(ctx, other)
			wantNotFound(t, other.String(), err)
		}
	})
	t.Run("TagList", func(t *testing.T) {
		open := fresh(t)
		s, ctx := open(), t.Context()
		_, _, err := s.TagList(ctx, ref("r"))
		wantNotFound(t, "TagList before SetTagList", err)
		for i, tags := range [][]string{{"b", "a", "latest"}, {"z"}, {}} { // the upstream's order is kept; an empty list is a list
			when := clock.Add(time.Duration(i) * time.Minute)
			mustBe(t, s.SetTagList(ctx, ref("r"), tags, when))
			s = open()
			got, at, err := s.TagList(ctx, ref("r"))
			mustBe(t, err)
			same(t, "TagList after reopening", got, tags)
			same(t, "fetched", at, when)
		}
		_, _, err = s.TagList(ctx, ref("other"))
		wantNotFound(t, "another repository's list", err)
	})
}
