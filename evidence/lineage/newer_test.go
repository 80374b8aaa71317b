package lineage_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pratique"
	"pratique/evidence/lineage"
	"pratique/policy"
)

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestTagsThatMoved(t *testing.T) {
	w := newWorld(t)
	old := w.image("nginx:1.27", nil, "a")
	w.image("nginx:1.27.3", nil, "a")
	ref, img := w.pull("nginx:1.27")
	w.pull("nginx:1.27.3")
	expect(t, "before the move", w.about(ref, img, needTags), pratique.Lineage{Current: []string{"1.27"}})

	// The tag moves, and nobody pulls it but the watch.
	next := w.image("nginx:1.27", nil, "b")
	w.wait(2 * time.Hour)
	w.pass()
	moved := pratique.Lineage{Moved: []pratique.TagMove{{Tag: "1.27", To: next, At: begin.Add(2 * time.Hour)}}}
	expect(t, "by tag and digest", w.about(ref, img, needTags), moved)
	expect(t, "by digest", w.ask("nginx@"+old.String(), needTags), moved)
	expect(t, "the new one", w.ask("nginx:1.27", needTags), pratique.Lineage{Current: []string{"1.27"}})

	// Another move does not make the first one younger.
	w.image("nginx:1.27", nil, "c")
	w.wait(2 * time.Hour)
	w.pass()
	got := w.about(ref, img, needTags)
	if len(got.Moved) != 1 || !got.Moved[0].At.Equal(begin.Add(2*time.Hour)) {
		t.Errorf("moved %+v, want since the first move", got.Moved)
	}

	w.up.Untag("library/nginx", "1.27")
	w.wait(2 * time.Hour)
	w.pass()
	if got := w.about(ref, img, needTags); len(got.Moved) != 1 || got.Moved[0].To != "" {
		t.Errorf("moved %+v, want to nowhere", got.Moved)
	}
	expect(t, "not asked for", w.about(ref, img, 0), pratique.Lineage{})
}

// TestEveryDoorTellsTheSame: by tag, by the index, by its digest and by a child.
func TestEveryDoorTellsTheSame(t *testing.T) {
	w := newWorld(t)
	child := w.image("nginx:", nil, "child")
	w.index("nginx:1.27.3", child)
	w.index("nginx:1.27", child)
	w.image("nginx:1.27.4", nil, "d")
	w.allow(true, "1.27.4")
	ref, index := w.pull("nginx:1.27.3")
	w.pull("nginx:1.27")
	_, img := w.pull("nginx@" + child.String())
	w.about(ref, index, needAll)
	w.pass()
	want := w.about(ref, index, needAll)
	expect(t, "by tag", newer(want), []string{"patch 1.27.4 +"})
	expect(t, "tags", want.Current, []string{"1.27", "1.27.3"})
	byTag := ref.At(child)
	byDigest := byTag
	byDigest.Tag = ""
	other := byTag
	other.Tag = "1.27"
	for name, ref := range map[string]pratique.Ref{"child of the tag": byTag, "child by digest": byDigest, "child of another tag": other} {
		expect(t, name, w.about(ref, img, needAll), want)
	}
	indexByDigest := w.ref("nginx@" + index.Digest.String())
	expect(t, "index by digest", w.about(indexByDigest, index, needAll), want)
}

func TestNewerVersions(t *testing.T) {
	w := newWorld(t)
	for _, tag := range []string{"1.26.2", "1.27.2", "1.27.3", "1.27.4", "1.28.0", "2.0.0", "latest", "1.27.3-alpine"} {
		w.image("nginx:"+tag, nil, tag)
	}
	ref, img := w.pull("nginx:1.27.2")
	w.up.Seen()
	expect(t, "before anybody looked", newer(w.about(ref, img, needNewer)), []string{})
	if seen := w.up.Seen(); len(seen) > 0 {
		t.Errorf("a pull asked the upstream: %v", seen)
	}
	stamp := w.Stamp()
	w.pass()
	if w.Stamp() == stamp {
		t.Error("newer versions were found, and the stamp is the same")
	}
	lists, tags := w.lookups()
	expect(t, "lists and candidates asked for", []int{lists, tags}, []int{1, 3})
	expect(t, "fetched", w.takeRequested(), []string{"1.27.3", "1.27.4", "1.28.0"})
	got := w.about(ref, img, needNewer)
	expect(t, "not scanned yet", newer(got), []string{"major 2.0.0", "minor 1.28.0", "patch 1.27.4", "patch 1.27.3"})
	if got.Newer[1].Digest == "" || !got.Newer[1].Since.Equal(begin) {
		t.Errorf("%+v: want the digest, since %s", got.Newer[1], begin)
	}

	// Scans end; the next turn, or the next question after a while, finds out.
	w.allow(true, "1.27.4", "1.28.0")
	w.allow(false, "1.27.3")
	stamp = w.Stamp()
	w.wait(2 * time.Minute)
	expect(t, "scanned", newer(w.about(ref, img, needNewer)), []string{"major 2.0.0", "minor 1.28.0 +", "patch 1.27.4 +", "patch 1.27.3"})
	if w.Stamp() == stamp {
		t.Error("versions became compliant, and the stamp is the same")
	}
	w.pass()
	if lists, tags := w.lookups(); lists+tags+len(w.takeRequested()) > 0 {
		t.Errorf("%d lists and %d tags asked for again within a Refresh", lists, tags)
	}

	// A new finding, or another policy, and one is compliant no more.
	w.allow(false, "1.28.0")
	stamp = w.Stamp()
	w.pass()
	expect(t, "refused since", newer(w.about(ref, img, needNewer)), []string{"major 2.0.0", "minor 1.28.0", "patch 1.27.4 +", "patch 1.27.3"})
	if w.Stamp() == stamp {
		t.Error("a version is not compliant any more, and the stamp is the same")
	}

	// What was found out survives a restart, without asking anybody.
	w.restart()
	w.up.Seen()
	expect(t, "after a restart", newer(w.about(ref, img, needNewer)), []string{"major 2.0.0", "minor 1.28.0", "patch 1.27.4 +", "patch 1.27.3"})
	if seen := w.up.Seen(); len(seen) > 0 {
		t.Errorf("a pull asked the upstream: %v", seen)
	}

	// A tag that is gone is no version to move to.
	w.up.Untag("library/nginx", "1.28.0")
	w.wait(2 * time.Hour)
	w.pass()
	expect(t, "withdrawn", newer(w.about(ref, img, needNewer)), []string{"major 2.0.0", "patch 1.27.4 +", "patch 1.27.3"})
}

