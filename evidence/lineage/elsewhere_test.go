package lineage_test

import (
	"errors"
	"testing"
	"time"

	"pratique"
	"pratique/evidence/lineage"
	"pratique/policy"
)

// TestElsewhere: for a digest of which no tag is known, it is found out what the
// tags name that rules name, once; what cannot be found out is not said.
func TestElsewhere(t *testing.T) {
	named := func(tags ...string) func(*lineage.Config) {
		return func(c *lineage.Config) { c.Tags = func() []string { return tags } }
	}
	about := func(t *testing.T, w *world, name string, wait bool) []string {
		t.Helper()
		ref, img := w.pull(name)
		got, err := w.Lineage.Lineage(t.Context(), ref, img, policy.NeedNames, wait)
		if err != nil {
			t.Fatal(err)
		}
		return got.Elsewhere
	}

	t.Run("another image, and no such tag", func(t *testing.T) {
		w := newWorld(t, named("latest", "edge"))
		pinned := w.image("nginx:1.26", nil, "old")
		w.image("nginx:latest", nil, "new")
		at := "nginx@" + pinned.String()
		ref, img := w.pull(at)
		if _, err := w.Lineage.Lineage(t.Context(), ref, img, policy.NeedNames, false); !errors.Is(err, pratique.ErrPending) {
			t.Errorf("without waiting: %v, want pending", err)
		}
		expect(t, "waiting", about(t, w, at, true), []string{"latest", "edge"})
		w.up.Seen()
		expect(t, "again, without waiting", about(t, w, at, false), []string{"latest", "edge"})
		w.wait(2 * time.Hour) // longer than it is believed
		w.down()
		expect(t, "upstream down", about(t, w, at, true), []string{"latest", "edge"})
	})
	t.Run("the very image", func(t *testing.T) {
		w := newWorld(t, named("latest"))
		d := w.image("nginx:latest", nil, "new")
		expect(t, "elsewhere", len(about(t, w, "nginx@"+d.String(), true)), 0)
		// And now it is known by its tag.
		ref, img := w.pull("nginx@" + d.String())
		expect(t, "current", w.about(ref, img, policy.NeedNames).Current, []string{"latest"})
	})
	t.Run("an index that holds the image", func(t *testing.T) {
		w := newWorld(t, named("latest"))
		child := w.image("nginx:", nil, "child")
		w.index("nginx:latest", child)
		expect(t, "elsewhere", len(about(t, w, "nginx@"+child.String(), true)), 0)
		ref, img := w.pull("nginx@" + child.String())
		expect(t, "current", w.about(ref, img, policy.NeedNames).Current, []string{"latest"})
	})
	t.Run("an index of indexes", func(t *testing.T) {
		w := newWorld(t, named("latest"))
		child := w.image("nginx:", nil, "child")
		inner := w.index("nginx:", child)
		w.put("nginx", "latest", "application/vnd.oci.image.index.v1+json", map[string]any{
			"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
			"manifests": []map[string]any{{"mediaType": "application/vnd.oci.image.index.v1+json", "digest": inner, "size": w.sizes[inner]}},
		})
		expect(t, "elsewhere", len(about(t, w, "nginx@"+child.String(), true)), 0)
	})
	t.Run("nobody answers", func(t *testing.T) {
		w := newWorld(t, named("latest"))
		d := w.image("nginx:1.26", nil, "old")
		ref, img := w.pull("nginx@" + d.String())
		w.down()
		got, err := w.Lineage.Lineage(t.Context(), ref, img, policy.NeedNames, true)
		expect(t, "error", err, error(nil))
		expect(t, "elsewhere", len(got.Elsewhere), 0)
	})
	t.Run("advice asks nobody", func(t *testing.T) {
		w := newWorld(t, named("latest"))
		w.image("nginx:1.26.1", nil, "old")
		ref, img := w.pull("nginx:1.26.1")
		w.up.Seen()
		if _, err := w.Lineage.Lineage(t.Context(), ref, img, policy.NeedAdvice, true); err != nil {
			t.Fatal(err)
		}
		w.pass()
		if seen := w.up.Seen(); len(seen) > 0 {
			t.Errorf("upstream saw %v", seen)
		}
	})
}
