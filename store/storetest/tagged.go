package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/store"
)

// Tagged checks an implementation of store.Tagged, which store.Tags feeds.
func Tagged[S interface {
	store.Tags
	store.Tagged
}](t *testing.T, fresh func(t *testing.T) (open func() S)) {
	s, ctx, at := fresh(t)(), t.Context(), time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	list := func() []string {
		t.Helper()
		var out []string
		for ref, err := range s.Tagged(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, ref.Repository()+":"+ref.Tag+" "+ref.Digest.Encoded()[:6])
			if _, err := s.Tag(ctx, ref); err != nil { // the body may use the store
				t.Fatal(err)
			}
		}
		return out
	}
	set := func(repo, tag string, d digest.Digest) {
		t.Helper()
		if err := s.SetTag(ctx, pratique.Ref{Registry: "docker.io", Repo: repo, Tag: tag}, store.TagState{Digest: d, CheckedAt: at, ChangedAt: at}); err != nil {
			t.Fatal(err)
		}
	}
	if got := list(); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
	var want []string
	for i := range 600 { // more than a page of any implementation
		tag := fmt.Sprintf("v%04d", i)
		d := digest.FromString(tag)
		set("library/a", tag, d)
		want = append(want, "docker.io/library/a:"+tag+" "+d.Encoded()[:6])
	}
	gone, moved := digest.FromString("gone"), digest.FromString("moved")
	set("library/b", "gone", gone)
	set("library/b", "gone", "")
	set("library/b", "latest", gone)
	set("library/b", "latest", moved)
	want = append(want, "docker.io/library/b:latest "+moved.Encoded()[:6])
	if d := cmp.Diff(want, list()); d != "" {
		t.Errorf("tags (-want +got):\n%s", d)
	}
	for range s.Tagged(ctx) {
		break // leaves nothing open
	}
}