// TestLongKnownVersions: with a release each week, there has been a newer version
// for long, though never the same one.
func TestLongKnownVersions(t *testing.T) {
	w := newWorld(t)
	w.image("app:1.0.0", nil, "0")
	w.ask("app:1.0.0", needNewer)
	w.pass()
	for i := 1; i <= 9; i++ {
		w.wait(7 * 24 * time.Hour)
		tag := fmt.Sprintf("1.0.%d", i)
		w.image("app:"+tag, nil, tag)
		w.allow(true, tag)
		w.pass()
	}
	got := w.ask("app:1.0.0", needNewer)
	expect(t, "newest, oldest and one between", newer(got), []string{"patch 1.0.9 +", "patch 1.0.5 +", "patch 1.0.1 +"})
	if since := got.Newer[2].Since; !since.Equal(begin.Add(7 * 24 * time.Hour)) {
		t.Errorf("since %s", since)
	}
}

// TestSameDigestIsNotNewer: a rebuild that changed nothing.
func TestSameDigestIsNotNewer(t *testing.T) {
	w := newWorld(t)
	d := w.image("app:1.0.0-r1", nil, "a")
	raw, _, err := w.rawOf("app", d)
	if err != nil {
		t.Fatal(err)
	}
	w.up.Manifest("library/app", "1.0.0-r2", pratique.MediaTypeImageManifest, raw)
	w.allow(true, "1.0.0-r2")
	w.ask("app:1.0.0-r1", needNewer)
	w.pass()
	expect(t, "newer", newer(w.ask("app:1.0.0-r1", needNewer)), []string{})
}

func (w *world) rawOf(repo string, d interface{ String() string }) ([]byte, pratique.Image, error) {
	img, raw, err := registry{w.cache}.Manifest(w.t.Context(), w.ref(repo+"@"+d.String()))
	return raw, img, err
}

func TestFetchesAreLimited(t *testing.T) {
	w := newWorld(t, func(cfg *lineage.Config) { cfg.MaxFetches = 4 })
	for app := range 4 {
		for i := range 5 {
			w.image(fmt.Sprintf("app%d:1.0.%d", app, i), nil, fmt.Sprint(app, i))
		}
		w.ask(fmt.Sprintf("app%d:1.0.0", app), needNewer)
	}
	w.pass()
	if n := len(w.takeRequested()); n != 4 {
		t.Errorf("%d fetched, want 4", n)
	}
	w.pass()
	if got := w.takeRequested(); len(got) > 0 {
		t.Errorf("fetched more in the same Refresh: %v", got)
	}
	w.wait(time.Hour)
	w.pass()
	if n := len(w.takeRequested()); n != 4 {
		t.Errorf("%d fetched in the next Refresh, want 4", n)
	}
}

// TestCandidatesAreNotWatched: what is judged is not in use, or each version would
// lead to the next.
func TestCandidatesAreNotWatched(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		w.image(fmt.Sprintf("app:1.0.%d", i), nil, fmt.Sprint(i))
	}
	w.judge = func(ctx context.Context, ref pratique.Ref) (bool, error) {
		img, err := w.db.Image(ctx, ref.Digest)
		if err != nil {
			return false, err
		}
		_, err = w.Lineage.Lineage(ctx, ref, img, needAll, false)
		return err == nil, err
	}
	w.ask("app:1.0.0", needAll)
	w.pass()
	w.wait(2 * time.Hour)
	w.pass()
	if tags, builds := w.Watched(); tags != 1 || builds != 1 {
		t.Errorf("%d tags and %d images are watched, want 1 of each", tags, builds)
	}
	expect(t, "newer", newer(w.ask("app:1.0.0", needNewer)), []string{"patch 1.0.19 +", "patch 1.0.18 +", "patch 1.0.17 +"})
}

