package lineage_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pratique"
	"pratique/evidence/lineage"
)

// on are the annotations of an image that was built on name.
func on(name string, d digest.Digest) map[string]string {
	return map[string]string{"org.opencontainers.image.base.name": name, "org.opencontainers.image.base.digest": d.String()}
}

func TestBaseByAnnotation(t *testing.T) {
	w := newWorld(t)
	base := w.image("debian:", nil, "debian")
	w.index("debian:bookworm-slim", base) // the annotation names the image, the tag its index
	w.image("app:1", on("debian:bookworm-slim", base), "app")
	ref, img := w.pull("app:1")
	w.up.Seen()
	unknown := &pratique.Base{Ref: w.ref("debian:bookworm-slim"), Digest: base, How: "annotation"}
	expect(t, "before anybody looked", w.about(ref, img, needBase).Base, unknown)
	if seen := w.up.Seen(); len(seen) > 0 {
		t.Errorf("a pull asked the upstream: %v", seen)
	}
	stamp := w.Stamp()
	w.pass()
	current := *unknown
	current.Now = base
	expect(t, "while the tag names it", w.about(ref, img, needBase).Base, &current)
	if w.Stamp() == stamp {
		t.Error("a base was found, and the stamp is the same")
	}

	next := w.index("debian:bookworm-slim", w.image("debian:", nil, "debian 2"))
	stamp = w.Stamp()
	w.wait(2 * time.Hour)
	w.pass()
	moved := *unknown
	moved.Now, moved.MovedAt = next, begin.Add(2*time.Hour)
	expect(t, "when it moved on", w.about(ref, img, needBase).Base, &moved)
	if w.Stamp() == stamp {
		t.Error("a base moved on, and the stamp is the same")
	}

	// It moves on again: that does not make the first time younger, nor does a restart.
	moved.Now = w.index("debian:bookworm-slim", w.image("debian:", nil, "debian 3"))
	w.wait(2 * time.Hour)
	w.pass()
	w.restart()
	expect(t, "when it moved on again", w.about(ref, img, needBase).Base, &moved)

	w.up.Untag("library/debian", "bookworm-slim")
	w.wait(2 * time.Hour)
	w.pass()
	moved.Now = ""
	expect(t, "when it is gone", w.about(ref, img, needBase).Base, &moved)
}

// TestBaseThatMovedBefore: what the tag named when the image was built, nobody
// here saw. The clock begins when the image was first seen.
func TestBaseThatMovedBefore(t *testing.T) {
	w := newWorld(t)
	gone := digest.FromString("never seen here")
	first := w.image("debian:12", nil, "one")
	w.ask("debian:12", needTags)
	w.wait(48 * time.Hour)
	w.image("app:1", on("index.docker.io/library/debian:12", gone), "app")
	ref, img := w.pull("app:1")
	base := &pratique.Base{Ref: w.ref("debian:12"), Digest: gone, How: "annotation", Now: first}
	expect(t, "nobody looked since", w.about(ref, img, needBase).Base, base)
	w.wait(2 * time.Hour)
	w.pass()
	base.MovedAt = begin.Add(48 * time.Hour)
	expect(t, "somebody looked", w.about(ref, img, needBase).Base, base)
	base.Now = w.image("debian:12", nil, "two")
	w.wait(24 * time.Hour)
	w.pass()
	expect(t, "when it moved on again", w.about(ref, img, needBase).Base, base)
}

func TestBaseByLabel(t *testing.T) {
	w := newWorld(t)
	base := w.image("debian:12", nil, "debian")
	w.image("app:1", nil, "app")
	ref, img := w.pull("app:1")
	w.pull("debian:12")
	expect(t, "before the scan", w.about(ref, img, needBase).Base, (*pratique.Base)(nil))
	if _, err := w.db.PutReport(t.Context(), pratique.Report{
		Image: img.Digest, State: pratique.StateScanned, ScannedAt: begin, Config: pratique.ConfigFacts{Labels: on("debian:12", base)},
	}); err != nil {
		t.Fatal(err)
	}
	expect(t, "after the scan", w.about(ref, img, needBase).Base,
		&pratique.Base{Ref: w.ref("debian:12"), Digest: base, How: "annotation", Now: base})
}