// TestNewerThanEachOther: by different tags two images can be newer than each
// other. The question whether one is compliant must not come back to itself, and
// an answer that was given without the other's must not stand.
func TestNewerThanEachOther(t *testing.T) {
	w := newWorld(t)
	x := w.image("app:1.0.1-a", nil, "x")
	raw, _, err := w.rawOf("app", x)
	if err != nil {
		t.Fatal(err)
	}
	w.up.Manifest("library/app", "1.0.2-b", pratique.MediaTypeImageManifest, raw)
	y := w.image("app:1.0.2-a", nil, "y")
	if raw, _, err = w.rawOf("app", y); err != nil {
		t.Fatal(err)
	}
	w.up.Manifest("library/app", "1.0.1-b", pratique.MediaTypeImageManifest, raw)
	depth := 0
	w.judge = func(ctx context.Context, ref pratique.Ref) (bool, error) {
		if depth++; depth > 1 {
			t.Error("a question came back to itself")
		}
		defer func() { depth-- }()
		img, err := w.db.Image(ctx, ref.Digest)
		if err != nil {
			return false, err
		}
		l, err := w.Lineage.Lineage(ctx, ref, img, needNewer, false)
		for _, n := range l.Newer {
			if n.Compliant {
				return false, err
			}
		}
		return true, err
	}
	for _, name := range []string{"1.0.1-a", "1.0.2-b", "1.0.2-a", "1.0.1-b"} {
		w.pull("app:" + name)
	}
	w.ask("app:1.0.1-a", needNewer)
	stamp := w.Stamp()
	w.pass()
	first := newer(w.ask("app:1.0.1-a", needNewer))
	if w.Stamp() == stamp {
		t.Error("an answer that left another out may stand")
	}
	for range 3 {
		w.pass()
	}
	expect(t, "settled", newer(w.ask("app:1.0.1-a", needNewer)), first)
	expect(t, "newer", first, []string{"patch 1.0.2-a +"})
}

func TestOutageKeepsWhatIsKnown(t *testing.T) {
	w := newWorld(t)
	for app := range 6 {
		for i := range 2 {
			w.image(fmt.Sprintf("app%d:1.0.%d", app, i), nil, fmt.Sprint(app, i))
		}
	}
	w.allow(true, "1.0.1")
	refs, imgs := make([]pratique.Ref, 6), make([]pratique.Image, 6)
	for app := range 6 {
		refs[app], imgs[app] = w.pull(fmt.Sprintf("app%d:1.0.0", app))
		w.about(refs[app], imgs[app], needAll)
	}
	w.pass()
	stamp := w.Stamp()
	w.wait(24 * time.Hour)
	w.down()
	w.lookups()
	w.pass()
	seen := w.up.Seen()
	if len(seen) == 0 || len(seen) > 12 { // the client tries some again
		t.Errorf("%d requests to an upstream that does not answer", len(seen))
	}
	for app := range 6 {
		l := w.about(refs[app], imgs[app], needAll)
		expect(t, "newer", newer(l), []string{"patch 1.0.1 +"})
		expect(t, "current", l.Current, []string{"1.0.0"})
	}
	if w.Stamp() != stamp {
		t.Error("an outage changed something")
	}
	w.up.Heal()
	w.wait(time.Hour)
	w.image("app3:1.0.2", nil, "more")
	w.allow(true, "1.0.2")
	w.pass()
	expect(t, "after it", newer(w.about(refs[3], imgs[3], needNewer)), []string{"patch 1.0.2 +", "patch 1.0.1 +"})
}

func TestWatchIsBounded(t *testing.T) {
	w := newWorld(t, func(cfg *lineage.Config) { cfg.MaxWatched = 3 })
	for i := range 10 {
		w.image(fmt.Sprintf("app%d:1.0.0", i), nil, fmt.Sprint(i))
		w.ask(fmt.Sprintf("app%d:1.0.0", i), needAll)
	}
	if tags, builds := w.Watched(); tags != 3 || builds != 3 {
		t.Errorf("%d tags and %d images are watched, want 3 of each", tags, builds)
	}
	w.lookups()
	w.pass()
	if lists, _ := w.lookups(); lists != 3 {
		t.Errorf("%d lists asked for, want 3", lists)
	}
}

func TestStoreFailuresAreErrors(t *testing.T) {
	w := newWorld(t)
	w.image("app:1.0.0", nil, "a")
	ref, img := w.pull("app:1.0.0")
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	for name, needs := range map[string]policy.Needs{"tags": needTags, "newer": needNewer, "base": needBase} {
		l, err := w.Lineage.Lineage(t.Context(), ref, img, needs, true)
		if err == nil || errors.Is(err, pratique.ErrPending) {
			t.Errorf("%s: %v, want a failure", name, err)
		}
		expect(t, name, l, pratique.Lineage{})
	}
}