func TestBaseByLayers(t *testing.T) {
	w := newWorld(t)
	base := w.image("debian:12", nil, "debian")
	middle := w.image("python:3.12", nil, "debian", "python")
	w.image("app:1", nil, "debian", "python", "app")
	w.pull("debian:12")
	w.pull("python:3.12")
	ref, img := w.pull("app:1")
	want := &pratique.Base{Ref: w.ref("python:3.12"), Digest: middle, How: "layers", Now: middle}
	expect(t, "the nearest", w.about(ref, img, needBase).Base, want)
	_, python := w.pull("python:3.12")
	expect(t, "of the base", w.about(w.ref("python:3.12"), python, needBase).Base,
		&pratique.Base{Ref: w.ref("debian:12"), Digest: base, How: "layers", Now: base})

	want.Now = w.image("python:3.12", nil, "debian 2", "python 2")
	w.wait(2 * time.Hour)
	w.pass()
	want.MovedAt = begin.Add(2 * time.Hour)
	expect(t, "when it moved on", w.about(ref, img, needBase).Base, want)

	// An image that claims another base, or one that nobody finds, is still made of
	// what it is made of.
	for name, says := range map[string]map[string]string{
		"current": on("debian:12", base), "not there": on("debian:none", base), "elsewhere": on("evil.example/x:1", base), "nonsense": on("::", base),
	} {
		w.image("app:claims", says, "debian", "python", "app", name)
		ref, img := w.pull("app:claims")
		w.about(ref, img, needBase)
		w.wait(2 * time.Hour)
		w.pass()
		expect(t, name, w.about(ref, img, needBase).Base, want)
	}
}

// TestHostileClaims: what an image says about its base leads neither to other
// registries nor to any number of requests.
func TestHostileClaims(t *testing.T) {
	var names []string
	w := newWorld(t, func(cfg *lineage.Config) {
		cfg.MaxWatched = 5
		configured := cfg.Upstreams
		cfg.Upstreams = func(ref pratique.Ref) (pratique.Ref, error) {
			out, err := configured(ref)
			if err == nil {
				names = append(names, out.Repository())
			}
			return out, err
		}
	})
	d := digest.FromString("x")
	for _, name := range []string{
		"169.254.169.254/latest/meta-data:x", "localhost/x:1", "localhost:5000/x:1", "evil.example/x:1", "[::1]/x:1", "[::1]:80/x", "docker.io.evil.example/x:1",
		"DOCKER.IO@evil/x", "docker.io/../x:1", "docker.io/x:1/../../y", "http://docker.io/x:1", "docker.io/X:1", "x:", ":1", "@", "", "x@" + d.String() + ":1",
		"docker.io/library/x@" + d.String(), strings.Repeat("a", 600) + ":1", "a b:1", "a\n:1", "docker.io//x:1", "ghcr.io/x/y:1",
	} {
		w.image("evil:1", on(name, d), "evil"+name)
		w.wait(2 * time.Minute)
		ref, img := w.pull("evil:1")
		if b := w.about(ref, img, needBase).Base; b != nil {
			t.Errorf("%q is believed: %+v", name, b)
		}
	}
	w.image("evil:1", map[string]string{"org.opencontainers.image.base.name": "debian:12"}, "no digest")
	w.image("evil:2", map[string]string{"org.opencontainers.image.base.name": "debian:12", "org.opencontainers.image.base.digest": "md5:1"}, "no digest either")
	for _, name := range []string{"evil:1", "evil:2"} {
		if b := w.ask(name, needBase).Base; b != nil {
			t.Errorf("a base without a digest: %+v", b)
		}
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "docker.io/library/") {
			t.Errorf("looked up %s", name)
		}
	}

	for i := range 40 {
		w.image(fmt.Sprintf("evil:%d", i), on(fmt.Sprintf("victim%d:1", i), d), fmt.Sprint(i))
		w.ask(fmt.Sprintf("evil:%d", i), needBase)
	}
	w.lookups()
	for range 3 {
		w.pass()
	}
	if _, tags := w.lookups(); tags > 5 {
		t.Errorf("%d bases were asked for, want at most those of 5 images, once", tags)
	}
}
